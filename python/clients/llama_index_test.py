"""LlamaIndex's OpenAILike: its class for servers that are not OpenAI's own. Its class OpenAI takes the length of the
context from a table of OpenAI's models, and no other model: it gives up before it asks anybody."""

from __future__ import annotations

import pytest
from conftest import Served
from llama_index.core.llms import ChatMessage
from llama_index.llms.openai import OpenAI
from llama_index.llms.openai_like import OpenAILike

MESSAGES = [ChatMessage(role="system", content="Be brief."), ChatMessage(role="user", content="Tell me of rivers.")]


@pytest.fixture(params=[True, False], ids=["chat", "completion"])
def model(served: Served, request: pytest.FixtureRequest) -> OpenAILike:
    return OpenAILike(api_base=served.base_url, api_key=served.key, model="probe", is_chat_model=request.param,
                      temperature=0, max_tokens=12, max_retries=0, timeout=120, context_window=65536)


def test_whole_and_streamed(model: OpenAILike) -> None:
    whole = model.complete("a river").text
    assert whole and [*model.stream_complete("a river")][-1].text == whole
    answer = model.chat(MESSAGES).message.content
    assert answer and [*model.stream_chat(MESSAGES)][-1].message.content == answer


def test_its_class_for_openai_knows_openais_models_only(served: Served) -> None:
    """When this fails, that class has learnt other names and is to be tested as OpenAILike is."""
    model = OpenAI(api_base=served.base_url, api_key=served.key, model=served.model, max_retries=0)
    with pytest.raises(ValueError, match="Unknown model 'probe'"):
        model.complete("a river")
