"""Many clients, those that leave and those that read slowly: nobody holds up the others."""

from __future__ import annotations

import asyncio
import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import openai
import pytest
from fake_coordinator import FakeCoordinator, text, wait_until
from serving import Serving, serving

USER = [{"role": "user", "content": "Hi"}]


def body(**fields: object) -> bytes:
    return json.dumps({"messages": USER, **fields}).encode()


def test_200_chats_at_once_stream_to_their_ends(fake: FakeCoordinator, model: Path) -> None:
    fake.script = lambda request: text("the answer to " + bytes(request.prompt_tokens).decode()[6:9], per_chunk=3)

    async def one(client: openai.AsyncOpenAI, i: int) -> str:
        stream = await client.chat.completions.create(
            model="bytes", messages=[{"role": "user", "content": f"{i:03}"}], stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async def all_of_them() -> list[str]:
        async with server.async_openai() as client:
            return await asyncio.gather(*(one(client, i) for i in range(200)))

    with serving(fake.address, model, max_running=64) as server:
        assert asyncio.run(all_of_them()) == [f"the answer to {i:03}" for i in range(200)]
    assert fake.most_running <= 64


def test_who_finds_no_place_is_told_when_to_come_back(fake: FakeCoordinator, model: Path) -> None:
    gate = threading.Event()
    fake.script = lambda request: text("ok", gate=gate)
    with serving(fake.address, model, max_running=1, max_waiting=1) as server:
        answers: list[str] = []

        def ask() -> None:
            answers.append(server.openai().chat.completions.create(
                model="bytes", messages=USER).choices[0].message.content or "")

        threads = [threading.Thread(target=ask) for _ in range(2)]
        threads[0].start()
        wait_until(lambda: fake.running == 1, "the first runs")
        threads[1].start()
        wait_until(lambda: b"tributary_serve_waiting 1.0" in scrape(server), "the second waits")
        with pytest.raises(openai.RateLimitError, match="come back later") as caught:
            ask()
        assert int(caught.value.response.headers["retry-after"]) >= 1
        with pytest.raises(openai.RateLimitError):
            server.openai().chat.completions.create(model="bytes", messages=USER, n=2, stream=True)
        assert fake.running == 1
        gate.set()
        for thread in threads:
            thread.join(30)
        assert answers == ["ok", "ok"] and fake.most_running == 1


def scrape(server: Serving) -> bytes:
    connection = http.client.HTTPConnection(server.address, timeout=30)
    connection.request("GET", "/metrics")
    return connection.getresponse().read()


def test_who_leaves_ends_his_sequence(fake: FakeCoordinator, model: Path) -> None:
    """While he waits for a place at the coordinator, while tokens come, and while he waits for his turn here."""
    accept, gate = threading.Event(), threading.Event()
    fake.script = lambda request: text("x", accept=accept, gate=gate)
    with serving(fake.address, model, max_running=1) as server:
        for stream in (True, False):
            for accepted in (False, True):
                (accept.set if accepted else accept.clear)()
                left = len(fake.gone)
                connection = http.client.HTTPConnection(server.address, timeout=30)
                connection.request("POST", "/v1/chat/completions", body(stream=stream))
                wait_until(lambda: fake.running == 1, "the request runs")
                waiting = http.client.HTTPConnection(server.address, timeout=30)
                waiting.request("POST", "/v1/chat/completions", body())
                wait_until(lambda: b"tributary_serve_waiting 1.0" in scrape(server), "another waits")
                waiting.close()
                wait_until(lambda: b"tributary_serve_waiting 0.0" in scrape(server), "it waits no more")
                if stream and accepted:
                    assert connection.getresponse().status == 200
                connection.close()
                wait_until(lambda: len(fake.gone) == left + 1, "the sequence has ended")
        wait_until(lambda: b"tributary_serve_running 0.0" in scrape(server), "no place is taken")
        gate.set()
        accept.set()
        assert server.openai().chat.completions.create(model="bytes", messages=USER).choices[0].message.content == "x"


def test_a_timeout_of_the_client_ends_its_sequence(server: Serving, fake: FakeCoordinator) -> None:
    never = threading.Event()
    fake.script = lambda request: text("x", gate=never)
    with pytest.raises(openai.APITimeoutError):
        server.openai(timeout=2).chat.completions.create(model="bytes", messages=USER)
    wait_until(lambda: len(fake.gone) == len(fake.requests), "the sequence, if there was one yet, has ended")
    left = len(fake.gone)
    stream = server.openai().chat.completions.create(model="bytes", messages=USER, stream=True)
    next(iter(stream))
    stream.close()
    wait_until(lambda: len(fake.gone) == left + 1, "the sequence has ended")


def test_who_reads_slowly_holds_nobody_up(fake: FakeCoordinator, model: Path) -> None:
    long = "x" * 4000  # with twenty log-probabilities for each some 8 MB: more than sockets take
    fake.script = lambda request: text(long if request.max_tokens > 1000 else "quick", per_chunk=20)
    data = body(stream=True, max_tokens=5000, logprobs=True, top_logprobs=20)
    with serving(fake.address, model_with_context(model, 100_000), max_running=8) as server:
        readers = []
        for _ in range(2):
            reader = socket.create_connection(tuple(server.address.split(":")), timeout=60)
            reader.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
                           b"Content-Length: %d\r\n\r\n" % len(data) + data)
            readers.append(reader)
        wait_until(lambda: fake.most_running == 2, "they have begun")
        for _ in range(5):
            answer = server.openai().chat.completions.create(model="bytes", messages=USER, max_tokens=9)
            assert answer.choices[0].message.content == "quick"
        assert b"tributary_serve_running 2.0" in scrape(server), "they still have not read their answers"
        with readers[0].makefile("rb") as stream:  # and at last it gets all of its answer
            events = [json.loads(line[6:]) for line in stream if line.startswith(b"data: {")]
        assert "".join(event["choices"][0]["delta"].get("content", "") for event in events) == long
        readers[0].close()
        readers[1].close()
        wait_until(lambda: fake.running == 0, "who left has no sequence")


