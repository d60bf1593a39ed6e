"""A coordinator in this process that answers by a script: for tests that need no model, and see every call."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import grpc
import grpc.aio

from tributary.v1 import common_pb2, coordinator_pb2, coordinator_pb2_grpc, rpc_status_pb2

VOCAB = 256


@dataclass
class Failure:
    code: grpc.StatusCode
    message: str
    retry_after_s: float | None = None


@dataclass
class Script:
    """What comes of one request."""

    tokens: Sequence[int] = ()
    finish_reason: str = "stop"
    per_chunk: int = 1
    failure: Failure | None = None  # instead of the summary
    refused: Failure | None = None  # instead of everything
    gate: threading.Event | None = None  # tokens come when it is set
    accept: threading.Event | None = None  # the request has its place when it is set
    queues: bool = True  # until then it is in the coordinator's queue, for want of a place
    before_summary: threading.Event | None = None  # the answer has its last token, but ends when it is set
    logprobs: Sequence[float] | None = None


def text(answer: str, end: bool = True, **rest: object) -> Script:
    return Script(tokens=[*answer.encode(), *([0] if end else [])], **rest)  # type: ignore[arg-type]


@dataclass
class FakeCoordinator(coordinator_pb2_grpc.CoordinatorServicer):
    script: Callable[[coordinator_pb2.GenerateRequest], Script] = lambda request: text("ok")
    address: str = ""
    requests: list[coordinator_pb2.GenerateRequest] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)  # by Cancel calls
    gone: list[int] = field(default_factory=list)  # requests whose client left, by their number
    kept: dict[str, list[int]] = field(default_factory=dict)
    has_worker: bool = True
    growth_tokens: int = 4000  # what a kept sequence may have besides
    metrics_address: str = ""  # of its worker
    node_metrics_addresses: dict[str, str] = field(default_factory=dict)  # of its CPU attention nodes, by their ids
    status_calls: int = 0
    queued: int = 0
    running: int = 0
    most_running: int = 0

    async def Generate(self, request, context):  # noqa: N802, ANN001, ANN201 - gRPC's name
        number = len(self.requests)
        self.requests.append(request)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            async for event in self._events(number, request, context):
                yield event
        except asyncio.CancelledError:
            self.gone.append(number)
            raise
        finally:
            self.running -= 1

    async def _events(self, number, request, context):  # noqa: ANN001, ANN202
        script = self.script(request)
        if script.refused is not None:
            await fail(context, script.refused)
        before: list[int] = []
        if request.continue_request_id:
            if request.continue_request_id not in self.kept:
                await fail(context, Failure(grpc.StatusCode.NOT_FOUND, "no kept sequence is named so"))
            before = self.kept.pop(request.continue_request_id)
        self.queued += script.queues
        try:
            await until(script.accept)
        finally:
            self.queued -= script.queues
        name = request.continue_request_id or request.request_id or f"request-{number}"
        event = coordinator_pb2.GenerateEvent()
        event.accepted.request_id = name
        yield event
        await until(script.gate)
        tokens = [*request.forced_tokens, *script.tokens][:request.max_tokens]
        for begin in range(0, len(tokens), script.per_chunk):
            yield chunk(tokens[begin:begin + script.per_chunk], begin, request.top_logprobs, script.logprobs)
        if script.failure is not None:
            await fail(context, script.failure)
        await until(script.before_summary)
        if request.keep.lease_ns:
            self.kept[name] = [*before, *request.prompt_tokens, *tokens]
        yield summary(request, script, len(tokens), name, self.growth_tokens)

    async def Cancel(self, request, context):  # noqa: N802, ANN001, ANN201
        self.cancelled.append(request.request_id)
        if self.kept.pop(request.request_id, None) is None:
            await fail(context, Failure(grpc.StatusCode.NOT_FOUND, "nothing is named so"))
        return coordinator_pb2.CancelResponse()

    async def Status(self, request, context):  # noqa: N802, ANN001, ANN201
        self.status_calls += 1
        status = coordinator_pb2.StatusResponse(version="0.1.0", requests_running=self.running,
                                                requests_waiting=self.queued)
        status.geometry.vocab_size = VOCAB
        status.geometry.model_name = "fake"
        status.geometry.num_layers = 2
        if self.has_worker:
            node = status.nodes.add(role=common_pb2.NODE_ROLE_GPU_WORKER, state="alive")
            node.endpoint.node_id = "gpu-0"
            node.metrics_address = self.metrics_address
        for node_id, address in self.node_metrics_addresses.items():
            node = status.nodes.add(role=common_pb2.NODE_ROLE_CPU_ATTENTION, state="alive", metrics_address=address)
            node.endpoint.node_id = node_id
        return status


async def until(event: threading.Event | None) -> None:
    """Looks less often the longer it takes: thousands may wait."""
    pause_s = 0.005
    while event is not None and not event.is_set():
        await asyncio.sleep(pause_s)
        pause_s = min(1.5 * pause_s, 0.5)


async def fail(context, failure: Failure) -> None:  # noqa: ANN001
    metadata = ()
    if failure.retry_after_s is not None:
        retry = rpc_status_pb2.RetryInfo()
        retry.retry_delay.FromMilliseconds(round(failure.retry_after_s * 1000))
        details = rpc_status_pb2.RpcStatus(code=failure.code.value[0], message=failure.message)
        any_detail = details.details.add()
        any_detail.type_url = "type.googleapis.com/google.rpc.RetryInfo"
        any_detail.value = retry.SerializeToString()
        metadata = (("grpc-status-details-bin", details.SerializeToString()),)
    await context.abort(failure.code, failure.message, metadata)


def chunk(tokens: Sequence[int], begin: int, top: int,
          logprobs: Sequence[float] | None) -> coordinator_pb2.GenerateEvent:
    event = coordinator_pb2.GenerateEvent()
    event.tokens.tokens.extend(tokens)
    values = [-(begin + i) / 8 for i in range(len(tokens))] if logprobs is None else logprobs[begin:][:len(tokens)]
    event.tokens.logprobs.extend(values)
    if top:
        for token, value in zip(tokens, values):
            entry = event.tokens.top_logprobs.add()
            entry.tokens.extend([token, *((token + 1 + i) % VOCAB for i in range(top - 1))])
            entry.logprobs.extend([value, *(value - 1 - i for i in range(top - 1))])
    return event


def summary(request: coordinator_pb2.GenerateRequest, script: Script, generated: int,
            name: str, growth_tokens: int) -> coordinator_pb2.GenerateEvent:
    event = coordinator_pb2.GenerateEvent()
    made = event.summary
    made.finish_reason = "length" if generated == request.max_tokens else script.finish_reason
    made.prompt_tokens = len(request.prompt_tokens)
    made.generated_tokens = generated
    made.policy = request.attention_policy.name or "dense"
    made.remote_tokens = 7
    node = made.nodes.add()
    node.node_id, node.shards, node.tokens, node.kv_bytes = "cpu-0", 1, 7, 4096
    if request.attention_policy.name:
        made.attention.remote_read_share = 0.25
        made.attention.samples = 2
        made.attention.kept_mass_mean = 0.75
        made.attention.kept_mass_min = 0.5
        made.attention.output_error_mean = 0.0125
    if request.keep.lease_ns:
        made.kept.request_id = name
        made.kept.lease_ns = request.keep.lease_ns
        made.kept.growth_tokens = growth_tokens
    return event


@contextmanager
def running(fake: FakeCoordinator) -> Iterator[FakeCoordinator]:
    """Serves on a thread of its own; fake.address is where."""
    started = threading.Event()
    stop: list[Callable[[], None]] = []

    async def serve() -> None:
        server = grpc.aio.server(options=[("grpc.max_receive_message_length", -1)])
        coordinator_pb2_grpc.add_CoordinatorServicer_to_server(fake, server)
        fake.address = f"127.0.0.1:{server.add_insecure_port(fake.address or '127.0.0.1:0')}"
        await server.start()
        loop, ending = asyncio.get_running_loop(), asyncio.Event()
        stop.append(lambda: loop.call_soon_threadsafe(ending.set))
        started.set()
        await ending.wait()
        await server.stop(None)

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    assert started.wait(30), "the fake coordinator did not start"
    try:
        yield fake
    finally:
        stop[0]()
        thread.join(30)


def wait_until(condition: Callable[[], object], what: str, timeout_s: float = 30) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"after {timeout_s} s still not true: {what}"
        time.sleep(0.01)
