"""The `usage` of an answer: OpenAI's counts, and what Tributary read, kept and where the KV lay."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from tributary.events import Summary
from tributary.serve.answer import Finish


def usage_of(finishes: Sequence[Finish], prompts: int) -> dict[str, Any]:
    """Of all answers together; those to one prompt follow each other, and its tokens count once."""
    n = max(1, len(finishes) // prompts)
    prompt_tokens = sum(finish.prompt_tokens for finish in finishes[::n])
    completion_tokens = sum(finish.completion_tokens for finish in finishes)
    usage: dict[str, Any] = {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": sum(finish.cached_tokens for finish in finishes[::n])},
    }
    details = [None if finish.summary is None else details_of(finish.summary) for finish in finishes]
    if any(detail is not None for detail in details):
        usage["tributary"] = details[0] if len(details) == 1 else details
    return usage


def details_of(summary: Summary) -> dict[str, Any]:
    """null stands for what nobody knows: what was not measured, or could not be."""
    attention = summary.attention
    measured = attention is not None and attention.samples > 0
    return {
        "policy": summary.policy,
        "context_tokens": summary.context_tokens,
        "resident_tokens": summary.resident_tokens,
        "remote_tokens": summary.remote_tokens,
        "attended_tokens_mean": summary.attended_tokens_mean,
        "remote_read_share": 1.0 if attention is None else attention.remote_read_share,
        "kept_mass_mean": attention.kept_mass_mean if attention is not None and measured else None,
        "kept_mass_min": attention.kept_mass_min if attention is not None and measured else None,
        "output_error_mean": attention.output_error_mean if attention is not None and measured else None,
        "output_error_p95": attention.output_error_p95 if attention is not None and measured else None,
        "output_error_max": attention.output_error_max if attention is not None and measured else None,
        "kept_mass_samples": 0 if attention is None else attention.samples,
        "heads": [] if attention is None else [dataclasses.asdict(head) for head in attention.heads],
        "nodes": [dataclasses.asdict(node) for node in summary.nodes],
        "remote_k_dtype": summary.remote_k_dtype,
        "remote_v_dtype": summary.remote_v_dtype,
        "bytes_sent": summary.bytes_sent,
        "bytes_received": summary.bytes_received,
        "queue_s": summary.queue_s,
        "prefill_s": summary.prefill_s,
        "ttft_s": summary.ttft_s,
        "decode_s": summary.decode_s,
        "stages_s": summary.stage_s,
        "kept_s": None if summary.kept is None else summary.kept.lease_s,
    }
