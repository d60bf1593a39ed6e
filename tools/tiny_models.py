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
YARN_SCALING = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
# A prompt of 200 tokens is short, and the answer grows beyond it: then the factors are others.
LONGROPE_SCALING = {
    "type": "longrope",
    "short_factor": [1.0, 1.0, 1.1, 1.2, 1.3, 1.5, 1.8, 2.0],
    "long_factor": [1.0, 1.2, 1.5, 2.0, 3.0, 4.5, 6.0, 8.0],
}


def _gemma_layers(count: int, pattern: int) -> list[str]:
    return ["sliding_attention" if (i + 1) % pattern else "full_attention" for i in range(count)]


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
    # Prompts of 200 tokens and windows, original contexts of 64: most positions lie beyond them.
    "linear": _config("llama", LLAMA, "bfloat16", 4, 2, 10000.0, rope_scaling={"rope_type": "linear", "factor": 4.0}),
    "dynamic": _config(
        "llama", LLAMA, "bfloat16", 4, 2, 10000.0, rope_scaling={"rope_type": "dynamic", "factor": 4.0},
        max_position_embeddings=64,
    ),
    "yarn": _config(
        "qwen2", "Qwen2ForCausalLM", "bfloat16", 4, 2, 1000000.0, rope_scaling=YARN_SCALING, sliding_window=None,
    ),
    "phi3": _config(
        "phi3", "Phi3ForCausalLM", "bfloat16", 4, 2, 10000.0, rope_scaling=LONGROPE_SCALING, sliding_window=None,
        original_max_position_embeddings=208, pad_token_id=None,
    ),
    "smollm3": _config(
        "smollm3", "SmolLM3ForCausalLM", "bfloat16", 4, 2, 2000000.0, num_hidden_layers=4, tie_word_embeddings=True,
        no_rope_layer_interval=4, no_rope_layers=[1, 1, 1, 0], pad_token_id=None, use_sliding_window=False,
    ),
    "olmo2": _config("olmo2", "Olmo2ForCausalLM", "bfloat16", 4, 2, 500000.0, attention_bias=False, pad_token_id=None),
    "granite": _config(
        "granite", "GraniteForCausalLM", "bfloat16", 4, 2, 10000.0, tie_word_embeddings=True, embedding_multiplier=3.0,
        attention_multiplier=0.2, residual_multiplier=0.5, logits_scaling=0.5,
    ),
    "mixtral": _config(
        "mixtral", "MixtralForCausalLM", "bfloat16", 4, 2, 1000000.0, sliding_window=None, num_local_experts=4,
        num_experts_per_tok=2, intermediate_size=48,
    ),
    "qwen3_moe": _config(
        "qwen3_moe", "Qwen3MoeForCausalLM", "bfloat16", 4, 2, 1000000.0, head_dim=32, num_hidden_layers=3,
        use_sliding_window=False, sliding_window=None, num_experts=8, num_experts_per_tok=3, moe_intermediate_size=32,
        norm_topk_prob=True, decoder_sparse_step=1, mlp_only_layers=[1],
    ),
    "mistral_sliding": _config(
        "mistral", MISTRAL, "bfloat16", 4, 2, 10000.0, head_dim=16, sliding_window=64, num_hidden_layers=3,
    ),
    "qwen2_sliding": _config(
        "qwen2", "Qwen2ForCausalLM", "bfloat16", 4, 2, 1000000.0, use_sliding_window=True, sliding_window=64,
        max_window_layers=1, num_hidden_layers=3,
    ),
    "gemma3": _config(
        "gemma3_text", "Gemma3ForCausalLM", "bfloat16", 4, 2, 1000000.0, head_dim=32, hidden_act=None,
        hidden_activation="gelu_pytorch_tanh", tie_word_embeddings=True, query_pre_attn_scalar=32, sliding_window=64,
        sliding_window_pattern=3, num_hidden_layers=4, rope_local_base_freq=10000.0, rms_norm_eps=1e-6,
        rope_scaling={"rope_type": "linear", "factor": 8.0}, layer_types=_gemma_layers(4, 3),
        final_logit_softcapping=None, attn_logit_softcapping=None,
    ),
    "gpt_oss": _config(
        "gpt_oss", "GptOssForCausalLM", "bfloat16", 4, 2, 150000.0, head_dim=32, num_hidden_layers=4,
        attention_bias=True, sliding_window=64, layer_types=_gemma_layers(4, 2), num_local_experts=4,
        num_experts_per_tok=2, intermediate_size=48, swiglu_limit=7.0,
        rope_scaling={**YARN_SCALING, "truncate": False},
    ),
    # A quarter of a head's elements does not turn: six pairs do.
    "phi3_partial": _config(
        "phi3", "Phi3ForCausalLM", "bfloat16", 4, 2, 10000.0, partial_rotary_factor=0.75, sliding_window=None,
        rope_scaling={key: value if key == "type" else value[:6] for key, value in LONGROPE_SCALING.items()},
        original_max_position_embeddings=208, pad_token_id=None, tie_word_embeddings=True,
    ),
    "glm": _config(
        "glm", "GlmForCausalLM", "bfloat16", 4, 2, 10000.0, partial_rotary_factor=0.5, head_dim=32, attention_bias=True,
        pad_token_id=None,
    ),
    "glm4": _config(
        "glm4", "Glm4ForCausalLM", "bfloat16", 4, 2, 10000.0, partial_rotary_factor=0.5, head_dim=16,
        attention_bias=False, pad_token_id=None,
    ),
    # Caps that matter: scores have a deviation of some units, and so have logits.
    "gemma2": _config(
        "gemma2", "Gemma2ForCausalLM", "bfloat16", 4, 2, 10000.0, head_dim=32, hidden_act="gelu_pytorch_tanh",
        hidden_activation="gelu_pytorch_tanh", tie_word_embeddings=True, query_pre_attn_scalar=24, sliding_window=64,
        num_hidden_layers=4, rms_norm_eps=1e-6, attn_logit_softcapping=2.0, final_logit_softcapping=5.0,
    ),
    # Families whose published configs have a window, or a place for one.
    "phi3_sliding": _config(
        "phi3", "Phi3ForCausalLM", "bfloat16", 4, 2, 10000.0, sliding_window=64, pad_token_id=None,
    ),
    "mixtral_sliding": _config(
        "mixtral", "MixtralForCausalLM", "bfloat16", 4, 2, 1000000.0, sliding_window=64, num_local_experts=4,
        num_experts_per_tok=2, intermediate_size=48,
    ),
    "qwen3_sliding": _config(
        "qwen3", "Qwen3ForCausalLM", "bfloat16", 4, 2, 1000000.0, rms_norm_eps=1e-6, head_dim=16, attention_bias=False,
        use_sliding_window=True, sliding_window=64, max_window_layers=1, num_hidden_layers=3,
    ),
    "qwen3_moe_sliding": _config(
        "qwen3_moe", "Qwen3MoeForCausalLM", "bfloat16", 4, 2, 1000000.0, head_dim=16, use_sliding_window=True,
        sliding_window=64, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32, norm_topk_prob=True,
        decoder_sparse_step=1, mlp_only_layers=[],
    ),
    "smollm3_sliding": _config(
        "smollm3", "SmolLM3ForCausalLM", "bfloat16", 4, 2, 2000000.0, num_hidden_layers=4, tie_word_embeddings=True,
        no_rope_layer_interval=4, no_rope_layers=[1, 1, 1, 0], pad_token_id=None, use_sliding_window=True,
        sliding_window=64,
    ),
}  # fmt: skip
NAMES = tuple(CONFIGS)
SHARDS = {"llama3_sharded": 3}


