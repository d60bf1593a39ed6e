"""One answer, from its plan to its last piece of text: asks the cluster, makes text of tokens, finds stop strings."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field

from tributary.events import Accepted, Summary, Tokens
from tributary.serve.asking import Asking, Turn
from tributary.serve.plan import AnswerPlan
from tributary.text import StopStrings
from tributary.text.detokenizer import Detokenizer


@dataclass(frozen=True)
class TokenInfo:
    """A token of the answer, for those who ask for log-probabilities."""

    token: int
    logprob: float | None  # None: of the first token of an echo, which nothing precedes
    top: tuple[tuple[int, float], ...]
    begin: int  # its text begins at this character of the answer


@dataclass(frozen=True)
class Started:
    """The answer has its place in the cluster; what comes later breaks off a stream, and is no status any more."""


@dataclass(frozen=True)
class Delta:
    text: str
    tokens: tuple[TokenInfo, ...]


@dataclass(frozen=True)
class Finish:
    reason: str  # "stop" or "length"
    prompt_tokens: int  # all of them, also those that were there already
    cached_tokens: int
    completion_tokens: int
    summary: Summary | None  # None: a stop string was found, which ends the sequence before its summary


_LONG_ECHO_TOKENS = 512  # made into text by another thread, so that others' streams go on

Part = Started | Delta | Finish


@dataclass
class _Text:
    """What has come of the text, and which tokens' text has not been given out."""

    detokenizer: Detokenizer
    stops: StopStrings
    num_tokens: int = 0  # those of the answer, its end included, without the echo
    num_echoed: int = 0
    num_made: int = 0  # characters
    num_given: int = 0
    waiting: list[TokenInfo] = field(default_factory=list)

    def add(self, info: TokenInfo) -> Delta:
        self.waiting.append(info)
        made = self.detokenizer.add(info.token)
        self.num_made += len(made)
        return self._given(self.stops.add(made))

    def echo(self, info: TokenInfo) -> Delta:
        """Of the prompt, which no stop string ends."""
        self.num_echoed += 1
        self.waiting.append(info)
        made = self.detokenizer.add(info.token)
        self.num_made += len(made)
        return self._given(made)

    def echo_all(self, tokens: tuple[int, ...]) -> Delta:
        """Of a prompt of whose tokens nobody asks for anything but their text."""
        made = "".join(map(self.detokenizer.add, tokens))
        self.num_echoed += len(tokens)
        self.num_made += len(made)
        return self._given(made)

    def end(self, info: TokenInfo) -> Delta:
        """A token that ends the answer: it has no text."""
        self.waiting.append(info)
        return Delta("", ())

    def flush(self) -> Delta:
        text = self.stops.add(self.detokenizer.flush())
        if self.stops.found is None:
            text += self.stops.flush()
        last = self._given(text)
        if self.stops.found is not None:
            return last
        return Delta(last.text, (*last.tokens, *self.waiting))

    def _given(self, text: str) -> Delta:
        self.num_given += len(text)
        num_out = sum(info.begin < self.num_given for info in self.waiting)
        out, self.waiting = self.waiting[:num_out], self.waiting[num_out:]
        return Delta(text, tuple(out))


async def answer(plan: AnswerPlan, asking: Asking, detokenizer: Detokenizer) -> AsyncGenerator[Part, None]:
    """Started, then Deltas with text or tokens, then Finish. ApiError or TributaryError if the cluster does not answer.
    Closing the iterator, or cancelling the task, ends the sequence."""
    text = _Text(detokenizer, StopStrings(plan.stops))
    if plan.request.max_tokens == 0:  # nothing but the echo is asked for
        yield Started()
        yield await _echoed(text, plan)
        yield text.flush()
        yield Finish("length", plan.prompt_tokens, 0, 0, None)
        return
    turn = Turn(plan)
    finish: Finish | None = None
    async with aclosing(asking.events(turn)) as events:
        async for event in events:
            if isinstance(event, Accepted):
                yield Started()
                if plan.echo:
                    yield await _echoed(text, plan)
            elif isinstance(event, Tokens):
                for delta in _deltas(text, event, plan):
                    yield delta
                if text.stops.found is not None:
                    break
            elif isinstance(event, Summary):
                last = text.flush()
                if last.text or last.tokens:
                    yield last
                if text.stops.found is None:  # else the sequence has more than its reader, whose next turn differs
                    asking.keep(turn, event)
                reason = "stop" if text.stops.found is not None else event.finish_reason
                finish = Finish(reason, plan.prompt_tokens, turn.cached_tokens, text.num_tokens, event)
    # The sequence has ended, however long the reader takes for the rest.
    yield finish or Finish("stop", plan.prompt_tokens, turn.cached_tokens, text.num_tokens, None)


async def _echoed(text: _Text, plan: AnswerPlan) -> Delta:
    """What of the echo is known before the cluster is asked: all, or its first token."""
    if plan.scores_echo:
        return text.echo(TokenInfo(plan.echo[0], None, (), text.num_made))
    if len(plan.echo) < _LONG_ECHO_TOKENS:
        return text.echo_all(plan.echo)
    return await asyncio.to_thread(text.echo_all, plan.echo)


def _deltas(text: _Text, event: Tokens, plan: AnswerPlan) -> Iterator[Delta]:
    """Until a stop string is found."""
    tops = event.top_logprobs or ((),) * len(event.tokens)
    for token, logprob, top in zip(event.tokens, event.logprobs, tops):
        info = TokenInfo(token, logprob, top, text.num_made)
        if plan.scores_echo and text.num_echoed < len(plan.echo):
            delta = text.echo(info)
        else:
            text.num_tokens += 1
            # Who has a prompt scored counts on an entry for each token, the end among them.
            if token in plan.end_tokens:
                delta = text.end(info) if plan.scores_echo else Delta("", ())
            else:
                delta = text.add(info)
        if delta.text or delta.tokens:
            yield delta
        if text.stops.found is not None:
            return
