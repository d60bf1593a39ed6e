"""From a request's bytes to what is asked for: read, parsed, made into tokens and planned, before anything waits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from starlette.requests import Request

from tributary.errors import TributaryError
from tributary.serve.body import BodyReader
from tributary.serve.body_budget import BodyBudget
from tributary.serve.errors import ApiError, bad_request, from_rpc
from tributary.serve.plan import AnswerPlan, Planner
from tributary.serve.prompts import PromptMaker
from tributary.serve.schema import ChatRequest, CompletionRequest, TokenizeRequest
from tributary.serve.settings import Settings
from tributary.serve.shapes import ChatShape, CompletionShape, Shape
from tributary.text import ModelText


@dataclass(frozen=True)
class Asked:
    """Nothing of the body is left in it."""

    plans: Sequence[AnswerPlan]
    prompts: int
    shape: Shape
    stream: bool
    include_usage: bool


class Intake:
    """ApiError for whatever cannot be served. For one event loop."""

    def __init__(self, text: ModelText, settings: Settings, model: str) -> None:
        self._text = text
        self._model = model
        self.budget = BodyBudget(settings.max_bodies_bytes)
        self._reader = BodyReader(self.budget, settings)
        self._prompts = PromptMaker(text)
        self._planner = Planner(text, settings)

    def close(self) -> None:
        self._prompts.close()

    async def chat(self, request: Request, who: str) -> Asked:
        async with self._reader.body(request, ChatRequest, who) as body:
            self.check_model(body.model)
            if body.top_logprobs and not body.logprobs:
                raise bad_request("top_logprobs is only for those who ask for logprobs", "top_logprobs")
            top = (body.top_logprobs or 0) if body.logprobs else None
            prompts = [await self._prompts.of_chat(body)]
            return self._asked(body, prompts, ChatShape(self._model, self._text.tokenizer, top), who)

    async def completion(self, request: Request, who: str) -> Asked:
        async with self._reader.body(request, CompletionRequest, who) as body:
            self.check_model(body.model)
            prompts = await self._prompts.of_completion(body)
            return self._asked(body, prompts, CompletionShape(self._model, self._text.tokenizer, body.logprobs), who)

    async def tokens(self, request: Request, who: str) -> tuple[list[int], bool]:
        """And whether their texts are asked for, too."""
        async with self._reader.body(request, TokenizeRequest, who) as body:
            self.check_model(body.model)
            return await self._prompts.of_tokenize(body), bool(body.return_token_strs)

    def check_model(self, model: str | None) -> None:
        if model is not None and model != self._model:
            raise ApiError(404, f"the model {model[:128]!r} is not served here; there is {self._model!r}",
                           param="model", code="model_not_found")

    def _asked(self, body: ChatRequest | CompletionRequest, prompts: list[list[int]], shape: Shape, who: str) -> Asked:
        try:
            plans = self._planner.plans(body, prompts, who=who, top_logprobs=shape.top_logprobs)
        except TributaryError as error:
            raise from_rpc(error) from None
        if body.stream_options is not None and not body.stream:
            raise bad_request("stream_options is only for streams", "stream_options")
        include_usage = body.stream_options is not None and body.stream_options.include_usage
        return Asked(plans, len(prompts), shape, bool(body.stream), include_usage)
