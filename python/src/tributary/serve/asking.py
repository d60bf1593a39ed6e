"""Asking the cluster for a turn: goes on with a kept sequence if there is one, and sends the whole prompt else."""

from __future__ import annotations

import asyncio
import dataclasses
import secrets
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from tributary import aio
from tributary.errors import (NotFoundError, OutOfRangeError, OverloadedError, PreconditionError, TributaryError)
from tributary.events import Accepted, Event, Summary, Tokens
from tributary.request import GenerateRequest, Keep, Placement, Policy
from tributary.serve.gate import Gate
from tributary.serve.kept_chats import KeptChat, KeptChats, packed
from tributary.serve.making_room import MakingRoom
from tributary.serve.plan import AnswerPlan, keep_of
from tributary.serve.settings import Settings


class Turn:
    """A plan, and what came of it."""

    def __init__(self, plan: AnswerPlan) -> None:
        self.plan = plan
        self.cached_tokens = 0
        self.answer_tokens: list[int] = []
        self.has_begun = False  # an event was given out
        self.is_kept = False  # the sequence is in the table of kept chats

    @property
    def prompt_tokens(self) -> int:
        return len(self.plan.request.prompt_tokens)


class Asking:
    """For one event loop."""

    def __init__(self, client: aio.Client, gate: Gate, settings: Settings, max_context_tokens: int | None) -> None:
        self._client = client
        self._gate = gate
        self._settings = settings
        self._max_context_tokens = max_context_tokens
        self.kept = KeptChats(settings.max_kept_chats)
        self._letting_go: set[asyncio.Task[None]] = set()
        self._making_room = MakingRoom(client, self._give_way, settings.patience_s)

    async def events(self, turn: Turn) -> AsyncGenerator[Event, None]:
        """Accepted, Tokens ..., Summary. Waits for a place at the gate first. However it ends, a sequence that was
        asked to stay is let go of, unless keep() was called before."""
        async with self._gate.place():
            chat = self._suiting_chat(turn.plan)
            if chat is not None:
                request = self._continuation(turn.plan, chat)
                try:
                    async with aclosing(self._run(turn, request, chat.num_tokens)) as events:
                        async for event in events:
                            yield event
                    return
                except (NotFoundError, PreconditionError, OutOfRangeError):
                    if turn.has_begun:
                        raise
            async with aclosing(self._from_the_beginning(turn)) as events:
                async for event in events:
                    yield event

    def keep(self, turn: Turn, summary: Summary) -> None:
        """A next turn may go on with the sequence: its reader has had all that it says."""
        if summary.kept is None:
            return
        tokens = packed(turn.plan.request.prompt_tokens) + packed(turn.answer_tokens)
        over = self.kept.put(summary.kept.request_id, turn.plan.scope, tokens, lease_s=summary.kept.lease_s,
                             growth_tokens=summary.kept.growth_tokens)
        turn.is_kept = True
        for chat in over:
            self._let_go(chat.request_id)

    async def let_go_of_all(self) -> None:
        while (chat := self.kept.take_oldest()) is not None:
            self._let_go(chat.request_id)
        if self._letting_go:
            await asyncio.wait(self._letting_go)

    async def _give_way(self) -> bool:
        oldest = self.kept.take_oldest()
        if oldest is not None:
            await asyncio.shield(self._let_go(oldest.request_id))
        return oldest is not None

    def _let_go(self, request_id: str) -> asyncio.Task[None]:
        """Frees the sequence, some time soon; it may be gone already."""
        task = asyncio.create_task(self._cancel(request_id))
        self._letting_go.add(task)
        task.add_done_callback(self._letting_go.discard)
        return task

    async def _cancel(self, request_id: str) -> None:
        try:
            await self._client.cancel(request_id)
        except TributaryError:
            pass  # its lease is over, or the coordinator is gone and all sequences with it

    def _suiting_chat(self, plan: AnswerPlan) -> KeptChat | None:
        if not plan.keep or self._settings.max_kept_chats == 0:
            return None
        chat = self.kept.take(plan.scope, plan.request.prompt_tokens)
        if chat is None:
            return None
        needed = len(plan.request.prompt_tokens) - chat.num_tokens + plan.request.max_tokens
        if needed <= chat.growth_tokens:
            return chat
        self._let_go(chat.request_id)  # the new request, with more room, takes its place
        return None

    def _continuation(self, plan: AnswerPlan, chat: KeptChat) -> GenerateRequest:
        return dataclasses.replace(
            plan.request, prompt_tokens=plan.request.prompt_tokens[chat.num_tokens:],
            continue_request_id=chat.request_id, placement=Placement(), policy=Policy(), report_attention_heads=False,
            keep=Keep(lease_s=self._settings.keep_s))

    async def _from_the_beginning(self, turn: Turn) -> AsyncGenerator[Event, None]:
        request = turn.plan.request
        if turn.plan.keep and self._settings.max_kept_chats > 0:
            keep = keep_of(turn.prompt_tokens, request.max_tokens, self._settings, self._max_context_tokens)
            kept = dataclasses.replace(request, keep=keep, request_id=f"chat-{secrets.token_hex(12)}")
            try:
                async with aclosing(self._run(turn, kept, 0)) as events:
                    async for event in events:
                        yield event
                return
            except OverloadedError:  # there may be room without what was reserved for later turns
                if turn.has_begun:
                    raise
        async with aclosing(self._run(turn, request, 0)) as events:
            async for event in events:
                yield event

    async def _run(self, turn: Turn, request: GenerateRequest, cached_tokens: int) -> AsyncGenerator[Event, None]:
        try:
            async with await self._client.generate(request) as generation, aclosing(aiter(generation)) as events:
                first = await self._first(events)
                turn.cached_tokens = cached_tokens
                turn.has_begun = True
                yield first
                async for event in events:
                    if isinstance(event, Tokens):
                        turn.answer_tokens += event.tokens
                    if isinstance(event, (Accepted, Tokens, Summary)):
                        yield event
        finally:
            # By its name, which is known whatever the coordinator has said so far: it may have ended the answer, and
            # kept the sequence, just when its reader went away.
            if request.keep is not None and not turn.is_kept:
                self._let_go(request.continue_request_id or request.request_id)

    async def _first(self, events: AsyncIterator[Event]) -> Event:
        """Waits until the cluster has a place. Kept chats give theirs up if that is what is lacking."""
        first = asyncio.ensure_future(anext(events))
        making_room = asyncio.create_task(self._making_room.while_waiting())
        try:
            return await first
        finally:
            for task in (first, making_room):
                task.cancel()
            await asyncio.wait((first, making_room))
