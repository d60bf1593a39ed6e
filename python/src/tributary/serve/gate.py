"""How many answers run at once, and how many wait for their turn; whoever comes beyond that is told to come back."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tributary.serve.errors import ApiError


class Admission:
    """Of a request, until it leaves."""

    def __init__(self, gate: Gate, answers: int) -> None:
        self._gate = gate
        self._answers = answers

    def leave(self) -> None:
        """Once counts."""
        self._gate.dismiss(self._answers)
        self._answers = 0


class Gate:
    """First come, first served. For one event loop."""

    def __init__(self, max_running: int, max_waiting: int) -> None:
        self._max_running = max_running
        self._max_waiting = max_waiting
        self.running = 0
        self._admitted = 0  # those that run, wait, or are about to
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def admit(self, answers: int) -> Admission:
        """A request with so many answers comes in. ApiError 429 if they could not even wait."""
        if self._admitted + answers > self._max_running + self._max_waiting:
            raise ApiError(429, f"{self.running} answers are under way and {self._admitted - self.running} wait, which "
                           "is all this server takes; come back later", code="overloaded",
                           retry_after_s=1 + self.waiting / self._max_running)
        self._admitted += answers
        return Admission(self, answers)

    def dismiss(self, answers: int) -> None:
        self._admitted -= answers

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        await self._enter()
        try:
            yield
        finally:
            self._leave()

    async def _enter(self) -> None:
        if self.running < self._max_running and not self._waiting:
            self.running += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # the place had been given just then
                self._leave()
            elif turn in self._waiting:  # else whoever left has passed it by
                self._waiting.remove(turn)
            raise

    def _leave(self) -> None:
        """Gives the place on, if anybody waits."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self.running -= 1
