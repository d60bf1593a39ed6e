"""From a checked body to what is asked of the cluster: tokens of the prompt, sampling, lengths, ends."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tributary.request import GenerateRequest, Keep, Placement, Policy, Sampling
from tributary.serve.errors import ApiError, bad_request
from tributary.serve.schema import ChatRequest, CompletionRequest, TributaryOptions
from tributary.serve.settings import DEFAULT_MAX_TOKENS, Settings
from tributary.text import ModelText

MAX_STOP_STRINGS = 16
MAX_STOP_CHARACTERS = 1024


@dataclass(frozen=True)
class AnswerPlan:
    """One answer."""

    request: GenerateRequest  # complete, but for keeping and continuing; if its max_tokens is 0, nothing is generated
    prompt_tokens: int
    echo: tuple[int, ...]  # tokens that the answer begins with: the prompt, or nothing
    scores_echo: bool  # the cluster gives the log-probabilities of the echo, all but its first token's
    stops: tuple[str, ...]
    end_tokens: frozenset[int]
    keep: bool
    scope: str  # only answers of the same scope may share a kept sequence: same API key, placement and policy


class Planner:
    """Safe from any thread."""

    def __init__(self, text: ModelText, settings: Settings) -> None:
        self._text = text
        self._settings = settings

    def plans(self, body: ChatRequest | CompletionRequest, prompts: Sequence[Sequence[int]], *, who: str,
              top_logprobs: int | None) -> list[AnswerPlan]:
        """n answers for each of the prompts, in this order. ApiError, InvalidRequestError for what cannot be served."""
        n = body.n or 1
        if len(prompts) * n > self._settings.max_choices:
            raise bad_request(f"{len(prompts)} prompts times n {n} are {len(prompts) * n} answers; at most "
                              f"{self._settings.max_choices} are given at once", "n")
        sampling = self._sampling(body)
        end_tokens = frozenset(body.stop_token_ids or ()) | (frozenset() if body.ignore_eos else self._text.end_tokens)
        options = body.tributary
        by_default = isinstance(body, ChatRequest) and len(prompts) * n == 1
        keep = by_default if options.keep is None else options.keep
        if keep and len(prompts) * n > 1:
            raise bad_request("tributary.keep is for a single answer; leave it out or ask for one", "tributary.keep")
        echo = isinstance(body, CompletionRequest) and bool(body.echo)
        scores_echo = echo and top_logprobs is not None
        if echo:
            _check_echo(keep, scores_echo, sampling)
        plan = AnswerPlan(
            prompt_tokens=0, echo=(), scores_echo=scores_echo, request=GenerateRequest(
                prompt_tokens=(), sampling=sampling, placement=placement_of(options), policy=policy_of(options),
                stop_tokens=sorted(end_tokens), ignore_eos=bool(body.ignore_eos), top_logprobs=top_logprobs or 0,
                report_attention_heads=options.report_attention_heads, max_stall_s=options.max_stall_s),
            stops=stop_strings(body.stop), end_tokens=end_tokens, keep=keep,
            scope=f"{who} {options.model_dump_json(exclude={'keep', 'max_stall_s'})}")
        plan.request.to_proto()  # what no message can hold is refused before anything waits
        return [self._with_prompt(plan, prompt, self._max_tokens(body, len(prompt)), i, echo)
                for prompt in prompts for i in range(n)]

    @staticmethod
    def _with_prompt(plan: AnswerPlan, prompt: Sequence[int], max_tokens: int, choice: int, echo: bool) -> AnswerPlan:
        seed = (plan.request.sampling.seed + choice) % (1 << 64)  # answers to one prompt differ
        sampling = dataclasses.replace(plan.request.sampling, seed=seed)
        request = dataclasses.replace(plan.request, prompt_tokens=prompt, max_tokens=max_tokens, sampling=sampling)
        if plan.scores_echo:  # as `tributary score` does it: the prompt is an answer that is forced
            request = dataclasses.replace(request, prompt_tokens=prompt[:1], forced_tokens=prompt[1:],
                                          max_tokens=len(prompt) - 1 + max_tokens)
        return dataclasses.replace(plan, request=request, prompt_tokens=len(prompt), echo=tuple(prompt) if echo else ())

    def _sampling(self, body: ChatRequest | CompletionRequest) -> Sampling:
        """What the request says, else the model folder, else OpenAI's defaults."""
        defaults = self._text.sampling
        seed = secrets.randbits(64) if body.seed is None else body.seed % (1 << 64)
        top_k = _first(body.top_k, defaults.top_k, 0)
        return Sampling(temperature=_first(body.temperature, defaults.temperature, 1.0),
                        top_p=_first(body.top_p, defaults.top_p, 1.0), top_k=max(top_k, 0), seed=seed,
                        min_p=_first(body.min_p, defaults.min_p, 0.0),
                        presence_penalty=body.presence_penalty or 0.0, frequency_penalty=body.frequency_penalty or 0.0,
                        repetition_penalty=_first(body.repetition_penalty, defaults.repetition_penalty, 1.0),
                        logit_bias=_logit_bias(body.logit_bias or {}))

    def _max_tokens(self, body: ChatRequest | CompletionRequest, prompt_tokens: int) -> int:
        asked, limit = body.max_tokens, "max_tokens"
        if isinstance(body, ChatRequest) and body.max_completion_tokens is not None:
            asked, limit = body.max_completion_tokens, "max_completion_tokens"
        field = "messages" if isinstance(body, ChatRequest) else "prompt"
        context = self._text.max_context_tokens
        if prompt_tokens == 0:
            raise bad_request("the prompt is empty; it needs at least one token", field)
        least = 0 if isinstance(body, CompletionRequest) and body.echo else 1
        if asked is not None and asked < least:
            raise bad_request(f"{limit} is {asked}; ask for at least {least}", limit)
        if context is not None and (prompt_tokens > context or prompt_tokens + max(asked or 0, 1) - 1 > context):
            raise _too_long(prompt_tokens, asked, context, field)
        if asked is not None:
            return asked
        by_default = 16
        if isinstance(body, ChatRequest):
            by_default = _first(self._settings.default_max_tokens, self._text.sampling.max_new_tokens,
                                DEFAULT_MAX_TOKENS)
        return by_default if context is None else min(by_default, context - prompt_tokens + 1)


