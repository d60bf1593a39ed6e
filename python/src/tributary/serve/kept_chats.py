"""Which chats' sequences are kept after their answer, so that a next turn that begins with all of their tokens costs
only its own. Who goes on with one takes it out; its next answer puts it back."""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_LATEST_S = 1.0  # a lease that ends that soon is not counted on


@dataclass(frozen=True)
class KeptChat:
    request_id: str
    scope: str
    tokens: bytes  # prompts and answers, as packed() makes them
    growth_tokens: int  # what a further turn may have, answer included
    ends_s: float  # of `clock`

    @property
    def num_tokens(self) -> int:
        return len(self.tokens) // _TOKEN_BYTES


_TOKEN_BYTES = array("I").itemsize


def packed(tokens: Sequence[int]) -> bytes:
    return array("I", tokens).tobytes()


class KeptChats:
    """For one event loop. Letting go of a sequence is the caller's: methods return whom it must let go."""

    def __init__(self, capacity: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._capacity = capacity
        self._clock = clock
        self._chats: list[KeptChat] = []  # the one used longest ago first

    def __len__(self) -> int:
        return len(self._chats)

    def take(self, scope: str, prompt: Sequence[int]) -> KeptChat | None:
        """The chat whose tokens are the longest beginning of the prompt, out of the table; None if there is none."""
        now = self._clock()
        self._chats = [chat for chat in self._chats if chat.ends_s - _LATEST_S > now]
        suiting = [chat for chat in self._chats if chat.scope == scope and chat.num_tokens < len(prompt)]
        whole = packed(prompt) if suiting else b""  # of a million tokens it takes a while
        suiting = [chat for chat in suiting if whole.startswith(chat.tokens)]
        if not suiting:
            return None
        best = max(suiting, key=lambda chat: len(chat.tokens))
        self._chats.remove(best)
        return best

    def put(self, request_id: str, scope: str, tokens: bytes, *, growth_tokens: int,
            lease_s: float) -> list[KeptChat]:
        """`tokens` are packed. Returns those that have to make room."""
        self._chats.append(KeptChat(request_id, scope, tokens, growth_tokens, self._clock() + lease_s))
        num_over = max(0, len(self._chats) - self._capacity)
        over, self._chats = self._chats[:num_over], self._chats[num_over:]
        return over

    def take_oldest(self) -> KeptChat | None:
        """The one used longest ago, for the memory that it holds."""
        return self._chats.pop(0) if self._chats else None
