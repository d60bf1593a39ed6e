"""The figures of docs/adding.md are what the command counts, and they say what the document claims."""

import pathlib
import sys
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tools"))
import adding_counts  # noqa: E402


class AddingCountsTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.counts = adding_counts.report(ROOT)

    def test_the_document_has_the_figures_of_today(self):
        text = (ROOT / adding_counts.DOCUMENT).read_text()
        self.assertEqual(adding_counts.documented(text), self.counts, "run tools/adding_counts.py --write")

    def test_a_parameter_and_a_policy_stay_in_the_policys_folders(self):
        self.assertRegex(self.counts, r"C\+\+ files outside that use its words: 0\n")
        self.assertRegex(self.counts, r"policy parameter keep_next: (\d+) files, \1 of them its policy's\n")

    def test_every_example_is_there(self):
        for kind, example, _ in adding_counts.EXAMPLES:
            self.assertNotIn(f"{kind} {example}: 0 files", self.counts)


if __name__ == "__main__":
    unittest.main()
