"""All answers of a request together: one after another in a whole response, as they come in a stream."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from tributary.errors import TributaryError
from tributary.serve.answer import Delta, Finish, Part, Started, TokenInfo, answer
from tributary.serve.asking import Asking
from tributary.serve.errors import ApiError, from_rpc
from tributary.serve.gate import Admission
from tributary.serve.metrics import Metrics
from tributary.serve.plan import AnswerPlan
from tributary.serve.shapes import Json, Shape
from tributary.serve.usage import usage_of
from tributary.text import Tokenizer


class Answers:
    """The answers to one request, which has been admitted and leaves when they have ended."""

    def __init__(self, plans: Sequence[AnswerPlan], prompts: int, shape: Shape, asking: Asking, admission: Admission,
                 tokenizer: Tokenizer, metrics: Metrics, arrived_s: float) -> None:
        self._plans = plans
        self._prompts = prompts
        self._shape = shape
        self._asking = asking
        self._admission = admission
        self._tokenizer = tokenizer
        self._metrics = metrics
        self._arrived_s = arrived_s

    async def whole(self) -> Json:
        """The response. ApiError of the first answer that fails; the others are then given up."""
        tasks = [asyncio.create_task(self._whole_choice(i)) for i in range(len(self._plans))]
        try:
            done = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            self._admission.leave()
        usage = usage_of([finish for _, finish in done], self._prompts)
        return self._shape.whole([choice for choice, _ in done], usage)

    async def _whole_choice(self, i: int) -> tuple[Json, Finish]:
        texts: list[str] = []
        tokens: list[TokenInfo] = []
        async with aclosing(self._parts(i)) as parts:
            async for part in parts:
                if isinstance(part, Delta):
                    texts.append(part.text)
                    tokens += part.tokens
                elif isinstance(part, Finish):
                    return self._shape.whole_choice(i, "".join(texts), tokens, part.reason), part
        raise ApiError(500, "the answer had no end")

    async def chunks(self, include_usage: bool) -> AsyncGenerator[Json, None]:
        """The stream's objects. The first one comes when the cluster has begun with an answer; an error before that is
        an ApiError, a later one the stream's last object."""
        begun = False
        finishes: dict[int, Finish] = {}
        try:
            async with aclosing(self._merged()) as parts:
                async for i, part in parts:
                    if isinstance(part, Finish):
                        finishes[i] = part
                    for chunk in self._chunks_of(i, part):
                        begun = True
                        yield {**chunk, "usage": None} if include_usage else chunk
        except ApiError as error:
            if not begun:
                raise
            yield error.body()
            return
        finally:
            self._admission.leave()
        if include_usage:
            usage = usage_of([finishes[i] for i in sorted(finishes)], self._prompts)
            yield {**self._shape.chunk([]), "usage": usage}

    def _chunks_of(self, i: int, part: Part) -> list[Json]:
        if isinstance(part, Started):
            first = self._shape.first_chunk(i)
            return [] if first is None else [first]
        if isinstance(part, Delta):
            return [self._shape.delta_chunk(i, part.text, part.tokens)]
        return [self._shape.last_chunk(i, part.reason)]

    async def _merged(self) -> AsyncGenerator[tuple[int, Part], None]:
        """The parts of all answers as they come."""
        if len(self._plans) == 1:
            async with aclosing(self._parts(0)) as parts:
                async for part in parts:
                    yield 0, part
            return
        queue: asyncio.Queue[tuple[int, Part | None]] = asyncio.Queue()  # bounded by max_tokens
        tasks = [asyncio.create_task(self._enqueue(i, queue)) for i in range(len(self._plans))]
        try:
            left = len(tasks)
            while left:
                i, next_part = await queue.get()
                if next_part is not None:
                    yield i, next_part
                    continue
                left -= 1
                await tasks[i]  # raises what it ended with
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def _enqueue(self, i: int, queue: asyncio.Queue[tuple[int, Part | None]]) -> None:
        try:
            async with aclosing(self._parts(i)) as parts:
                async for part in parts:
                    queue.put_nowait((i, part))
        finally:
            queue.put_nowait((i, None))

    async def _parts(self, i: int) -> AsyncGenerator[Part, None]:
        """Of one answer; measured, and its errors are ApiErrors."""
        last_s: float | None = None
        try:
            async with aclosing(answer(self._plans[i], self._asking, self._tokenizer.detokenizer())) as parts:
                async for part in parts:
                    now_s = time.perf_counter()
                    if isinstance(part, Delta):
                        if last_s is None:
                            self._metrics.first_token_s.observe(now_s - self._arrived_s)
                        else:
                            self._metrics.between_texts_s.observe(now_s - last_s)
                        last_s = now_s
                    elif isinstance(part, Finish):
                        self._count(part)
                    yield part
        except TributaryError as error:
            raise from_rpc(error) from None

    def _count(self, finish: Finish) -> None:
        tokens: dict[str, Any] = {"prompt": finish.prompt_tokens, "cached": finish.cached_tokens,
                                  "completion": finish.completion_tokens}
        for kind, count in tokens.items():
            self._metrics.tokens.labels(kind).inc(count)
