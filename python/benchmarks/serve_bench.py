#!/usr/bin/env python3
"""What the server adds to an answer, and what idle streams cost it. build/python/bin/python runs this.

A scripted coordinator answers at once, so what is measured is the server: from a request's first byte to the first byte
of the answer's first text, over HTTP and, in the same run, by the gRPC client alone; alternately, medians. Then streams
that wait for their first token: the server's memory for each, and the same latency among them. Server and coordinator
are processes of their own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from fake_coordinator import FakeCoordinator, Script, running, text  # noqa: E402
from serving import make_byte_model  # noqa: E402

from tributary import Tokens, aio  # noqa: E402
from tributary.serve.fd_limit import raise_fd_limit  # noqa: E402

IDLE_MAX_TOKENS = 7  # an answer of that length waits until the coordinator ends


def serve_coordinator(pipe: multiprocessing.connection.Connection) -> None:
    never = multiprocessing.Event()
    fake = FakeCoordinator()

    def script(request: object) -> Script:
        return text("answer", gate=never if request.max_tokens == IDLE_MAX_TOKENS else None)  # type: ignore

    fake.script = script
    with running(fake):
        pipe.send(fake.address)
        pipe.recv()


async def first_text_s(address: str, body: bytes) -> float:
    """From the first byte of the request to the first byte of text; the answer is read to its end."""
    reader, writer = await asyncio.open_connection(*address.split(":"))
    begin = time.perf_counter()
    writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
                 b"Content-Length: %d\r\n\r\n" % len(body) + body)
    data = b""
    while b'"content":"a"' not in data:
        part = await reader.read(1 << 16)
        assert part, data
        data += part
    taken = time.perf_counter() - begin
    data += await reader.read()
    assert data.rstrip(b"\r\n0").endswith(b"[DONE]"), data[-200:]
    writer.close()
    return taken


async def first_token_s(client: aio.Client, prompt: bytes) -> float:
    begin, taken = time.perf_counter(), 0.0
    async for event in await client.generate(prompt, max_tokens=20):
        if isinstance(event, Tokens) and not taken:
            taken = time.perf_counter() - begin
    return taken


async def hold(address: str, body: bytes, count: int) -> list[asyncio.StreamWriter]:
    """Opens that many streams; returns when each has its headers."""
    async def one() -> asyncio.StreamWriter:
        reader, writer = await asyncio.open_connection(*address.split(":"))
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        head = await reader.readuntil(b"\r\n\r\n")
        assert b" 200 " in head, head + await reader.read(2000)
        return writer

    held = []
    for begin in range(0, count, 100):
        held += await asyncio.gather(*(one() for _ in range(min(100, count - begin))))
    return held


def rss_bytes(pid: int) -> int:
    fields = Path(f"/proc/{pid}/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


async def compare(address: str, client: aio.Client, rounds: int, characters: int) -> tuple[list[float], list[float]]:
    content = "x" * characters
    body = json.dumps({"messages": [{"role": "user", "content": content}], "stream": True, "max_tokens": 20,
                       "tributary": {"keep": False}}).encode()
    prompt = f"[user]{content}\0[assistant]".encode()
    http, grpc = [], []
    for _ in range(rounds):
        http.append(await first_text_s(address, body))
        grpc.append(await first_token_s(client, prompt))
    return http, grpc


def row(what: str, http: list[float], grpc: list[float]) -> None:
    both = [1e3 * statistics.median(values) for values in (http, grpc)]
    worst = 1e3 * statistics.quantiles(http, n=100)[98]
    print(f"| {what} | {both[0]:.2f} | {worst:.2f} | {both[1]:.2f} | {both[0] - both[1]:.2f} |")


async def measure(address: str, coordinator: str, pid: int, args: argparse.Namespace) -> None:
    print("| first text, ms | HTTP median | HTTP p99 | gRPC median | added |\n|---|---:|---:|---:|---:|")
    async with aio.Client(coordinator) as client:
        await compare(address, client, 20, 100)
        for characters in (100, 10_000, 1_000_000):
            http, grpc = await compare(address, client, args.rounds, characters)
            row(f"prompt of {characters} characters", http, grpc)
        before_bytes, begin = rss_bytes(pid), time.perf_counter()
        idle = json.dumps({"messages": [{"role": "user", "content": "Hi"}], "stream": True,
                           "max_tokens": IDLE_MAX_TOKENS, "tributary": {"keep": False}}).encode()
        held = await hold(address, idle, args.streams)
        opened_s, after_bytes = time.perf_counter() - begin, rss_bytes(pid)
        http, grpc = await compare(address, client, args.rounds, 100)
        row(f"the first, among {args.streams} idle streams", http, grpc)
        print(f"\n{args.streams} streams opened in {opened_s:.1f} s; the server has {after_bytes >> 20} MiB, "
              f"{(after_bytes - before_bytes) / args.streams / 1024:.0f} KiB more for each stream")
        for writer in held:
            writer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--streams", type=int, default=2000)
    args = parser.parse_args()
    raise_fd_limit()
    ours, theirs = multiprocessing.Pipe()
    coordinator = multiprocessing.get_context("spawn").Process(target=serve_coordinator, args=(theirs,), daemon=True)
    coordinator.start()
    address = ours.recv()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model, port_file = make_byte_model(folder / "bytes", context=1 << 30), folder / "port.json"
        server = subprocess.Popen([sys.executable, "-m", "tributary.serve", "--model", model, "--coordinator", address,
                                   "--port", "0", "--port-file", port_file, "--max-running", "8192", "--drain-s", "1"],
                                  stderr=subprocess.DEVNULL)
        try:
            while not port_file.exists():
                time.sleep(0.02)
            asyncio.run(measure(json.loads(port_file.read_text())["listen"], address, server.pid, args))
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(60)
            ours.send("end")
            coordinator.join(30)


if __name__ == "__main__":
    main()
