"""Bodies of all requests together have a bound, those of one key half of it, and a slow one a time."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path

import pytest
from fake_coordinator import FakeCoordinator, wait_until
from serving import Serving, make_byte_model, serving

from tributary.serve.body_budget import FREE_BYTES, BodyBudget
from tributary.serve.errors import ApiError
from tributary.serve.flags import parser, settings_of

USER = [{"role": "user", "content": "Hi"}]


def gauge(server: Serving, name: str) -> float:
    connection = http.client.HTTPConnection(server.address, timeout=30)
    connection.request("GET", "/metrics")
    lines = connection.getresponse().read().decode().splitlines()
    return float(next(line for line in lines if line.startswith(f"tributary_serve_{name} ")).split()[1])


def half_a_request(server: Serving, sent: int, announced: int, key: str = "none") -> socket.socket:
    connection = socket.create_connection(tuple(server.address.split(":")), timeout=60)
    connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer %s\r\n"
                       b"Content-Length: %d\r\n\r\n" % (key.encode(), announced) + b"x" * sent)
    return connection


def post(server: Serving, size: int, key: str = "none") -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection(server.address, timeout=60)
    body = json.dumps({"messages": USER, "user": ""})
    try:
        connection.request("POST", "/v1/chat/completions", body[:-2] + "u" * (size - len(body)) + body[-2:],
                           {"Authorization": f"Bearer {key}"})
    except (BrokenPipeError, ConnectionResetError):
        pass  # the server has answered and closed
    return connection.getresponse()


def test_the_bytes_of_all_bodies_are_bounded(fake: FakeCoordinator, tmp_path: Path) -> None:
    """Three keys, of which two hold nearly half each of the 400,000 bytes beyond what is free."""
    model = make_byte_model(tmp_path / "large", context=1 << 20)
    with serving(fake.address, model, keys=("a", "b", "c"), max_bodies_bytes=400_000) as server:
        holders = [half_a_request(server, FREE_BYTES + 99_000, 300_000, key) for key in ("a", "a", "b", "b")]
        held = 4 * (FREE_BYTES + 99_000)
        wait_until(lambda: gauge(server, "body_bytes") == held, "all are being read")
        refused = post(server, FREE_BYTES + 5_000, "c")
        assert refused.status == 429 and int(refused.headers["retry-after"]) >= 1
        error = json.loads(refused.read())["error"]
        assert "at most 400000 are taken together" in error["message"] and error["code"] == "overloaded"
        for key in ("a", "b", "c"):
            assert post(server, FREE_BYTES, key).status == 200, "small bodies always pass"
        for holder in holders[2:]:
            holder.close()
        wait_until(lambda: gauge(server, "body_bytes") == held / 2, "who left holds nothing")
        refused = post(server, FREE_BYTES + 5_000, "a")
        assert refused.status == 429 and b"at most 200000 are taken of one API key" in refused.read()
        assert post(server, FREE_BYTES + 150_000, "c").status == 200, "one key shuts nobody else out"
        for holder in holders[:2]:
            holder.close()
        wait_until(lambda: gauge(server, "body_bytes") == 0, "nor does who was answered")


def test_without_keys_hosts_are_told_apart(fake: FakeCoordinator, model: Path) -> None:
    with serving(fake.address, model, max_bodies_bytes=200_000) as server:
        holder = half_a_request(server, FREE_BYTES + 99_000, 300_000)
        wait_until(lambda: gauge(server, "body_bytes") == FREE_BYTES + 99_000, "it is being read")
        assert post(server, FREE_BYTES + 5_000).status == 429
        assert post(server, FREE_BYTES).status == 200
        holder.close()


def test_what_is_announced_costs_nothing(fake: FakeCoordinator, model: Path) -> None:
    with serving(fake.address, model, max_bodies_bytes=400_000) as server:
        holders = [half_a_request(server, 1000, 390_000) for _ in range(20)]
        wait_until(lambda: gauge(server, "body_bytes") == 20_000, "all are being read")
        assert post(server, FREE_BYTES + 150_000).status == 200
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
    budget = BodyBudget(20)
    with budget.share("a") as one, budget.share("a") as two, budget.share("b") as three, budget.share("c") as four:
        one.add(FREE_BYTES - 1)
        one.add(5)
        two.add(FREE_BYTES + 6)
        with pytest.raises(ApiError, match="11 bytes or more; at most 10"):
            one.add(1)
        three.add(FREE_BYTES + 10)
        with pytest.raises(ApiError, match="21 bytes or more; at most 20"):
            four.add(FREE_BYTES + 1)
        four.add(FREE_BYTES)
        assert budget.in_flight == 4 * FREE_BYTES + 20
    assert budget.in_flight == 0
    with budget.share("c") as one:
        one.add(FREE_BYTES + 10)


def test_the_flags_leave_room_for_one_body() -> None:
    arguments = ["--model", "m", "--max-body-bytes", "100", "--max-bodies-bytes"]
    assert settings_of(parser().parse_args([*arguments, "200"])).max_bodies_bytes == 200
    with pytest.raises(ValueError, match="at least twice --max-body-bytes"):
        settings_of(parser().parse_args([*arguments, "199"]))
