"""The gRPC clients, sync and async, against a scripted coordinator."""

from __future__ import annotations

import asyncio
import threading

import grpc
import pytest
from fake_coordinator import FakeCoordinator, Failure, Script, running, text, wait_until

import tributary
from tributary import (Accepted, Client, DeadlineError, GenerateRequest, InvalidRequestError, Keep, NotFoundError,
                       OverloadedError, Placement, Policy, RequestCancelledError, Sampling, ServerError, Summary,
                       Tokens, UnavailableError, aio)
from tributary.errors import error_from_rpc


def test_events_come_in_order_and_the_summary_last(fake: FakeCoordinator) -> None:
    fake.script = lambda request: text("abc", per_chunk=2)
    with Client(fake.address) as client:
        generation = client.generate([1, 2], max_tokens=9, top_logprobs=2)
        events = list(generation)
    assert isinstance(events[0], Accepted) and generation.request_id == "request-0"
    chunks = [event for event in events if isinstance(event, Tokens)]
    assert [chunk.tokens for chunk in chunks] == [(97, 98), (99, 0)]
    assert chunks[1].logprobs == (-0.25, -0.375)
    assert chunks[1].top_logprobs[0] == ((99, -0.25), (100, -1.25))
    assert isinstance(events[-1], Summary) and events[-1] == generation.summary
    assert (generation.summary.finish_reason, generation.summary.generated_tokens) == ("stop", 4)
    assert generation.summary.nodes[0].kv_bytes == 4096
    assert generation.summary.attention is None and generation.summary.kept is None


def test_every_field_reaches_the_message() -> None:
    request = GenerateRequest(
        prompt_tokens=[1], max_tokens=2, stop_tokens=[3], forced_tokens=[4], request_id="a", ignore_eos=True,
        continue_request_id="b", top_logprobs=5, report_attention_heads=True,
        keep=Keep(lease_s=1.5, max_context_tokens=6),
        sampling=Sampling(temperature=0.5, top_k=7, top_p=0.25, seed=2**64 - 1),
        placement=Placement(window_tokens=8, sink_tokens=0, block_tokens=9, all_resident=True, kv_dtype="f32",
                            remote_k_dtype="int8", remote_v_dtype="fp8-e4m3", shard_cut="heads", max_nodes=2),
        policy=Policy(name="hgca", parameters={"alpha": 0.5, "keep_min": 3, "group_aggregate": "max",
                                               "dense_layers": [0, 2], "dense_heads": [[1, 0]], "beta": 4}))
    message = request.to_proto()
    assert list(message.prompt_tokens) == [1] and message.max_tokens == 2
    assert list(message.stop_tokens) == [3] and list(message.forced_tokens) == [4]
    assert (message.request_id, message.continue_request_id) == ("a", "b")
    assert message.ignore_eos and message.report_attention_heads and message.top_logprobs == 5
    assert (message.keep.lease_ns, message.keep.max_context_tokens) == (1_500_000_000, 6)
    assert (message.sampling.temperature, message.sampling.top_k, message.sampling.top_p) == (0.5, 7, 0.25)
    assert message.sampling.seed == 2**64 - 1
    placement = message.placement
    assert placement.has_sink_tokens and (placement.window_tokens, placement.block_tokens) == (8, 9)
    assert (placement.kv_dtype, placement.remote_k_dtype, placement.remote_v_dtype) == (1, 4, 6)
    assert placement.cut == 2 and placement.all_resident and placement.max_nodes == 2
    values = {parameter.name: parameter for parameter in message.attention_policy.parameters}
    assert values["alpha"].number == 0.5 and values["keep_min"].count == 3 and values["beta"].count == 4
    assert values["group_aggregate"].word == "max" and list(values["dense_layers"].layers.layers) == [0, 2]
    assert [(head.layer, head.kv_head) for head in values["dense_heads"].heads.heads] == [(1, 0)]
    assert not GenerateRequest(prompt_tokens=[1]).to_proto().HasField("attention_policy")
    named = GenerateRequest(prompt_tokens=[1], policy=Policy(quality="high")).to_proto().attention_policy
    assert (named.name, named.quality, len(named.parameters)) == ("", "high", 0)
    assert not GenerateRequest(prompt_tokens=[1]).to_proto().placement.has_sink_tokens


