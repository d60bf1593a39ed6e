"""The HTTP application: its paths, and what is done alike for each of them."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tributary import aio
from tributary.errors import TributaryError
from tributary.serve.answers import Answers
from tributary.serve.asking import Asking
from tributary.serve.auth import ApiKeys
from tributary.serve.cluster_view import ClusterView
from tributary.serve.errors import ApiError, from_rpc
from tributary.serve.gate import Gate
from tributary.serve.intake import Asked, Intake
from tributary.serve.known_hosts import KnownHosts
from tributary.serve.metrics import Metrics
from tributary.serve.page_files import page_routes
from tributary.serve.settings import Settings
from tributary.serve.shapes import Json
from tributary.serve.sse import ClientGone, EventStream, while_there
from tributary.text import ModelText

Handler = Callable[[Request, str], Awaitable[Response]]
CLIENT_GONE_STATUS = 499  # nginx's; nobody sees it but the metrics

log = logging.getLogger("tributary.serve")


class Server:
    """Everything that answers share. Its asking half lives from the application's start to its end."""

    def __init__(self, coordinator: str, text: ModelText, keys: ApiKeys, settings: Settings,
                 model_name: str | None = None, hosts: Collection[str] | None = None) -> None:
        """`hosts`: the only ones that it answers for, by the header Host; None: for any."""
        self._coordinator = coordinator
        self._text = text
        self._keys = keys
        self._settings = settings
        self._model = model_name or text.name
        self._hosts = hosts
        self._created = int(time.time())
        self._intake = Intake(text, settings, self._model)
        self._metrics = Metrics()
        self._gate = Gate(settings.max_running, settings.max_waiting)
        self._metrics.gauge("running", "Answers under way", lambda: self._gate.running)
        self._metrics.gauge("waiting", "Answers that wait for a place here", lambda: self._gate.waiting)
        self._metrics.gauge("body_bytes", "Bodies that are being read and made into prompts",
                            lambda: self._intake.budget.in_flight)
        self._metrics.gauge("kept_chats", "Chats that can go on without their history", lambda: len(self._asking.kept))
        self._client: aio.Client
        self._asking: Asking
        self._view: ClusterView

    def app(self) -> Starlette:
        routes = [
            Route("/v1/chat/completions", self._guarded(self._chat), methods=["POST"]),
            Route("/v1/completions", self._guarded(self._completion), methods=["POST"]),
            Route("/v1/models", self._guarded(self._models), methods=["GET"]),
            Route("/v1/models/{model:path}", self._guarded(self._one_model), methods=["GET"]),
            Route("/tokenize", self._guarded(self._tokenize), methods=["POST"]),
            Route("/cluster", self._guarded(self._cluster), methods=["GET"]),
            *page_routes(),
            Route("/health", self._guarded(self._health, needs_key=False), methods=["GET"]),
            Route("/metrics", self._guarded(self._exposition, needs_key=False), methods=["GET"]),
        ]
        return Starlette(routes=routes, lifespan=self._lifespan, middleware=[Middleware(KnownHosts, self._hosts)],
                         exception_handlers={HTTPException: _no_route, Exception: _fault})

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        connect_timeout_s, tls = self._settings.connect_timeout_s, self._settings.tls
        async with aio.Client(self._coordinator, connect_timeout_s=connect_timeout_s, tls=tls) as self._client:
            self._asking = Asking(self._client, self._gate, self._settings, self._text.max_context_tokens)
            self._view = ClusterView(self._client)
            yield
            await self._asking.let_go_of_all()
            self._intake.close()

    def _guarded(self, handler: Handler, *, needs_key: bool = True) -> Callable[[Request], Awaitable[Response]]:
        """Keys, errors in OpenAI's form, and counts."""

        async def guarded(request: Request) -> Response:
            path = request.scope["route"].path
            try:
                who = self._keys.check(request.headers.get("authorization")) if needs_key else ""
                response = await handler(request, who)
            except ApiError as error:
                response = error.response()
            except ClientGone:
                response = Response(status_code=CLIENT_GONE_STATUS)
            except Exception as error:
                log.exception("a fault in %s", path)
                response = await _fault(request, error)
            self._metrics.requests.labels(path, response.status_code).inc()
            return response

        return guarded

    async def _chat(self, request: Request, who: str) -> Response:
        arrived_s = time.perf_counter()
        return await self._answer(request, await self._intake.chat(request, who), arrived_s)

    async def _completion(self, request: Request, who: str) -> Response:
        arrived_s = time.perf_counter()
        return await self._answer(request, await self._intake.completion(request, who), arrived_s)

    async def _answer(self, request: Request, asked: Asked, arrived_s: float) -> Response:
        admission = self._gate.admit(len(asked.plans))
        answers = Answers(asked.plans, asked.prompts, asked.shape, self._asking, admission, self._text.tokenizer,
                          self._metrics, arrived_s)
        try:
            if not asked.stream:
                return JSONResponse(await while_there(request, answers.whole()))
            chunks = answers.chunks(asked.include_usage)
            first = await while_there(request, _first(chunks))
        except BaseException:
            admission.leave()  # the answers may never have begun
            raise
        return EventStream(first, chunks, lambda: self._metrics.requests.labels(
            request.scope["route"].path, CLIENT_GONE_STATUS).inc())

    def _model_object(self) -> Json:
        return {"id": self._model, "object": "model", "created": self._created, "owned_by": "tributary",
                "max_model_len": self._text.max_context_tokens}

    async def _models(self, request: Request, who: str) -> Response:
        return JSONResponse({"object": "list", "data": [self._model_object()]})

    async def _one_model(self, request: Request, who: str) -> Response:
        self._intake.check_model(request.path_params["model"])
        return JSONResponse(self._model_object())

    async def _tokenize(self, request: Request, who: str) -> Response:
        tokens, with_texts = await self._intake.tokens(request, who)
        answer: Json = {"count": len(tokens), "max_model_len": self._text.max_context_tokens, "tokens": tokens}
        if with_texts:
            tokenizer = self._text.tokenizer
            answer["token_strs"] = [tokenizer.token_bytes(token).decode(errors="replace") for token in tokens]
        return JSONResponse(answer)

    async def _cluster(self, request: Request, who: str) -> Response:
        try:
            return JSONResponse(await self._view.snapshot())
        except TributaryError as error:
            raise from_rpc(error) from None

    async def _health(self, request: Request, who: str) -> Response:
        try:
            status = await self._client.status()
        except TributaryError as error:
            raise from_rpc(error) from None
        if not status.can_generate():
            raise ApiError(503, "no GPU worker takes requests", code="unavailable", retry_after_s=1)
        return JSONResponse({"status": "ok", "model": self._model, "requests_running": status.requests_running,
                             "requests_waiting": status.requests_waiting})

    async def _exposition(self, request: Request, who: str) -> Response:
        return Response(self._metrics.exposition(), media_type="text/plain; version=0.0.4; charset=utf-8")


async def _first(chunks: AsyncGenerator[Json, None]) -> Json:
    try:
        return await anext(chunks)
    except BaseException:
        await chunks.aclose()
        raise


async def _fault(request: Request, error: Exception) -> Response:
    return ApiError(500, "a fault of this server; its log has more").response()


async def _no_route(request: Request, error: Exception) -> Response:
    """Of Starlette's own errors: no such path, or no such method there."""
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        return ApiError(404, f"there is no {request.url.path[:128]} here; docs/openai.md lists what there is",
                        code="not_found").response()
    answer = ApiError(error.status_code, f"{request.method} is not for {request.url.path[:128]}").response()
    answer.headers.update(error.headers or {})
    return answer
