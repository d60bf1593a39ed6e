#!/usr/bin/env python3
"""The command line speaks text with SmolLM2: prompts, answers, stop strings, scores, chats."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "integration"))
from cluster import BIN, Cluster  # noqa: E402

MODEL = ROOT / "models" / "smollm2"
PYTHON = ROOT / "build" / "smollm2" / "venv" / "bin" / "python"


class TextTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.cluster = Cluster(model=MODEL).__enter__()
        cls.addClassCleanup(cls.cluster.__exit__, None, None, None)

    def ask(self, command, *flags, stdin="", status=0, env=None):
        words = [BIN / "tributary", command, "--coordinator", self.cluster.coordinator, "--python", PYTHON, *flags]
        done = subprocess.run(words, input=stdin.encode(), capture_output=True, check=False, timeout=600,
                              env={**os.environ, **(env or {})})
        self.assertEqual(done.returncode, status, done.stderr)
        return done

    def test_text_goes_in_and_comes_out(self):
        flags = ("--prompt", "The capital of France is", "--max-tokens", "5")
        for folder in ("--model", "--tokenizer"):
            answer = json.loads(self.ask("generate", folder, MODEL, *flags, "--json").stdout)
            self.assertEqual(answer["prompt_tokens"], 5)
            self.assertIn("Paris", answer["text"])
        quiet = self.ask("generate", "--model", MODEL, *flags, "--quiet").stdout.decode()
        self.assertEqual(quiet, answer["text"])

    def test_a_stop_string_may_lie_across_tokens(self):
        flags = ("--model", MODEL, "--prompt", "One, two, three, four,", "--max-tokens", "24", "--json")
        whole = json.loads(self.ask("generate", *flags).stdout)
        stop = whole["text"][7:12]
        cut = json.loads(self.ask("generate", *flags, "--stop", stop, "--stop", "never there").stdout)
        self.assertEqual(cut["text"], whole["text"][:whole["text"].index(stop)])
        self.assertEqual(cut["stop_string"], stop)
        self.assertLess(len(cut["tokens"]), len(whole["tokens"]))

    def test_a_text_is_scored(self):
        with tempfile.TemporaryDirectory() as name:
            text = pathlib.Path(name) / "text"
            text.write_text("The river flows to the sea, and the sea is wide.")
            score = json.loads(self.ask("score", "--tokenizer", MODEL, "--text-file", text, "--prefill-tokens", "4",
                                        "--json").stdout)
        self.assertLess(score["perplexity"], 60)

    def test_a_turn_of_a_chat_costs_its_own_tokens(self):
        done = self.ask("chat", "--model", MODEL, "--max-tokens", "40", "--system", "Answer in one word.",
                        stdin="What is the capital of France?\nAnd of Italy?\n")
        self.assertIn("Paris", done.stdout.decode())
        turns = [line for line in done.stderr.decode().splitlines() if line.startswith("[stop; ")]
        self.assertEqual(len(turns), 2, done.stderr)
        tokens_in = [int(turn.split()[1]) for turn in turns]
        self.assertGreater(tokens_in[0], 15)
        self.assertLess(tokens_in[1], 15)

    def test_what_cannot_be_used_is_told(self):
        prompt = ("--prompt", "x")
        advice = b"name the folder that has its tokenizer.json with --tokenizer"
        self.assertIn(advice, self.ask("generate", *prompt, status=1).stderr)
        with tempfile.TemporaryDirectory() as name:
            missing = self.ask("generate", "--tokenizer", name, *prompt, status=1).stderr
            self.assertIn(f"there is no {name}/tokenizer.json".encode(), missing)
            (pathlib.Path(name) / "tokenizer.json").write_text("broken")
            self.assertIn(b"is not JSON", self.ask("generate", "--tokenizer", name, *prompt, status=1).stderr)
            (pathlib.Path(name) / "tokenizer.json").write_bytes((MODEL / "tokenizer.json").read_bytes())
            (pathlib.Path(name) / "chat_template.jinja").write_text("{{ raise_exception('I do not chat') }}")
            self.assertIn(b"I do not chat", self.ask("chat", "--tokenizer", name, stdin="hi\n", status=1).stderr)
            (pathlib.Path(name) / "tokenizers.py").write_text("raise ImportError('none', name='tokenizers')\n")
            told = self.ask("generate", "--model", MODEL, *prompt, status=1, env={"PYTHONPATH": name}).stderr
            self.assertIn(b"-m pip install tokenizers jinja2", told)
        self.assertIn(b"not UTF-8", self.ask("generate", "--model", MODEL, "--prompt", b"\xff", status=1).stderr)
        told = self.ask("generate", "--model", MODEL, "--prompt-file", "-", stdin="river " * 9000, status=1).stderr
        self.assertIn(b"8192", told)


def main():
    command = [sys.executable, ROOT / "tools" / "smollm2.py"]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    print(done.stderr, flush=True)
    if done.returncode == os.EX_TEMPFAIL:
        print("skipped: models/smollm2 is not there and cannot be made now")
        return 77
    return done.returncode or not unittest.main(exit=False).result.wasSuccessful()


if __name__ == "__main__":
    sys.exit(main())
