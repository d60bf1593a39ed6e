"""The objects that answers are given out in: of chats and of completions, whole and in parts."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tributary.serve import logprobs
from tributary.serve.answer import TokenInfo
from tributary.text import Tokenizer

Json = dict[str, Any]


@dataclass(frozen=True)
class ChatShape:
    model: str
    tokenizer: Tokenizer
    top_logprobs: int | None  # None: none are asked for
    id: str = field(default_factory=lambda: f"chatcmpl-{secrets.token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))

    def first_chunk(self, index: int) -> Json | None:
        return self.chunk([self._choice(index, {"role": "assistant", "content": ""}, (), None)])

    def delta_chunk(self, index: int, text: str, tokens: Sequence[TokenInfo]) -> Json:
        return self.chunk([self._choice(index, {"content": text}, tokens, None)])

    def last_chunk(self, index: int, reason: str) -> Json:
        return self.chunk([self._choice(index, {}, (), reason)])

    def chunk(self, choices: list[Json]) -> Json:
        return {"id": self.id, "object": "chat.completion.chunk", "created": self.created, "model": self.model,
                "choices": choices}

    def whole(self, choices: list[Json], usage: Json) -> Json:
        return {"id": self.id, "object": "chat.completion", "created": self.created, "model": self.model,
                "choices": choices, "usage": usage}

    def whole_choice(self, index: int, text: str, tokens: Sequence[TokenInfo], reason: str) -> Json:
        return {"index": index, "message": {"role": "assistant", "content": text, "refusal": None},
                "logprobs": self._logprobs(tokens), "finish_reason": reason}

    def _choice(self, index: int, delta: Json, tokens: Sequence[TokenInfo], reason: str | None) -> Json:
        return {"index": index, "delta": delta, "logprobs": self._logprobs(tokens) if tokens else None,
                "finish_reason": reason}

    def _logprobs(self, tokens: Sequence[TokenInfo]) -> Json | None:
        return None if self.top_logprobs is None else logprobs.of_chat(tokens, self.top_logprobs, self.tokenizer)


@dataclass(frozen=True)
class CompletionShape:
    model: str
    tokenizer: Tokenizer
    top_logprobs: int | None
    id: str = field(default_factory=lambda: f"cmpl-{secrets.token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))

    def first_chunk(self, index: int) -> Json | None:
        return None

    def delta_chunk(self, index: int, text: str, tokens: Sequence[TokenInfo]) -> Json:
        return self.chunk([self.whole_choice(index, text, tokens, None)])

    def last_chunk(self, index: int, reason: str) -> Json:
        return self.chunk([self.whole_choice(index, "", (), reason)])

    def chunk(self, choices: list[Json]) -> Json:
        return {"id": self.id, "object": "text_completion", "created": self.created, "model": self.model,
                "choices": choices}

    def whole(self, choices: list[Json], usage: Json) -> Json:
        return {**self.chunk(choices), "usage": usage}

    def whole_choice(self, index: int, text: str, tokens: Sequence[TokenInfo], reason: str | None) -> Json:
        asked = self.top_logprobs
        return {"index": index, "text": text, "finish_reason": reason,
                "logprobs": None if asked is None else logprobs.of_completion(tokens, asked, self.tokenizer)}


Shape = ChatShape | CompletionShape
