#!/usr/bin/env python3
"""Writes a Hugging Face folder from a GGUF file: a Llama whose tokenizer is SmolLM's, weights in bf16.

    python3 tools/gguf_to_hf.py --gguf FILE --out FOLDER

Needs gguf and numpy (tools/packages/python.txt). The same file gives the same bytes. Weights: what gguf dequantises,
rounded to bf16 to the nearest, ties to even; the rows of q and k are put back into the order that Hugging Face's RoPE
wants. What this does not know, it refuses by name. `./dev model smollm2` is its user.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import re
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import gguf
import numpy as np

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

OUTER_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
SPECIAL = gguf.TokenType.CONTROL


class Refusal(Exception):
    """The file holds something that this cannot write faithfully."""


class Source:
    """A GGUF file: its metadata by key, and its tensors."""

    def __init__(self, path: Path):
        self.reader = gguf.GGUFReader(path)
        self.expect("general.architecture", "llama")

    def get(self, key: str):
        field = self.reader.get_field(key)
        if field is None:
            raise Refusal(f"the file has no '{key}'")
        return field.contents()

    def has(self, key: str) -> bool:
        return self.reader.get_field(key) is not None

    def expect(self, key: str, value) -> None:
        if self.get(key) != value:
            raise Refusal(f"'{key}' is {self.get(key)!r}; this reads {value!r} only")

    def tensor_names(self) -> set[str]:
        return {tensor.name for tensor in self.reader.tensors}


def shortest_f32(value: float) -> float:
    """The decimal that was meant: 1e-05 for the f32 9.999999747378752e-06."""
    return float(np.format_float_scientific(np.float32(value), unique=True))


def hf_name(name: str) -> str:
    match = re.fullmatch(r"(?:blk\.(\d+)\.)?(\w+)\.weight", name)
    layer, part = match.groups() if match else (None, None)
    known = (LAYER_NAMES if layer is not None else OUTER_NAMES).get(part)
    if known is None:
        raise Refusal(f"tensor '{name}' has no place in a Llama")
    return f"{known}.weight" if layer is None else f"model.layers.{layer}.{known}.weight"


def unpermuted(rows: np.ndarray, num_heads: int) -> np.ndarray:
    """llama.cpp keeps the two halves of a head's rows interleaved; Hugging Face has one half after the other."""
    head_dim = rows.shape[0] // num_heads
    return rows.reshape(num_heads, head_dim // 2, 2, rows.shape[1]).swapaxes(1, 2).reshape(rows.shape)


def bf16_bits(values: np.ndarray) -> np.ndarray:
    """f32 to bf16, to the nearest, ties to even."""
    if not np.isfinite(values).all():
        raise Refusal("a weight is not finite")
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    return ((bits + (np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))) >> np.uint32(16)).astype("<u2")


def weights(source: Source) -> Iterator[tuple[str, tuple[int, ...], Callable[[], np.ndarray]]]:
    """(name, shape, what computes the bf16 bits) of each tensor, in the file's order."""
    num_heads = {
        "attn_q": source.get("llama.attention.head_count"),
        "attn_k": source.get("llama.attention.head_count_kv"),
    }
    for tensor in source.reader.tensors:
        shape = tuple(int(size) for size in reversed(tensor.shape))  # GGUF states the innermost size first
        part = tensor.name.split(".")[-2]

        def compute(tensor=tensor, shape=shape, part=part) -> np.ndarray:
            values = gguf.dequantize(tensor.data, tensor.tensor_type).reshape(shape)
            return bf16_bits(unpermuted(values, num_heads[part]) if part in num_heads else values)

        yield hf_name(tensor.name), shape, compute


def write_weights(source: Source, path: Path) -> int:
    """model.safetensors; returns the number of tensors. One tensor at a time is in memory."""
    entries = list(weights(source))
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape, _ in entries:
        begin, end = end, end + 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [begin, end]}
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(head)) + head)
        for _, _, compute in entries:
            file.write(memoryview(compute()).cast("B"))
        flush(file)
    return len(entries)


