#!/usr/bin/env python3
"""Measures the probe model as it is shipped: the saved bf16 weights, run by HF Transformers in float32.

    python3 tools/eval_probe_model.py --model models/probe --texts FOLDER_OF_NOVELS \\
        --licences /usr/share/common-licenses

Needs torch, transformers, safetensors and numpy. Prints bits per byte and needle accuracy as Markdown tables. A needle
counts as found when the greedy continuation of its question is exactly the six digits and the full stop.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import DynamicCache

import hf_reference
from needles import Needle, build_haystack, draw_needles, read_licence_texts
from probe_data import split_novels


def parse_arguments() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", type=Path, required=True, help="folder of the model")
    p.add_argument("--texts", type=Path, help="folder of the novels; their last 2 %% are the held-out text")
    p.add_argument("--licences", type=Path, help="folder of licence texts, a kind of text the model never saw")
    p.add_argument("--lengths", type=int, nargs="+", default=[1024, 4096, 8192, 16384, 32768], help="haystack bytes")
    p.add_argument("--needles", type=int, nargs="+", default=[1, 8, 32], help="needles per haystack; each is asked for")
    p.add_argument("--questions", type=int, default=104, help="questions per cell, at least")
    p.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="arithmetic of the run")
    p.add_argument("--seed", type=int, default=7, help="seed of needles, depths and haystacks")
    return p.parse_args()


class Examiner:
    def __init__(self, folder: Path, dtype: torch.dtype) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = hf_reference.load(folder, dtype, self.device)

    def tokens(self, text: bytes) -> torch.Tensor:
        return torch.frombuffer(bytearray(text), dtype=torch.uint8).long().to(self.device)[None]

    @torch.inference_mode()
    def bits_per_byte(self, text: bytes, window: int, most: int = 64) -> float:
        """Mean over windows spread over the text that start cold, every byte but the first of each counted."""
        starts = range(0, len(text) - window, max(window, (len(text) - window) // most))
        losses = []
        for start in starts:
            t = self.tokens(text[start : start + window])
            losses.append(F.cross_entropy(self.model(t).logits[0, :-1].float(), t[0, 1:]).item())
        return sum(losses) / len(losses) / math.log(2)

    @torch.inference_mode()
    def ask_all(self, haystack: bytes, needles: list[Needle]) -> list[bool]:
        """Whether each needle is found. The haystack is read once; every question starts from the same cache."""
        cache = DynamicCache(config=self.model.config)
        self.model.model(self.tokens(haystack), past_key_values=cache, use_cache=True)
        found = []
        for needle in needles:
            # With the right answer fed, greedy decoding gives it exactly when every byte of it is the likeliest.
            t = self.tokens(needle.question + needle.answer)
            logits = self.model(t, past_key_values=cache, use_cache=True).logits[0]
            first = len(needle.question) - 1
            guesses = logits[first : first + len(needle.answer)].argmax(-1)
            found.append(bool((guesses == t[0, first + 1 :]).all()))
            cache.crop(-t.shape[1])  # a negative number: what to take off the end
        return found

    def accuracy(self, text: bytes, length: int, count: int, questions: int, seed: int) -> tuple[int, int]:
        """(found, asked) over haystacks of `length` bytes cut from anywhere in `text`, each with `count` needles."""
        rng = random.Random(f"{seed}/{length}/{count}")
        right = asked = 0
        while asked < questions:
            start = rng.randrange(len(text) - length - 128)
            needles = draw_needles(count, rng)
            separator = rng.choice((b"\n", b" "))
            haystack = build_haystack(text[start:], needles, length, rng, separator)
            found = self.ask_all(haystack, needles)
            right += sum(found)
            asked += len(found)
        return right, asked


def needle_table(examiner: Examiner, text: bytes, args: argparse.Namespace, title: str) -> None:
    print(f"\n{title}\n\n| needles | " + " | ".join(f"{n} bytes" for n in args.lengths) + " |", flush=True)
    print("|---:|" + "---:|" * len(args.lengths), flush=True)
    for count in args.needles:
        cells = []
        for length in args.lengths:
            if length < 50 * count + 200:  # a haystack that is nothing but needles
                cells.append("-")
                continue
            right, asked = examiner.accuracy(text, length, count, args.questions, args.seed)
            cells.append(f"{100 * right / asked:.1f} % ({right}/{asked})")
        print(f"| {count} | " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    args = parse_arguments()
    examiner = Examiner(args.model, getattr(torch, args.dtype))
    start = time.monotonic()
    sources: list[tuple[str, bytes]] = []
    if args.texts:
        sources.append(("held-out novels", split_novels(args.texts)[1]))
    if args.licences:
        sources.append(("licence texts", read_licence_texts(args.licences)))
    print("| text | window 1024 | window 4096 |\n|---|---:|---:|")
    for name, text in sources:
        short, long = (examiner.bits_per_byte(text, window) for window in (1024, 4096))
        print(f"| {name}, bits per byte | {short:.3f} | {long:.3f} |")
    for name, text in sources:
        needle_table(examiner, text, args, f"Needles found, {name} ({args.dtype}):")
    print(f"\nevaluated in {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
