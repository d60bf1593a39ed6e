"""A real vocabulary and chat template: SmolLM2 through two nodes, asked by OpenAI's client."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import Cluster
from serving import Serving, serving

from tributary import Client, Placement
from tributary.text import load_model_text

SMOLLM2 = Path(__file__).resolve().parents[3] / "models" / "smollm2"
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
SMALL = {"window_tokens": 16, "sink_tokens": 4, "block_tokens": 4}

pytestmark = pytest.mark.skipif(not SMOLLM2.is_dir(), reason="./dev model smollm2 makes the model")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster(cpu_nodes=2, model=SMOLLM2) as one:
        yield one


@pytest.fixture(scope="module")
def server(cluster: Cluster) -> Iterator[Serving]:
    with serving(cluster.coordinator, SMOLLM2) as one:
        yield one


def test_a_greedy_chat_is_what_the_engine_generates(cluster: Cluster, server: Serving) -> None:
    fields = {"model": "smollm2", "messages": QUESTION, "temperature": 0, "max_tokens": 20,
              "extra_body": {"tributary": {**SMALL, "keep": False}}}
    client = server.openai()
    answer = client.chat.completions.create(**fields)
    chunks = list(client.chat.completions.create(**fields, stream=True))
    said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert answer.choices[0].message.content == said == "The capital of France is Paris."
    assert answer.choices[0].finish_reason == chunks[-1].choices[0].finish_reason == "stop"

    text = load_model_text(SMOLLM2)
    assert text.chat_template is not None
    prompt = text.tokenizer.encode(text.chat_template.render(QUESTION), add_special_tokens=False)
    assert answer.usage.prompt_tokens == len(prompt)
    assert answer.usage.tributary["remote_tokens"] > 0
    with Client(cluster.coordinator) as raw:
        tokens = list(raw.generate(prompt, max_tokens=20, placement=Placement(**SMALL)).tokens())
        generation = raw.generate(prompt, max_tokens=20, placement=Placement(**SMALL))
        assert "".join(text.text_of(generation)) == said
    assert tokens[-1] in text.end_tokens and text.tokenizer.decode(tokens) == said
    assert answer.usage.completion_tokens == len(tokens)


def test_the_next_turn_costs_its_own_tokens(server: Serving) -> None:
    client = server.openai()
    first = client.chat.completions.create(model="smollm2", messages=QUESTION, temperature=0, max_tokens=20)
    messages = [*QUESTION, {"role": "assistant", "content": first.choices[0].message.content},
                {"role": "user", "content": "And of Italy?"}]
    second = client.chat.completions.create(model="smollm2", messages=messages, temperature=0, max_tokens=20)
    assert second.usage.prompt_tokens_details.cached_tokens == first.usage.total_tokens
    assert "Rome" in second.choices[0].message.content
    alone = client.chat.completions.create(model="smollm2", messages=messages, temperature=0, max_tokens=20,
                                           extra_body={"tributary": {"keep": False}})
    assert alone.choices[0].message.content == second.choices[0].message.content


def test_logprobs_have_the_text_of_tokens(server: Serving) -> None:
    answer = server.openai().chat.completions.create(model="smollm2", messages=QUESTION, temperature=0, max_tokens=20,
                                                     logprobs=True, top_logprobs=2)
    content = answer.choices[0].logprobs.content
    assert "".join(entry.token for entry in content) == answer.choices[0].message.content
    assert all(entry.top_logprobs[0].token == entry.token and entry.logprob <= 0 for entry in content)
