"""tools/eval_figures.py: what it draws from results, and what it says of files it cannot draw."""

import importlib.util
import json
import math
import pathlib
import random
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[3]
TOOL = ROOT / "tools" / "eval_figures.py"
sys.path.insert(0, str(ROOT / "tools"))
import eval_figures  # noqa: E402

HAS_MATPLOTLIB = importlib.util.find_spec("matplotlib") is not None or subprocess.run(
    [eval_figures.SYSTEM_PYTHON, "-c", "import matplotlib"], capture_output=True, check=False).returncode == 0


def question(length, depth, found):
    return {"length_tokens": length, "depth": depth, "found": found, "kind": "single"}


def setting(policy, window, share, beta=None):
    questions = [question(length, depth / 10, random.random() < 0.8) for length in (2048, 8192) for depth in range(10)]
    found = sum(q["found"] for q in questions)
    given = {} if policy == "dense" else {"beta": float(beta), "keep_next": 8}
    return {
        "policy": policy, "window_tokens": window, "alpha": None, "beta": None, "keep_next": None, "dense_heads": [],
        **given, "parameters": given,  # which load() adds
        "perplexity": {"remote_read_share": share, "perplexity_ratio": 1 + random.random() / 50,
                       "kl_mean": random.random() / 100, "kl_is_exact": True},
        "needles": {"baseline_found": len(questions), "found_where_baseline": found,
                    "remote_read_share_mean": share, "questions": questions},
    }


def results():
    settings = [setting("dense", 256, 1.0), setting("dense", 1024, 1.0)]
    for window in (256, 1024):
        for beta in (0.5, 1, 2):
            settings.append(setting("hgca", window, 0.1 / beta, beta))
            settings[-1]["heads"] = {"remote_read_share": [[random.random() for _ in range(2)] for _ in range(6)],
                                     "kept_mass_mean": [[random.random(), None] for _ in range(6)]}
    return {"schema": eval_figures.SCHEMA, "model": {"name": "probe"}, "settings": settings,
            "parameters": ["alpha", "beta", "keep_next", "dense_heads"]}


class SeriesTest(unittest.TestCase):
    def test_policies_are_told_apart_by_their_words(self):
        data = results()["settings"]
        for budget, mode in ((0.1, "fixed"), (0.05, "fixed"), (0.2, "calibrated")):
            data.append(setting("fluxion", 1024, budget, beta=1))
            data[-1]["parameters"] = {"budget_mode": mode, "budget": budget}
        lines = eval_figures.policy_lines(data)
        self.assertEqual(set(lines), {"hgca", "fluxion fixed", "fluxion calibrated"})
        self.assertEqual([share for share, _, _ in lines["fluxion fixed"]], [0.05, 0.1])

    def test_quality_has_a_line_per_policy_and_window(self):
        lines = eval_figures.quality_lines(results()["settings"], eval_figures.perplexity_point, varied="beta")
        self.assertEqual(set(lines), {"hgca, keep next 8, window 256", "hgca, keep next 8, window 1,024"})
        points = lines["hgca, keep next 8, window 256"]
        self.assertEqual([p[2] for p in points], [2, 1, 0.5])
        self.assertEqual(points, sorted(points))

    def test_what_all_settings_have_is_said_once(self):
        settings = [s for s in results()["settings"] if s["policy"] == "hgca"]
        common = eval_figures.common_words(settings)
        self.assertEqual(set(common), {"policy", "keep_next"})
        self.assertEqual(eval_figures.title(settings[0], common), "beta 0.5, window 256")
        settings[0]["parameters"]["dense_heads"] = ["2:0", "3:1"]
        self.assertEqual(eval_figures.title(settings[0], without=("beta",)),
                         "hgca, keep next 8, dense heads 2:0 3:1, window 256")
        same = settings[0:1] * 2
        self.assertEqual(eval_figures.title(same[0], eval_figures.common_words(same)), "")

    def test_numbers_are_of_the_parameter_that_varies_most(self):
        settings = results()["settings"]
        self.assertEqual(eval_figures.varied_parameter(settings), "beta")
        for i, one in enumerate(settings):
            one["parameters"] = {"et_share": i / 8, "beta": float(i % 2), "et_word": str(i), "et_heads": [f"{i}:0"]}
        self.assertEqual(eval_figures.varied_parameter(settings), "et_share")
        self.assertIsNone(eval_figures.varied_parameter(settings[:1]))
        self.assertIsNone(eval_figures.varied_parameter([]))

    def test_a_file_says_which_keys_are_parameters(self):
        data = results()
        for one in data["settings"]:
            del one["parameters"]
            one["et_share"] = 0.25
        data["parameters"] = ["et_share", "beta", "dense_heads"]
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "results.json"
            path.write_text(json.dumps(data))
            settings = eval_figures.load(path)["settings"]
        self.assertEqual(settings[0]["parameters"], {"et_share": 0.25})
        self.assertEqual(settings[2]["parameters"], {"et_share": 0.25, "beta": 0.5})
        self.assertEqual(eval_figures.title(settings[2]), "hgca, et share 0.25, beta 0.5, window 256")

    def test_a_lower_bound_is_called_one(self):
        data = results()
        self.assertEqual(eval_figures.kl_label(data), "KL divergence from dense (nats)")
        data["settings"][3]["perplexity"]["kl_is_exact"] = False
        self.assertIn("lower bound", eval_figures.kl_label(data))

    def test_a_divergence_of_zero_or_none_can_be_drawn(self):
        one = setting("hgca", 256, 0.5, 1)
        one["perplexity"]["kl_mean"] = 0
        self.assertEqual(eval_figures.kl_point(one), (0.5, eval_figures.MIN_KL))
        one["perplexity"]["kl_mean"] = None  # infinite
        self.assertIsNone(eval_figures.kl_point(one))

    def test_heads_without_a_measurement_stay_empty(self):
        one = setting("hgca", 256, 0.5, 1)
        self.assertIsNone(eval_figures.head_grid(one, "kept_mass_mean"))
        one["heads"] = {"kept_mass_mean": [[None, 0.5], [None, 1]]}
        grid = eval_figures.head_grid(one, "kept_mass_mean")
        self.assertTrue(math.isnan(grid[0][0]))
        self.assertEqual(grid[1][1], 100)
        one["heads"] = {"kept_mass_mean": [[None, None]]}
        self.assertIsNone(eval_figures.head_grid(one, "kept_mass_mean"))

    def test_what_was_not_measured_has_no_point(self):
        one = setting("dense", 256, 1.0)
        one["perplexity"] = None
        one["needles"]["baseline_found"] = 0
        self.assertIsNone(eval_figures.perplexity_point(one))
        self.assertIsNone(eval_figures.needle_point(one))

    def test_needles_are_binned_by_depth(self):
        asked = ((10, 0.0, True), (10, 0.19, False), (10, 1.0, True), (5, 0.5, True))
        questions = [question(*q) for q in asked]
        lengths, grid = eval_figures.needle_grid(questions)
        self.assertEqual(lengths, [5, 10])
        self.assertEqual(grid[0][1], 0.5)
        self.assertEqual(grid[4][1], 1.0)
        self.assertEqual(grid[2][0], 1.0)
        self.assertTrue(math.isnan(grid[0][0]))


class ToolTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def run_tool(self, text, *flags):
        path = self.folder / "results.json"
        path.write_text(text)
        command = [sys.executable, str(TOOL), str(path), "--out", str(self.folder / "figures"), *flags]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    @unittest.skipUnless(HAS_MATPLOTLIB, "matplotlib is not installed")
    def test_draws_every_figure(self):
        done = self.run_tool(json.dumps(results()), "--format", "svg,png")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(done.stderr, "")
        for name in eval_figures.FIGURES:
            text = (self.folder / "figures" / f"{name}.svg").read_text()
            self.assertIn("<svg", text)
            self.assertGreater(len(text), 5000)
            self.assertTrue((self.folder / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG"))

    @unittest.skipUnless(HAS_MATPLOTLIB, "matplotlib is not installed")
    def test_draws_what_is_chosen(self):
        done = self.run_tool(json.dumps(results()), "--window", "256", "--figures", "retention,quality")
        self.assertEqual(done.returncode, 0, done.stderr)
        names = sorted(path.name for path in (self.folder / "figures").iterdir())
        self.assertEqual(names, ["quality.svg", "retention.svg"])
        self.assertNotIn("window 1,024", (self.folder / "figures" / "retention.svg").read_text())
        done = self.run_tool(json.dumps(results()), "--figures", "frob")
        self.assertEqual(done.returncode, 2)
        self.assertIn("'frob' is none of quality, policies, needles", done.stderr)

    @unittest.skipUnless(HAS_MATPLOTLIB, "matplotlib is not installed")
    def test_says_what_it_cannot_draw(self):
        data = results()
        data["settings"] = data["settings"][:2]
        done = self.run_tool(json.dumps(data))
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("retention: the file has no data for it", done.stderr)
        self.assertFalse((self.folder / "figures" / "retention.svg").exists())

    @unittest.skipUnless(HAS_MATPLOTLIB, "matplotlib is not installed")
    def test_a_python_without_matplotlib_hands_over_to_the_systems(self):
        (self.folder / "bare").mkdir()
        (self.folder / "bare" / "matplotlib.py").write_text("raise ImportError('as if it were not installed')\n")
        program = ("import runpy, sys; sys.path.insert(0, sys.argv[1]); sys.prefix = '/elsewhere'; "
                   "sys.argv = sys.argv[2:]; runpy.run_path(sys.argv[0], run_name='__main__')")
        path = self.folder / "results.json"
        path.write_text(json.dumps(results()))
        command = [sys.executable, "-c", program, str(self.folder / "bare"), str(TOOL), str(path), "--out",
                   str(self.folder / "figures"), "--figures", "quality"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertTrue((self.folder / "figures" / "quality.svg").exists())

    def test_other_files_are_refused(self):
        for text, message in (("{", "cannot read"), ("[]", "schema None"), ('{"schema": "x"}', "schema 'x'")):
            done = self.run_tool(text)
            self.assertEqual(done.returncode, 1)
            self.assertIn(message, done.stderr)


if __name__ == "__main__":
    unittest.main()
