"""Chats and completions through OpenAI's client, against a scripted coordinator."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path

import pytest
from fake_coordinator import FakeCoordinator, Script, text
from serving import Serving, make_byte_model, serving

USER = [{"role": "user", "content": "Hi"}]
JSON_BODY = {"Content-Type": "application/json"}
PROMPT = "[user]Hi\0[assistant]"


def chat(server: Serving, **fields: object):  # noqa: ANN201
    return server.openai().chat.completions.create(**{"model": server.model, "messages": USER, **fields})


def streamed(server: Serving, **fields: object) -> list:
    return list(chat(server, stream=True, **fields))


def test_a_chat(server: Serving, fake: FakeCoordinator) -> None:
    fake.script = lambda request: text("Hällo 🙂")
    answer = chat(server, max_tokens=50)
    assert answer.object == "chat.completion" and answer.id.startswith("chatcmpl-") and answer.model == "bytes"
    choice = answer.choices[0]
    assert (choice.index, choice.message.role, choice.message.content) == (0, "assistant", "Hällo 🙂")
    assert choice.finish_reason == "stop" and choice.logprobs is None
    usage = answer.usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (20, 12, 32)
    assert usage.prompt_tokens_details.cached_tokens == 0
    request = fake.requests[0]
    assert bytes(request.prompt_tokens).decode() == PROMPT and request.max_tokens == 50
    assert list(request.stop_tokens) == [0]


def test_a_streamed_chat_is_the_same_text_in_whole_characters(server: Serving, fake: FakeCoordinator) -> None:
    fake.script = lambda request: text("Hällo 🙂")
    chunks = streamed(server, stream_options={"include_usage": True})
    assert {chunk.id for chunk in chunks} == {chunks[0].id}
    assert chunks[0].choices[0].delta.role == "assistant"
    parts = [chunk.choices[0].delta.content for chunk in chunks[1:-2]]
    assert parts == ["H", "ä", "l", "l", "o", " ", "🙂"]
    assert chunks[-2].choices[0].finish_reason == "stop" and chunks[-2].choices[0].delta.content is None
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == 12
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert all(chunk.usage is None for chunk in streamed(server)), "without include_usage there is none"


def test_the_bytes_of_a_stream(server: Serving, fake: FakeCoordinator) -> None:
    body = json.dumps({"messages": USER, "stream": True}).encode()
    request = urllib.request.Request(f"{server.url}/v1/chat/completions", body, JSON_BODY)
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert "access-control-allow-origin" not in answer.headers
        events = answer.read().decode().split("\n\n")
    assert events[-1] == "" and events[-2] == "data: [DONE]"
    assert all(event.startswith("data: {") for event in events[:-2])


def test_length_and_a_character_that_is_not_complete(server: Serving, fake: FakeCoordinator) -> None:
    fake.script = lambda request: Script(tokens="a🙂".encode())
    answer = chat(server, max_tokens=3)
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("a\ufffd", "length")
    assert answer.usage.completion_tokens == 3


def test_stop_strings_across_tokens(server: Serving, fake: FakeCoordinator) -> None:
    fake.script = lambda request: text("one END two")
    answer = chat(server, stop=["NEVER", " END"])
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("one", "stop")
    assert answer.usage.completion_tokens == len("one END")
    chunks = streamed(server, stop=" END")
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "one"
    assert chat(server, stop="ENDE").choices[0].message.content == "one END two"


def test_a_stop_string_at_the_last_token(server: Serving, fake: FakeCoordinator) -> None:
    fake.script = lambda request: text("one END", end=False, finish_reason="length")
    answer = chat(server, stop="END", max_tokens=7)
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("one ", "stop")


def test_logprobs(server: Serving, fake: FakeCoordinator) -> None:
    fake.script = lambda request: text("aé")
    content = chat(server, logprobs=True, top_logprobs=2).choices[0].logprobs.content
    assert [(entry.token, entry.bytes) for entry in content] == [("a", [97]), ("\ufffd", [0xc3]), ("\ufffd", [0xa9])]
    assert [entry.logprob for entry in content] == [0, -0.125, -0.25]
    assert [(top.token, top.logprob) for top in content[0].top_logprobs] == [("a", 0), ("b", -1)]
    streamed_content = [entry for chunk in streamed(server, logprobs=True, top_logprobs=2)
                        for entry in (chunk.choices[0].logprobs.content if chunk.choices[0].logprobs else [])]
    assert streamed_content == content
    assert [request.top_logprobs for request in fake.requests] == [2, 2]
    assert [entry.top_logprobs for entry in chat(server, logprobs=True).choices[0].logprobs.content] == [[], [], []]


def test_logprobs_end_where_the_text_does(server: Serving, fake: FakeCoordinator) -> None:
    fake.script = lambda request: text("ab!!c")
    content = chat(server, logprobs=True, stop="!!").choices[0].logprobs.content
    assert [entry.token for entry in content] == ["a", "b"]


def test_an_impossible_token_has_a_number(server: Serving, fake: FakeCoordinator) -> None:
    fake.script = lambda request: text("a", logprobs=[float("-inf"), 0])
    assert chat(server, logprobs=True).choices[0].logprobs.content[0].logprob == -9999


def test_several_answers_have_seeds_of_their_own(server: Serving, fake: FakeCoordinator) -> None:
    fake.script = lambda request: text(f"seed {request.sampling.seed}")
    answer = chat(server, n=3, seed=-1)
    contents = [choice.message.content for choice in answer.choices]
    assert contents == [f"seed {2**64 - 1}", "seed 0", "seed 1"]
    assert answer.usage.prompt_tokens == 20, "one prompt counts once"
    assert answer.usage.completion_tokens == sum(len(content) + 1 for content in contents)
    assert len(answer.usage.tributary) == 3
    parts: dict[int, str] = {}
    for chunk in streamed(server, n=3, seed=-1):
        for choice in chunk.choices:
            parts[choice.index] = parts.get(choice.index, "") + (choice.delta.content or "")
    assert [parts[i] for i in range(3)] == contents
    seeds = {fake.requests[-1].sampling.seed, *(chat(server) and fake.requests[-1].sampling.seed for _ in range(3))}
    assert len(seeds) == 4, "who gives no seed gets another each time"


def test_sampling_by_request_by_model_and_by_default(fake: FakeCoordinator, model: Path, tmp_path: Path) -> None:
    with serving(fake.address, model) as server:
        chat(server)
        chat(server, temperature=0, top_p=0.5, extra_body={"top_k": 7})
        chat(server, extra_body={"top_k": -1})
    generation = {"temperature": 0.5, "top_p": 0.25, "top_k": 40, "eos_token_id": [1, 2]}
    with serving(fake.address, make_byte_model(tmp_path / "other", generation=generation)) as server:
        chat(server)
        chat(server, temperature=0.75)
    seen = [(request.sampling.temperature, request.sampling.top_p, request.sampling.top_k) for request in fake.requests]
    assert seen == [(1, 1, 0), (0, 0.5, 7), (1, 1, 0), (0.5, 0.25, 40), (0.75, 0.25, 40)]
    assert list(fake.requests[-1].stop_tokens) == [0, 1, 2]


def test_penalties_by_request_by_model_and_by_default(fake: FakeCoordinator, model: Path, tmp_path: Path) -> None:
    with serving(fake.address, model) as server:
        chat(server)
        chat(server, presence_penalty=0.5, frequency_penalty=-1, logit_bias={"5": -100, "7": 2.5},
             extra_body={"min_p": 0.25, "repetition_penalty": 1.5})
    generation = {"repetition_penalty": 1.25, "min_p": 0.125}
    with serving(fake.address, make_byte_model(tmp_path / "other", generation=generation)) as server:
        chat(server)
        chat(server, extra_body={"min_p": 0, "repetition_penalty": 1})
    seen = [(asked.min_p, asked.presence_penalty, asked.frequency_penalty, asked.repetition_penalty)
            for asked in (request.sampling for request in fake.requests)]
    assert seen == [(0, 0, 0, 1), (0.25, 0.5, -1, 1.5), (0.125, 0, 0, 1.25), (0, 0, 0, 1)]
    assert [(bias.token, bias.bias) for bias in fake.requests[1].sampling.logit_bias] == [(5, -100), (7, 2.5)]


def test_lengths_by_default(fake: FakeCoordinator, model: Path) -> None:
    with serving(fake.address, model, default_max_tokens=100) as server:
        chat(server)
        chat(server, messages=[{"role": "user", "content": "x" * 950}])
        server.openai().completions.create(model=server.model, prompt="Hi")
        chat(server, max_completion_tokens=5)
    assert [request.max_tokens for request in fake.requests] == [100, 1000 - (950 + 18) + 1, 16, 5]


@pytest.mark.parametrize("generation, settings, expected", [
    (None, {}, 1024), ({"max_new_tokens": 77}, {}, 77), ({"max_new_tokens": 77}, {"default_max_tokens": 100}, 100)])
def test_the_folder_says_how_long_answers_are(fake: FakeCoordinator, tmp_path: Path, generation: dict | None,
                                              settings: dict, expected: int) -> None:
    model = make_byte_model(tmp_path / "bytes", context=5000, generation=generation)
    with serving(fake.address, model, **settings) as server:
        server.openai().chat.completions.create(model="bytes", messages=[{"role": "user", "content": "Hi"}])
    assert fake.requests[-1].max_tokens == expected


def test_what_is_tributarys_own(server: Serving, fake: FakeCoordinator) -> None:
    options = {"policy": "hgca", "parameters": {"beta": 8, "alpha": 0.5, "dense_layers": [0], "quality_sample_rate": 1},
               "window_tokens": 64, "sink_tokens": 0, "kv_dtype": "f32", "remote_k_dtype": "int8"}
    answer = chat(server, extra_body={"tributary": options, "ignore_eos": True, "stop_token_ids": [5]})
    request = fake.requests[0]
    assert request.attention_policy.name == "hgca" and request.placement.window_tokens == 64
    assert request.placement.has_sink_tokens and request.placement.remote_k_dtype == 4
    values = {parameter.name: parameter for parameter in request.attention_policy.parameters}
    assert values["beta"].count == 8 and values["quality_sample_rate"].count == 1
    assert request.ignore_eos and list(request.stop_tokens) == [5]
    told = answer.usage.tributary
    assert told["policy"] == "hgca" and told["remote_read_share"] == 0.25 and told["kept_mass_mean"] == 0.75
    assert told["nodes"] == [{"node_id": "cpu-0", "shards": 1, "tokens": 7, "kv_bytes": 4096}]
    assert chat(server).usage.tributary["kept_mass_mean"] is None, "dense keeps all, and nobody measures it"
    chat(server, extra_body={"tributary": {"quality": "high"}})
    named = fake.requests[-1].attention_policy
    assert (named.name, named.quality) == ("", "high"), "what it stands for is the coordinator's to know"


def test_completions(server: Serving, fake: FakeCoordinator) -> None:
    fake.script = lambda request: text(bytes(request.prompt_tokens).decode().upper())
    client = server.openai()
    answer = client.completions.create(model=server.model, prompt="abc", max_tokens=9)
    assert answer.object == "text_completion" and answer.choices[0].text == "ABC"
    assert answer.choices[0].finish_reason == "stop" and answer.usage.prompt_tokens == 3
    assert client.completions.create(model=server.model, prompt=[97, 98]).choices[0].text == "AB"
    answer = client.completions.create(model=server.model, prompt=["ab", "c"], n=2)
    assert [(choice.index, choice.text) for choice in answer.choices] == [(0, "AB"), (1, "AB"), (2, "C"), (3, "C")]
    assert answer.usage.prompt_tokens == 3
    assert [choice.text for choice in client.completions.create(
        model=server.model, prompt=[[97], [98]]).choices] == ["A", "B"]
    chunks = list(client.completions.create(model=server.model, prompt="abc", stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == "ABC"
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_logprobs_of_completions(server: Serving, fake: FakeCoordinator) -> None:
    fake.script = lambda request: text("aé")
    logprobs = server.openai().completions.create(model=server.model, prompt="x", logprobs=2).choices[0].logprobs
    assert logprobs.tokens == ["a", "bytes:\\xc3", "bytes:\\xa9"]
    assert logprobs.token_logprobs == [0, -0.125, -0.25] and logprobs.text_offset == [0, 1, 1]
    assert logprobs.top_logprobs[0] == {"a": 0, "b": -1}


def test_parts_of_a_message_are_joined_and_developers_are_systems(server: Serving, fake: FakeCoordinator) -> None:
    chat(server, messages=[{"role": "developer", "content": "Be brief."},
                           {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}])
    assert bytes(fake.requests[0].prompt_tokens).decode() == "[system]Be brief.\0[user]ab\0[assistant]"


def test_models_health_metrics_and_tokenize(server: Serving, fake: FakeCoordinator) -> None:
    client = server.openai()
    assert [model.id for model in client.models.list()] == ["bytes"]
    assert client.models.retrieve("bytes").max_model_len == 1000
    chat(server)

    def get(path: str) -> str:
        with urllib.request.urlopen(server.url + path, timeout=30) as answer:
            return answer.read().decode()

    assert json.loads(get("/health"))["status"] == "ok"
    metrics = get("/metrics")
    assert 'tributary_serve_requests_total{path="/v1/chat/completions",status="200"} 1.0' in metrics
    assert 'tributary_serve_tokens_total{kind="completion"} 3.0' in metrics
    assert "tributary_serve_kept_chats 1.0" in metrics and "tributary_serve_running 0.0" in metrics
    assert "tributary_serve_first_token_seconds_count 1.0" in metrics

    def tokenize(**body: object) -> dict[str, object]:
        request = urllib.request.Request(f"{server.url}/tokenize", json.dumps(body).encode(), JSON_BODY)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read())

    assert tokenize(prompt="aé", return_token_strs=True) == {
        "count": 3, "max_model_len": 1000, "tokens": [97, 0xc3, 0xa9], "token_strs": ["a", "\ufffd", "\ufffd"]}
    assert bytes(tokenize(messages=USER)["tokens"]).decode() == PROMPT
    assert bytes(tokenize(messages=USER, add_generation_prompt=False)["tokens"]).decode() == "[user]Hi\0"


@pytest.mark.parametrize("messages", [
    [{"role": "assistant", "content": "first"}, {"role": "user", "content": "then"}],
    [{"role": "user", "content": ""}],
    [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}, {"role": "system", "content": "c"}],
])
def test_any_order_that_the_template_takes(server: Serving, messages: list[dict[str, str]]) -> None:
    assert chat(server, messages=messages).choices[0].message.content == "ok"
