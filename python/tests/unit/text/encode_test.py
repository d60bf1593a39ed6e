"""Encoding lets other threads run; how much text a token can stand for."""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path

import pytest
from detokenizer_test import WORDS, byte_fallback, byte_level

from tributary.text.longest_token import longest_token_characters
from tributary.text.tokenizer import JsonTokenizer


def test_encoding_lets_other_threads_run(tmp_path: Path) -> None:
    """With a switch interval without end a thread has the interpreter's lock until it lets go of it: so `inside` is
    seen only if encode() lets go."""
    tokenizer = byte_level(tmp_path)
    text = "a river of words and more words in the sea " * 2000
    inside, seen = False, threading.Event()

    def encode() -> None:
        nonlocal inside
        end = time.monotonic() + 60  # for a loaded machine; mostly the first time is enough
        while not seen.is_set() and time.monotonic() < end:
            inside = True
            tokenizer.encode(text, add_special_tokens=False)
            inside = False

    before = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    try:
        thread = threading.Thread(target=encode)
        thread.start()
        while thread.is_alive() and not seen.is_set():
            if inside:
                seen.set()
            time.sleep(0.0001)
        thread.join()
    finally:
        sys.setswitchinterval(before)
    assert seen.is_set()


@pytest.mark.parametrize("make", [byte_level, byte_fallback])
def test_no_token_stands_for_more_than_the_longest(make, tmp_path: Path) -> None:  # noqa: ANN001
    tokenizer: JsonTokenizer = make(tmp_path)
    longest = tokenizer.longest_token_characters
    assert longest is not None and longest < 100
    for text in [*WORDS, "river" * 100, " " * 100, "<|end|>" * 50, "e\u0301" * 20, "".join(WORDS)]:
        num_tokens = len(tokenizer.encode(text, add_special_tokens=False))
        assert len(text) <= num_tokens * longest


@pytest.mark.parametrize("change", [
    {"normalizer": {"type": "StripAccents"}},
    {"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Strip"}]}},
    {"pre_tokenizer": {"type": "WhitespaceSplit"}},
    {"added_tokens": [{"id": 0, "content": "<mask>", "lstrip": True}]},
    {"model": {"type": "WordPiece"}},
])
def test_where_text_is_left_out_there_is_no_longest(change: dict[str, object], tmp_path: Path) -> None:
    vocab = byte_level(tmp_path)._tokenizer.get_vocab()  # noqa: SLF001
    description = json.loads((tmp_path / "tokenizer.json").read_text())
    longest = max(map(len, vocab))
    assert longest_token_characters(description, vocab) == longest
    assert longest_token_characters({**description, "normalizer": {"type": "NFC"}}, vocab) == 4 * longest
    assert longest_token_characters({**description, **change}, vocab) is None
    assert longest_token_characters(description, vocab.keys() - {"a"}) is None
