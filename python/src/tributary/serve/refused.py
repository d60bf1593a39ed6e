"""Fields of OpenAI's API, and of its relatives', that are not served: refused by name unless they ask for nothing."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from typing import Any

from tributary.serve.errors import ApiError, bad_request

_NO_TOOLS = "this server does not call tools; leave it out"
_SAMPLER = "the engine's sampler does not have it yet; leave it out"
_TEXT_ONLY = "only text goes in and out; leave it out"

# Field: values that ask for nothing, besides null; and why any other is refused.
REFUSED: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "tools": (([],), _NO_TOOLS),
    "tool_choice": (("none", "auto"), _NO_TOOLS),
    "functions": (([],), _NO_TOOLS),
    "function_call": (("none", "auto"), _NO_TOOLS),
    "web_search_options": ((), _NO_TOOLS),
    "length_penalty": ((1,), _SAMPLER),
    "min_tokens": ((0,), _SAMPLER),
    "best_of": ((1,), "answers are not ranked; use n"),
    "use_beam_search": ((False,), _SAMPLER),
    "response_format": (({"type": "text"},), "only {'type': 'text'} is served: there is no constrained decoding"),
    "guided_json": ((), "there is no constrained decoding; leave it out"),
    "guided_regex": ((), "there is no constrained decoding; leave it out"),
    "guided_choice": ((), "there is no constrained decoding; leave it out"),
    "echo": ((False,), "the prompt is repeated by /v1/completions only; leave it out"),
    "suffix": (("",), "there is no filling in the middle; leave it out"),
    "modalities": ((["text"],), _TEXT_ONLY),
    "audio": ((), _TEXT_ONLY),
    "prediction": ((), "there is no predicted output; leave it out"),
    "reasoning_effort": (("none",), "efforts are not told apart; leave it out, or use chat_template_kwargs"),
    "verbosity": (("medium",), "verbosities are not told apart; leave it out"),
}
# These change no answer.
IGNORED = frozenset({"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key",
                     "prompt_cache_retention", "parallel_tool_calls"})


def check_other_fields(fields: Mapping[str, Any], known: Collection[str]) -> None:
    """`fields` are those that the body has beyond its `known` ones."""
    for name, value in fields.items():
        if name in IGNORED or value is None:
            continue
        if name not in REFUSED:
            raise _unknown(name, known)
        neutral, why = REFUSED[name]
        if not any(_same(value, one) for one in neutral):
            raise bad_request(f"{name} is not supported: {why}", param=name, code="unsupported_parameter")


def _same(value: Any, neutral: Any) -> bool:
    return isinstance(value, bool) == isinstance(neutral, bool) and bool(value == neutral)


def _unknown(name: str, known: Collection[str]) -> ApiError:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return bad_request(f"unknown field {name[:64]!r}{hint}", param=name[:64], code="unknown_parameter")
