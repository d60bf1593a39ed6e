"""How many bytes of bodies may be read, parsed and made into prompts at the same time, all requests together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tributary.serve.errors import RETRY_AFTER_S, ApiError


class BodyBudget:
    """For one event loop."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self.in_flight = 0

    @contextmanager
    def share(self) -> Iterator[BodyShare]:
        """Of one request, for as long as anything of its body is in memory."""
        share = BodyShare(self)
        try:
            yield share
        finally:
            self.in_flight -= share.num_bytes

    def take(self, num_bytes: int) -> None:
        if self.in_flight + num_bytes > self._max_bytes:
            raise ApiError(429, f"the bodies of all requests that are being read have {self.in_flight + num_bytes} "
                           f"bytes or more; at most {self._max_bytes} are taken together; come back later",
                           code="overloaded", retry_after_s=RETRY_AFTER_S, closes=True)
        self.in_flight += num_bytes


class BodyShare:
    def __init__(self, budget: BodyBudget) -> None:
        self._budget = budget
        self.num_bytes = 0

    def add(self, num_bytes: int) -> None:
        """What has come, not what was announced: an announcement costs its sender nothing. ApiError 429."""
        self._budget.take(num_bytes)
        self.num_bytes += num_bytes
