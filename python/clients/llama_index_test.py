"""LlamaIndex's OpenAILike: its class for servers that are not OpenAI's own."""

from __future__ import annotations

import pytest
from conftest import Served
from llama_index.core.llms import ChatMessage
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