def _check_echo(keep: bool, scores: bool, sampling: Sampling) -> None:
    if keep:
        raise bad_request("tributary.keep is not for echo; leave one of them out", "tributary.keep")
    if scores and (sampling.presence_penalty or sampling.frequency_penalty):
        raise bad_request("presence_penalty and frequency_penalty are of the answer, which the prompt is a part of "
                          "with echo and logprobs; leave them out", "echo")


def _logit_bias(biases: Mapping[str, float]) -> dict[int, float]:
    by_token: dict[int, float] = {}
    for token, bias in biases.items():
        if not (token.isascii() and token.isdigit() and len(token) <= 9):
            raise bad_request(f"logit_bias names {token[:64]!r}, which is no token id", "logit_bias")
        if int(token) in by_token:
            raise bad_request(f"logit_bias names token {int(token)} twice", "logit_bias")
        by_token[int(token)] = bias
    return by_token


def keep_of(prompt_tokens: int, max_tokens: int, settings: Settings, context: int | None) -> Keep:
    """Of the first turn of a chat: room for the later ones, as far as the model's context goes."""
    turn = prompt_tokens + max_tokens
    reserved = turn + settings.keep_room_tokens
    if context is not None:
        reserved = max(turn, min(reserved, context + 1))
    return Keep(lease_s=settings.keep_s, max_context_tokens=reserved)


def stop_strings(stop: str | list[str] | None) -> tuple[str, ...]:
    stops = (stop,) if isinstance(stop, str) else tuple(stop or ())
    if len(stops) > MAX_STOP_STRINGS:
        raise bad_request(f"{len(stops)} stop strings; at most {MAX_STOP_STRINGS} are looked for", "stop")
    for text in stops:
        if not text:
            raise bad_request("a stop string is empty; leave it out", "stop")
        if len(text) > MAX_STOP_CHARACTERS:
            raise bad_request(f"a stop string has {len(text)} characters; at most {MAX_STOP_CHARACTERS} are looked for",
                              "stop")
    return tuple(dict.fromkeys(stops))


def placement_of(options: TributaryOptions) -> Placement:
    return Placement(**{field.name: getattr(options, field.name) for field in dataclasses.fields(Placement)})


def policy_of(options: TributaryOptions) -> Policy:
    return Policy(name=options.policy, parameters=options.parameters, quality=options.quality)


def _first(*values: Any) -> Any:
    return next(value for value in values if value is not None)


def _too_long(prompt_tokens: int, max_tokens: int | None, context: int, field: str) -> ApiError:
    asked = ""
    if max_tokens is not None:
        asked = f" and max_tokens is {max_tokens}, which together need {prompt_tokens + max_tokens - 1}"
    return bad_request(f"the model's context is {context} tokens, but the prompt has {prompt_tokens}{asked}; shorten "
                       "the prompt or ask for fewer tokens", field, "context_length_exceeded")
