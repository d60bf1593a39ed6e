"""tools/check_docs.py: which blocks it finds, what it takes them for, and that it runs them and sees them fail."""

import pathlib
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tools"))
import check_docs  # noqa: E402


def block(text, mark=""):
    found, = check_docs.blocks_of("x.md", f"Words.\n{mark}\n```sh\n{text}\n```\n```\nnot a shell\n```\n")
    return found


class ParserTest(unittest.TestCase):
    def test_durations_are_stated_in_comments(self):
        self.assertEqual(block("true   # 20 s: words").seconds, 20)
        self.assertEqual(block("true # 20 s\nfalse # 3 min").seconds, 180)
        with self.assertRaisesRegex(check_docs.DocsError, "x.md:3: no comment .* how long"):
            block("sleep 20 s")

    def test_marks(self):
        self.assertTrue(block("true # 3 s").is_fast)
        self.assertFalse(block("true # 1 min").is_fast)
        self.assertFalse(block("true # 3 s", "<!-- docs: slow -->").is_fast)
        served = block("true # 3 s", "<!-- docs: slow and serves, is ready -->")
        self.assertEqual((served.serves, served.is_fast, served.detail), (True, False, "is ready"))
        self.assertEqual(block("true", "<!-- docs: parsed only, it needs a GPU -->").detail, "it needs a GPU")
        for mark in ("<!-- docs: frob -->", "<!-- docs: serves -->", "<!-- docs: parsed only -->"):
            with self.assertRaisesRegex(check_docs.DocsError, "is no mark"):
                block("true # 1 s", mark)

    def test_what_nobody_can_run(self):
        with self.assertRaisesRegex(check_docs.DocsError, "bash cannot read it"):
            check_docs.check_syntax(block("if # 1 s"))
        with self.assertRaisesRegex(check_docs.DocsError, "nobody can run 'PORT'"):
            check_docs.check_syntax(block("ask 127.0.0.1:PORT # 1 s"))
        check_docs.check_syntax(block("ask HOST:7000", "<!-- docs: parsed only, it needs several hosts -->"))

    def test_the_documents_blocks_are_in_form(self):
        for name in check_docs.DOCUMENTS:
            found = check_docs.blocks_of(name, (ROOT / name).read_text())
            self.assertTrue(any(b.is_fast and b.mark != "parsed only" for b in found), name)
            for each in found:
                check_docs.check_syntax(each)


class RunnerTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.runner = check_docs.Runner(pathlib.Path(folder.name))
        self.addCleanup(self.runner.stop)

    def test_a_failing_line_fails(self):
        self.runner.run(block("test -f README.md # 1 s, in the repository's folder"))
        with self.assertRaisesRegex(check_docs.DocsError, "(?s)ended with status 3.*said this"):
            self.runner.run(block("echo said this # 1 s\n(exit 3)\ntrue"))

    def test_what_serves_is_interrupted_at_the_end(self):
        mark = "<!-- docs: serves, is ready -->"
        self.runner.run(block("trap 'exit 0' INT; echo is ready; while true; do sleep 0.1; done # 1 s", mark))
        self.runner.run(block("true # 1 s"))
        self.runner.stop()
        with self.assertRaisesRegex(check_docs.DocsError, "does not say 'is ready'"):
            self.runner.run(block("echo other # 1 s", mark))


if __name__ == "__main__":
    unittest.main()