def config(source: Source) -> dict[str, object]:
    num_heads, hidden = source.get("llama.attention.head_count"), source.get("llama.embedding_length")
    source.expect("llama.rope.dimension_count", hidden // num_heads)
    for key in ("llama.rope.scaling.type", "llama.attention.key_length", "llama.expert_count"):
        if source.has(key):
            raise Refusal(f"'{key}' is {source.get(key)!r}; this reads files without it only")
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "bos_token_id": source.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": source.get("tokenizer.ggml.eos_token_id"),
        "head_dim": hidden // num_heads,
        "hidden_act": "silu",
        "hidden_size": hidden,
        "intermediate_size": source.get("llama.feed_forward_length"),
        "max_position_embeddings": source.get("llama.context_length"),
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": num_heads,
        "num_hidden_layers": source.get("llama.block_count"),
        "num_key_value_heads": source.get("llama.attention.head_count_kv"),
        "pad_token_id": source.get("tokenizer.ggml.padding_token_id"),
        "rms_norm_eps": shortest_f32(source.get("llama.attention.layer_norm_rms_epsilon")),
        "rope_scaling": None,
        "rope_theta": shortest_f32(source.get("llama.rope.freq_base")),
        "tie_word_embeddings": "output.weight" not in source.tensor_names(),
        "torch_dtype": "bfloat16",
        "vocab_size": source.get("llama.vocab_size"),
    }


def added_tokens(source: Source) -> list[dict[str, object]]:
    """The special tokens, as tokenizer.json has them."""
    types = source.get("tokenizer.ggml.token_type")
    if set(types) - {gguf.TokenType.NORMAL, SPECIAL}:
        raise Refusal(f"'tokenizer.ggml.token_type' has {set(types)}; this reads normal and control tokens only")
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    tokens = source.get("tokenizer.ggml.tokens")
    return [{"id": i, "content": tokens[i], **plain} for i, kind in enumerate(types) if kind == SPECIAL]


def tokenizer(source: Source) -> dict[str, object]:
    """tokenizer.json: BPE over the bytes of GPT-2's pieces, each digit alone ("smollm" in llama.cpp)."""
    source.expect("tokenizer.ggml.model", "gpt2")
    source.expect("tokenizer.ggml.pre", "smollm")
    source.expect("tokenizer.ggml.add_space_prefix", False)
    source.expect("tokenizer.ggml.add_bos_token", False)
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added_tokens(source),
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{"type": "Digits", "individual_digits": True}, byte_level],
        },
        "post_processor": None,
        "decoder": {**byte_level, "add_prefix_space": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: i for i, token in enumerate(source.get("tokenizer.ggml.tokens"))},
            "merges": source.get("tokenizer.ggml.merges"),
        },
    }


def tokenizer_config(source: Source) -> dict[str, object]:
    tokens = source.get("tokenizer.ggml.tokens")
    return {
        "add_prefix_space": False,
        "added_tokens_decoder": {
            str(token["id"]): {key: value for key, value in token.items() if key != "id"}
            for token in added_tokens(source)
        },
        "bos_token": tokens[source.get("tokenizer.ggml.bos_token_id")],
        "chat_template": source.get("tokenizer.chat_template"),
        "clean_up_tokenization_spaces": False,
        "eos_token": tokens[source.get("tokenizer.ggml.eos_token_id")],
        "model_max_length": source.get("llama.context_length"),
        "pad_token": tokens[source.get("tokenizer.ggml.padding_token_id")],
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": tokens[source.get("tokenizer.ggml.unknown_token_id")],
    }


def generation_config(source: Source) -> dict[str, object]:
    return {
        "bos_token_id": source.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": source.get("tokenizer.ggml.eos_token_id"),
        "pad_token_id": source.get("tokenizer.ggml.padding_token_id"),
    }


def flush(file) -> None:
    """To the disk, so that a folder that is renamed afterwards is whole."""
    file.flush()
    os.fsync(file.fileno())


def write_json(path: Path, content: dict[str, object]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write(json.dumps(content, ensure_ascii=False, indent=2) + "\n")
        flush(file)


def convert(gguf_file: Path, folder: Path) -> int:
    """Writes the five files; returns the number of tensors."""
    source = Source(gguf_file)
    makers = {
        "config.json": config,
        "generation_config.json": generation_config,
        "tokenizer.json": tokenizer,
        "tokenizer_config.json": tokenizer_config,
    }
    contents = {name: make(source) for name, make in makers.items()}  # refusals come before anything is written
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        write_json(folder / name, content)
    return write_weights(source, folder / "model.safetensors")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gguf", type=Path, required=True, help="file to read")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    args = parser.parse_args()
    try:
        num_tensors = convert(args.gguf, args.out)
    except Refusal as refusal:
        print(f"{args.gguf}: {refusal}", file=sys.stderr)
        return 1
    except OSError as error:
        what = "there is no room left on its disk" if error.errno in NO_ROOM else error.strerror
        print(f"{error.filename or args.out}: {what}", file=sys.stderr)
        return 1
    print(f"{num_tensors} tensors")
    return 0


if __name__ == "__main__":
    sys.exit(main())
