"""A chat's next turn goes on with its kept sequence where it can, and costs the whole prompt where it cannot."""

from __future__ import annotations

import asyncio
import http.client
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import grpc
import openai
import pytest
from fake_coordinator import FakeCoordinator, Failure, Script, text, wait_until
from serving import Serving, serving

from tributary.serve.kept_chats import KeptChats, packed
from tributary.serve.making_room import MakingRoom
from tributary.serve.settings import Settings

FIRST = [{"role": "user", "content": "one"}]


def ask(server: Serving, messages: list[dict[str, str]], **fields: object):  # noqa: ANN201
    return server.openai().chat.completions.create(
        **{"model": server.model, "messages": messages, "max_tokens": 20, **fields})


def after(messages: list[dict[str, str]], answer: str, more: str) -> list[dict[str, str]]:
    return [*messages, {"role": "assistant", "content": answer}, {"role": "user", "content": more}]


def test_the_next_turn_costs_its_own_tokens(server: Serving, fake: FakeCoordinator) -> None:
    fake.script = lambda request: text("yes")
    first = ask(server, FIRST)
    second = ask(server, after(FIRST, "yes", "two"))
    third = ask(server, after(after(FIRST, "yes", "two"), "yes", "three"))
    assert [answer.usage.prompt_tokens_details.cached_tokens for answer in (first, second, third)] == [0, 25, 50]
    assert [answer.usage.prompt_tokens for answer in (first, second, third)] == [21, 46, 73]
    name = fake.requests[0].request_id
    assert name and [request.continue_request_id for request in fake.requests] == ["", name, name]
    assert bytes(fake.requests[1].prompt_tokens) == b"[user]two\0[assistant]"
    first_keep, second_keep = fake.requests[0].keep, fake.requests[1].keep
    assert first_keep.lease_ns == second_keep.lease_ns == 300 * 10**9
    assert first_keep.max_context_tokens == 1001, "what the context allows: it is less than the room asked for"
    assert second_keep.max_context_tokens == 0
    # What the cluster then has is what a request with all of it would have had.
    whole = "[user]one\0[assistant]yes\0[user]two\0[assistant]yes\0[user]three\0[assistant]yes\0"
    assert [bytes(tokens).decode() for tokens in fake.kept.values()] == [whole]


def test_streams_go_on_too(server: Serving, fake: FakeCoordinator) -> None:
    ask(server, FIRST)
    chunks = list(ask(server, after(FIRST, "ok", "two"), stream=True, stream_options={"include_usage": True}))
    assert chunks[-1].usage.prompt_tokens_details.cached_tokens == 24


@pytest.mark.parametrize("change", [
    {"messages": after([{"role": "user", "content": "onE"}], "ok", "two")},
    {"messages": after(FIRST, "ok ", "two")},
    {"messages": FIRST},
    {"extra_body": {"tributary": {"policy": "hgca"}}},
    {"extra_body": {"tributary": {"keep": False}}},
    {"n": 2},
])
def test_what_differs_costs_the_whole_prompt(server: Serving, fake: FakeCoordinator, change: dict) -> None:
    ask(server, FIRST)
    answer = ask(server, **{"messages": after(FIRST, "ok", "two"), **change})
    assert answer.usage.prompt_tokens_details.cached_tokens == 0
    assert all(not request.continue_request_id for request in fake.requests)
    assert len(fake.requests[-1].prompt_tokens) == answer.usage.prompt_tokens


def test_a_turn_that_needs_more_than_was_reserved(server: Serving, fake: FakeCoordinator) -> None:
    fake.growth_tokens = 40
    ask(server, FIRST)
    answer = ask(server, after(FIRST, "ok", "two"))
    assert answer.usage.prompt_tokens_details.cached_tokens == 0 and fake.requests[1].keep.max_context_tokens == 1001
    wait_until(lambda: fake.cancelled == [fake.requests[0].request_id], "the old sequence is let go of")
    fake.growth_tokens = 41
    ask(server, FIRST)
    assert ask(server, after(FIRST, "ok", "two")).usage.prompt_tokens_details.cached_tokens == 24


@pytest.mark.parametrize("code", [grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION,
                                  grpc.StatusCode.OUT_OF_RANGE])
def test_a_lease_that_is_gone(server: Serving, fake: FakeCoordinator, code: grpc.StatusCode) -> None:
    fake.script = lambda request: Script(refused=Failure(code, "gone")) if request.continue_request_id else text("ok")
    ask(server, FIRST)
    answer = ask(server, after(FIRST, "ok", "two"))
    assert answer.choices[0].message.content == "ok" and answer.usage.prompt_tokens_details.cached_tokens == 0
    assert [len(request.prompt_tokens) for request in fake.requests] == [21, 21, 45]
    wait_until(lambda: fake.cancelled == [fake.requests[0].request_id], "what may be left of it is let go of")