def _mlp_shapes(c: dict, at: str, layer: int) -> dict[str, tuple[int, ...]]:
    """An MLP, a fused one, or experts with their router."""
    hidden, inner, family = c["hidden_size"], c["intermediate_size"], c["model_type"]
    if family in ("phi3", "glm", "glm4"):
        return {at + "mlp.gate_up_proj.weight": (2 * inner, hidden), at + "mlp.down_proj.weight": (hidden, inner)}
    if family == "gpt_oss":
        count, block = c["num_local_experts"], at + "mlp."
        return {
            block + "router.weight": (count, hidden),
            block + "router.bias": (count,),
            block + "experts.gate_up_proj": (count, hidden, 2 * inner),
            block + "experts.gate_up_proj_bias": (count, 2 * inner),
            block + "experts.down_proj": (count, inner, hidden),
            block + "experts.down_proj_bias": (count, hidden),
        }
    if family == "mixtral":
        block, count, names = at + "block_sparse_moe.", c["num_local_experts"], ("w1", "w3", "w2")
    elif family == "qwen3_moe" and layer not in c["mlp_only_layers"]:
        block, count, names = at + "mlp.", c["num_experts"], ("gate_proj", "up_proj", "down_proj")
        inner = c["moe_intermediate_size"]
    else:
        up = dict.fromkeys((at + "mlp.gate_proj.weight", at + "mlp.up_proj.weight"), (inner, hidden))
        return {**up, at + "mlp.down_proj.weight": (hidden, inner)}
    shapes: dict[str, tuple[int, ...]] = {block + "gate.weight": (count, hidden)}
    for i in range(count):
        for name, shape in zip(names, ((inner, hidden), (inner, hidden), (hidden, inner)), strict=True):
            shapes[f"{block}experts.{i}.{name}.weight"] = shape
    return shapes


