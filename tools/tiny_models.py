"""Tiny random checkpoints in the files of real ones: one per model family and storage type that a loader must read.

The configs keep the names that published checkpoints of the family use (rope_theta and rope_scaling at the top level).
"""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

COMMON = {
    "hidden_act": "silu",
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "max_position_embeddings": 2048,
    "initializer_range": 0.02,
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "use_cache": True,
}


def _config(
    family: str, architecture: str, dtype: str, heads: int, kv_heads: int, theta: float, **more: object
) -> dict:
    fixed = {"architectures": [architecture], "model_type": family, "torch_dtype": dtype}
    sizes = {"num_attention_heads": heads, "num_key_value_heads": kv_heads, "rope_theta": theta, "rope_scaling": None}
    return {**fixed, **COMMON, **sizes, "rms_norm_eps": 1e-5, "tie_word_embeddings": False, **more}


# Original context 64: of a 200-token prompt most positions lie where scaled and plain RoPE differ.
LLAMA31_SCALING = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
LLAMA, MISTRAL = "LlamaForCausalLM", "MistralForCausalLM"
CONFIGS = {
    "llama2": _config("llama", LLAMA, "float32", 4, 4, 10000.0),
    "llama3": _config("llama", LLAMA, "bfloat16", 8, 2, 500000.0),
    "llama31": _config(
        "llama", LLAMA, "bfloat16", 4, 2, 500000.0, rope_scaling=LLAMA31_SCALING, tie_word_embeddings=True,
        num_hidden_layers=3,
    ),
    "mistral": _config("mistral", MISTRAL, "float16", 4, 2, 1000000.0, head_dim=32, sliding_window=None),
    "qwen2": _config(
        "qwen2", "Qwen2ForCausalLM", "bfloat16", 4, 2, 1000000.0, rms_norm_eps=1e-6, tie_word_embeddings=True,
        use_sliding_window=False, sliding_window=2048, max_window_layers=2,
    ),
    "qwen3": _config(
        "qwen3", "Qwen3ForCausalLM", "bfloat16", 4, 2, 1000000.0, rms_norm_eps=1e-6, tie_word_embeddings=False,
        head_dim=32, attention_bias=False, use_sliding_window=False, sliding_window=None, max_window_layers=2,
    ),
    "llama3_sharded": _config("llama", LLAMA, "float32", 8, 2, 500000.0, num_hidden_layers=3, intermediate_size=64),
}  # fmt: skip
NAMES = tuple(CONFIGS)
SHARDS = {"llama3_sharded": 3}


def _shapes(c: dict) -> dict[str, tuple[int, ...]]:
    """Every tensor of the checkpoint, in the order of the layers."""
    hidden, inner = c["hidden_size"], c["intermediate_size"]
    head = c.get("head_dim") or hidden // c["num_attention_heads"]
    kv_rows = c["num_key_value_heads"] * head
    rows = {"q": c["num_attention_heads"] * head, "k": kv_rows, "v": kv_rows}
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (c["vocab_size"], hidden)}
    for i in range(c["num_hidden_layers"]):
        at = f"model.layers.{i}."
        shapes[at + "input_layernorm.weight"] = (hidden,)
        for letter, size in rows.items():
            shapes[at + f"self_attn.{letter}_proj.weight"] = (size, hidden)
            if c["model_type"] == "qwen2":
                shapes[at + f"self_attn.{letter}_proj.bias"] = (size,)
        if c["model_type"] == "qwen3":
            shapes[at + "self_attn.q_norm.weight"] = shapes[at + "self_attn.k_norm.weight"] = (head,)
        shapes[at + "self_attn.o_proj.weight"] = (hidden, rows["q"])
        shapes[at + "post_attention_layernorm.weight"] = (hidden,)
        shapes[at + "mlp.gate_proj.weight"] = shapes[at + "mlp.up_proj.weight"] = (inner, hidden)
        shapes[at + "mlp.down_proj.weight"] = (hidden, inner)
    shapes["model.norm.weight"] = (hidden,)
    if not c["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (c["vocab_size"], hidden)
    return shapes


def _draw(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Large enough that attention is peaked and logits are not flat, and no norm weight is one."""
    noise = torch.randn(shape, generator=generator)
    if "norm" in name:
        return 1.0 + 0.3 * noise
    if name.endswith("bias"):
        return 0.5 * noise
    if "embed_tokens" in name:
        return 0.5 * noise
    return noise * (1.6 / math.sqrt(shape[1]))


def _save_sharded(tensors: dict[str, Tensor], folder: Path, count: int) -> None:
    """Shards of about equal size and their index, named as the Hub names them."""
    total = sum(t.numel() * t.element_size() for t in tensors.values())
    shards: list[dict[str, Tensor]] = [{} for _ in range(count)]
    seen = 0
    for name, tensor in tensors.items():
        shards[min(count - 1, seen * count // total)][name] = tensor
        seen += tensor.numel() * tensor.element_size()
    weight_map = {}
    for i, shard in enumerate(shards):
        file = f"model-{i + 1:05d}-of-{count:05d}.safetensors"
        save_file(shard, folder / file, metadata={"format": "pt"})
        weight_map.update({name: file for name in shard})
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def create(name: str, folder: Path, seed: int) -> None:
    """Writes config.json and the weights of one tiny model, replacing what the folder held."""
    config = CONFIGS[name]
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(seed * 100 + NAMES.index(name))
    dtype = getattr(torch, config["torch_dtype"])
    tensors = {n: _draw(n, s, generator).to(dtype) for n, s in _shapes(config).items()}
    if name in SHARDS:
        _save_sharded(tensors, folder, SHARDS[name])
    else:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    for file in folder.iterdir():
        file.chmod(0o644)
