#!/usr/bin/env python3
"""Prompts of many lengths at once: the time to the first token of each.

First a short prompt alone, then the same while a long one is prefilled, then --prompts of lengths between --short and
--long, which all come at once. build/python/bin/python runs this, against a server that runs (--url), or one that is
started here with a cluster of its own in front of --model.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import random
import statistics
import sys
import time
from pathlib import Path

from local_server import ROOT, local_server

VOCABULARY = 200  # token ids below it are in every vocabulary


async def first_token_s(address: str, rng: random.Random, num_tokens: int) -> float:
    """Of a prompt of random tokens, which none has had before."""
    body = json.dumps({"prompt": rng.choices(range(3, VOCABULARY), k=num_tokens), "max_tokens": 1, "temperature": 0,
                       "ignore_eos": True}).encode()
    host, _, port = address.rpartition(":")
    begin = time.perf_counter()
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
                 b"Content-Length: %d\r\n\r\n" % len(body) + body)
    status = int((await reader.readline()).split()[1])
    answer = await reader.read()
    writer.close()
    if status != 200:
        sys.exit(f"mixed_prompts_bench: {num_tokens} tokens were answered with {status}: {answer[-300:].decode()}")
    return time.perf_counter() - begin


async def behind_a_long_one(address: str, rng: random.Random, args: argparse.Namespace) -> tuple[float, float]:
    """The first tokens of a short prompt that comes a little after a long one, and of the long one."""
    long_one = asyncio.create_task(first_token_s(address, rng, args.long))
    await asyncio.sleep(args.lag_s)
    return await first_token_s(address, rng, args.short), await long_one


async def measure(address: str, args: argparse.Namespace) -> None:
    rng = random.Random(args.seed)
    await first_token_s(address, rng, args.short)  # whatever is done once
    alone_s = statistics.median([await first_token_s(address, rng, args.short) for _ in range(args.rounds)])
    long_alone_s = await first_token_s(address, rng, args.long)
    pairs = [await behind_a_long_one(address, rng, args) for _ in range(args.rounds)]
    behind_s, long_s = (statistics.median(times) for times in zip(*pairs))
    print("| prompt | alone, s | together, s | ratio |\n|---|---:|---:|---:|")
    print(f"| {args.short} tokens, {args.lag_s} s behind the long one | {alone_s:.3f} | {behind_s:.3f} "
          f"| {behind_s / alone_s:.2f} |")
    print(f"| {args.long} tokens | {long_alone_s:.3f} | {long_s:.3f} | {long_s / long_alone_s:.2f} |\n", flush=True)
    low, high = math.log(args.short), math.log(args.long)
    lengths = sorted(int(math.exp(rng.uniform(low, high))) for _ in range(args.prompts))
    rng.shuffle(lengths)
    begin = time.perf_counter()
    times = await asyncio.gather(*(first_token_s(address, rng, length) for length in lengths))
    taken_s = time.perf_counter() - begin
    by_length = sorted(zip(lengths, times))
    print(f"{args.prompts} prompts at once, {sum(lengths)} tokens in {taken_s:.1f} s\n")
    print("| tokens | to the first token: median, s | the longest, s |\n|---|---:|---:|")
    for part in range(4):
        quarter = by_length[part * args.prompts // 4:(part + 1) * args.prompts // 4]
        if quarter:
            waits = [wait for _, wait in quarter]
            print(f"| {quarter[0][0]} to {quarter[-1][0]} | {statistics.median(waits):.2f} | {max(waits):.2f} |")
    print(f"| all | {statistics.median(times):.2f} | {max(times):.2f} |")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", metavar="HOST:PORT", help="a server that runs (default: one is started)")
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "smollm2",
                        help="of that one (default: SmolLM2)")
    parser.add_argument("--short", type=int, default=64, metavar="TOKENS")
    parser.add_argument("--long", type=int, default=7000, metavar="TOKENS")
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--lag-s", type=float, default=0.5)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    if args.url:
        asyncio.run(measure(args.url, args))
        return 0
    with local_server(args.model, ["--max-kept-chats", "0"]) as address:
        asyncio.run(measure(address, args))
    return 0


if __name__ == "__main__":
    sys.exit(main())
