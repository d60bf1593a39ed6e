"""The package openai, in the version that the other clients bring."""

from __future__ import annotations

import openai
import pytest
from conftest import Served

USER = [{"role": "user", "content": "Tell me of rivers."}]


@pytest.fixture
def client(served: Served) -> openai.OpenAI:
    return openai.OpenAI(base_url=served.base_url, api_key=served.key, max_retries=0, timeout=120)


def test_chats_and_streams_say_the_same(client: openai.OpenAI) -> None:
    fields = {"model": "probe", "messages": USER, "max_tokens": 12, "temperature": 0, "logprobs": True,
              "top_logprobs": 2}
    whole = client.chat.completions.create(**fields)
    chunks = list(client.chat.completions.create(**fields, stream=True, stream_options={"include_usage": True}))
    said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert whole.choices[0].message.content == said and whole.choices[0].finish_reason == "length"
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens == 12
    entries = whole.choices[0].logprobs.content
    assert len(entries) == 12 and all(entry.top_logprobs[0].logprob == entry.logprob <= 0 for entry in entries)


def test_completions_with_what_the_sampler_has(client: openai.OpenAI) -> None:
    answer = client.completions.create(
        model="probe", prompt="a river", max_tokens=9, seed=3, n=2, presence_penalty=0.5, frequency_penalty=0.5,
        logit_bias={str(ord("q")): 100})
    assert [choice.text for choice in answer.choices] == ["q" * 9] * 2


def test_errors_are_those_that_it_knows(served: Served, client: openai.OpenAI) -> None:
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=served.base_url, api_key="wrong", max_retries=0).models.list()
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="gpt", messages=USER)
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="probe", prompt="a" * 70_000)
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.UnprocessableEntityError):
        client.completions.create(model="probe", prompt="a", temperature=-1)
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=0.001).completions.create(model="probe", prompt="a" * 30_000, max_tokens=1000)
