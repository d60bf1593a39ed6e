"""tools/quality.py: the tables and verdicts that it writes into docs/quality.md."""

import pathlib
import sys
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tools"))
import quality  # noqa: E402


def setting(policy="hgca", window=1024, beta=1.0, **changes):
    result = {"policy": policy, "window_tokens": window, "beta": None if policy == "dense" else beta, "keep_next": None,
              "perplexity": {"perplexity": 3.0, "perplexity_ratio": 1.002, "kl_mean": 0.0012, "top1_agreement": 0.987,
                             "remote_read_share": 0.05, "kept_mass_mean": 0.97, "kept_mass_min": None},
              "needles": {"asked": 50, "found": 49, "baseline_found": 50, "found_where_baseline": 49,
                          "remote_read_share_mean": 0.08,
                          "questions": [{"expected": "123456.", "length_tokens": 4096, "found": True}]}}
    result["keep_next"] = changes.pop("keep_next", None)
    for name, value in changes.items():
        part = "perplexity" if name in result["perplexity"] else "needles"
        result[part][name] = value
    return result


def results(*settings):
    return {"version": "0.1.0", "prefill_tokens": 16384, "decode_tokens": 1024, "seed": 1,
            "settings": [setting("dense", perplexity_ratio=1.0), *settings]}


class TableTest(unittest.TestCase):
    def test_a_row_per_setting_of_the_grid(self):
        lines = quality.grid_table(results(setting(window=256), setting(beta=0.25))).splitlines()
        self.assertEqual(len(lines), 4)
        cells = [cell.strip() for cell in lines[2].strip("|").split("|")]
        self.assertEqual(cells, ["256", "1", "+0.20 %", "0.0012", "98.7 %", "5.0 %", "97.0 %", "-", "49/50", "8.0 %"])
        self.assertEqual(len({line.count("|") for line in lines}), 1)

    def test_a_requirement_that_is_missed_is_a_no(self):
        def verdict(**changes):
            one = setting(**changes)
            return [row[-1] for row in quality.verdict(one["perplexity"], one["needles"], setting()["needles"])]
        self.assertEqual(verdict(), ["yes", "yes", "yes"])  # 98 of 100
        self.assertEqual(verdict(remote_read_share_mean=0.1001), ["NO", "yes", "yes"])
        self.assertEqual(verdict(remote_read_share=0.11, found_where_baseline=48), ["NO", "NO", "yes"])
        self.assertEqual(verdict(perplexity_ratio=1.01), ["yes", "yes", "NO"])

    def test_the_documented_setting_has_turns_and_single_prompts(self):
        one = setting(beta=8, keep_next=8, remote_read_share=0.07)
        single = setting(beta=8, keep_next=8, remote_read_share_mean=0.228, found_where_baseline=50)
        single["perplexity"] = None
        table = quality.documented_block(results(setting(beta=4, keep_next=8), one), results(single))
        self.assertIn("| <= 10 % | 7.0 %, 8.0 % | yes |", table)
        self.assertIn("over the 6 steps of an answer in a single prompt, 22.8 % is read", table)
        self.assertIn("| 99.0 % (50/50 and 49/50) | yes |", table)
        self.assertIn("8 | 8 |", quality.settings_table(results(one)))

    def test_lengths_are_counted_apart(self):
        one = setting()
        one["needles"]["questions"] = [{"length_tokens": length, "found": found}
                                       for length, found in ((8192, True), (4096, False), (8192, False))]
        self.assertIn("0 of 1 in 4,096 tokens, 1 of 2 in 8,192 tokens.", quality.lengths_line(results(one)))

    def test_retention_is_that_of_its_setting(self):
        one = setting()
        one["heads"] = {"remote_read_share": [[0.005, 0.3], [0.1, 0.02]]}
        other = setting(beta=2)
        other["heads"] = {"remote_read_share": [[0.9, 0.9], [0.9, 0.9]]}
        table = quality.retention_table(results(other, one))
        self.assertIn("| 0 | 0.5 % | 30.0 % |", table)
        self.assertNotIn("90.0", table)
        self.assertIn("Not reported", quality.retention_table(results(setting(beta=2))))


class PageTest(unittest.TestCase):
    def test_only_the_blocks_are_rewritten(self):
        page = "a\n<!-- begin grid -->\nold\n<!-- end grid -->\nb\n<!-- begin x -->\nkept\n<!-- end x -->\n"
        table = "new \\1\nrow"
        expected = page.replace("old", table)
        self.assertEqual(quality.replace_block(page, "grid", table), expected)
        self.assertEqual(quality.replace_block(expected, "grid", table), expected)

    def test_a_line_stays_in_its_line(self):
        page = "So <!-- begin x --><!-- end x --> it is.\n"
        once = quality.replace_block(page, "x", "1 of 2")
        self.assertEqual(once, "So <!-- begin x -->1 of 2<!-- end x --> it is.\n")
        self.assertEqual(quality.replace_block(once, "x", "1 of 2"), once)

    def test_a_page_without_the_block_is_refused(self):
        with self.assertRaisesRegex(quality.QualityError, "one block '<!-- begin grid -->"):
            quality.replace_block("nothing", "grid", "text")

    def test_the_page_has_every_block(self):
        one = results(setting(beta=8, keep_next=8))
        quality.rewrite_page(quality.PAGE.read_text(), {"grid": results(setting()), "settings": one, "prompts": one,
                                                         "unseen": one, "lengths": one})


if __name__ == "__main__":
    unittest.main()
