#!/usr/bin/env python3
"""`tributary eval` against real processes and the probe model."""

import csv
import json
import pathlib
import subprocess
import sys
import unittest

from cluster import BIN, MODEL, ROOT, Cluster

sys.path.insert(0, str(ROOT / "tools"))
import needles  # noqa: E402

SOURCE = ROOT / "ARCHITECTURE.md"  # any text


class EvalTest(unittest.TestCase):
    def run_eval(self, *flags):
        command = [BIN / "tributary", "eval", *flags]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)

    def test_dense_on_the_probe_model(self):
        with Cluster() as cluster:
            folder = pathlib.Path(cluster.folder.name)
            text = folder / "text.txt"
            text.write_bytes(SOURCE.read_bytes()[:700])
            done = self.run_eval("--coordinator", cluster.coordinator, "--text-file", SOURCE, "--prefill-tokens", "600",
                                 "--decode-tokens", "100", "--window-tokens", "128,256", "--needles", "3",
                                 "--queries", "2", "--lengths", "1500", "--depths", "0,1",
                                 "--json", folder / "out.json", "--csv", folder / "out.csv")
            self.assertEqual(done.returncode, 0, done.stderr)
            score = subprocess.run([BIN / "tributary", "score", "--coordinator", cluster.coordinator, "--json",
                                    "--text-file", text, "--prefill-tokens", "600", "--window-tokens", "128"],
                                   capture_output=True, text=True, check=True, timeout=120)
            result = json.loads((folder / "out.json").read_text())
            rows = list(csv.DictReader((folder / "out.csv").read_text().splitlines()))
        self.assertEqual(result["schema"], "tributary.eval/1")
        self.assertTrue(result["complete"])
        self.assertEqual(len(result["settings"]), 2)
        first = result["settings"][0]
        # The same tokens through the same path: what `score` says, to the last bit.
        self.assertEqual(first["perplexity"]["nll_mean"], json.loads(score.stdout)["nll_mean"])
        for setting, row in zip(result["settings"], rows):
            self.assertEqual(setting["needles"]["asked"], 6)
            self.assertGreaterEqual(setting["needles"]["found"], 5)
            self.assertEqual(setting["perplexity"]["remote_read_share"], 1.0)
            self.assertTrue(setting["perplexity"]["kl_is_exact"])
            self.assertEqual(len(setting["perplexity"]["kl"]), 100)
            self.assertLess(setting["perplexity"]["kl_max"], 1e-3)
            self.assertGreater(setting["perplexity"]["top1_agreement"], 0.98)
            self.assertGreater(setting["perplexity"]["remote_tokens"], 200)
            self.assertEqual(float(row["perplexity"]), setting["perplexity"]["perplexity"])
            self.assertEqual(int(row["window_tokens"]), setting["window_tokens"])
        for question in first["needles"]["questions"]:
            adjective, noun = question["name"].split()
            self.assertIn(adjective, needles.ADJECTIVES)
            self.assertIn(noun, needles.NOUNS)
            self.assertRegex(question["expected"], rf"^[0-9]{{{needles.CODE_DIGITS}}}\.$")
        self.assertIn("100 %", done.stderr)

    def test_hgca_against_dense(self):
        with Cluster() as cluster:
            folder = pathlib.Path(cluster.folder.name)
            done = self.run_eval("--coordinator", cluster.coordinator, "--text-file", SOURCE, "--policy", "hgca",
                                 "--beta", "0,8", "--keep-next", "8", "--quality-sample-rate", "1",
                                 "--window-tokens", "256", "--prefill-tokens", "2000", "--decode-tokens", "100",
                                 "--needles", "4", "--queries", "4", "--lengths", "2500", "--turns",
                                 "--needle-kinds", "multi-query", "--json", folder / "out.json")
            self.assertEqual(done.returncode, 0, done.stderr)
            status = subprocess.run([BIN / "tributary", "status", "--coordinator", cluster.coordinator, "--json"],
                                    capture_output=True, text=True, check=True, timeout=60)
            result = json.loads((folder / "out.json").read_text())
        dense, everything, sparse = result["settings"]
        self.assertEqual(json.loads(status.stdout)["kept_sequences"], [])  # the last question lets go
        # beta 0 selects everything, so it is dense bit for bit, in turns too.
        self.assertEqual(everything["perplexity"]["logprobs"], dense["perplexity"]["logprobs"])
        self.assertEqual(everything["perplexity"]["kl_max"], 0)
        self.assertEqual(everything["perplexity"]["kept_mass_min"], 1)
        self.assertEqual(everything["perplexity"]["output_error_max"], 0)
        self.assertGreater(sparse["perplexity"]["output_error_p95"], 0)
        self.assertEqual([q["answer"] for q in everything["needles"]["questions"]],
                         [q["answer"] for q in dense["needles"]["questions"]])
        self.assertEqual(len(sparse["needles"]["questions"]), 4)
        self.assertLess(sparse["perplexity"]["remote_read_share"], 0.6)
        self.assertLess(sparse["perplexity"]["perplexity_ratio"], 1.05)
        self.assertGreater(sparse["perplexity"]["kl_mean"], 0)
        self.assertEqual([len(row) for row in sparse["heads"]["remote_read_share"]], [2] * 6)
        for name in ("remote_read_share", "kept_mass_mean", "kept_mass_min"):
            for share in (value for row in sparse["heads"][name] for value in row):
                self.assertTrue(0 <= share <= 1, share)
        mean = sum(value for row in sparse["heads"]["remote_read_share"] for value in row) / 12
        self.assertAlmostEqual(mean, sparse["perplexity"]["remote_read_share"], delta=0.02)

    def test_what_cannot_be_run_is_said_before_a_cluster_starts(self):
        common = ("--model", MODEL, "--text-file", SOURCE, "--decode-tokens", "10")
        for flags, status, words in (
                (("--policy", "frob"), 2, "policy 'frob' is not known; this build has: dense, hgca"),
                (("--beta", "1"), 2, "beta is no parameter of dense"),
                (("--prefill-tokens", "99999999"), 1, "the text has"),
                (("--json", "/nonexistent/out.json"), 1, "/nonexistent/out.json"),
                (("--csv", "/nonexistent/out.csv"), 1, "/nonexistent/out.csv"),
        ):
            with self.subTest(flags=flags):
                done = self.run_eval(*common, *flags)
                self.assertEqual(done.returncode, status, done.stderr)
                self.assertIn(words, done.stderr)


if __name__ == "__main__":
    unittest.main()
