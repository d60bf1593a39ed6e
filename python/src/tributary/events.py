"""What a coordinator tells about a request, in the order of arrival: Accepted, Prefill, Tokens ..., Summary.

Stalled and Resumed may come between any two of them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from tributary.errors import ServerError
from tributary.request import DTYPES
from tributary.v1 import coordinator_pb2

_DTYPE_NAMES = {number: name for name, number in DTYPES.items()}


@dataclass(frozen=True)
class Accepted:
    """The request has its place: it does not wait any more."""

    request_id: str
    sequence_id: int
    worker_id: str


@dataclass(frozen=True)
class Prefill:
    fraction: float


@dataclass(frozen=True)
class Tokens:
    """Some tokens of the answer; logprobs are natural, under the model at temperature 1."""

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    top_logprobs: tuple[tuple[tuple[int, float], ...], ...]  # of each token, if asked for: (id, logprob), best first


@dataclass(frozen=True)
class NodeShare:
    """Where remote KV lay: `tokens` that the node answered for."""

    node_id: str
    shards: int
    tokens: int
    kv_bytes: int


@dataclass(frozen=True)
class HeadQuality:
    """What one KV head read and kept over the sampled steps."""

    layer: int
    kv_head: int
    read_share: float
    kept_mass_mean: float
    kept_mass_min: float
    output_error_mean: float
    output_error_p95: float
    output_error_max: float


@dataclass(frozen=True)
class AttentionQuality:
    """What a sparse policy read of the remote tokens, which share of their softmax mass that held, and how wrong it
    made the attention's output."""

    remote_read_share: float
    samples: int  # steps that were measured; if 0, the kept masses say nothing
    kept_mass_mean: float
    kept_mass_min: float
    fallback_heads: int
    output_error_mean: float  # of the layer's largest output, over query heads
    output_error_p95: float
    output_error_max: float
    heads: tuple[HeadQuality, ...]


@dataclass(frozen=True)
class Kept:
    """The sequence stays under this name, and may grow by growth_tokens."""

    request_id: str
    lease_s: float
    max_context_tokens: int
    growth_tokens: int


@dataclass(frozen=True)
class Summary:
    finish_reason: str  # "stop" or "length"
    prompt_tokens: int  # of this turn
    generated_tokens: int
    queue_s: float
    prefill_s: float
    ttft_s: float
    decode_s: float
    context_tokens: int
    resident_tokens: int
    remote_tokens: int
    attended_tokens_mean: float
    policy: str
    bytes_sent: int
    bytes_received: int
    remote_k_dtype: str | None
    remote_v_dtype: str | None
    nodes: tuple[NodeShare, ...]
    stage_s: dict[str, float]  # mean of a decode step
    attention: AttentionQuality | None
    kept: Kept | None


@dataclass(frozen=True)
class Stalled:
    """The answer stands still because of this node or worker, and goes on with the same tokens: it is silent, or
    (reason "rebuilding") gone, and what it held is computed again. May come again, with another reason, before
    Resumed."""

    node_id: str
    reason: str = "silent"


@dataclass(frozen=True)
class Resumed:
    """The answer goes on after Stalled."""


Event = Accepted | Prefill | Tokens | Stalled | Resumed | Summary

_SUMMARY_SCALARS = ("finish_reason", "prompt_tokens", "generated_tokens", "queue_s", "prefill_s", "ttft_s", "decode_s",
                    "context_tokens", "resident_tokens", "remote_tokens", "attended_tokens_mean", "policy",
                    "bytes_sent", "bytes_received")


_HEAD_FIELDS = tuple(field.name for field in dataclasses.fields(HeadQuality))


def event_from_proto(message: coordinator_pb2.GenerateEvent) -> Event:
    """ServerError for an event that this package does not know: the coordinator is newer."""
    kind = message.WhichOneof("event")
    if kind == "tokens":
        chunk = message.tokens
        return Tokens(tuple(chunk.tokens), tuple(chunk.logprobs),
                      tuple(tuple(zip(top.tokens, top.logprobs)) for top in chunk.top_logprobs))
    if kind == "accepted":
        return Accepted(message.accepted.request_id, message.accepted.sequence_id, message.accepted.worker_id)
    if kind == "prefill":
        return Prefill(message.prefill.fraction)
    if kind == "stalled":
        rebuilding = message.stalled.reason == coordinator_pb2.GenerateEvent.Stalled.REASON_REBUILDING
        return Stalled(message.stalled.node_id, "rebuilding" if rebuilding else "silent")
    if kind == "resumed":
        return Resumed()
    if kind == "summary":
        return _summary(message.summary)
    raise ServerError(f"the coordinator sent an event of an unknown kind ({kind}); is this package older than it?")


def _summary(message: Any) -> Summary:
    attention = message.attention if message.HasField("attention") else None
    kept = message.kept if message.HasField("kept") else None
    return Summary(
        **{name: getattr(message, name) for name in _SUMMARY_SCALARS},
        remote_k_dtype=_DTYPE_NAMES.get(message.remote_k_dtype),
        remote_v_dtype=_DTYPE_NAMES.get(message.remote_v_dtype),
        nodes=tuple(NodeShare(node.node_id, node.shards, node.tokens, node.kv_bytes) for node in message.nodes),
        stage_s={stage.stage: stage.seconds for stage in message.stages},
        attention=attention and AttentionQuality(
            attention.remote_read_share, attention.samples, attention.kept_mass_mean, attention.kept_mass_min,
            attention.fallback_heads, attention.output_error_mean, attention.output_error_p95,
            attention.output_error_max, tuple(HeadQuality(*(getattr(head, name) for name in _HEAD_FIELDS))
                                              for head in attention.heads)),
        kept=kept and Kept(kept.request_id, kept.lease_ns / 1e9, kept.max_context_tokens, kept.growth_tokens))
