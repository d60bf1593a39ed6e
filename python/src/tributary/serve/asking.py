"""Asking the cluster for a turn: goes on with a kept sequence if there is one, and sends the whole prompt else."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from tributary import aio
from tributary.errors import (NotFoundError, OutOfRangeError, OverloadedError, PreconditionError, TributaryError)
from tributary.events import Accepted, Event, Summary, Tokens
from tributary.request import GenerateRequest, Keep, Placement, Policy
from tributary.serve.gate import Gate
from tributary.serve.kept_chats import KeptChat, KeptChats, packed
from tributary.serve.plan import AnswerPlan, keep_of
from tributary.serve.settings import Settings

_PATIENCE_S = 0.2  # a request that waits longer for its place gets that of a kept chat


class Turn:
    """A plan, and what came of it."""

    def __init__(self, plan: AnswerPlan) -> None:
        self.plan = plan
        self.cached_tokens = 0
        self.answer_tokens: list[int] = []

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

    async def events(self, turn: Turn) -> AsyncGenerator[Event, None]:
        """Accepted, Tokens ..., Summary. Waits for a place at the gate first."""
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
                    if turn.cached_tokens:  # it had begun
                        raise
                    self.let_go(chat)
            async with aclosing(self._from_the_beginning(turn)) as events:
                async for event in events:
                    yield event

    def let_go(self, chat: KeptChat) -> None:
        """Frees the chat's sequence, some time soon; it may be gone already."""
        task = asyncio.create_task(self._cancel(chat.request_id))
        self._letting_go.add(task)
        task.add_done_callback(self._letting_go.discard)

    async def let_go_of_all(self) -> None:
        while (chat := self.kept.take_oldest()) is not None:
            self.let_go(chat)
        if self._letting_go:
            await asyncio.wait(self._letting_go)

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
        self.let_go(chat)  # the new request, with more room, takes its place
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
            started = False
            try:
                async with aclosing(self._run(turn, dataclasses.replace(request, keep=keep), 0)) as events:
                    async for event in events:
                        started = True
                        yield event
                return
            except OverloadedError:  # there may be room without what was reserved for later turns
                if started:
                    raise
        async with aclosing(self._run(turn, request, 0)) as events:
            async for event in events:
                yield event

    async def _run(self, turn: Turn, request: GenerateRequest, cached_tokens: int) -> AsyncGenerator[Event, None]:
        async with await self._client.generate(request) as generation, aclosing(aiter(generation)) as events:
            first = await self._first(events)
            turn.cached_tokens = cached_tokens
            yield first
            async for event in events:
                if isinstance(event, Tokens):
                    turn.answer_tokens += event.tokens
                elif isinstance(event, Summary):
                    self._put_back(turn, event)
                if isinstance(event, (Accepted, Tokens, Summary)):
                    yield event

    async def _first(self, events: AsyncIterator[Event]) -> Event:
        """Waits until the cluster has a place; kept chats give theirs up, the one used longest ago first."""
        first = asyncio.ensure_future(anext(events))
        try:
            while True:
                done, _ = await asyncio.wait({first}, timeout=_PATIENCE_S)
                if done:
                    return first.result()
                oldest = self.kept.take_oldest()
                if oldest is not None:
                    self.let_go(oldest)
        except asyncio.CancelledError:
            first.cancel()
            await asyncio.wait({first})
            raise

    def _put_back(self, turn: Turn, summary: Summary) -> None:
        if summary.kept is None:
            return
        tokens = packed(turn.plan.request.prompt_tokens) + packed(turn.answer_tokens)
        over = self.kept.put(summary.kept.request_id, turn.plan.scope, tokens, lease_s=summary.kept.lease_s,
                             growth_tokens=summary.kept.growth_tokens)
        for chat in over:
            self.let_go(chat)
