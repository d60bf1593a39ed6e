#!/usr/bin/env python3
"""Many chats at once, streamed to their ends: time to first token, time between tokens, tokens a second.

build/python/bin/python runs this; ./dev chats does so. Against a server that runs (--url), or one that is started here
with a cluster of its own in front of --model. Each chat has a text of its own, so that none goes on with another's KV.
Exits with 1 if a chat did not get to its end.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from local_server import ROOT, local_server


@dataclass
class Chat:
    status: int = 0
    first_s: float = 0
    gaps_s: list[float] = field(default_factory=list)
    tokens: int = 0
    ended: bool = False


async def one_chat(address: str, content: str, tokens: int) -> Chat:
    chat = Chat()
    body = json.dumps({"messages": [{"role": "user", "content": content}], "max_tokens": tokens, "stream": True,
                       "ignore_eos": True, "stream_options": {"include_usage": True}, "temperature": 0}).encode()
    host, _, port = address.rpartition(":")
    begin = last = time.perf_counter()
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
                 b"Content-Length: %d\r\n\r\n" % len(body) + body)
    chat.status = int((await reader.readline()).split()[1])
    async for line in reader:
        if line.startswith(b"data: [DONE]"):
            chat.ended = True
        if not line.startswith(b"data: {"):
            continue
        event = json.loads(line[6:])
        chat.tokens = (event.get("usage") or {}).get("completion_tokens", chat.tokens)
        if not event.get("choices") or not event["choices"][0]["delta"].get("content"):
            continue
        now = time.perf_counter()
        if chat.first_s == 0:
            chat.first_s = now - begin
        else:
            chat.gaps_s.append(now - last)
        last = now
    writer.close()
    return chat


async def all_chats(address: str, args: argparse.Namespace) -> tuple[list[Chat], float]:
    rng = random.Random(args.seed)
    letters = "abcdefghij klmnop qrstu vwxyz. "
    texts = ["".join(rng.choices(letters, k=args.prompt_characters)) for _ in range(args.chats)]
    begin = time.perf_counter()
    chats = await asyncio.gather(*(one_chat(address, text, args.tokens) for text in texts))
    return chats, time.perf_counter() - begin


def quantiles(values: list[float]) -> str:
    ordered = sorted(values)
    return " | ".join(f"{1000 * ordered[min(len(ordered) - 1, int(q * len(ordered)))]:.1f}" for q in (0.5, 0.9, 0.99))


def report(chats: list[Chat], taken_s: float) -> int:
    done = [chat for chat in chats if chat.ended and chat.status == 200 and chat.first_s > 0]
    print(f"{len(done)} of {len(chats)} chats came to their end in {taken_s:.1f} s; "
          f"{sum(chat.tokens for chat in done) / taken_s:.0f} tokens/s together\n")
    if done:
        print("| ms | median | 90 % | 99 % |\n|---|---:|---:|---:|")
        print(f"| to the first text | {quantiles([chat.first_s for chat in done])} |")
        print(f"| between texts | {quantiles([gap for chat in done for gap in chat.gaps_s] or [0.0])} |")
    return 0 if len(done) == len(chats) else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", metavar="HOST:PORT", help="a server that runs (default: one is started)")
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "probe", help="of that one (default: probe)")
    parser.add_argument("--chats", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=32, help="of each answer")
    parser.add_argument("--prompt-characters", type=int, default=400)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    if args.url:
        return report(*asyncio.run(all_chats(args.url, args)))
    with local_server(args.model, ["--max-kept-chats", "0"]) as address:
        return report(*asyncio.run(all_chats(address, args)))


if __name__ == "__main__":
    sys.exit(main())
