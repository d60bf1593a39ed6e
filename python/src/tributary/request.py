"""A generate request, and its message. The fields and their defaults are those of the gRPC API (proto/)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tributary.errors import InvalidRequestError
from tributary.v1 import common_pb2, coordinator_pb2


def _words(enum: Any, prefix: str) -> dict[str, int]:
    """The names that users write, as the CLI has them: DTYPE_FP8_E4M3 is fp8-e4m3."""
    return {name.removeprefix(prefix).lower().replace("_", "-"): number for name, number in enum.items()}


DTYPES = {word: number for word, number in _words(common_pb2.DType, "DTYPE_").items() if number}  # 0 is unset
CUTS = _words(coordinator_pb2.Placement.Cut, "CUT_")

# A number, a count, a word, layers, or (layer, kv_head) pairs: what a policy's parameter may be set to.
PolicyValue = float | int | str | Sequence[int] | Sequence[Sequence[int]]


@dataclass(frozen=True, kw_only=True)
class Sampling:
    temperature: float = 0.0  # 0 is greedy
    top_k: int = 0  # 0 is off
    top_p: float = 1.0  # 0 and 1 are off
    seed: int = 0
    min_p: float = 0.0  # 0 is off
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0  # 0 and 1 are off
    logit_bias: Mapping[int, float] = field(default_factory=dict)  # by token


@dataclass(frozen=True, kw_only=True)
class Placement:
    """How the KV is laid out. None takes the coordinator's default."""

    window_tokens: int | None = None
    sink_tokens: int | None = None
    block_tokens: int | None = None
    all_resident: bool = False
    kv_dtype: str | None = None
    remote_k_dtype: str | None = None
    remote_v_dtype: str | None = None
    shard_cut: str = "auto"
    max_nodes: int | None = None


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What is read of the remote KV. Parameters that are not set take the policy's defaults."""

    name: str = ""
    parameters: Mapping[str, PolicyValue] = field(default_factory=dict)
    quality: str = ""
    """A named setting instead of both: exact, high, balanced or fast; the coordinator knows what it stands for."""


@dataclass(frozen=True, kw_only=True)
class Keep:
    """The sequence stays for lease_s after its answer. max_context_tokens is reserved for all turns together."""

    lease_s: float
    max_context_tokens: int = 0  # of a continuation: 0


@dataclass(frozen=True, kw_only=True)
class GenerateRequest:
    prompt_tokens: Sequence[int]
    max_tokens: int = 64
    sampling: Sampling = Sampling()
    placement: Placement = Placement()
    policy: Policy = Policy()
    stop_tokens: Sequence[int] = ()
    forced_tokens: Sequence[int] = ()
    request_id: str = ""
    ignore_eos: bool = False
    keep: Keep | None = None
    continue_request_id: str = ""
    top_logprobs: int = 0
    report_attention_heads: bool = False
    max_stall_s: float = 0
    """How long the request may stand still while who holds its KV is silent; 0: as long as the cluster allows."""

    def to_proto(self) -> coordinator_pb2.GenerateRequest:
        """InvalidRequestError names the field whose value no message can hold."""
        message = coordinator_pb2.GenerateRequest()
        for name in ("prompt_tokens", "stop_tokens", "forced_tokens"):
            _extend(getattr(message, name), name, getattr(self, name))
        for name in ("max_tokens", "request_id", "ignore_eos", "continue_request_id", "top_logprobs",
                     "report_attention_heads"):
            _set(message, name, getattr(self, name))
        _set(message, "max_stall_ns", round(self.max_stall_s * 1e9))
        _fill_sampling(message.sampling, self.sampling)
        _fill_placement(message.placement, self.placement)
        if self.policy != Policy():
            _fill_policy(message.attention_policy, self.policy)
        if self.keep is not None:
            _set(message.keep, "lease_ns", round(self.keep.lease_s * 1e9))
            _set(message.keep, "max_context_tokens", self.keep.max_context_tokens)
        return message


def _fill_sampling(message: coordinator_pb2.Sampling, sampling: Sampling) -> None:
    for one in dataclasses.fields(sampling):
        if one.name != "logit_bias":
            _set(message, one.name, getattr(sampling, one.name))
    for token, bias in sampling.logit_bias.items():
        entry = message.logit_bias.add()
        _set(entry, "token", token)
        _set(entry, "bias", bias)


def _extend(target: object, name: str, values: Sequence[int], what: str = "token id") -> None:
    try:
        target.extend(values)  # type: ignore[attr-defined]
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidRequestError(f"{name} holds what is no {what}: {error}") from None


def _set(message: object, name: str, value: object, what: str = "") -> None:
    """`what` the value is of, if not of the field."""
    try:
        setattr(message, name, value)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidRequestError(f"{what or name} cannot be {value!r}: {error}") from None


def _word(name: str, value: str, words: Mapping[str, int]) -> int:
    if value not in words:
        raise InvalidRequestError(f"{name} is {value!r}; use one of {', '.join(words)}")
    return words[value]


def _fill_placement(message: coordinator_pb2.Placement, placement: Placement) -> None:
    for name in ("window_tokens", "sink_tokens", "block_tokens", "max_nodes"):
        value = getattr(placement, name)
        if value is not None:
            _set(message, name, value)
    message.has_sink_tokens = placement.sink_tokens is not None
    for name in ("kv_dtype", "remote_k_dtype", "remote_v_dtype"):
        dtype = getattr(placement, name)
        if dtype is not None:
            setattr(message, name, _word(name, dtype, DTYPES))
    setattr(message, "cut", _word("shard_cut", placement.shard_cut, CUTS))
    _set(message, "all_resident", placement.all_resident)


def _fill_policy(message: common_pb2.AttentionPolicy, policy: Policy) -> None:
    _set(message, "name", policy.name)
    _set(message, "quality", policy.quality)
    for name, value in policy.parameters.items():
        parameter = message.parameters.add()
        _set(parameter, "name", name)
        if isinstance(value, bool):
            raise InvalidRequestError(f"policy parameter {name} is {value}; it is a number, a word or a list")
        if isinstance(value, int):
            _set(parameter, "count" if value >= 0 else "number", value, f"policy parameter {name}")
        elif isinstance(value, float):
            parameter.number = value
        elif isinstance(value, str):
            _set(parameter, "word", value, f"policy parameter {name}")
        else:
            _fill_list(parameter, name, value)


def _fill_list(parameter: common_pb2.PolicyParameter, name: str,
               value: Sequence[int] | Sequence[Sequence[int]]) -> None:
    if not isinstance(value, Sequence):
        raise InvalidRequestError(f"policy parameter {name} is {value!r}; it is a number, a word or a list")
    if value and not isinstance(value[0], int):
        for pair in value:
            if not isinstance(pair, Sequence) or len(pair) != 2:
                raise InvalidRequestError(f"policy parameter {name} holds {pair!r}, which is no [layer, kv_head]")
            head = parameter.heads.heads.add()
            _set(head, "layer", pair[0], f"a layer of policy parameter {name}")
            _set(head, "kv_head", pair[1], f"a KV head of policy parameter {name}")
        return
    parameter.layers.SetInParent()
    _extend(parameter.layers.layers, f"policy parameter {name}", value, "layer")  # type: ignore[arg-type]
