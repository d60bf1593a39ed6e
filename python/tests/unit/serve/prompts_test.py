"""What cannot fit into the context is not encoded."""

from __future__ import annotations

from pathlib import Path

import pytest
import tokenizers
from errors_test import refused
from fake_coordinator import FakeCoordinator
from serving import make_byte_model, serving
from tokenizers import decoders, models, pre_tokenizers

from tributary.text.tokenizer import JsonTokenizer


def test_what_cannot_fit_is_not_encoded(fake: FakeCoordinator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_byte_model(tmp_path / "letters", context=100)
    vocab = {letter: i for i, letter in enumerate([*sorted(pre_tokenizers.ByteLevel.alphabet()), "aaa"])}
    made = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.save(str(model / "tokenizer.json"))
    most = 100 * len("aaa")
    encoded: list[int] = []
    encode = JsonTokenizer.encode

    def counted(self: JsonTokenizer, text: str, *, add_special_tokens: bool) -> list[int]:
        encoded.append(len(text))
        return encode(self, text, add_special_tokens=add_special_tokens)

    monkeypatch.setattr(JsonTokenizer, "encode", counted)
    with serving(fake.address, model) as server:
        for fields, path in (({"prompt": "a" * (most + 1)}, "/v1/completions"),
                             ({"prompt": ["a", "a" * (most + 1)]}, "/v1/completions")):
            status, message = refused(server, fields, path)
            assert status == 400 and f"{most} characters at most, but the prompt has {most + 1}" in message
        status, message = refused(server, {"messages": [{"role": "user", "content": "a" * most}]})
        assert status == 400 and f"{most} characters at most" in message and not encoded
        status, message = refused(server, {"prompt": "a" * most}, "/v1/completions")
        assert status == 400 and "context is 100 tokens, but the prompt has" in message and encoded == [most]
