#!/usr/bin/env python3
"""What HF Transformers says of models/smollm2: whether the folder is right, and golden log-probabilities.

    python3 tools/smollm2_reference.py check --model models/smollm2 --gguf build/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
    python3 tools/smollm2_reference.py golden --model models/smollm2 --out tests/smollm2

`check`: Transformers reads the GGUF file; its weights, rounded to bf16, must be those of the folder bit for bit, and
its tokens of several texts those of the folder's tokenizer.json. `golden`: prompts and what Transformers answers in
float32 on a CPU; tests/smollm2/README.md says what the files hold. Needs torch, transformers, accelerate, gguf.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import pre_tokenizers
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache, PreTrainedModel, PreTrainedTokenizerFast

import hf_reference

ROOT = Path(__file__).resolve().parent.parent
LENGTHS = {"500": 500, "2k": 2000, "7k": 7000}
NEW_TOKENS = 64
TOP = 32  # likeliest tokens whose log-probabilities are kept
MIN_MARGIN = 1e-3  # of golden tokens: ten times what a run may be off, so that all of them can be compared
TEXTS = [
    "Hello, world! It's a test; they'll see, won't they?",
    "In 2024, 1234567890 people paid $3.14159 for 007 things (v1.2.3-rc4), at 12:45:59.",
    "def f(x: int) -> list[int]:\n    return [i ** 2 for i in range(x) if i % 2 == 0]  # squares\n",
    "for (uint32_t i = 0; i < n; ++i) {\n\tsum += a[i] * b[i];\n}\n\n\n#include <vector>\r\n",
    "Grüße aus München, naïve café; Αθήνα, Москва, 東京は日本の首都です。 مرحبا",
    "emoji 😀👩\u200d🚀, ½ ² Ⅷ ٣٤٥ 零, zero\u00a0width\u200bjoin, e\u0301",
    "  leading blanks,   inner  blanks\t\ttabs \n \n  trailing   ",
    "<|im_start|>user\nWhat is 12 + 30?<|im_end|>\n<|im_start|>assistant\n",
    "<|endoftext|><repo_name>a/b<file_sep>x.py\nprint('<|im_end|> inside')<empty_output>",
    "",
    "a",
    "THE QUICK BROWN FOX'S DON'T I'LL we're WE'VE",
]


def check_weights(model_folder: Path, gguf: Path) -> int:
    """The number of tensors compared; leaves with an error at the first bit that differs."""
    ours = load_file(model_folder / "model.safetensors")
    reader = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    theirs = dict(reader.state_dict())
    if theirs.pop("lm_head.weight").data_ptr() != theirs["model.embed_tokens.weight"].data_ptr():
        raise SystemExit("Transformers does not tie the embeddings of this file")
    if set(ours) != set(theirs):
        raise SystemExit(f"names differ: {sorted(set(ours) ^ set(theirs))[:5]}")
    for name, weight in theirs.items():
        wanted = weight.to(torch.bfloat16)
        ours_bits, wanted_bits = ours[name].view(torch.int16), wanted.view(torch.int16)
        if ours[name].dtype != torch.bfloat16 or not torch.equal(ours_bits, wanted_bits):
            raise SystemExit(f"{name} is not what Transformers reads")
    folder = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.bfloat16)
    loaded = folder.state_dict()
    if any(not torch.equal(loaded[name], weight) for name, weight in ours.items()):
        raise SystemExit("Transformers does not read the folder's weights as they are")
    for key in ("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers", "num_key_value_heads",
                "head_dim", "max_position_embeddings", "rope_theta", "tie_word_embeddings", "vocab_size",
                "bos_token_id", "eos_token_id"):
        if getattr(folder.config, key) != getattr(reader.config, key):
            raise SystemExit(f"config: {key} is {getattr(folder.config, key)}, in GGUF {getattr(reader.config, key)}")
    return len(ours)


def split_at_digits(tokenizer: PreTrainedTokenizerFast) -> None:
    """What the file's "smollm" means and Transformers leaves out: every numeral is a piece of its own."""
    backend = tokenizer.backend_tokenizer
    digits = pre_tokenizers.Digits(individual_digits=True)
    backend.pre_tokenizer = pre_tokenizers.Sequence([digits, backend.pre_tokenizer])


