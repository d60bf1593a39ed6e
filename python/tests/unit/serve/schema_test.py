"""Bodies that are wrong in many places cost one complaint, not one for each place."""

from __future__ import annotations

import json

import pydantic
import pytest

from errors_test import refused
from serving import Serving

from tributary.serve.body import parse_body
from tributary.serve.errors import ApiError
from tributary.serve.schema import ChatRequest, CompletionRequest, TokenizeRequest

MANY = 400_000  # more than a megabyte of each
USER = [{"role": "user", "content": "Hi"}]
NAMES = {str(i): None for i in range(MANY)}
ALTERNATIVES = 4  # of a prompt: each of them may complain once


@pytest.mark.parametrize("schema, fields", [
    (CompletionRequest, {"prompt": [-1] * MANY}),
    (CompletionRequest, {"prompt": [[-1]] * MANY}),
    (CompletionRequest, {"prompt": [[-1] * MANY]}),
    (CompletionRequest, {"prompt": [None] * MANY}),
    (ChatRequest, {"messages": [1] * MANY}),
    (ChatRequest, {"messages": USER * MANY}),
    (ChatRequest, {"messages": [{"role": "user", "content": [1] * MANY}]}),
    (ChatRequest, {"messages": [{"role": "user", "content": [{"type": "text"}] * MANY}]}),
    (ChatRequest, {"messages": USER, "stop": [1] * MANY}),
    (ChatRequest, {"messages": USER, "stop_token_ids": [-1] * MANY}),
    (ChatRequest, {"messages": USER, "stop_token_ids": [1] * MANY}),
    (ChatRequest, {"messages": USER, "logit_bias": NAMES}),
    (ChatRequest, {"messages": USER, "tributary": NAMES}),
    (ChatRequest, {"messages": USER, "tributary": {"parameters": NAMES}}),
    (ChatRequest, {"messages": USER, "stream_options": NAMES}),
    (TokenizeRequest, {"messages": [1] * MANY}),
    (TokenizeRequest, NAMES),
])
def test_many_wrong_elements_are_one_error(schema: type[pydantic.BaseModel], fields: dict[str, object]) -> None:
    with pytest.raises(pydantic.ValidationError) as caught:
        schema.model_validate(fields)
    assert caught.value.error_count() <= ALTERNATIVES
    with pytest.raises(ApiError) as refused:
        parse_body(json.dumps(fields).encode(), schema)
    assert refused.value.status == 422 and len(refused.value.message) < 500


@pytest.mark.parametrize("heads", ["many", [[0, -1.5]] * MANY, [None] * MANY])
def test_lists_of_a_policys_parameters(heads: object) -> None:
    with pytest.raises(pydantic.ValidationError) as caught:
        ChatRequest.model_validate({"messages": USER, "tributary": {"parameters": {"a": heads, "b": None}}})
    assert caught.value.error_count() <= 2 * 5, "each alternative of each parameter may complain once"


def test_many_empty_prompts(server: Serving) -> None:
    """A list of lists is what the schema allows; that there are too many is said without a word about each."""
    status, message = refused(server, {"prompt": [[]] * MANY}, "/v1/completions")
    assert status == 400 and f"{MANY} prompts times n 1" in message
