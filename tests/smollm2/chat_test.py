#!/usr/bin/env python3
"""`./dev demo chat`: its answer has the tokens that Transformers gives in f32, and most of the text lay elsewhere.

Needs build/python (./dev setup python), and makes the model if it is not there; skipped (exit status 77) without them.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

from golden_test import read_safetensors

ROOT = pathlib.Path(__file__).resolve().parents[2]
PYTHON = ROOT / "build" / "python" / "bin" / "python"
GOLDEN = ROOT / "tests" / "smollm2" / "chat_golden.safetensors"
MARGIN = 1e-3  # of log-probabilities; closer calls may be decided otherwise, and what comes after is another answer


class ChatTest(unittest.TestCase):
    def test_the_answer_is_that_of_transformers(self):
        golden = read_safetensors(GOLDEN)
        with tempfile.TemporaryDirectory() as name:
            out = pathlib.Path(name) / "out.json"
            done = subprocess.run([PYTHON, ROOT / "tools" / "demo_chat.py", "--json", out], capture_output=True,
                                  text=True, check=False, timeout=900)
            print(done.stdout, flush=True)
            self.assertEqual(done.returncode, 0, done.stderr)
            answer = json.loads(out.read_text())
        self.assertGreater(len(golden["prompt_tokens"]), 4000)
        self.assertEqual(answer["prompt_tokens"], golden["prompt_tokens"])
        self.assertEqual(len(answer["nodes"]), 2)
        self.assertGreater(answer["remote_tokens"], 0.8 * answer["context_tokens"])
        compared = 0
        for token, wanted, lead in zip(answer["tokens"], golden["greedy_tokens"], golden["leads"]):
            if token != wanted:
                self.assertLessEqual(lead, MARGIN, f"token {compared} is {token}; Transformers says {wanted}")
                break
            compared += 1
        else:
            self.assertEqual(len(answer["tokens"]), len(golden["greedy_tokens"]))
        self.assertGreater(compared, 8)
        self.assertIn("Somerset", answer["text"])
        # What the terminal shows: the words as they came, where the context lay, the stages.
        words = answer["text"].removesuffix("<|im_end|>").strip()
        for shown in (words, "where the context lay", "cpu-0", "cpu-1", "prefill", "remote_wait"):
            self.assertIn(shown, done.stdout)


def main():
    if not PYTHON.exists():
        print("skipped: there is no build/python; ./dev setup python makes it")
        return 77
    command = [sys.executable, ROOT / "tools" / "smollm2.py"]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    print(done.stderr, flush=True)
    if done.returncode == os.EX_TEMPFAIL:
        print("skipped: models/smollm2 is not there and cannot be made now")
        return 77
    return done.returncode or not unittest.main(exit=False).result.wasSuccessful()


if __name__ == "__main__":
    sys.exit(main())
