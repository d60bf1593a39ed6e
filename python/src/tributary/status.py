"""What a coordinator says about its cluster."""

from __future__ import annotations

from dataclasses import dataclass

from tributary.v1 import common_pb2, coordinator_pb2

_ROLES = {common_pb2.NODE_ROLE_GPU_WORKER: "gpu_worker", common_pb2.NODE_ROLE_CPU_ATTENTION: "cpu_attention"}


@dataclass(frozen=True)
class Node:
    node_id: str
    role: str  # gpu_worker, cpu_attention
    state: str  # alive, suspect, dead, draining
    capacity_bytes: int
    free_bytes: int
    shards: int
    sequences: int
    metrics_address: str


@dataclass(frozen=True)
class KeptSequence:
    request_id: str
    lease_left_s: float
    context_tokens: int
    max_context_tokens: int
    resident_bytes: int
    shard_bytes: int


@dataclass(frozen=True)
class ClusterStatus:
    version: str
    model_name: str  # "" until a GPU worker has registered, as the geometry
    vocab_size: int
    num_layers: int
    num_kv_heads: int
    requests_running: int
    requests_waiting: int
    nodes: tuple[Node, ...]
    kept_sequences: tuple[KeptSequence, ...]

    def can_generate(self) -> bool:
        return any(node.role == "gpu_worker" and node.state == "alive" for node in self.nodes)


def status_from_proto(message: coordinator_pb2.StatusResponse) -> ClusterStatus:
    return ClusterStatus(
        version=message.version,
        model_name=message.geometry.model_name,
        vocab_size=message.geometry.vocab_size,
        num_layers=message.geometry.num_layers,
        num_kv_heads=message.geometry.num_kv_heads,
        requests_running=message.requests_running,
        requests_waiting=message.requests_waiting,
        nodes=tuple(Node(node.endpoint.node_id, _ROLES.get(node.role, "unknown"), node.state, node.capacity_bytes,
                         node.free_bytes, node.shards, node.sequences, node.metrics_address)
                    for node in message.nodes),
        kept_sequences=tuple(KeptSequence(kept.request_id, kept.lease_left_s, kept.context_tokens,
                                          kept.max_context_tokens, kept.resident_bytes, kept.shard_bytes)
                             for kept in message.kept_sequences))
