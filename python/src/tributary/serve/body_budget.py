"""How many bytes of bodies may be read, parsed and made into prompts at the same time, all requests together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from tributary.serve.errors import RETRY_AFTER_S, ApiError

# Of each body; not charged, so that small ones pass however much is being read. Connections have a bound of their own.
FREE_BYTES = 64 << 10


class BodyBudget:
    """For one event loop. Nobody holds more than half, so that few who are slow do not shut out all others."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._charged: Counter[str] = Counter()  # by who asks; no entry is 0
        self.in_flight = 0  # what is not charged included

    @contextmanager
    def share(self, who: str) -> Iterator[BodyShare]:
        """Of one request, for as long as anything of its body is in memory."""
        share = BodyShare(self, who)
        try:
            yield share
        finally:
            self.in_flight -= share.num_bytes
            self._charged[who] -= share.num_charged
            if not self._charged[who]:
                del self._charged[who]

    def charge(self, who: str, num_bytes: int) -> None:
        mine, all_of_them = self._charged[who] + num_bytes, self._charged.total() + num_bytes
        if mine > self._max_bytes // 2:
            raise _overloaded(f"the bodies of your requests that are being read have {mine} bytes or more; at most "
                              f"{self._max_bytes // 2} are taken of one API key, or host, together")
        if all_of_them > self._max_bytes:
            raise _overloaded(f"the bodies of all requests that are being read have {all_of_them} bytes or more; at "
                              f"most {self._max_bytes} are taken together")
        self._charged[who] = mine


class BodyShare:
    def __init__(self, budget: BodyBudget, who: str) -> None:
        self._budget = budget
        self._who = who
        self.num_bytes = 0
        self.num_charged = 0

    def add(self, num_bytes: int) -> None:
        """What has come, not what was announced: an announcement costs its sender nothing. ApiError 429."""
        more = max(0, self.num_bytes + num_bytes - FREE_BYTES) - self.num_charged
        if more:
            self._budget.charge(self._who, more)
        self.num_charged += more
        self.num_bytes += num_bytes
        self._budget.in_flight += num_bytes


def _overloaded(what: str) -> ApiError:
    return ApiError(429, f"{what}; come back later", code="overloaded", retry_after_s=RETRY_AFTER_S, closes=True)
