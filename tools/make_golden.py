#!/usr/bin/env python3
"""Writes tests/golden: tiny random checkpoints, and what HF Transformers answers for them and for the probe model.

    python3 tools/make_golden.py --out tests/golden --probe models/probe --licences /usr/share/common-licenses

Needs torch, transformers, safetensors and numpy. Everything runs in float32 on the CPU, whatever dtype the weights are
stored in. tests/golden/README.md says what each file holds.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

import hf_reference
import tiny_models
from needles import build_haystack, draw_needles, read_licence_texts

PROBE_LENGTHS = {"probe_1k": 1024, "probe_4k": 4096, "probe_16k": 16384}
PROBE_NEEDLES = 8


def parse_arguments() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", type=Path, required=True, help="folder to write, usually tests/golden")
    p.add_argument("--probe", type=Path, help="folder of the probe model; without it only the tiny models are made")
    p.add_argument("--licences", type=Path, help="folder of licence texts, the haystack of the probe's prompts")
    p.add_argument("--prompt-tokens", type=int, default=200, help="length of the tiny models' prompts")
    p.add_argument("--tiny-tokens", type=int, default=24, help="tokens that the tiny models generate")
    p.add_argument("--probe-tokens", type=int, default=96, help="tokens that the probe model generates")
    p.add_argument("--margin", type=float, default=0.01, help="smallest lead of a token over the second, probe prompts")
    p.add_argument("--seed", type=int, default=1, help="seed of weights, prompts, needles and depths")
    p.add_argument("--only", nargs="+", choices=tiny_models.NAMES, help="of the tiny models, make these alone")
    p.add_argument("--skip-tiny", action="store_true", help="leave the tiny models and their answers as they are")
    return p.parse_args()


@torch.inference_mode()
def greedy(model: PreTrainedModel, prompt: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The prompt's logits [T, vocab], the greedy tokens [count], the logits each was chosen from [count, vocab]."""
    cache = DynamicCache(config=model.config)
    prompt_logits = model(prompt[None], past_key_values=cache, use_cache=True).logits[0].float()
    tokens: list[Tensor] = []
    rows = [prompt_logits[-1]]
    for i in range(count):
        tokens.append(rows[-1].argmax())
        if i + 1 < count:
            rows.append(model(tokens[-1].view(1, 1), past_key_values=cache, use_cache=True).logits[0, -1].float())
    return prompt_logits, torch.stack(tokens), torch.stack(rows)


def closest_call(logits: Tensor) -> float:
    """The smallest lead of a likeliest token over the second: how far a run may be off and still choose the same."""
    best = logits.topk(2, dim=-1).values
    return (best[:, 0] - best[:, 1]).min().item()


def write(path: Path, tensors: dict[str, Tensor], notes: dict[str, str]) -> None:
    metadata = {"format": "pt", "transformers": transformers.__version__, "torch": torch.__version__, **notes}
    save_file({k: v.contiguous() for k, v in tensors.items()}, path, metadata=metadata)
    path.chmod(0o644)
    print(f"{path} {path.stat().st_size} bytes", flush=True)


def make_tiny(name: str, args: argparse.Namespace) -> None:
    folder = args.out / "models" / name
    tiny_models.create(name, folder, args.seed)
    model = hf_reference.load(folder, torch.float32, torch.device("cpu"))
    generator = torch.Generator().manual_seed(args.seed)
    prompt = torch.randint(0, model.config.vocab_size, (args.prompt_tokens,), generator=generator)
    prompt_logits, tokens, logits = greedy(model, prompt, args.tiny_tokens)
    size = sum(f.stat().st_size for f in folder.iterdir())
    spread, margin = prompt_logits.std(), closest_call(logits)
    print(f"{name}: {size} bytes, logits std {spread:.2f}, closest call {margin:.3f}", flush=True)
    tensors = {
        "prompt_tokens": prompt.int(),
        "prompt_logits": prompt_logits,
        "greedy_tokens": tokens.int(),
        "greedy_logits": logits,
    }
    write(args.out / f"{name}.safetensors", tensors, {"model": f"models/{name}"})


