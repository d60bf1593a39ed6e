"""tools/quality.py: the tables and verdicts that it writes into docs/quality.md."""

import contextlib
import io
import pathlib
import sys
import tempfile
import unittest
from unittest import mock

ROOT = pathlib.Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tools"))
import quality  # noqa: E402
import quality_compare  # noqa: E402
import quality_hgca  # noqa: E402


def setting(policy="hgca", window=1024, beta=1.0, **changes):
    result = {"policy": policy, "window_tokens": window, "beta": None if policy == "dense" else beta, "keep_next": None,
              "perplexity": {"perplexity": 3.0, "perplexity_ratio": 1.002, "kl_mean": 0.0012, "top1_agreement": 0.987,
                             "remote_read_share": 0.05, "kept_mass_mean": 0.97, "kept_mass_min": None,
                             "output_error_p95": 0.031},
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
        lines = quality_hgca.grid_table(results(setting(window=256), setting(beta=0.25))).splitlines()
        self.assertEqual(len(lines), 4)
        cells = [cell.strip() for cell in lines[2].strip("|").split("|")]
        self.assertEqual(cells, ["256", "1", "+0.20 %", "0.0012", "98.7 %", "5.0 %", "97.0 %", "-", "49/50", "8.0 %"])
        self.assertEqual(len({line.count("|") for line in lines}), 1)

    def test_a_requirement_that_is_missed_is_a_no(self):
        def verdict(**changes):
            one = setting(**changes)
            return [row[-1] for row in quality_hgca.verdict(one["perplexity"], one["needles"], setting()["needles"])]
        self.assertEqual(verdict(), ["yes", "yes", "yes"])  # 98 of 100
        self.assertEqual(verdict(remote_read_share_mean=0.1001), ["NO", "yes", "yes"])
        self.assertEqual(verdict(remote_read_share=0.11, found_where_baseline=48), ["NO", "NO", "yes"])
        self.assertEqual(verdict(perplexity_ratio=1.01), ["yes", "yes", "NO"])

    def test_the_documented_setting_has_turns_and_single_prompts(self):
        one = setting(beta=8, keep_next=8, remote_read_share=0.07)
        single = setting(beta=8, keep_next=8, remote_read_share_mean=0.228, found_where_baseline=50)
        single["perplexity"] = None
        table = quality_hgca.documented_block(results(setting(beta=4, keep_next=8), one), results(single))
        self.assertIn("| <= 10 % | 7.0 %, 8.0 % | yes |", table)
        self.assertIn("over the 6 steps of an answer in a single prompt, 22.8 % is read", table)
        self.assertIn("| 99.0 % (50/50 and 49/50) | yes |", table)
        self.assertIn("8 | 8 |", quality_hgca.settings_table(results(one)))

    def test_lengths_are_counted_apart(self):
        one = setting()
        one["needles"]["questions"] = [{"length_tokens": length, "found": found}
                                       for length, found in ((8192, True), (4096, False), (8192, False))]
        self.assertIn("0 of 1 in 4,096 tokens, 1 of 2 in 8,192 tokens.", quality_hgca.lengths_line(results(one)))

    def test_retention_is_that_of_its_setting(self):
        one = setting()
        one["heads"] = {"remote_read_share": [[0.005, 0.3], [0.1, 0.02]]}
        other = setting(beta=2)
        other["heads"] = {"remote_read_share": [[0.9, 0.9], [0.9, 0.9]]}
        table = quality_hgca.retention_table(results(other, one))
        self.assertIn("| 0 | 0.5 % | 30.0 % |", table)
        self.assertNotIn("90.0", table)
        self.assertIn("Not reported", quality_hgca.retention_table(results(setting(beta=2))))


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
        of_hgca = {"grid": results(setting()), "settings": one, "prompts": one, "unseen": one, "lengths": one}
        page = quality.PAGE.read_text()
        rewritten = quality.rewrite_page(page, of_hgca)
        self.assertIn("| 49/50 |", rewritten)
        # A run of them is missing: nothing is rewritten.
        of_hgca.pop("unseen")
        self.assertEqual(quality.rewrite_page(page, of_hgca), page)
        for name in quality_compare.MODELS:
            self.assertIn("| fluxion fixed, budget 0.05 |",
                          quality.rewrite_page(page, {f"{name}-text": compared(fluxion(0.05))}))


def fluxion(budget, **changes):
    one = setting("fluxion", **changes)
    one |= {"parameters": {"budget_mode": "fixed", "budget": budget}, "drift": None, "tasks": {}}
    return one


def task(found, score, dense):
    return {"asked": 10, "found": found, "found_where_baseline": found, "baseline_found": 9, "score_mean": score,
            "baseline_score_mean": dense}


def compared(*settings, **dense):
    data = results(*settings)
    data["settings"][0] |= {"parameters": {}, "drift": None, "tasks": {}, **dense}
    data["drift_tokens"] = 8000
    return data


class CompareTest(unittest.TestCase):
    def cells(self, table, row):
        return [cell.strip() for cell in table.splitlines()[2 + row].strip("|").split("|")]

    def test_a_row_has_what_every_part_says_of_its_setting(self):
        text = fluxion(0.05, kl_mean=0.02)
        text["perplexity"] |= {"perplexity_ratio_worst": 1.04, "kl_mean_worst": 0.05}
        tasks, after, drift = fluxion(0.05), fluxion(0.05), fluxion(0.05)
        tasks["tasks"] = {"multi-key": task(8, 0.8, 0.9), "extraction": task(1, 0.5, 0.625)}
        after["tasks"] = {"multi-key": task(3, 0.3, 0.9), "key-value": task(2, 0.2, 0.9)}
        drift["drift"] = {"parts": [{"kl_mean": 0.001}, {"kl_mean": 0.5}, {"kl_mean": 0.004}]}
        table = quality_compare.compare_table({"text": compared(text, fluxion(0.1)), "tasks": compared(tasks),
                                               "tasks-after": compared(after), "drift": compared(drift)})
        self.assertEqual(self.cells(table, 0),
                         ["fluxion fixed, budget 0.05", "+0.20 % (+4.00 %)", "0.02 (0.05)", "98.7 %", "5.0 %", "97.0 %",
                          "0.031", "8/9", "3/9", "-", "2/9", "50 % of 62 %", "-", "0.001", "0.004"])
        self.assertEqual(self.cells(table, 1)[7:], ["-"] * 8)
        self.assertEqual(len(table.splitlines()), 4)

    def test_policies_stand_together(self):
        other = setting("hgca", beta=8)
        other |= {"parameters": {"beta": 8.0}, "drift": None, "tasks": {}}
        late = fluxion(0.4)
        table = quality_compare.compare_table({"text": compared(fluxion(0.05), other), "drift": compared(late)})
        self.assertEqual([self.cells(table, row)[0] for row in range(3)],
                         ["fluxion fixed, budget 0.05", "fluxion fixed, budget 0.4", "hgca, beta 8"])

    def test_dense_is_named_with_what_it_finds(self):
        dense = {"tasks": {"multi-key": task(9, 0.9, 0.9), "key-value": task(4, 0.4, 0.4)}}
        line = quality_compare.source_line(quality_compare.MODELS["smollm2"], {"tasks": compared(**dense)})
        self.assertIn("Dense, asked with the prompt: multi-key 9 of 10, key-value 4 of 10.", line)

    def test_every_policy_of_the_page_has_a_run_of_each_part(self):
        runs = quality_compare.runs("probe", ["a.txt", "b.txt"], False)
        self.assertEqual(len(runs), len(quality_compare.PARTS) * len(quality_compare.experiments()))
        flags = runs["text", "hgca"]
        self.assertIn("a.txt,b.txt", flags)
        self.assertEqual(flags[flags.index("--policy") + 1], "hgca")
        self.assertIn("--beta", flags)
        self.assertNotIn("--budget", flags)

    def test_results_of_policies_become_one(self):
        first, second = compared(fluxion(0.05)), compared(fluxion(0.1))
        first["parameters"], second["parameters"] = ["budget_mode"], ["budget_mode", "budget"]
        one = quality_compare.merged([first, second])
        self.assertEqual(one["parameters"], ["budget_mode", "budget"])
        self.assertEqual([s["policy"] for s in one["settings"]], ["dense", "fluxion", "fluxion"])
        self.assertEqual(len(first["settings"]), 2)


class RunsTest(unittest.TestCase):
    def test_what_is_done_is_not_measured_again(self):
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            script = folder / "tributary"
            # Stands for the binary: notes its flags, fails the first time.
            script.write_text("""#!/bin/sh
echo "$@" >> "$(dirname "$0")/calls"
while [ "$1" != --json ]; do shift; done
if [ -e "$2" ]; then complete=true; else complete=false; fi
echo '{"schema": "tributary.eval/1", "complete": '$complete', "settings": []}' > "$2"
$complete
""")
            script.chmod(0o755)

            def calls():
                return (folder / "calls").read_text().splitlines()

            def measure(*flags, fresh=False):
                quality.measure_all({"one": list(flags)}, folder, 1, fresh)

            with mock.patch.object(quality, "TRIBUTARY", script), contextlib.redirect_stdout(io.StringIO()):
                with self.assertRaisesRegex(quality.QualityError, "'tributary eval' of one failed"):
                    measure("--a", "1")
                self.assertIn("--restart", calls()[0])
                measure("--a", "1")  # goes on
                self.assertNotIn("--restart", calls()[1])
                measure("--a", "1")
                self.assertEqual(len(calls()), 2)
                measure("--a", "2")  # other flags are another run
                self.assertIn("--restart", calls()[2])
                measure("--a", "2", fresh=True)
                self.assertIn("--restart", calls()[3])


if __name__ == "__main__":
    unittest.main()