def test_an_error_of_a_continuation_is_the_answer(server: Serving, fake: FakeCoordinator) -> None:
    fake.script = lambda request: (Script(refused=Failure(grpc.StatusCode.INTERNAL, "broken"))
                                   if request.continue_request_id else text("ok"))
    ask(server, FIRST)
    with pytest.raises(Exception, match="broken"):
        ask(server, after(FIRST, "ok", "two"))
    assert len(fake.requests) == 2


def test_no_room_to_keep(server: Serving, fake: FakeCoordinator) -> None:
    fake.script = lambda request: (Script(refused=Failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "64 are kept", 1))
                                   if request.keep.lease_ns else text("ok"))
    assert ask(server, FIRST).choices[0].message.content == "ok"
    assert [bool(request.keep.lease_ns) for request in fake.requests] == [True, False]


@contextmanager
def waiting(server: Serving, fake: FakeCoordinator, script: Callable[..., Script]) -> Iterator[None]:
    """While a request waits; it gets its place at the end, and its answer."""
    accept = threading.Event()
    fake.script = lambda request: script("ok", accept=accept)
    thread = threading.Thread(target=lambda: ask(server, FIRST))
    thread.start()
    try:
        yield
    finally:
        accept.set()
        thread.join(30)


def test_who_queues_for_room_gets_that_of_kept_chats(fake: FakeCoordinator, model: Path) -> None:
    with serving(fake.address, model, patience_s=0.01) as server:
        for content in ("a", "b", "c"):
            ask(server, [{"role": "user", "content": content}])
        with waiting(server, fake, text):
            wait_until(lambda: len(fake.cancelled) >= 2, "kept chats are let go of")
    assert fake.cancelled[:2] == [request.request_id for request in fake.requests[:2]], "the oldest first"


def test_new_chats_are_not_held_up_by_kept_ones() -> None:
    """While kept chats fill the memory, a new one begins each patience_s at most: a second of it was the bound of a
    serving benchmark, whatever the cluster could do."""
    assert Settings().patience_s <= 0.05


def test_who_waits_for_something_else_costs_no_kept_chat(fake: FakeCoordinator, model: Path) -> None:
    with serving(fake.address, model, patience_s=0.01) as server:
        ask(server, [{"role": "user", "content": "a"}])
        with waiting(server, fake, partial(text, queues=False)):
            wait_until(lambda: fake.status_calls >= 5, "the server has asked again and again")
            assert fake.cancelled == [] and len(fake.kept) == 1


def test_those_who_queue_together_cost_one_kept_chat_at_a_time() -> None:
    class Client:
        async def status(self) -> SimpleNamespace:
            return SimpleNamespace(requests_waiting=8)

    num_inside = most_inside = num_begun = 0

    async def drive() -> None:
        let_go = asyncio.Event()

        async def give_way() -> bool:
            nonlocal num_inside, most_inside, num_begun
            num_begun += 1
            num_inside += 1
            most_inside = max(most_inside, num_inside)
            await let_go.wait()
            num_inside -= 1
            return True

        making_room = MakingRoom(Client(), give_way, 0)  # type: ignore[arg-type]
        tasks = [asyncio.create_task(making_room.while_waiting()) for _ in range(8)]
        for _ in range(1000):  # turns of the loop; nothing here waits for anything else
            await asyncio.sleep(0)
        assert num_begun == 1, "the others wait until the chat is gone"
        let_go.set()
        while num_begun < 50:
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

    asyncio.run(drive())
    assert most_inside == 1


def test_only_so_many_are_kept(fake: FakeCoordinator, model: Path) -> None:
    with serving(fake.address, model, max_kept_chats=2) as server:
        for content in ("a", "b", "c"):
            ask(server, [{"role": "user", "content": content}])
        names = [request.request_id for request in fake.requests]
        wait_until(lambda: fake.cancelled == names[:1], "the oldest is let go of")
        assert sorted(fake.kept) == sorted(names[1:])
    assert fake.kept == {}, "a server that ends lets go of all"
    with serving(fake.address, model, max_kept_chats=0) as server:
        ask(server, FIRST)
    assert not fake.requests[-1].keep.lease_ns


def test_keys_do_not_share(fake: FakeCoordinator, model: Path) -> None:
    with serving(fake.address, model, keys=("mine", "yours")) as server:
        for key in ("mine", "yours"):
            answer = server.openai(api_key=key).chat.completions.create(
                model="bytes", messages=FIRST if key == "mine" else after(FIRST, "ok", "two"))
            assert answer.usage.prompt_tokens_details.cached_tokens == 0


def nothing_is_kept(fake: FakeCoordinator) -> None:
    names = {request.request_id for request in fake.requests if request.request_id}
    wait_until(lambda: names <= set(fake.cancelled), "every sequence that was asked to stay is let go of")
    wait_until(lambda: fake.running == 0, "no sequence runs")
    assert not fake.kept


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("stop", [" two", "o", "two"])
@pytest.mark.parametrize("per_chunk", [1, 100])
def test_what_a_stop_string_ended_is_let_go_of(server: Serving, fake: FakeCoordinator, stream: bool, stop: str,
                                               per_chunk: int) -> None:
    """Also one that is found in the last token: then the cluster has kept the sequence already."""
    fake.script = lambda request: text("one two", end=False, per_chunk=per_chunk)
    answer = ask(server, FIRST, stop=stop, stream=stream)
    if stream:
        assert [chunk for chunk in answer][-1].choices[0].finish_reason == "stop"
    nothing_is_kept(fake)
    assert ask(server, after(FIRST, "one", "two")).usage.prompt_tokens_details.cached_tokens == 0