@pytest.mark.parametrize("fields, named", [
    ({"max_tokens": -1}, "max_tokens"), ({"max_tokens": 1 << 32}, "max_tokens"), ({"stop_tokens": [-1]}, "stop_tokens"),
    ({"sampling": Sampling(seed=1 << 64)}, "seed"), ({"placement": Placement(kv_dtype="f64")}, "kv_dtype"),
    ({"placement": Placement(shard_cut="some")}, "shard_cut"), ({"policy": Policy(parameters={"on": True})}, "on"),
    ({"policy": Policy(parameters={"heads": [[1]]})}, "heads"), ({"request_id": 5}, "request_id"),
    ({"prompt_tokens": ["a"]}, "prompt_tokens"),
])
def test_what_no_message_can_hold_is_refused_by_name(fields: dict[str, object], named: str) -> None:
    with pytest.raises(InvalidRequestError, match=named):
        GenerateRequest(**{"prompt_tokens": [1], **fields}).to_proto()  # type: ignore[arg-type]


@pytest.mark.parametrize("code, kind", [
    (grpc.StatusCode.INVALID_ARGUMENT, InvalidRequestError), (grpc.StatusCode.NOT_FOUND, NotFoundError),
    (grpc.StatusCode.RESOURCE_EXHAUSTED, OverloadedError), (grpc.StatusCode.UNAVAILABLE, UnavailableError),
    (grpc.StatusCode.INTERNAL, ServerError), (grpc.StatusCode.DATA_LOSS, ServerError),
    (grpc.StatusCode.FAILED_PRECONDITION, tributary.PreconditionError),
    (grpc.StatusCode.OUT_OF_RANGE, tributary.OutOfRangeError),
])
def test_statuses_become_errors(fake: FakeCoordinator, code: grpc.StatusCode, kind: type) -> None:
    fake.script = lambda request: Script(tokens=[1], failure=Failure(code, "said so"))
    seen = []
    with Client(fake.address) as client, pytest.raises(kind, match="said so") as caught:
        for token in client.generate([1]).tokens():
            seen.append(token)
    assert seen == [1]
    assert caught.value.retry_after_s is None


class Silence:
    """The RpcError of a call whose connection answered no ping."""

    def __init__(self, details: str) -> None:
        self._details = details

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.UNAVAILABLE

    def details(self) -> str:
        return self._details

    def trailing_metadata(self) -> None:
        return None


@pytest.mark.parametrize("details", ["keepalive watchdog timeout", "ping timeout", "recvmsg:Connection timed out",
                                     "ipv4:127.0.0.1:7000: ping timeout"])
def test_a_coordinator_that_stands_still_is_told_apart(details: str) -> None:
    error = error_from_rpc(Silence(details), "127.0.0.1:7000")
    assert isinstance(error, UnavailableError)
    assert "127.0.0.1:7000 has answered nothing, not even a ping, for 20 s" in error.message
    # What a node did not answer to the coordinator is not this connection's.
    told = error_from_rpc(Silence("node 'cpu-0' did not open a shard: ping timeout"), "127.0.0.1:7000")
    assert "not even a ping" not in told.message


