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

HAS_MATPLOTLIB = importlib.util.find_spec("matplotlib") is not None


def question(length, depth, found):
    return {"length_tokens": length, "depth": depth, "found": found, "kind": "single"}


def setting(policy, window, share, beta=None):
    questions = [question(length, depth / 10, random.random() < 0.8) for length in (2048, 8192) for depth in range(10)]
    found = sum(q["found"] for q in questions)
    return {
        "policy": policy, "window_tokens": window, "alpha": None, "beta": beta, "keep_min": None, "min_kept_mass": None,
        "perplexity": {"remote_read_share": share, "perplexity_ratio": 1 + random.random() / 50},
        "needles": {"baseline_found": len(questions), "found_where_baseline": found,
                    "remote_read_share_mean": share, "questions": questions},
    }


def results():
    settings = [setting("dense", 256, 1.0), setting("dense", 1024, 1.0)]
    for window in (256, 1024):
        for beta in (0.5, 1, 2):
            settings.append(setting("hgca", window, 0.1 / beta, beta))
            settings[-1]["heads"] = {"remote_read_share": [[random.random() for _ in range(2)] for _ in range(6)]}
    return {"schema": eval_figures.SCHEMA, "settings": settings}


class SeriesTest(unittest.TestCase):
    def test_quality_has_a_line_per_policy_and_window(self):
        lines = eval_figures.quality_lines(results()["settings"], eval_figures.perplexity_point)
        names = {f"{policy}, window {window}" for policy in ("dense", "hgca") for window in (256, 1024)}
        self.assertEqual(set(lines), names)
        points = lines["hgca, window 256"]
        self.assertEqual([p[2] for p in points], ["beta=2", "beta=1", "beta=0.5"])
        self.assertEqual(points, sorted(points))

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
        done = self.run_tool(json.dumps(results()))
        self.assertEqual(done.returncode, 0, done.stderr)
        for name in ("quality", "needles", "retention"):
            text = (self.folder / "figures" / f"{name}.svg").read_text()
            self.assertIn("<svg", text)
            self.assertGreater(len(text), 5000)

    @unittest.skipUnless(HAS_MATPLOTLIB, "matplotlib is not installed")
    def test_says_what_it_cannot_draw(self):
        data = results()
        data["settings"] = data["settings"][:2]
        done = self.run_tool(json.dumps(data))
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("retention: the file has no data for it", done.stderr)
        self.assertFalse((self.folder / "figures" / "retention.svg").exists())

    def test_other_files_are_refused(self):
        for text, message in (("{", "cannot read"), ("[]", "schema None"), ('{"schema": "x"}', "schema 'x'")):
            done = self.run_tool(text)
            self.assertEqual(done.returncode, 1)
            self.assertIn(message, done.stderr)


if __name__ == "__main__":
    unittest.main()
