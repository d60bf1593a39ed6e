"""Reading a request's body: bounded before it is parsed, and checked before it is used."""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

import pydantic
import pydantic_core
from starlette.requests import ClientDisconnect, Request

from tributary.serve.errors import ApiError, bad_request
from tributary.serve.refused import check_other_fields

Body = TypeVar("Body", bound=pydantic.BaseModel)

_LARGE_BYTES = 256 << 10  # parsed on another thread, so that others' streams go on


async def read_body(request: Request, schema: type[Body], max_bytes: int) -> Body:
    """ApiError: 413 too large, 400 not JSON in UTF-8 or a field that is not served, 422 not of the schema."""
    data = await _read_bytes(request, max_bytes)
    if len(data) < _LARGE_BYTES:
        return parse_body(data, schema)
    return await asyncio.to_thread(parse_body, data, schema)


async def _read_bytes(request: Request, max_bytes: int) -> bytes:
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > max_bytes:
        raise _too_large(int(length), max_bytes)
    data = bytearray()
    try:
        async for chunk in request.stream():
            data += chunk
            if len(data) > max_bytes:
                raise _too_large(len(data), max_bytes)
    except ClientDisconnect:
        raise bad_request("the connection ended before the body did") from None
    return bytes(data)


def _too_large(num_bytes: int, max_bytes: int) -> ApiError:
    return ApiError(413, f"the body has {num_bytes} bytes or more; at most {max_bytes} are taken", code="too_large")


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
    """Of several complaints the first, as "messages[0].role: Field required"."""
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
