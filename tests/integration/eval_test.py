#!/usr/bin/env python3
"""`tributary eval` against real processes and the probe model."""

import csv
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import unittest

from cluster import BIN, MODEL, ROOT, Cluster

sys.path.insert(0, str(ROOT / "tools"))
import needles  # noqa: E402

SOURCE = ROOT / "ARCHITECTURE.md"  # any text


def pid_of(parent, name):
    """The process of this name that the parent has started."""
    for path in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            status, command = (path / "status").read_text(), (path / "cmdline").read_text()
        except OSError:  # it has ended
            continue
        if f"\nPPid:\t{parent}\n" in status and command.split("\0")[0].endswith(name):
            return int(path.name)
    raise AssertionError(f"no child {name} of {parent}")


def without_times(text):
    """The answers of a report: what does not differ from run to run."""
    return [(q["expected"], q["answer"], q["found"]) for q in json.loads(text)["settings"][0]["needles"]["questions"]]


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
                                 "--tasks", "multi-query", "--json", folder / "out.json")
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

    def test_every_task_asked_before_and_after_the_selection(self):
        with Cluster() as cluster:
            folder = pathlib.Path(cluster.folder.name)
            for flags in ((), ("--decode-question",)):
                done = self.run_eval("--coordinator", cluster.coordinator, "--text-file", SOURCE, "--policy", "fluxion",
                                     "--budget-mode", "fixed,calibrated", "--budget", "1", "--max-budget", "1",
                                     "--captured-mass", "1", "--window-tokens", "128", "--lengths", "1200",
                                     "--tasks", "single,multi-key,key-value,extraction", "--needles", "3", "--fields",
                                     "3", "--depths", "0.5", "--json", folder / "out.json", *flags)
                self.assertEqual(done.returncode, 0, done.stderr)
                result = json.loads((folder / "out.json").read_text())
                # What the mode does not look at is left out, so there is a setting of each mode.
                self.assertEqual([s["max_budget"] for s in result["settings"]], [None, None, 1.0])
                dense, *others = result["settings"]
                self.assertEqual(sorted(dense["tasks"]), ["extraction", "key-value", "multi-key", "single"])
                self.assertEqual(dense["tasks"]["single"]["found"], 1)
                self.assertEqual(dense["tasks"]["key-value"]["asked"], 1)
                record = dense["tasks"]["extraction"]["questions"][0]
                self.assertEqual(sorted(json.loads(record["expected"])), sorted(set(json.loads(record["expected"]))))
                self.assertEqual(len(json.loads(record["expected"])), 3)
                for setting in others:  # it reads everything
                    self.assertEqual(setting["tasks"]["single"]["found_where_baseline"], 1)
                    self.assertEqual(setting["failures"], [])

    def test_drift_and_several_texts(self):
        with Cluster() as cluster:
            folder = pathlib.Path(cluster.folder.name)
            texts = [folder / "first.txt", folder / "second.txt"]
            texts[0].write_bytes(SOURCE.read_bytes()[:900])
            texts[1].write_bytes((ROOT / "README.md").read_bytes()[:900])
            done = self.run_eval("--coordinator", cluster.coordinator, "--text-file", f"{texts[0]},{texts[1]}",
                                 "--policy", "hgca", "--beta", "0", "--window-tokens", "128", "--prefill-tokens", "600",
                                 "--decode-tokens", "30", "--drift-tokens", "70", "--json", folder / "out.json")
            self.assertEqual(done.returncode, 0, done.stderr)
            result = json.loads((folder / "out.json").read_text())
        dense, everything = result["settings"]
        self.assertEqual([t["text"] for t in dense["perplexity"]["texts"]], [str(t) for t in texts])
        nll = [t["nll_mean"] for t in dense["perplexity"]["texts"]]
        self.assertNotEqual(*nll)
        self.assertAlmostEqual(dense["perplexity"]["nll_mean"], sum(nll) / 2)
        # beta 0 is dense bit for bit, over what dense generated too.
        self.assertEqual(everything["perplexity"]["kl_mean_worst"], 0)
        self.assertEqual(everything["drift"]["tokens"], 70)
        self.assertEqual([(p["begin"], p["end"], p["kl_max"]) for p in everything["drift"]["parts"]], [(0, 70, 0)])
        self.assertIn("6 jobs in 2 settings: about", done.stderr)

    def test_an_interrupted_run_goes_on_and_a_lost_cluster_is_replaced(self):
        with tempfile.TemporaryDirectory() as name:
            out = pathlib.Path(name) / "out.json"
            flags = ["--model", MODEL, "--cpu-nodes", "1", "--text-file", SOURCE, "--window-tokens", "128", "--lengths",
                     "700", "--tasks", "single", "--needles", "1", "--depths", "0,0.3,0.6,0.9", "--questions", "10",
                     "--json", out]
            whole = self.run_eval(*flags)
            self.assertEqual(whole.returncode, 0, whole.stderr)
            expected = out.read_text()
            self.assertFalse(out.with_name("out.json.journal").exists())  # of a complete run, nothing is left
            out.unlink()
            run = subprocess.Popen([BIN / "tributary", "eval", *flags], stderr=subprocess.PIPE, text=True)
            lines = [run.stderr.readline(), run.stderr.readline()]  # the duration, and the first job
            self.assertIn("40 jobs in 1 settings", lines[0])
            run.send_signal(signal.SIGINT)
            run.communicate(timeout=120)
            self.assertNotEqual(run.returncode, 0)
            self.assertFalse(json.loads(out.read_text())["complete"])
            # Other questions are another plan.
            other = self.run_eval(*flags, "--seed", "2")
            self.assertEqual(other.returncode, 1)
            self.assertIn("--restart", other.stderr)
            # The same again: the worker is killed on the way.
            run = subprocess.Popen([BIN / "tributary", "eval", *flags], stderr=subprocess.PIPE, text=True)
            said = run.stderr.readline()
            self.assertRegex(said, r"40 jobs in 1 settings, [1-9]\d* of them answered before")
            os.kill(pid_of(run.pid, "tributary-gpu-worker"), signal.SIGKILL)
            said = run.communicate(timeout=300)[1]
            self.assertEqual(run.returncode, 0, said)
            self.assertIn("a new cluster is started", said)
            self.assertEqual(without_times(out.read_text()), without_times(expected))

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
