"""tools/tokenizer.py, with a package `tokenizers` that stands for the real one: a token per character."""

import json
import pathlib
import sys
import tempfile
import types
import unittest
from unittest import mock

ROOT = pathlib.Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tools"))
import tokenizer  # noqa: E402

BEGIN, END = 1, 2


class FakeTokenizer:
    @staticmethod
    def from_file(path):
        if json.loads(pathlib.Path(path).read_text()) != {}:
            raise ValueError("no tokenizer")
        return FakeTokenizer()

    def no_truncation(self):
        pass

    def no_padding(self):
        pass

    def get_added_tokens_decoder(self):
        return {BEGIN: types.SimpleNamespace(special=True), END: types.SimpleNamespace(special=True),
                ord("#"): types.SimpleNamespace(special=False)}

    def encode(self, text, add_special_tokens):
        ids = ([BEGIN] if add_special_tokens else []) + [ord(c) for c in text]
        return types.SimpleNamespace(ids=ids, offsets=[(i, i + 1) for i in range(len(text))])

    def decode(self, ids, skip_special_tokens):
        return "".join(map(chr, ids))


class TokenizerTest(unittest.TestCase):
    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = pathlib.Path(temporary.name)
        (self.folder / "tokenizer.json").write_text("{}")
        package = types.SimpleNamespace(Tokenizer=FakeTokenizer)
        patch = mock.patch.dict(sys.modules, {"tokenizers": package})
        patch.start()
        self.addCleanup(patch.stop)

    def test_text_has_tokens_and_the_bytes_where_they_begin(self):
        codec = tokenizer.Codec(self.folder, use_chat=True)
        self.assertEqual(codec.greeting(), {"prefix": [BEGIN], "chat": None})
        self.assertEqual(codec.answer({"encode": "aé€b", "begins": True}),
                         {"tokens": [ord(c) for c in "aé€b"], "begins": [0, 1, 3, 6]})
        self.assertEqual(codec.answer({"encode": "ab"}), {"tokens": [97, 98]})

    def test_an_answer_ends_at_a_special_token(self):
        codec = tokenizer.Codec(self.folder, use_chat=False)
        self.assertEqual(codec.answer({"decode": [97, ord("#"), 98, END, 99]}), {"text": "a#b"})
        self.assertEqual(codec.answer({"decode": []}), {"text": ""})

    def test_what_is_missing_is_said_with_what_to_do(self):
        with mock.patch.dict(sys.modules, {"tokenizers": None}):
            with self.assertRaisesRegex(tokenizer.TokenizerError, "pip install -r tools/packages/python.txt"):
                tokenizer.Codec(self.folder, use_chat=True)
        (self.folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
        with mock.patch.dict(sys.modules, {"jinja2": None}):
            with self.assertRaisesRegex(tokenizer.TokenizerError, "--chat-template none"):
                tokenizer.Codec(self.folder, use_chat=True)
            tokenizer.Codec(self.folder, use_chat=False)
        (self.folder / "tokenizer.json").write_text("[]")
        with self.assertRaisesRegex(tokenizer.TokenizerError, "is no tokenizer: no tokenizer"):
            tokenizer.Codec(self.folder, use_chat=False)
        (self.folder / "tokenizer.json").unlink()
        with self.assertRaisesRegex(tokenizer.TokenizerError, "--text-tokens-file"):
            tokenizer.Codec(self.folder, use_chat=False)

    def test_a_template_may_stand_in_several_places(self):
        self.assertEqual(tokenizer.chat_template(self.folder, {"chat_template": "a"}), "a")
        named = [{"name": "tools", "template": "t"}, {"name": "default", "template": "d"}]
        self.assertEqual(tokenizer.chat_template(self.folder, {"chat_template": named}), "d")
        self.assertIsNone(tokenizer.chat_template(self.folder, {}))
        (self.folder / "chat_template.jinja").write_text("of the file")
        self.assertEqual(tokenizer.chat_template(self.folder, {"chat_template": "a"}), "of the file")


try:
    import jinja2  # noqa: F401
    HAS_JINJA = True
except ImportError:
    HAS_JINJA = False


@unittest.skipUnless(HAS_JINJA, "jinja2 is not installed")
class ChatFrameTest(unittest.TestCase):
    def frame(self, template):
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            (folder / "tokenizer_config.json").write_text(
                json.dumps({"chat_template": template, "bos_token": {"content": "<s>"}, "eos_token": "</s>"}))
            return tokenizer.chat_frame(folder)

    def test_a_template_is_cut_at_what_is_said(self):
        frame = self.frame("{{ bos_token }}"
                           "{% for m in messages %}[{{ m.role }}]{{ m.content }}{{ eos_token }}{% endfor %}"
                           "{% if add_generation_prompt %}[assistant]{% endif %}")
        self.assertEqual(frame, {"before": "<s>[user]", "answer": "</s>[assistant]", "next": "</s>[user]"})

    def test_a_template_that_refuses_or_forgets_is_told(self):
        with self.assertRaisesRegex(tokenizer.TokenizerError, "only one turn; ask without it"):
            self.frame("{{ raise_exception('only one turn') }}")
        with self.assertRaisesRegex(tokenizer.TokenizerError, "leaves out what was said before"):
            self.frame("{{ messages[-1].content }}")


if __name__ == "__main__":
    unittest.main()