def check_tokenizer(model_folder: Path, gguf: Path) -> int:
    """The number of texts compared. Transformers puts <|im_start|> before every text, which the file says not to do,
    and does not split at numerals, which shows at those beyond ASCII and after several blanks."""
    ours = AutoTokenizer.from_pretrained(model_folder)
    as_read, split = (AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name) for _ in range(2))
    split_at_digits(split)
    if ours.chat_template != as_read.chat_template:
        raise SystemExit("the chat templates differ")
    files = ("models/probe/persuasion.txt", "LICENSE", "tools/smollm2.py")
    texts = TEXTS + [(ROOT / name).read_text() for name in files]
    for text in texts:
        tokens = ours.encode(text)
        if ours.decode(tokens) != text:
            raise SystemExit(f"{text[:40]!r} is decoded as {ours.decode(tokens)[:40]!r}")
        shows = any(c.isnumeric() and not c.isascii() for c in text) or re.search(r"\s\s\d", text)
        for theirs in [split] if shows else [split, as_read]:
            wanted = theirs.encode(text, add_special_tokens=False)
            if tokens != wanted:
                raise SystemExit(f"{text[:40]!r}: {ours.convert_ids_to_tokens(tokens[:20])}; Transformers "
                                 f"reading GGUF {theirs.convert_ids_to_tokens(wanted[:20])}")
    return len(texts)


def prompts(model_folder: Path) -> dict[str, list[int]]:
    """Prompts of exactly LENGTHS tokens: a question about a licence as the chat template has it, and a novel twice."""
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    novel = (ROOT / "models/probe/persuasion.txt").read_text()
    licence = (ROOT / "LICENSE").read_text()
    message = "What is this text about? Answer in two sentences.\n\n@"
    turns = [{"role": "user", "content": message}]
    chat = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    before, after = (tokenizer.encode(part) for part in chat.split("@"))
    body = tokenizer.encode(licence)[: LENGTHS["500"] - len(before) - len(after)]
    return {
        "500": before + body + after,
        "2k": tokenizer.encode(novel[60000:])[: LENGTHS["2k"]],
        "7k": tokenizer.encode(novel)[: LENGTHS["7k"]],
    }


@torch.inference_mode()
def greedy(model: PreTrainedModel, prompt: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    """The greedy tokens [n], and of each position the TOP likeliest tokens and their log-probabilities [n, TOP]."""
    cache = DynamicCache(config=model.config)
    tokens, tops, logprobs = [], [], []
    fed = torch.tensor([prompt])
    for _ in range(NEW_TOKENS):
        logits = model(fed, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[0, -1]
        top = logits.double().log_softmax(-1).topk(TOP)
        tops.append(top.indices.int())
        logprobs.append(top.values.float())
        tokens.append(top.indices[0].int())
        fed = top.indices[:1].view(1, 1)
    return torch.stack(tokens), torch.stack(tops), torch.stack(logprobs)


def make_golden(model_folder: Path, out: Path) -> None:
    model = hf_reference.load(model_folder, torch.float32, torch.device("cpu"))
    tensors: dict[str, Tensor] = {}
    margins = {}
    for name, prompt in prompts(model_folder).items():
        if len(prompt) != LENGTHS[name]:
            raise SystemExit(f"prompt {name} has {len(prompt)} tokens instead of {LENGTHS[name]}")
        tokens, top_tokens, top_logprobs = greedy(model, prompt)
        margin = (top_logprobs[:, 0] - top_logprobs[:, 1]).min().item()
        margins[name] = f"{margin:.4f}"
        said = AutoTokenizer.from_pretrained(model_folder).decode(tokens)
        print(f"{name}: closest call {margin:.4f}; says {said!r}", flush=True)
        if margin < MIN_MARGIN:
            raise SystemExit(f"{name}: a token leads by less than {MIN_MARGIN}; choose another prompt")
        tensors |= {
            f"{name}.prompt_tokens": torch.tensor(prompt, dtype=torch.int32),
            f"{name}.greedy_tokens": tokens,
            f"{name}.top_tokens": top_tokens,
            f"{name}.top_logprobs": top_logprobs,
        }
    notes = {"model": "models/smollm2", "closest_calls": json.dumps(margins)}
    metadata = {"format": "pt", "transformers": transformers.__version__, "torch": torch.__version__, **notes}
    path = out / "golden.safetensors"
    save_file(tensors, path, metadata=metadata)
    path.chmod(0o644)
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    encodings = [{"text": text, "tokens": tokenizer.encode(text)} for text in TEXTS]
    (out / "encodings.json").write_text(
        "[\n" + ",\n".join(" " + json.dumps(encoding) for encoding in encodings) + "\n]\n")
    print(f"{path} {path.stat().st_size} bytes", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", help="compare the folder with what Transformers reads of the GGUF file")
    check.add_argument("--gguf", type=Path, required=True, help="the file that the folder was made of")
    golden = commands.add_parser("golden", help="write golden.safetensors and encodings.json")
    golden.add_argument("--out", type=Path, required=True, help="folder to write, usually tests/smollm2")
    for command in (check, golden):
        command.add_argument("--model", type=Path, required=True, help="the folder, usually models/smollm2")
    args = parser.parse_args()
    if args.command == "golden":
        make_golden(args.model, args.out)
        return 0
    print(f"{check_tokenizer(args.model, args.gguf)} texts: the tokens that Transformers makes", flush=True)
    print(f"{check_weights(args.model, args.gguf)} tensors: bit for bit what Transformers reads, rounded to bf16")
    return 0


if __name__ == "__main__":
    sys.exit(main())
