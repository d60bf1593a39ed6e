"""A chat's next turn goes on with its kept sequence where it can, and costs the whole prompt where it cannot."""

from __future__ import annotations

import threading
from pathlib import Path

import grpc
import pytest
from fake_coordinator import FakeCoordinator, Failure, Script, text, wait_until
from serving import Serving, serving

from tributary.serve.kept_chats import KeptChats, packed

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
    assert [request.continue_request_id for request in fake.requests] == ["", "request-0", "request-0"]
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
    wait_until(lambda: fake.cancelled == ["request-0"], "the old sequence is let go of")
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
    wait_until(lambda: fake.cancelled == ["request-0"], "what may be left of it is let go of")


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


def test_a_request_that_waits_gets_the_place_of_kept_chats(server: Serving, fake: FakeCoordinator) -> None:
    for content in ("a", "b", "c"):
        ask(server, [{"role": "user", "content": content}])
    accept = threading.Event()
    fake.script = lambda request: text("ok", accept=accept)
    thread = threading.Thread(target=lambda: ask(server, FIRST))
    thread.start()
    wait_until(lambda: len(fake.cancelled) >= 2, "kept chats are let go of")
    accept.set()
    thread.join(30)
    assert fake.cancelled[:2] == ["request-0", "request-1"], "the one used longest ago first"


def test_only_so_many_are_kept(fake: FakeCoordinator, model: Path) -> None:
    with serving(fake.address, model, max_kept_chats=2) as server:
        for content in ("a", "b", "c"):
            ask(server, [{"role": "user", "content": content}])
        wait_until(lambda: fake.cancelled == ["request-0"], "the oldest is let go of")
        assert sorted(fake.kept) == ["request-1", "request-2"]
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


def test_a_stop_string_ends_the_sequence(server: Serving, fake: FakeCoordinator) -> None:
    fake.script = lambda request: text("one two")
    ask(server, FIRST, stop=" two")
    wait_until(lambda: fake.running == 0, "the sequence has ended")
    answer = ask(server, after(FIRST, "one", "two"))
    assert answer.usage.prompt_tokens_details.cached_tokens == 0


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
