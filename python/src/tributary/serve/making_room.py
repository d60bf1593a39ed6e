"""Kept chats give way to requests that wait for what they hold: a place among the coordinator's sequences, memory."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from tributary import aio
from tributary.errors import TributaryError


class MakingRoom:
    """For one event loop. Lets go of one chat at a time, and of none that nobody waits for."""

    def __init__(self, client: aio.Client, give_way: Callable[[], Awaitable[bool]], patience_s: float) -> None:
        """`give_way` lets go of the chat used longest ago; False if none is kept."""
        self._client = client
        self._give_way = give_way
        self._patience_s = patience_s
        self._one_at_a_time = asyncio.Lock()

    async def while_waiting(self) -> None:
        """For as long as a request has not got its place; then it is cancelled. Each round gives the coordinator
        patience_s to make use of what was freed: many who wait together have one chat let go of in that time."""
        while True:
            async with self._one_at_a_time:
                await asyncio.sleep(self._patience_s)
                if await self._somebody_queues():
                    await self._give_way()

    async def _somebody_queues(self) -> bool:
        """The coordinator's queue holds those, and only those, who lack a place or memory. Whoever has these and waits
        for something else, such as a slow prefill, gains nothing from what a chat gives up."""
        try:
            return (await self._client.status()).requests_waiting > 0
        except TributaryError:
            return False  # then the request will hear of it, too