def model_with_context(model: Path, tokens: int) -> Path:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "max_position_embeddings": tokens}))
    return model


def test_1000_clients_at_once(fake: FakeCoordinator, model: Path) -> None:
    """Each has an answer or is told to come back; then the server is as it was."""
    gate = threading.Event()
    fake.script = lambda request: text("ok", gate=gate)

    async def one() -> int:
        reader, writer = await asyncio.open_connection(*server.address.split(":"))
        data = body(stream=True)
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
                     b"Content-Length: %d\r\n\r\n" % len(data) + data)
        answer = await reader.read()
        writer.close()
        status = int(answer.split(b" ", 2)[1])
        assert status != 200 or answer.rstrip(b"\r\n0").endswith(b"data: [DONE]")
        return status

    async def all_of_them() -> list[int]:
        tasks = [asyncio.create_task(one()) for _ in range(1000)]
        end = time.monotonic() + 120
        while sum(task.done() for task in tasks) < 1000 - 16 - 500:
            assert time.monotonic() < end, "more came in than there is room for"
            await asyncio.sleep(0.02)
        gate.set()
        return await asyncio.gather(*tasks)

    with serving(fake.address, model, max_running=16, max_waiting=500) as server:
        statuses = asyncio.run(all_of_them())
        assert (statuses.count(200), statuses.count(429)) == (516, 484)
        assert server.openai().chat.completions.create(model="bytes", messages=USER).choices[0].message.content == "ok"


class Process:
    """`python -m tributary.serve` in front of a coordinator."""

    def __init__(self, coordinator: str, model: Path, folder: Path, *flags: str) -> None:
        port_file = folder / "port.json"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tributary.serve", "--model", model, "--coordinator", coordinator, "--port", "0",
             "--port-file", port_file, *flags], stderr=subprocess.PIPE, text=True)
        wait_until(lambda: port_file.exists() or self.process.poll() is not None, "it listens", 60)
        self.address = json.loads(port_file.read_text())["listen"]

    def end(self) -> tuple[int, str]:
        errors = self.process.communicate(timeout=60)[1]
        return self.process.returncode, errors


def test_a_drain_lets_answers_end(fake: FakeCoordinator, model: Path, tmp_path: Path) -> None:
    gate = threading.Event()
    fake.script = lambda request: text("whole", gate=gate)
    process = Process(fake.address, model, tmp_path)
    connection = http.client.HTTPConnection(process.address, timeout=60)
    connection.request("POST", "/v1/chat/completions", body(stream=True))
    answer = connection.getresponse()
    process.process.send_signal(signal.SIGTERM)

    def refuses() -> bool:
        try:
            socket.create_connection(tuple(process.address.split(":")), timeout=5).close()
        except OSError:
            return True
        return False

    wait_until(refuses, "nobody new comes in")
    assert process.process.poll() is None
    gate.set()
    assert answer.read().decode().endswith("data: [DONE]\n\n")
    status, errors = process.end()
    assert status == 0 and "Traceback" not in errors, errors
    assert not fake.gone and not fake.kept, "the kept chat is let go of"


def test_a_drain_does_not_take_for_ever(fake: FakeCoordinator, model: Path, tmp_path: Path) -> None:
    never = threading.Event()
    fake.script = lambda request: text("whole", gate=never)
    process = Process(fake.address, model, tmp_path, "--drain-s", "1")
    connection = http.client.HTTPConnection(process.address, timeout=60)
    connection.request("POST", "/v1/chat/completions", body(stream=True))
    connection.getresponse()
    begin = time.monotonic()
    process.process.send_signal(signal.SIGTERM)
    status, _ = process.end()
    assert status == 0 and time.monotonic() - begin < 50
    wait_until(lambda: fake.gone == [0], "the sequence has ended")
