"""Bodies of all requests together have a bound, and a slow one a time."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path

import pytest
from fake_coordinator import FakeCoordinator, wait_until
from serving import Serving, serving

from tributary.serve.body_budget import BodyBudget
from tributary.serve.errors import ApiError

USER = [{"role": "user", "content": "Hi"}]


def gauge(server: Serving, name: str) -> float:
    connection = http.client.HTTPConnection(server.address, timeout=30)
    connection.request("GET", "/metrics")
    lines = connection.getresponse().read().decode().splitlines()
    return float(next(line for line in lines if line.startswith(f"tributary_serve_{name} ")).split()[1])


def half_a_request(server: Serving, sent: int, announced: int) -> socket.socket:
    connection = socket.create_connection(tuple(server.address.split(":")), timeout=60)
    connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % announced
                       + b"x" * sent)
    return connection


def post(server: Serving, size: int) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection(server.address, timeout=60)
    body = json.dumps({"messages": USER, "user": ""})
    try:
        connection.request("POST", "/v1/chat/completions", body[:-2] + "u" * (size - len(body)) + body[-2:])
    except (BrokenPipeError, ConnectionResetError):
        pass  # the server has answered and closed
    return connection.getresponse()


def test_the_bytes_of_all_bodies_are_bounded(fake: FakeCoordinator, model: Path) -> None:
    with serving(fake.address, model, max_bodies_bytes=100_000) as server:
        holders = [half_a_request(server, 45_000, 60_000) for _ in range(2)]
        wait_until(lambda: gauge(server, "body_bytes") == 90_000, "both are being read")
        assert post(server, 5_000).status == 200
        refused = post(server, 20_000)
        assert refused.status == 429 and int(refused.headers["retry-after"]) >= 1
        error = json.loads(refused.read())["error"]
        assert "at most 100000 are taken together" in error["message"] and error["code"] == "overloaded"
        for holder in holders:
            holder.close()
        wait_until(lambda: gauge(server, "body_bytes") == 0, "who left holds nothing")
        assert post(server, 50_000).status == 200
        wait_until(lambda: gauge(server, "body_bytes") == 0, "nor does who was answered")


def test_what_is_announced_costs_nothing(fake: FakeCoordinator, model: Path) -> None:
    with serving(fake.address, model, max_bodies_bytes=100_000) as server:
        holders = [half_a_request(server, 1000, 90_000) for _ in range(20)]
        wait_until(lambda: gauge(server, "body_bytes") == 20_000, "all are being read")
        assert post(server, 50_000).status == 200
        for holder in holders:
            holder.close()


def test_a_body_that_does_not_come(fake: FakeCoordinator, model: Path) -> None:
    with serving(fake.address, model, body_timeout_s=0.2) as server:
        connection = half_a_request(server, 7, 100)
        with connection.makefile("rb") as stream:
            answer = stream.read()
        assert answer.startswith(b"HTTP/1.1 408 ") and b"did not come within 0.2 s; 7 bytes of it are here" in answer
        connection.close()
        wait_until(lambda: gauge(server, "body_bytes") == 0, "it holds nothing")


def test_the_budget() -> None:
    budget = BodyBudget(10)
    with budget.share() as one, budget.share() as two:
        one.add(4)
        two.add(6)
        with pytest.raises(ApiError, match="11 bytes"):
            one.add(1)
        assert budget.in_flight == 10
    assert budget.in_flight == 0
