"""The HTTP application: its paths, and what is done alike for each of them."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tributary import aio
from tributary.errors import TributaryError
from tributary.serve.answers import Answers
from tributary.serve.asking import Asking
from tributary.serve.auth import ApiKeys
from tributary.serve.body import read_body
from tributary.serve.errors import ApiError, bad_request, from_rpc
from tributary.serve.gate import Gate
from tributary.serve.metrics import Metrics
from tributary.serve.plan import Planner
from tributary.serve.prompts import PromptMaker
from tributary.serve.schema import ChatRequest, CompletionRequest, TokenizeRequest
from tributary.serve.settings import Settings
from tributary.serve.shapes import ChatShape, CompletionShape, Json, Shape
from tributary.serve.sse import ClientGone, EventStream, while_there
from tributary.text import ModelText

Handler = Callable[[Request, str], Awaitable[Response]]
CLIENT_GONE_STATUS = 499  # nginx's; nobody sees it but the metrics

log = logging.getLogger("tributary.serve")


class Server:
    """Everything that answers share. Its asking half lives from the application's start to its end."""

    def __init__(self, coordinator: str, text: ModelText, keys: ApiKeys, settings: Settings,
                 model_name: str | None = None) -> None:
        self._coordinator = coordinator
        self._text = text
        self._keys = keys
        self._settings = settings
        self._model = model_name or text.name
        self._created = int(time.time())
        self._prompts = PromptMaker(text)
        self._planner = Planner(text, settings)
        self._metrics = Metrics()
        self._gate = Gate(settings.max_running, settings.max_waiting)
        self._metrics.gauge("running", "Answers under way", lambda: self._gate.running)
        self._metrics.gauge("waiting", "Answers that wait for a place here", lambda: self._gate.waiting)
        self._metrics.gauge("kept_chats", "Chats that can go on without their history", lambda: len(self._asking.kept))
        self._client: aio.Client
        self._asking: Asking

    def app(self) -> Starlette:
        routes = [
            Route("/v1/chat/completions", self._guarded(self._chat), methods=["POST"]),
            Route("/v1/completions", self._guarded(self._completion), methods=["POST"]),
            Route("/v1/models", self._guarded(self._models), methods=["GET"]),
            Route("/v1/models/{model:path}", self._guarded(self._one_model), methods=["GET"]),
            Route("/tokenize", self._guarded(self._tokenize), methods=["POST"]),
            Route("/health", self._health, methods=["GET"]),
            Route("/metrics", self._exposition, methods=["GET"]),
        ]
        return Starlette(routes=routes, lifespan=self._lifespan, exception_handlers={HTTPException: _no_route})

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        async with aio.Client(self._coordinator) as self._client:
            self._asking = Asking(self._client, self._gate, self._settings, self._text.max_context_tokens)
            yield
            await self._asking.let_go_of_all()

    def _guarded(self, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        """Keys, errors in OpenAI's form, and counts."""

        async def guarded(request: Request) -> Response:
            path = request.scope["route"].path
            try:
                response = await handler(request, self._keys.check(request.headers.get("authorization")))
            except ApiError as error:
                response = _error(error)
            except ClientGone:
                response = Response(status_code=CLIENT_GONE_STATUS)
            except Exception:
                log.exception("a fault in %s", path)
                response = _error(ApiError(500, "a fault of this server; its log has more"))
            self._metrics.requests.labels(path, response.status_code).inc()
            return response

        return guarded

    async def _chat(self, request: Request, who: str) -> Response:
        arrived_s = time.perf_counter()
        body = await read_body(request, ChatRequest, self._settings.max_body_bytes)
        self._check_model(body.model)
        if body.top_logprobs and not body.logprobs:
            raise bad_request("top_logprobs is only for those who ask for logprobs", "top_logprobs")
        top = (body.top_logprobs or 0) if body.logprobs else None
        prompts = [await self._prompts.of_chat(body)]
        shape = ChatShape(self._model, self._text.tokenizer, top)
        return await self._answer(request, body, prompts, shape, who, arrived_s)

    async def _completion(self, request: Request, who: str) -> Response:
        arrived_s = time.perf_counter()
        body = await read_body(request, CompletionRequest, self._settings.max_body_bytes)
        self._check_model(body.model)
        prompts = await self._prompts.of_completion(body)
        shape = CompletionShape(self._model, self._text.tokenizer, body.logprobs)
        return await self._answer(request, body, prompts, shape, who, arrived_s)

    async def _answer(self, request: Request, body: ChatRequest | CompletionRequest, prompts: list[list[int]],
                      shape: Shape, who: str, arrived_s: float) -> Response:
        try:
            plans = self._planner.plans(body, prompts, who=who, top_logprobs=shape.top_logprobs or 0)
        except TributaryError as error:
            raise from_rpc(error) from None
        if body.stream_options is not None and not body.stream:
            raise bad_request("stream_options is only for streams", "stream_options")
        admission = self._gate.admit(len(plans))
        answers = Answers(plans, len(prompts), shape, self._asking, admission, self._text.tokenizer, self._metrics,
                          arrived_s)
        try:
            if not body.stream:
                return JSONResponse(await while_there(request, answers.whole()))
            chunks = answers.chunks(body.stream_options is not None and body.stream_options.include_usage)
            first = await while_there(request, _first(chunks))
        except BaseException:
            admission.leave()  # the answers may never have begun
            raise
        return EventStream(first, chunks, lambda: self._metrics.requests.labels(
            request.scope["route"].path, CLIENT_GONE_STATUS).inc())

    def _check_model(self, model: str | None) -> None:
        if model is not None and model != self._model:
            raise ApiError(404, f"the model {model[:128]!r} is not served here; there is {self._model!r}",
                           param="model", code="model_not_found")

    def _model_object(self) -> Json:
        return {"id": self._model, "object": "model", "created": self._created, "owned_by": "tributary",
                "max_model_len": self._text.max_context_tokens}

    async def _models(self, request: Request, who: str) -> Response:
        return JSONResponse({"object": "list", "data": [self._model_object()]})

    async def _one_model(self, request: Request, who: str) -> Response:
        self._check_model(request.path_params["model"])
        return JSONResponse(self._model_object())

    async def _tokenize(self, request: Request, who: str) -> Response:
        body = await read_body(request, TokenizeRequest, self._settings.max_body_bytes)
        self._check_model(body.model)
        tokens = await self._prompts.of_tokenize(body)
        answer: Json = {"count": len(tokens), "max_model_len": self._text.max_context_tokens, "tokens": tokens}
        if body.return_token_strs:
            tokenizer = self._text.tokenizer
            answer["token_strs"] = [tokenizer.token_bytes(token).decode(errors="replace") for token in tokens]
        return JSONResponse(answer)

    async def _health(self, request: Request) -> Response:
        try:
            status = await self._client.status()
        except TributaryError as error:
            return _error(from_rpc(error))
        if not status.can_generate():
            return _error(ApiError(503, "no GPU worker takes requests", code="unavailable", retry_after_s=1))
        return JSONResponse({"status": "ok", "model": self._model, "requests_running": status.requests_running,
                             "requests_waiting": status.requests_waiting})

    async def _exposition(self, request: Request) -> Response:
        return Response(self._metrics.exposition(), media_type="text/plain; version=0.0.4; charset=utf-8")


async def _first(chunks: AsyncGenerator[Json, None]) -> Json:
    try:
        return await anext(chunks)
    except BaseException:
        await chunks.aclose()
        raise


def _error(error: ApiError) -> Response:
    return JSONResponse(error.body(), error.status, headers=error.headers())


async def _no_route(request: Request, error: Exception) -> Response:
    """Of Starlette's own errors: no such path, or no such method there."""
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        return _error(ApiError(404, f"there is no {request.url.path[:128]} here; docs/openai.md lists what there is",
                               code="not_found"))
    answer = _error(ApiError(error.status_code, f"{request.method} is not for {request.url.path[:128]}"))
    answer.headers.update(error.headers or {})
    return answer
