"""What is refused, how, and that nothing else is disturbed by it."""

from __future__ import annotations

import http.client
import json
import threading
import urllib.error
import urllib.request
from pathlib import Path

import grpc
import openai
import pytest
from fake_coordinator import FakeCoordinator, Failure, Script, text, wait_until
from serving import Serving, make_byte_model, serving

from tributary.serve.auth import load_api_keys

USER = [{"role": "user", "content": "Hi"}]


def post(server: Serving, body: bytes | dict[str, object], path: str = "/v1/chat/completions",
         headers: dict[str, str] | None = None) -> tuple[int, dict[str, str], dict[str, object]]:
    """Status, headers and the object of an answer, whatever it is."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(server.url + path, data, {"Content-Type": "application/json", **(headers or {})})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, dict(answer.headers), json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers), json.loads(error.read())


def refused(server: Serving, fields: dict[str, object], path: str = "/v1/chat/completions") -> tuple[int, str]:
    """Status and message; the form is looked at on the way."""
    body = {"messages": USER, **fields} if "chat" in path else fields
    status, _, answer = post(server, body, path)
    error = answer["error"]
    assert isinstance(error, dict) and set(error) == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str)
    return status, error["message"]


@pytest.mark.parametrize("fields, status, what", [
    ({"messages": []}, 400, "messages is empty"),
    ({"messages": [{"role": "user"}]}, 400, "messages[0] has no content"),
    ({"messages": [{"role": "clown", "content": "a"}]}, 400, "role 'clown'; use one of system, developer, user"),
    ({"messages": [{"role": "tool", "content": "a"}]}, 400, "does not call tools"),
    ({"messages": [{"role": "assistant", "content": "a", "tool_calls": [{}]}]}, 400, "tool_calls is not supported"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, 400,
     "of type 'image_url'; only text"),
    ({"messages": [{"role": "user", "content": "raise"}]}, 400, "chat template refuses these messages: not like this"),
    ({"messages": "Hi"}, 422, "messages: Input should be a valid list, not 'Hi'"),
    ({"messages": [{"content": "a"}]}, 422, "messages[0].role: Field required"),
    ({"temperature": "hot"}, 422, "temperature: "),
    ({"temperature": -1}, 422, "temperature: "),
    ({"temperature": True}, 422, "temperature: "),
    ({"top_p": 1.5}, 422, "top_p: "),
    ({"n": 0}, 422, "n: "),
    ({"n": 65}, 400, "65 answers; at most 64"),
    ({"max_tokens": 0}, 400, "max_tokens is 0; ask for at least 1"),
    ({"max_tokens": -5}, 400, "max_tokens is -5"),
    ({"max_tokens": 1000}, 400, "context is 1000 tokens, but the prompt has 20 and max_tokens is 1000, which together "
                                "need 1019"),
    ({"messages": [{"role": "user", "content": "x" * 2000}]}, 400,
     "context is 1000 tokens, which are 1000 characters at most, but the prompt has 2018 characters"),
    ({"messages": [{"role": "user", "content": "\u00e9" * 900}]}, 400,
     "context is 1000 tokens, but the prompt has 1818"),
    ({"max_completion_tokens": -5}, 400, "max_completion_tokens is -5; ask for at least 1"),
    ({"seed": 1 << 64}, 422, "seed: "),
    ({"stop": [""]}, 400, "a stop string is empty"),
    ({"stop": ["a"] * 17}, 400, "17 stop strings; at most 16"),
    ({"stop": "a" * 2000}, 400, "2000 characters"),
    ({"top_logprobs": 3}, 400, "top_logprobs is only for those who ask for logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, 422, "top_logprobs: "),
    ({"stream_options": {"include_usage": True}}, 400, "stream_options is only for streams"),
    ({"tools": [{"type": "function"}]}, 400, "tools is not supported"),
    ({"tool_choice": "required"}, 400, "tool_choice is not supported"),
    ({"response_format": {"type": "json_object"}}, 400, "response_format is not supported: only {'type': 'text'}"),
    ({"min_p": 1.5}, 422, "min_p: "),
    ({"presence_penalty": 2.5}, 422, "presence_penalty: "),
    ({"frequency_penalty": -3}, 422, "frequency_penalty: "),
    ({"repetition_penalty": 0}, 422, "repetition_penalty: "),
    ({"repetition_penalty": 0.009}, 422, "repetition_penalty: Input should be greater than or equal to 0.01"),
    ({"repetition_penalty": 100.5}, 422, "repetition_penalty: "),
    ({"logit_bias": {"5": 101}}, 422, "logit_bias"),
    ({"logit_bias": {"five": 1}}, 400, "logit_bias names 'five', which is no token id"),
    ({"logit_bias": {"1": 5, "01": -5}}, 400, "logit_bias names token 1 twice"),
    ({"logit_bias": {str(i): 1 for i in range(1025)}}, 422, "logit_bias: names 1025 tokens; at most 1024"),
    ({"length_penalty": 0.5}, 400, "length_penalty is not supported: the engine's sampler"),
    ({"echo": True}, 400, "echo is not supported: the prompt is repeated by /v1/completions only"),
    ({"temprature": 1}, 400, "unknown field 'temprature'; did you mean temperature?"),
    ({"tributary": {"window": 5}}, 422, "tributary.window: Extra inputs"),
    ({"tributary": {"parameters": {"beta": None}}}, 422, "tributary.parameters.beta"),
    ({"tributary": {"kv_dtype": "f64"}}, 400, "kv_dtype is 'f64'; use one of f32"),
    ({"tributary": {"keep": True}, "n": 2}, 400, "tributary.keep is for a single answer"),
])
def test_what_is_refused(server: Serving, fake: FakeCoordinator, fields: dict[str, object], status: int,
                         what: str) -> None:
    got, message = refused(server, fields)
    assert (got, what in message) == (status, True), (got, message)
    assert not fake.requests


@pytest.mark.parametrize("fields, status, what", [
    ({}, 422, "prompt: Field required"), ({"prompt": ""}, 400, "the prompt is empty"),
    ({"prompt": []}, 400, "the prompt is empty"), ({"prompt": [[]]}, 400, "the prompt is empty"),
    ({"prompt": [-1]}, 422, "prompt"),
    ({"prompt": "a", "echo": True, "tributary": {"keep": True}}, 400, "tributary.keep is not for echo"),
    ({"prompt": "a", "echo": True, "logprobs": 1, "presence_penalty": 1}, 400,
     "presence_penalty and frequency_penalty"),
    ({"prompt": "a", "echo": True, "max_tokens": -1}, 400, "max_tokens is -1; ask for at least 0"),
    ({"prompt": "a", "suffix": "b"}, 400, "suffix is not supported"),
    ({"prompt": "a", "best_of": 2}, 400, "best_of is not supported"),
    ({"prompt": "a", "max_tokens": 0}, 400, "max_tokens is 0"), ({"prompt": ["a"] * 65}, 400, "65 prompts"),
])
def test_what_is_refused_of_completions(server: Serving, fields: dict[str, object], status: int, what: str) -> None:
    got, message = refused(server, fields, "/v1/completions")
    assert (got, what in message) == (status, True), (got, message)


def test_neutral_values_ask_for_nothing(server: Serving) -> None:
    neutral = {"tools": [], "tool_choice": "none", "response_format": {"type": "text"}, "min_p": 0.0,
               "presence_penalty": 0, "frequency_penalty": 0.0, "repetition_penalty": 1.0, "logit_bias": {},
               "user": "me", "metadata": {"a": "b"}, "store": True, "functions": None, "modalities": ["text"],
               "stop": None}
    assert post(server, {"messages": USER, **neutral})[0] == 200


@pytest.mark.parametrize("body, what", [
    (b"", "not JSON"), (b"{", "not JSON"), (b"[]", "is a list, not a JSON object"),
    (b'{"messages": "\xff\xfe"}', "not JSON in UTF-8"),
    (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', "not JSON"),
    (b'{"temperature": NaN, "messages": []}', "not JSON"), (b"[" * 100000, "not JSON"),
])
def test_bodies_that_are_no_json_objects(server: Serving, body: bytes, what: str) -> None:
    status, _, answer = post(server, body)
    assert status == 400 and what in answer["error"]["message"], answer
    assert post(server, {"messages": USER})[0] == 200


def test_paths_and_methods_that_are_not_there(server: Serving) -> None:
    assert post(server, {}, "/v1/embeddings")[0] == 404
    status, headers, answer = post(server, {}, "/v1/models")
    assert status == 405 and "GET" in headers["allow"] and "POST is not for" in answer["error"]["message"]
    with pytest.raises(openai.NotFoundError, match="'gpt-5' is not served here; there is 'bytes'") as caught:
        server.openai().chat.completions.create(model="gpt-5", messages=USER)
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        server.openai().models.retrieve("gpt-5")


def test_a_model_without_a_template(fake: FakeCoordinator, tmp_path: Path) -> None:
    with serving(fake.address, make_byte_model(tmp_path / "plain", template=None)) as server:
        assert "has no chat template; use /v1/completions" in refused(server, {})[1]
        assert post(server, {"prompt": "a"}, "/v1/completions")[0] == 200


def test_keys(fake: FakeCoordinator, model: Path, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# ours\nfirst key\n\n  second\n")
    load_api_keys(file).check("Bearer first key")
    for lines in ("", "# only a comment\n"):
        file.write_text(lines)
        with pytest.raises(ValueError, match="has no API key"):
            load_api_keys(file)
    with pytest.raises(ValueError, match="cannot read"):
        load_api_keys(tmp_path / "absent")
    with serving(fake.address, model, keys=("right", "other")) as server:
        for key in ("wrong", "righ", "rightt", "é"):
            sent = {"Authorization": f"Bearer {key}".encode().decode("latin-1")}
            status, headers, answer = post(server, {"messages": USER}, headers=sent)
            assert status == 401 and headers["www-authenticate"] == "Bearer"
            assert "not known" in answer["error"]["message"]
        for sent in ({}, {"Authorization": "right"}, {"Authorization": "Basic right"}, {"Authorization": "Bearer "}):
            assert post(server, {"messages": USER}, headers=sent)[0] == 401
        with pytest.raises(openai.AuthenticationError):
            server.openai(api_key="wrong").models.list()
        assert post(server, {"prompt": "a"}, "/tokenize")[0] == 401
        for key in ("right", "other"):
            server.openai(api_key=key).chat.completions.create(model="bytes", messages=USER)
        assert urllib.request.urlopen(f"{server.url}/health", timeout=30).status == 200
    assert len(fake.requests) == 2


@pytest.mark.parametrize("failure, status, kind", [
    (Failure(grpc.StatusCode.INVALID_ARGUMENT, "no such policy"), 400, openai.BadRequestError),
    (Failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", 2.5), 429, openai.RateLimitError),
    (Failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "never fits"), 400, openai.BadRequestError),
    (Failure(grpc.StatusCode.UNAVAILABLE, "draining"), 503, openai.InternalServerError),
    (Failure(grpc.StatusCode.CANCELLED, "by a Cancel call"), 503, openai.InternalServerError),
    (Failure(grpc.StatusCode.DEADLINE_EXCEEDED, "late"), 504, openai.InternalServerError),
    (Failure(grpc.StatusCode.INTERNAL, "broken"), 500, openai.InternalServerError),
])
def test_errors_of_the_cluster(server: Serving, fake: FakeCoordinator, failure: Failure, status: int,
                               kind: type[openai.APIStatusError]) -> None:
    fake.script = lambda request: Script(refused=failure)
    for stream in (False, True):
        with pytest.raises(kind, match=failure.message) as caught:
            server.openai().chat.completions.create(model="bytes", messages=USER, stream=stream)
        assert caught.value.status_code == status
        retry_after = caught.value.response.headers.get("retry-after")
        assert retry_after == {429: "3", 503: "1"}.get(status)


def test_an_error_in_the_middle_of_a_stream(server: Serving, fake: FakeCoordinator) -> None:
    fake.script = lambda request: Script(tokens=b"abc", failure=Failure(grpc.StatusCode.UNAVAILABLE, "node-1 is lost"))
    texts = []
    with pytest.raises(openai.APIError, match="node-1 is lost"):
        for chunk in server.openai().chat.completions.create(model="bytes", messages=USER, stream=True):
            texts.append(chunk.choices[0].delta.content)
    assert texts == ["", "a", "b", "c"]
    with pytest.raises(openai.InternalServerError, match="node-1 is lost"):
        server.openai().chat.completions.create(model="bytes", messages=USER)


def test_one_of_several_answers_fails(server: Serving, fake: FakeCoordinator) -> None:
    never = threading.Event()
    fake.script = lambda request: (text("ok", gate=never) if request.sampling.seed == 5 else
                                   Script(tokens=b"a", failure=Failure(grpc.StatusCode.INTERNAL, "broken")))
    with pytest.raises(openai.InternalServerError, match="broken"):
        server.openai().chat.completions.create(model="bytes", messages=USER, n=2, seed=5)
    wait_until(lambda: fake.running == 0, "the other answer is given up")
    with pytest.raises(openai.APIError, match="broken"):
        list(server.openai().chat.completions.create(model="bytes", messages=USER, n=2, seed=5, stream=True))
    wait_until(lambda: fake.running == 0, "the other answer is given up")


def test_no_coordinator(model: Path) -> None:
    with serving("127.0.0.1:1", model, connect_timeout_s=0.2) as server:
        with pytest.raises(openai.InternalServerError, match="no coordinator answers at 127.0.0.1:1"):
            server.openai().chat.completions.create(model="bytes", messages=USER)
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(f"{server.url}/health", timeout=30)
        assert caught.value.code == 503


def test_no_worker(server: Serving, fake: FakeCoordinator) -> None:
    fake.has_worker = False
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"{server.url}/health", timeout=30)
    assert caught.value.code == 503 and "no GPU worker" in caught.value.read().decode()


def test_a_body_of_100_mb(server: Serving) -> None:
    """Refused by its length, or by its bytes where it has none; the answer comes when all was sent."""
    size = 100 << 20
    with pytest.raises(openai.APIStatusError) as caught:
        server.openai().chat.completions.create(model="bytes", messages=[{"role": "user", "content": "x" * size}])
    assert caught.value.status_code == 413 and "at most 67108864" in caught.value.message
    connection = http.client.HTTPConnection(server.address, timeout=60)
    sent = 0

    def chunks():  # noqa: ANN202
        nonlocal sent
        while sent < size:
            sent += 1 << 20
            yield b"x" * (1 << 20)

    connection.request("POST", "/v1/chat/completions", chunks(), encode_chunked=True,
                       headers={"Transfer-Encoding": "chunked"})
    answer = connection.getresponse()
    assert answer.status == 413
    connection.close()
    assert post(server, {"messages": USER})[0] == 200


def test_a_large_body_within_the_limit(fake: FakeCoordinator, tmp_path: Path) -> None:
    with serving(fake.address, make_byte_model(tmp_path / "large", context=1 << 30)) as server:
        content = "x" * (5 << 20)
        status, _, answer = post(server, {"messages": [{"role": "user", "content": content}], "max_tokens": 5})
        assert status == 200 and answer["usage"]["prompt_tokens"] == len(content) + 18


ALTERNATING = """{%- for message in messages -%}
{%- if (message.role == 'user') != (loop.index0 % 2 == 0) -%}
{{ raise_exception('Conversation roles must alternate user/assistant') }}
{%- endif -%}[{{ message.role }}]{{ message.content | trim }}{%- endfor -%}"""


def test_roles_out_of_order_are_the_templates_to_refuse(fake: FakeCoordinator, tmp_path: Path) -> None:
    with serving(fake.address, make_byte_model(tmp_path / "strict", template=ALTERNATING)) as server:
        for roles in (("assistant",), ("user", "user"), ("user", "assistant", "assistant"), ("system", "user")):
            status, message = refused(server, {"messages": [{"role": role, "content": "a"} for role in roles]})
            assert status == 400 and "refuses these messages: Conversation roles must alternate" in message
        assert post(server, {"messages": USER})[0] == 200
    broken = make_byte_model(tmp_path / "broken", template="{{ messages[5].content.nothing }}")
    with serving(fake.address, broken) as server:
        status, message = refused(server, {})
        assert status == 400 and "cannot be filled with these messages: UndefinedError" in message