def _norm_names(family: str) -> list[str]:
    if family == "olmo2":
        return ["post_attention_layernorm", "post_feedforward_layernorm"]
    names = ["input_layernorm", "post_attention_layernorm"]
    if family == "glm4":
        return [*names, "post_self_attn_layernorm", "post_mlp_layernorm"]
    behind = ["pre_feedforward_layernorm", "post_feedforward_layernorm"]
    return [*names, *behind] if family in ("gemma2", "gemma3_text") else names


def _shapes(c: dict) -> dict[str, tuple[int, ...]]:
    """Every tensor of the checkpoint, in the order of the layers."""
    hidden, family = c["hidden_size"], c["model_type"]
    head = c.get("head_dim") or hidden // c["num_attention_heads"]
    kv_rows = c["num_key_value_heads"] * head
    rows = {"q": c["num_attention_heads"] * head, "k": kv_rows, "v": kv_rows}
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (c["vocab_size"], hidden)}
    for i in range(c["num_hidden_layers"]):
        at = f"model.layers.{i}."
        norms = _norm_names(family)
        shapes[at + norms[0] + ".weight"] = (hidden,)
        if family == "phi3":
            shapes[at + "self_attn.qkv_proj.weight"] = (sum(rows.values()), hidden)
        else:
            for letter, size in rows.items():
                shapes[at + f"self_attn.{letter}_proj.weight"] = (size, hidden)
                if family == "qwen2" or c.get("attention_bias"):
                    shapes[at + f"self_attn.{letter}_proj.bias"] = (size,)
        if family in ("qwen3", "qwen3_moe", "gemma3_text"):
            shapes[at + "self_attn.q_norm.weight"] = shapes[at + "self_attn.k_norm.weight"] = (head,)
        if family == "olmo2":
            shapes[at + "self_attn.q_norm.weight"] = (rows["q"],)
            shapes[at + "self_attn.k_norm.weight"] = (rows["k"],)
        shapes[at + "self_attn.o_proj.weight"] = (hidden, rows["q"])
        if family == "gpt_oss":
            shapes[at + "self_attn.o_proj.bias"] = (hidden,)
            shapes[at + "self_attn.sinks"] = (c["num_attention_heads"],)
        for name in norms[1:]:
            shapes[at + name + ".weight"] = (hidden,)
        shapes.update(_mlp_shapes(c, at, i))
    shapes["model.norm.weight"] = (hidden,)
    if not c["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (c["vocab_size"], hidden)
    return shapes


def _draw(name: str, shape: tuple[int, ...], generator: torch.Generator, family: str) -> Tensor:
    """Large enough that attention is peaked and logits are not flat, and no norm weight is one."""
    noise = torch.randn(shape, generator=generator)
    if "norm" in name:
        return 0.3 * noise if family.startswith("gemma") else 1.0 + 0.3 * noise  # Gemma stores them less 1
    if name.endswith("sinks"):
        return 2.0 + 1.5 * noise
    if name.endswith("bias"):
        return 0.5 * noise
    if "embed_tokens" in name:
        return 0.5 * noise
    if name.endswith("experts.gate_up_proj"):
        return noise * (6.0 / math.sqrt(shape[1]))  # so that some are clamped
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
    tensors = {n: _draw(n, s, generator, config["model_type"]).to(dtype) for n, s in _shapes(config).items()}
    if name in SHARDS:
        _save_sharded(tensors, folder, SHARDS[name])
    else:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    stated = {key: value for key, value in config.items() if key != "hidden_act" or value is not None}
    (folder / "config.json").write_text(json.dumps(stated, indent=2) + "\n")
    for file in folder.iterdir():
        file.chmod(0o644)