def test_a_stop_string_that_only_the_end_completes(server: Serving, fake: FakeCoordinator) -> None:
    fake.script = lambda request: Script(tokens=b"one\xe2\x82")  # a character that breaks off is U+FFFD
    answer = ask(server, FIRST, stop="\ufffd")
    assert answer.choices[0].message.content == "one" and answer.choices[0].finish_reason == "stop"
    nothing_is_kept(fake)


def leave(server: Serving, messages: list[dict[str, str]], until: Callable[[], object], what: str) -> None:
    connection = http.client.HTTPConnection(server.address, timeout=30)
    body = json.dumps({"messages": messages, "stream": True, "max_tokens": 20})
    connection.request("POST", "/v1/chat/completions", body)
    wait_until(until, what)
    connection.close()


def test_what_its_reader_left_is_let_go_of(server: Serving, fake: FakeCoordinator) -> None:
    """Before its first token, before its end, and of a later turn."""
    gate, end = threading.Event(), threading.Event()
    for script in (partial(text, "ok", gate=gate), partial(text, "ok", before_summary=end)):
        fake.script = lambda request, script=script: script()
        leave(server, FIRST, lambda: fake.running == 1, "it runs")
        nothing_is_kept(fake)
    fake.script = lambda request: text("ok")
    ask(server, FIRST)
    fake.script = lambda request: text("ok", gate=gate)
    leave(server, after(FIRST, "ok", "two"), lambda: fake.running == 1, "the second turn runs")
    nothing_is_kept(fake)


def test_a_reader_that_leaves_just_as_the_answer_ends(fake: FakeCoordinator, model: Path) -> None:
    """The cluster has ended the answer and kept the sequence, but no reader has had its end."""
    fake.script = lambda request: text("x" * 4000, end=False, per_chunk=50)  # more than the connection takes
    settings = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**settings, "max_position_embeddings": 100_000}))
    body = json.dumps({"messages": FIRST, "stream": True, "max_tokens": 4000, "logprobs": True, "top_logprobs": 20})
    with serving(fake.address, model) as server:
        connection = http.client.HTTPConnection(server.address, timeout=30)
        connection.request("POST", "/v1/chat/completions", body)
        wait_until(lambda: len(fake.kept) == 1, "the cluster has kept it")
        connection.close()
        nothing_is_kept(fake)


@pytest.mark.parametrize("failed", [Script(refused=Failure(grpc.StatusCode.INTERNAL, "broken")),
                                    Script(tokens=b"o", failure=Failure(grpc.StatusCode.INTERNAL, "broken"))])
def test_what_failed_is_let_go_of(server: Serving, fake: FakeCoordinator, failed: Script) -> None:
    fake.script = lambda request: failed
    with pytest.raises(openai.InternalServerError, match="broken"):
        ask(server, FIRST)
    nothing_is_kept(fake)
    fake.script = lambda request: failed if request.continue_request_id else text("ok")
    ask(server, FIRST)
    with pytest.raises(openai.InternalServerError, match="broken"):
        ask(server, after(FIRST, "ok", "two"))
    nothing_is_kept(fake)


def test_a_completion_is_kept_if_it_asks(server: Serving, fake: FakeCoordinator) -> None:
    client = server.openai()
    client.completions.create(model="bytes", prompt="abc")
    assert not fake.requests[0].keep.lease_ns
    for prompt in ("abc", "abcok\0 and more"):
        client.completions.create(model="bytes", prompt=prompt, extra_body={"tributary": {"keep": True}})
    assert bytes(fake.requests[2].prompt_tokens) == b" and more"


def test_the_table() -> None:
    now = [0.0]
    chats = KeptChats(2, clock=lambda: now[0])
    assert chats.put("a", "x", packed([1, 2]), growth_tokens=9, lease_s=10) == []
    assert chats.put("b", "x", packed([1, 2, 3]), growth_tokens=9, lease_s=20) == []
    assert chats.take("x", [1, 2, 3]).request_id == "a", "a turn has tokens of its own"
    assert [chat.request_id for chat in chats.put("a", "x", packed([1, 2]), growth_tokens=9, lease_s=10)] == []
    assert chats.take("y", [1, 2, 3, 4]) is None
    assert chats.take("x", [1, 2, 4]).num_tokens == 2
    chats.put("a", "x", packed([1, 2]), growth_tokens=9, lease_s=10)
    assert [chat.request_id for chat in chats.put("c", "x", packed([9]), growth_tokens=9, lease_s=10)] == ["b"]
    now[0] = 9.5
    assert chats.take("x", [1, 2, 3, 4]) is None, "its lease is as good as over"
    assert chats.take("x", [258]) is None and chats.take_oldest() is None
