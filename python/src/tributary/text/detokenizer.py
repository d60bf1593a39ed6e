"""From tokens to text while they come. A character is given out when all of its bytes are there, never before."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Sequence
from typing import Protocol

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class Detokenizer(Protocol):
    """Of one answer. The parts that add() and flush() return are the text, in order."""

    def add(self, token: int) -> str:
        """What has become certain with this token; often nothing."""

    def flush(self) -> str:
        """At the end: what is left, with U+FFFD for a character that was never completed."""


class ByteDetokenizer:
    """For vocabularies whose tokens stand for bytes. A broken sequence becomes U+FFFD as in any UTF-8 decoder."""

    def __init__(self, bytes_of: Callable[[int], bytes]) -> None:
        """`bytes_of` a token; nothing for one that is no text."""
        self._bytes_of = bytes_of
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def add(self, token: int) -> str:
        return self._decoder.decode(self._bytes_of(token))

    def flush(self) -> str:
        return self._decoder.decode(b"", True)


class WindowDetokenizer:
    """For any other vocabulary: decodes the latest tokens again with each new one, and gives out the difference."""

    MAX_HELD_TOKENS = 16  # what then still ends with U+FFFD is no character that waits for its end

    def __init__(self, decode: Callable[[Sequence[int]], str], is_special: Callable[[int], bool]) -> None:
        self._decode = decode
        self._is_special = is_special
        self._window: list[int] = []  # given out, as context of what comes, and behind them those that wait
        self._num_done = 0
        self._done_text = ""

    def add(self, token: int) -> str:
        if self._is_special(token):
            return ""
        self._window.append(token)
        text = self._decode(self._window)
        held = len(self._window) - self._num_done
        if text.endswith(REPLACEMENT) and held < self.MAX_HELD_TOKENS:
            return ""
        return self._give_out(text)

    def flush(self) -> str:
        return self._give_out(self._decode(self._window))

    def _give_out(self, text: str) -> str:
        new = text[len(self._done_text):]
        if new:
            # The tokens that came last are the context of the next ones.
            self._window = self._window[self._num_done:]
            self._done_text = self._decode(self._window)
        else:
            self._done_text = text
        self._num_done = len(self._window)
        return new
