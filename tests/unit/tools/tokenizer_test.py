"""tools/tokenizer.py as it is started: what it says where the packages or the files that it needs are not there.

What it answers with them is tested in python/tests/unit/text/bridge_test.py."""

import json
import pathlib
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[3]


def greeting(folder, without):
    """The first line, from a Python that cannot import the package `without`."""
    hide = f"import sys; sys.modules[{without!r}] = None; sys.argv = sys.argv[1:]; import runpy; " \
           "runpy.run_path(sys.argv[0], run_name='__main__')"
    command = [sys.executable, "-B", "-c", hide, ROOT / "tools" / "tokenizer.py", folder]
    done = subprocess.run(command, input="", capture_output=True, text=True, check=True, timeout=60)
    return json.loads(done.stdout)


class TokenizerTest(unittest.TestCase):
    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = pathlib.Path(temporary.name)

    def test_a_folder_without_a_tokenizer_is_told_before_any_package_is_needed(self):
        error = greeting(self.folder, "tokenizers")["error"]
        self.assertIn(f"there is no {self.folder}/tokenizer.json", error)
        self.assertIn("--prompt-tokens-file", error)
        self.assertIn("--tokenizer", error)

    def test_a_missing_package_is_told_with_what_installs_it(self):
        (self.folder / "tokenizer.json").write_text("{}")
        error = greeting(self.folder, "jinja2")["error"]
        self.assertIn("'jinja2' is not installed", error)
        self.assertIn(f"{sys.executable} -m pip install tokenizers jinja2", error)
        self.assertIn("./dev setup python", error)
        self.assertIn("--python", error)


if __name__ == "__main__":
    unittest.main()
