"""LangChain's ChatOpenAI and OpenAI."""

from __future__ import annotations

import asyncio

import openai
import pytest
from conftest import Served
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI, OpenAI

MESSAGES = [SystemMessage("Be brief."), HumanMessage("Tell me of rivers."), AIMessage("They flow."),
            HumanMessage("Whither?")]


@pytest.fixture
def chat(served: Served) -> ChatOpenAI:
    return ChatOpenAI(base_url=served.base_url, api_key=served.key, model="probe", temperature=0, max_tokens=12,
                      max_retries=0, timeout=120, stream_usage=True)


def test_a_chat_whole_streamed_and_async(chat: ChatOpenAI) -> None:
    whole = chat.invoke(MESSAGES)
    assert whole.content and whole.usage_metadata["output_tokens"] == 12
    assert whole.response_metadata["finish_reason"] == "length"
    parts = list(chat.stream(MESSAGES))
    assert "".join(part.content for part in parts) == whole.content
    assert sum(part.usage_metadata["output_tokens"] for part in parts if part.usage_metadata) == 12
    assert asyncio.run(chat.ainvoke(MESSAGES)).content == whole.content
    assert [one.content for one in chat.batch([MESSAGES] * 3)] == [whole.content] * 3


def test_a_completion(served: Served) -> None:
    model = OpenAI(base_url=served.base_url, api_key=served.key, model="probe", temperature=0, max_tokens=8,
                   max_retries=0)
    whole = model.invoke("a river")
    assert whole and "".join(model.stream("a river")) == whole


def test_tools_are_refused_by_name(chat: ChatOpenAI) -> None:
    def depth(river: str) -> int:
        """How deep it is."""
        return len(river)

    with pytest.raises(openai.BadRequestError, match="tools is not supported"):
        chat.bind_tools([depth]).invoke(MESSAGES)
