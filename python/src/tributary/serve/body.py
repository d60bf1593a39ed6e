"""Reading a request's body: bounded before it is parsed, and checked before it is used."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, TypeVar

import pydantic
import pydantic_core
from starlette.requests import ClientDisconnect, Request

from tributary.serve.body_budget import BodyBudget, BodyShare
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
        lasts. ApiError: 413 too large, 429 too much of all requests together or of these, 408 too slow, 400 not JSON in
        UTF-8 or a field that is not served, 422 not of the schema."""
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
        raise _not_of_schema(error) from None
    check_other_fields(body.model_extra or {}, list(schema.model_fields))
    return body


def _not_of_schema(error: pydantic.ValidationError) -> ApiError:
    """Of several complaints the first, as "messages[0].role: Field required". There are few: schema.py sees to it."""
    first: Any = error.errors(include_url=False, include_context=False)[0]
    path = ""
    for part in first["loc"]:
        if isinstance(part, int):
            path += f"[{part}]"
        elif part.isidentifier():  # alternatives of a union have names like "list[str]"
            path += f".{part}" if path else part
    given = first["input"]
    is_short = isinstance(given, (int, float)) or isinstance(given, str) and len(given) <= 64
    shown = f", not {given!r}" if first["type"] != "missing" and is_short else ""
    return ApiError(422, f"{path or 'the body'}: {first['msg']}{shown}", param=path or None, code="invalid_type")
