"""Reading a request's body: bounded before it is parsed, and checked before it is used."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import TypeVar

import pydantic
import pydantic_core
from starlette.requests import ClientDisconnect, Request

from tributary.serve.body_budget import BodyBudget, BodyShare
from tributary.serve.complaints import not_of_schema
from tributary.serve.errors import ApiError, bad_request
from tributary.serve.refused import check_other_fields
from tributary.serve.settings import Settings

Body = TypeVar("Body", bound=pydantic.BaseModel)

_LARGE_BYTES = 256 << 10  # parsed on another thread, so that others' streams go on
# Of a body that is too large, what is still taken before the answer.
_DISCARDED_BYTES = 256 << 20
_DISCARDED_S = 20


class BodyReader:
    """For one event loop."""

    def __init__(self, budget: BodyBudget, settings: Settings) -> None:
        self._budget = budget
        self._max_bytes = settings.max_body_bytes
        self._timeout_s = settings.body_timeout_s

    @contextlib.asynccontextmanager
    async def body(self, request: Request, schema: type[Body], who: str) -> AsyncIterator[Body]:
        """`who`: an API key's name; "" without keys, and then hosts are told apart. Bytes count as long as the block
        lasts. ApiError: 415 not called JSON, 413 too large, 429 too much of all requests together or of these, 408 too
        slow, 400 not JSON in UTF-8 or a field that is not served, 422 not of the schema."""
        _check_kind(request)
        host = request.client.host if request.client is not None else ""
        with self._budget.share(who or host) as share:
            try:
                data = await asyncio.wait_for(self._read(request, share), self._timeout_s)
            except asyncio.TimeoutError:
                raise ApiError(408, f"the body did not come within {self._timeout_s:g} s; {share.num_bytes} bytes of "
                               "it are here", code="timeout", closes=True) from None
            if len(data) < _LARGE_BYTES:
                yield parse_body(data, schema)
            else:
                yield await asyncio.to_thread(parse_body, data, schema)

    async def _read(self, request: Request, share: BodyShare) -> bytes:
        length = request.headers.get("content-length", "")
        if length.isdigit() and int(length) > self._max_bytes:
            await self._discard(request)
            raise _too_large(int(length), self._max_bytes)
        data = bytearray()
        try:
            async for chunk in request.stream():
                share.add(len(chunk))
                data += chunk
                if len(data) > self._max_bytes:
                    break
            else:
                return bytes(data)
        except ClientDisconnect:
            raise bad_request("the connection ended before the body did") from None
        num_bytes = len(data)
        del data
        await self._discard(request)
        raise _too_large(num_bytes, self._max_bytes)

    async def _discard(self, request: Request) -> None:
        """Takes what is still coming, within bounds: most clients read the answer only when they have sent the whole
        body, and a connection that is closed before that may take the answer with it."""
        with contextlib.suppress(asyncio.TimeoutError, ClientDisconnect):
            await asyncio.wait_for(_take(request, _DISCARDED_BYTES), _DISCARDED_S)


def _check_kind(request: Request) -> None:
    """A page of any origin may send text and forms here, and what has no Content-Type, without being asked first by its
    browser whether it may; JSON it may not. Other clients may leave the header out: browsers alone send an Origin."""
    given = request.headers.get("content-type", "")
    kind = given.partition(";")[0].strip().lower()
    if kind == "application/json" or kind.startswith("application/") and kind.endswith("+json"):
        return
    if kind or "origin" in request.headers:
        said = f"the body is sent as {kind[:64]!r}" if kind else "a page sent the body without a Content-Type"
        raise ApiError(415, f"{said}; send JSON with 'Content-Type: application/json'", code="unsupported_media_type")


async def _take(request: Request, num_bytes: int) -> None:
    """Until the body has ended, or so many bytes more have come."""
    while num_bytes > 0:
        message = await request.receive()
        if message["type"] != "http.request" or not message.get("more_body", False):
            return
        num_bytes -= len(message.get("body", b""))


def _too_large(num_bytes: int, max_bytes: int) -> ApiError:
    return ApiError(413, f"the body has {num_bytes} bytes or more; at most {max_bytes} are taken", code="too_large",
                    closes=True)


def parse_body(data: bytes, schema: type[Body]) -> Body:
    try:
        value = pydantic_core.from_json(data, allow_inf_nan=False)
    except ValueError as error:
        raise bad_request(f"the body is not JSON in UTF-8: {error}", code="invalid_json") from None
    if not isinstance(value, dict):
        raise bad_request(f"the body is a {type(value).__name__}, not a JSON object", code="invalid_json")
    try:
        body = schema.model_validate(value)
    except pydantic.ValidationError as error:
        raise not_of_schema(error, value) from None
    check_other_fields(body.model_extra or {}, list(schema.model_fields))
    return body