def probe_prompt(text: bytes, length: int, rng: random.Random) -> tuple[bytes, list[dict[str, str]], str]:
    """A prompt of exactly `length` bytes that asks for one of its needles; the needles in order; the answer."""
    needles = draw_needles(PROBE_NEEDLES, rng)
    asked = rng.choice(needles)
    start = text.index(b"\n", rng.randrange(len(text) - length - 2000)) + 1
    prompt = build_haystack(text[start:], needles, length - len(asked.question), rng) + asked.question
    return prompt, [{"name": n.name, "code": n.code} for n in needles], asked.answer.decode()


def make_probe(name: str, model: PreTrainedModel, text: bytes, args: argparse.Namespace) -> None:
    """Draws prompts until the answer is right and no token of the continuation is a toss-up."""
    for attempt in range(20):
        rng = random.Random(f"{args.seed}/{name}/{attempt}")
        prompt, needles, answer = probe_prompt(text, PROBE_LENGTHS[name], rng)
        _, tokens, logits = greedy(model, torch.tensor(list(prompt)), args.probe_tokens)
        said, margin = bytes(tokens.tolist()).decode("ascii", "replace"), closest_call(logits)
        print(f"{name}: wants {answer!r}, says {said!r}, closest call {margin:.3f}", flush=True)
        if said.startswith(answer) and margin >= args.margin:
            break
    else:
        raise SystemExit(f"{name}: no prompt in 20 would do; choose another --seed or a smaller --margin")
    tensors = {
        "prompt_tokens": torch.tensor(list(prompt), dtype=torch.int32),
        "greedy_tokens": tokens.int(),
        "greedy_logits": logits,
    }
    notes = {"model": "models/probe", "needles": json.dumps(needles), "answer": answer, "closest_call": f"{margin:.3f}"}
    write(args.out / f"{name}.safetensors", tensors, notes)


def make_questions(model: PreTrainedModel, text: bytes, args: argparse.Namespace, length: int = 8192) -> None:
    """One haystack and a question per needle: cheap to prefill once, and every answer must come out."""
    rng = random.Random(f"{args.seed}/needles_8k")
    needles = draw_needles(PROBE_NEEDLES, rng)
    start = text.index(b"\n", rng.randrange(len(text) - length - 2000)) + 1
    haystack = build_haystack(text[start:], needles, length, rng)
    cases = []
    for needle in needles:
        prompt = torch.tensor(list(haystack + needle.question))
        _, tokens, logits = greedy(model, prompt, len(needle.answer))
        said, expected = bytes(tokens.tolist()).decode("ascii", "replace"), needle.answer.decode()
        margin = round(closest_call(logits), 3)
        print(f"needles_8k: {needle.name}: wants {expected!r}, says {said!r}, closest call {margin}", flush=True)
        if said != expected:
            raise SystemExit("needles_8k: the model misses a needle; choose another --seed or a better model")
        cases.append({"question": needle.question.decode(), "answer": expected, "closest_call": margin})
    path = args.out / "needles_8k.json"
    content = {"model": "models/probe", "haystack": haystack.decode("ascii"), "cases": cases}
    path.write_text(json.dumps(content, indent=1) + "\n")
    print(f"{path} {path.stat().st_size} bytes", flush=True)


def main() -> None:
    args = parse_arguments()
    args.out.mkdir(parents=True, exist_ok=True)
    if not args.skip_tiny:
        for name in args.only or tiny_models.NAMES:
            make_tiny(name, args)
    if args.probe:
        if not args.licences:
            raise SystemExit("--probe needs --licences, a folder of licence texts to hide the needles in")
        text = read_licence_texts(args.licences)
        model = hf_reference.load(args.probe, torch.float32, torch.device("cpu"))
        for name in PROBE_LENGTHS:
            make_probe(name, model, text, args)
        make_questions(model, text, args)


if __name__ == "__main__":
    main()
