"""The cluster as the page shows it: what the coordinator says, and what each node's metrics add up to by now."""

from __future__ import annotations

import asyncio
import dataclasses
import math
import time
from collections.abc import Iterable
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tributary import aio
from tributary.status import Node

Json = dict[str, Any]

_AGE_S = 0.2  # however many pages look, nodes are asked that often
_SCRAPE_TIMEOUT_S = 1.0
_MAX_SCRAPE_BYTES = 4 << 20

# What is taken of a node's metrics, and its name on the page. Of a histogram: _sum and _count.
_TAKEN = {
    "tributary_decode_step_duration_seconds_sum": "step_s",
    "tributary_decode_step_duration_seconds_count": "steps",
    "tributary_batch_size_sum": "sequence_steps",
    "tributary_appended_tokens_total": "appended_tokens",
    "tributary_sparse_covered_tokens_total": "covered_tokens",
    "tributary_sparse_attended_tokens_total": "attended_tokens",
    "tributary_kept_mass_mean_ratio_sum": "kept_mass",
    "tributary_kept_mass_mean_ratio_count": "kept_mass_samples",
    "tributary_attention_output_error_sum": "output_error",
    "tributary_attention_output_error_count": "output_error_samples",
    "tributary_resident_pool_capacity_bytes": "resident_capacity_bytes",
    "tributary_resident_pool_used_bytes": "resident_used_bytes",
    "tributary_attention_compute_seconds_sum": "compute_s",
    "tributary_attention_compute_seconds_count": "queries",
    "tributary_attention_attended_tokens_total": "attended_tokens",
    "tributary_attention_covered_tokens_total": "covered_tokens",
}
_PHASE = "tributary_decode_phase_duration_seconds_sum"
_WANTED = (*_TAKEN, _PHASE)
_MAX_WANTED_LINES = 1024  # parsing a line takes some 10 us of everybody's time


class ClusterView:
    """For one event loop."""

    def __init__(self, client: aio.Client) -> None:
        self._client = client
        self._one_at_a_time = asyncio.Lock()
        self._latest: Json = {}
        self._made_s = -_AGE_S

    async def snapshot(self) -> Json:
        """At most a fifth of a second old. Counts rise from each node's start; time_s is a clock to compare them by.
        TributaryError if the coordinator does not answer."""
        async with self._one_at_a_time:
            if time.monotonic() - self._made_s >= _AGE_S:
                self._latest = await self._look()
                self._made_s = time.monotonic()
            return self._latest

    async def _look(self) -> Json:
        status = await self._client.status()
        figures = await asyncio.gather(*(_figures_of(node) for node in status.nodes))
        nodes = [{**dataclasses.asdict(node), "figures": found} for node, found in zip(status.nodes, figures)]
        return {
            "time_s": time.monotonic(),
            "model": status.model_name, "layers": status.num_layers, "kv_heads": status.num_kv_heads,
            "running": status.requests_running, "waiting": status.requests_waiting, "nodes": nodes,
            "kept": [dataclasses.asdict(sequence) for sequence in status.kept_sequences],
        }


async def _figures_of(node: Node) -> Json | None:
    """None if its metrics cannot be had: it may be gone, or serve none."""
    if node.state == "dead" or not node.metrics_address:
        return None
    try:
        return figures_in(await asyncio.wait_for(_scrape(node.metrics_address), _SCRAPE_TIMEOUT_S))
    except (OSError, ValueError, OverflowError, asyncio.TimeoutError, asyncio.LimitOverrunError):
        return None


async def _scrape(address: str) -> str:
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    try:
        writer.write(f"GET /metrics HTTP/1.0\r\nHost: {address}\r\n\r\n".encode())
        answer = bytearray()
        while chunk := await reader.read(1 << 16):
            answer += chunk
            if len(answer) > _MAX_SCRAPE_BYTES:
                raise ValueError(f"the metrics at {address} have more than {_MAX_SCRAPE_BYTES} bytes")
    finally:
        writer.close()
    head, _, body = bytes(answer).partition(b"\r\n\r\n")
    if head.split(b" ")[1:2] != [b"200"]:
        raise ValueError(f"the metrics at {address} are not there: {head[:64]!r}")
    return body.decode()


def figures_in(exposition: str) -> Json:
    """Of a node's metrics, all of them finite. ValueError if what is wanted of them cannot be read."""
    figures: Json = {}
    phases: dict[str, float] = {}
    for sample in _samples(exposition):
        if sample.name == _PHASE:
            phases[sample.labels.get("phase", "")] = sample.value
        elif sample.name in _TAKEN:
            name = _TAKEN[sample.name]
            figures[name] = figures.get(name, 0) + sample.value
    figures = {name: value for name, value in figures.items() if math.isfinite(value)}
    if phases:
        figures["phases_s"] = phases
    return figures


def _samples(exposition: str) -> Iterable[Any]:
    lines = [line for line in exposition.split("\n") if line.startswith(_WANTED)]
    if len(lines) > _MAX_WANTED_LINES:
        raise ValueError(f"{len(lines)} lines of metrics that are wanted; at most {_MAX_WANTED_LINES} are read")
    for family in text_string_to_metric_families("".join(line + "\n" for line in lines)):
        yield from (sample for sample in family.samples if math.isfinite(sample.value))
