"""How long a context of a model may be, by its config.json: the engine's rule, ModelConfig::max_context_tokens()."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

MAX_CONTEXT_TOKENS = 1 << 31  # base/limits.h
# max_position_embeddings of a family whose file does not say: model/model_families.cc.
FAMILY_CONTEXTS: Mapping[str, int] = {
    "llama": 2048, "mistral": 131072, "qwen2": 32768, "qwen3": 32768, "phi3": 4096, "smollm3": 32768, "olmo2": 2048,
    "granite": 2048, "gemma2": 8192, "gemma3_text": 131072, "mixtral": 131072, "qwen3_moe": 32768, "gpt_oss": 131072,
    "glm": 131072, "glm4": 131072,
}


def max_context_tokens(config: Mapping[str, Any]) -> int | None:
    """max_position_embeddings, or as many times more as dynamic RoPE is made for; None if nothing says it. Other kinds
    of scaling are counted in max_position_embeddings already."""
    positions = config.get("max_position_embeddings")
    if positions is None and isinstance(config.get("model_type"), str):
        positions = FAMILY_CONTEXTS.get(config["model_type"])
    if not isinstance(positions, int) or isinstance(positions, bool) or positions < 1:
        return None
    factor = max((_dynamic_factor(rope) for rope in _ropes(config)), default=1.0)
    return int(min(factor * positions, MAX_CONTEXT_TOKENS))


def _ropes(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The objects of RoPE's parameters: one, or one for each kind of layer. Old files call it rope_scaling, new ones
    rope_parameters; of two the old one counts, if it says anything."""
    rope = config.get("rope_scaling") or config.get("rope_parameters")
    if not isinstance(rope, dict):
        return
    kinds = [rope[kind] for kind in ("full_attention", "sliding_attention") if isinstance(rope.get(kind), dict)]
    yield from kinds or [rope]


def _dynamic_factor(rope: Mapping[str, Any]) -> float:
    kind = rope["type"] if rope.get("type") is not None and rope.get("rope_type") is None else rope.get("rope_type")
    factor = rope.get("factor")
    if kind != "dynamic" or not isinstance(factor, (int, float)) or isinstance(factor, bool):
        return 1.0
    return float(min(max(factor, 1), MAX_CONTEXT_TOKENS))