def test_the_retry_delay_is_known(fake: FakeCoordinator) -> None:
    fake.script = lambda request: Script(refused=Failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", 2.5))
    with Client(fake.address) as client, pytest.raises(OverloadedError) as caught:
        list(client.generate([1]))
    assert caught.value.retry_after_s == 2.5


def test_leaving_early_ends_the_sequence(fake: FakeCoordinator) -> None:
    never = threading.Event()
    fake.script = lambda request: text("abc", gate=never)
    with Client(fake.address) as client:
        with client.generate([1]) as generation:
            assert isinstance(next(iter(generation)), Accepted)
        wait_until(lambda: fake.gone == [0], "the sequence has ended")
        generation = client.generate([1])
        events = iter(generation)
        next(events)
        threading.Timer(0.05, generation.cancel).start()
        with pytest.raises(RequestCancelledError):
            next(events)


def test_a_timeout_ends_the_request(fake: FakeCoordinator) -> None:
    never = threading.Event()
    fake.script = lambda request: text("abc", gate=never)
    with Client(fake.address) as client, pytest.raises(DeadlineError):
        list(client.generate([1], timeout_s=1))
    wait_until(lambda: len(fake.gone) == len(fake.requests), "the sequence, if there was one yet, has ended")


def test_nobody_there() -> None:
    with Client("127.0.0.1:1", connect_timeout_s=0.3) as client:
        with pytest.raises(UnavailableError, match="no coordinator answers at 127.0.0.1:1"):
            client.generate([1])
        with pytest.raises(UnavailableError):
            client.status()


def test_a_client_outlives_its_coordinator() -> None:
    with running(FakeCoordinator()) as first:
        client = Client(first.address, connect_timeout_s=20)
        assert list(client.generate([1]).tokens()) == [*b"ok", 0]
        address = first.address
    with running(FakeCoordinator(address=address)):
        assert list(client.generate([1]).tokens()) == [*b"ok", 0]
    client.close()


def test_a_coordinator_that_goes_away_half_way(fake: FakeCoordinator) -> None:
    never = threading.Event()
    with running(FakeCoordinator(script=lambda request: text("abc", gate=never))) as mortal:
        client = Client(mortal.address)
        events = iter(client.generate([1]))
        next(events)
    with pytest.raises(UnavailableError, match=mortal.address):
        list(events)
    client.close()


def test_cancel_and_status(fake: FakeCoordinator) -> None:
    fake.kept["chat"] = [1]
    with Client(fake.address) as client:
        status = client.status()
        assert (status.vocab_size, status.model_name, status.can_generate()) == (256, "fake", True)
        client.cancel("chat")
        with pytest.raises(NotFoundError):
            client.cancel("chat")
    assert fake.cancelled == ["chat", "chat"]


def test_fields_beside_a_request_are_a_mistake(fake: FakeCoordinator) -> None:
    with Client(fake.address) as client, pytest.raises(TypeError):
        client.generate(GenerateRequest(prompt_tokens=[1]), max_tokens=2)


def test_the_async_client_does_the_same(fake: FakeCoordinator) -> None:
    fake.script = lambda request: (text("abc") if request.max_tokens == 64 else
                                   Script(refused=Failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", 2.5)))

    async def ask() -> None:
        async with aio.Client(fake.address) as client:
            generation = await client.generate([1])
            assert [token async for token in generation.tokens()] == [*b"abc", 0]
            assert generation.summary is not None and generation.request_id == "request-0"
            with pytest.raises(OverloadedError) as caught:
                async for _ in await client.generate([1], max_tokens=1):
                    pass
            assert caught.value.retry_after_s == 2.5
            assert (await client.status()).can_generate()
            with pytest.raises(NotFoundError):
                await client.cancel("nothing")

    asyncio.run(ask())


def test_a_cancelled_task_ends_its_sequence(fake: FakeCoordinator) -> None:
    never = threading.Event()
    fake.script = lambda request: text("abc", gate=never)

    async def ask() -> None:
        async with aio.Client(fake.address) as client:
            async def wait() -> None:
                async for _ in await client.generate([1]):
                    pass

            task = asyncio.create_task(wait())
            while not fake.requests:
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(ask())
    wait_until(lambda: fake.gone == [0], "the sequence has ended")


def test_nobody_there_async() -> None:
    async def ask() -> None:
        async with aio.Client("127.0.0.1:1", connect_timeout_s=0.3) as client:
            with pytest.raises(UnavailableError, match="127.0.0.1:1"):
                await client.generate([1])

    asyncio.run(ask())
