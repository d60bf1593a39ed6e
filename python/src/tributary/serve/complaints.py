"""From pydantic's complaints about a body to one that names the field, as "messages[0].role: Field required"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pydantic

from tributary.serve.errors import ApiError

Path = tuple[str | int, ...]

_SHOWN_CHARACTERS = 64
_SHOWN_BITS = 128  # Python refuses to write very long numbers
# What JSON calls it, in place of Python's name or a class of schema.py.
_MESSAGES = {"model_type": "Input should be a valid object", "dict_type": "Input should be a valid object",
             "bool_type": "Input should be true or false"}
_SHOULD_BE = "Input should be "


def not_of_schema(error: pydantic.ValidationError, body: Mapping[str, Any]) -> ApiError:
    """Of the complaints about the first field that has any, the one that lies deepest in it, and of these the furthest
    on: of the alternatives of a union that is the one which was meant. There are few: schema.py sees to it."""
    complaints: list[Any] = error.errors(include_url=False, include_context=False)
    about_one = [each for each in complaints if each["loc"][:1] == complaints[0]["loc"][:1]]
    paths = [_path(each, body) for each in about_one]
    path = max(paths, key=lambda one: (len(one), [part for part in one if isinstance(part, int)]))
    at_path = [each for each, one in zip(about_one, paths, strict=True) if one == path]
    name = _name(path)
    message = f"{name or 'the body'}: {_message(at_path)}{_shown(at_path[0])}"
    return ApiError(422, message, param=name or None, code="invalid_type")


def _path(complaint: Mapping[str, Any], body: Any) -> Path:
    """Where in the body, without pydantic's names of a union's alternatives: no value has them as its fields."""
    path: Path = ()
    value = body
    loc: Sequence[str | int] = complaint["loc"]
    for i, part in enumerate(loc):
        is_last = i == len(loc) - 1
        if is_last and complaint["type"] == "missing":
            return (*path, part)
        inner = _inner(value, part)
        if inner is not _NOTHING and not (is_last and inner is not complaint["input"]):
            path, value = (*path, part), inner
    return path


_NOTHING = object()


def _inner(value: Any, part: str | int) -> Any:
    if isinstance(part, int):
        return value[part] if isinstance(value, list) and part < len(value) else _NOTHING
    return value.get(part, _NOTHING) if isinstance(value, dict) else _NOTHING


def _name(path: Path) -> str:
    name = ""
    for part in path:
        if isinstance(part, int):
            name += f"[{part}]"
        else:
            name += f".{part[:_SHOWN_CHARACTERS]}" if name else part[:_SHOWN_CHARACTERS]
    return name


def _message(complaints: Sequence[Mapping[str, Any]]) -> str:
    """Of all alternatives, unless the value is of the type that one of them wants: then why it is still wrong."""
    nearer = [each for each in complaints if not each["type"].endswith("_type")]
    messages = list(dict.fromkeys(_MESSAGES.get(each["type"], str(each["msg"])) for each in nearer or complaints))
    if len(messages) > 1 and all(message.startswith(_SHOULD_BE) for message in messages):
        return _SHOULD_BE + " or ".join(message.removeprefix(_SHOULD_BE) for message in messages)
    return messages[0]


def _shown(complaint: Mapping[str, Any]) -> str:
    given = complaint["input"]
    if complaint["type"] in ("missing", "extra_forbidden"):
        return ""
    if given is None or isinstance(given, bool):
        return f", not {'null' if given is None else str(given).lower()}"
    if isinstance(given, int) and given.bit_length() > _SHOWN_BITS:
        return ""
    if isinstance(given, (int, float)) or isinstance(given, str) and len(given) <= _SHOWN_CHARACTERS:
        return f", not {given!r}"
    return ""
