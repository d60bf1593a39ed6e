"""What a body of the wrong types is told: which field, by its name in the body, and what it should have been."""

from __future__ import annotations

import json
from typing import Any

import pytest
from errors_test import post
from fake_coordinator import FakeCoordinator
from serving import Serving

from tributary.serve.body import parse_body
from tributary.serve.errors import ApiError
from tributary.serve.schema import ChatRequest, CompletionRequest, TokenizeRequest

TEXT_OR_LIST = "Input should be a valid string or a valid list"
ANY_ELEMENT = "Input should be a valid integer or a valid string or a valid list"
LONG = "9" * 4000  # Python neither computes with it as a float nor likes to write it


def complaint(schema: type[Any], body: bytes | dict[str, object]) -> ApiError:
    with pytest.raises(ApiError) as caught:
        parse_body(body if isinstance(body, bytes) else json.dumps(body).encode(), schema)
    assert caught.value.status == 422 and caught.value.message.startswith(f"{caught.value.param}: ")
    return caught.value


@pytest.mark.parametrize("prompt, param, what", [
    (5, "prompt", f"{TEXT_OR_LIST}, not 5"), (None, "prompt", f"{TEXT_OR_LIST}, not null"),
    (True, "prompt", f"{TEXT_OR_LIST}, not true"), ({"str": "a"}, "prompt", TEXT_OR_LIST),
    ([-1], "prompt[0]", "Input should be greater than or equal to 0, not -1"),
    ([2**40], "prompt[0]", "Input should be less than 4294967296, not 1099511627776"),
    (["a", 1], "prompt[1]", "Input should be a valid string, not 1"),
    ([1, "a"], "prompt[1]", "Input should be a valid integer, not 'a'"),
    ([None], "prompt[0]", f"{ANY_ELEMENT}, not null"), ([1.5], "prompt[0]", f"{ANY_ELEMENT}, not 1.5"),
    ([True], "prompt[0]", f"{ANY_ELEMENT}, not true"),
    ([[1], "a"], "prompt[1]", "Input should be a valid list, not 'a'"),
    ([[1], [2, -1]], "prompt[1][1]", "Input should be greater than or equal to 0, not -1"),
    ([[1, None]], "prompt[0][1]", "Input should be a valid integer, not null"),
])
def test_of_prompts(prompt: object, param: str, what: str) -> None:
    error = complaint(CompletionRequest, {"prompt": prompt})
    assert (error.param, error.message) == (param, f"{param}: {what}")


@pytest.mark.parametrize("content, param, what", [
    (5, "", f"{TEXT_OR_LIST}, not 5"), ({"str": 5}, "", TEXT_OR_LIST),
    ([5], "[0]", "Input should be a valid object, not 5"), (["a"], "[0]", "Input should be a valid object, not 'a'"),
    ([{"text": "a"}], "[0].type", "Field required"),
    ([{"type": 5, "text": "a"}], "[0].type", "Input should be a valid string, not 5"),
    ([{"type": "text", "text": 5}], "[0].text", "Input should be a valid string, not 5"),
])
def test_of_contents(content: object, param: str, what: str) -> None:
    error = complaint(ChatRequest, {"messages": [{"role": "user", "content": content}]})
    assert (error.param, error.message) == (f"messages[0].content{param}", f"messages[0].content{param}: {what}")


@pytest.mark.parametrize("fields, param, what", [
    ({"stop": 5}, "stop", f"{TEXT_OR_LIST}, not 5"), ({"stop": [["a"]]}, "stop[0]", "Input should be a valid string"),
    ({"stop": {"str": 1}}, "stop", TEXT_OR_LIST),
    ({"stop": ["a", None]}, "stop[1]", "Input should be a valid string, not null"),
    ({"n": "2"}, "n", "Input should be a valid integer, not '2'"), ({"n": True}, "n", "a valid integer, not true"),
    ({"n": 1 << 31}, "n", "Input should be less than 2147483648"),
    ({"stream": 1}, "stream", "Input should be true or false, not 1"),
    ({"logit_bias": {"5": None}}, "logit_bias.5", "Input should be a valid number, not null"),
    ({"logit_bias": []}, "logit_bias", "Input should be a valid object"),
    ({"stream_options": {"include_usage": "yes"}}, "stream_options.include_usage", "true or false, not 'yes'"),
    ({"tributary": {"parameters": {"str": [[1], "x"]}}}, "tributary.parameters.str[1]", "a valid list, not 'x'"),
    ({"tributary": {"window_tokens": "5"}}, "tributary.window_tokens", "a valid integer, not '5'"),
    ({"seed": -(1 << 63) - 1}, "seed", "Input should be greater than or equal to -9223372036854775808"),
    ({"messages": [None]}, "messages[0]", "Input should be a valid object, not null"),
])
def test_of_other_fields(fields: dict[str, object], param: str, what: str) -> None:
    error = complaint(ChatRequest, {"messages": [], **fields})
    assert (error.param, what in error.message) == (param, True), error.message


@pytest.mark.parametrize("field, param", [
    ('"seed": %s', "seed"), ('"n": %s', "n"), ('"max_tokens": -%s', "max_tokens"), ('"temperature": %s', "temperature"),
    ('"tributary": {"parameters": {"a": %s}}', "tributary.parameters.a"),
    ('"tributary": {"parameters": {"a": -%s}}', "tributary.parameters.a"),
    ('"tributary": {"parameters": {"a": [%s]}}', "tributary.parameters.a[0]"),
    ('"tributary": {"parameters": {"a": 1e400, "b": "%s"}}', "tributary.parameters.a"),
])
def test_numbers_that_nothing_holds(field: str, param: str) -> None:
    error = complaint(ChatRequest, ('{"messages": [], ' + field % LONG + "}").encode())
    assert error.param == param and len(error.message) < 500


def test_null_is_as_if_left_out(server: Serving, fake: FakeCoordinator) -> None:
    nulls = {"tributary": None, "add_generation_prompt": None, "stop": None, "tools": None, "unknown": None}
    for fields in (nulls, {"tributary": {"policy": None, "parameters": None, "all_resident": None}},
                   {"stream": True, "stream_options": {"include_usage": None}}):
        assert parse_body(json.dumps({"messages": [], **fields}).encode(), ChatRequest).add_generation_prompt is True
    assert post(server, {"messages": [{"role": "user", "content": "Hi"}], **nulls})[0] == 200
    assert complaint(ChatRequest, {"messages": None}).param == "messages"
    assert complaint(TokenizeRequest, {"prompt": "a", "return_token_strs": 1}).message.endswith("true or false, not 1")


@pytest.mark.parametrize("path, fields, param, what", [
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
     "messages[0].content[0].text", "is of type 'text' but has no text"),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}], "max_tokens": 1000}, "messages",
     "context is 1000 tokens, but the prompt has 19"),
    ("/v1/completions", {"prompt": [1] * 1001}, "prompt", "context is 1000 tokens, but the prompt has 1001"),
    ("/v1/completions", {"prompt": "a" * 1001}, "prompt", "1000 characters at most"),
])
def test_which_field_does_not_suit_the_model(server: Serving, path: str, fields: dict[str, object], param: str,
                                             what: str) -> None:
    status, _, answer = post(server, fields, path)
    error: Any = answer["error"]
    assert (status, error["param"], what in error["message"]) == (400, param, True), error
