"""Pages of other origins: what their browsers send here without asking first is not taken."""

from __future__ import annotations

import http.client
import json
from pathlib import Path

import pytest
from fake_coordinator import FakeCoordinator
from serving import Serving, serving

from tributary.serve.known_hosts import known_hosts

BODY = json.dumps({"messages": [{"role": "user", "content": "Hi"}]})


def ask(server: Serving, method: str, path: str, headers: dict[str, str], body: str = "") -> tuple[int, str]:
    """Status and body, with these headers and no others but Host and the length."""
    connection = http.client.HTTPConnection(server.address, timeout=30)
    try:
        connection.putrequest(method, path, skip_host="Host" in headers, skip_accept_encoding=True)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            connection.putheader(name, value)
        connection.endheaders(body.encode())
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


@pytest.mark.parametrize("path", ["/", "/v1/models", "/cluster", "/health", "/metrics", "/none"])
def test_a_server_of_this_host_has_its_names_only(fake: FakeCoordinator, model: Path, path: str) -> None:
    with serving(fake.address, model, hosts=known_hosts("127.0.0.1", ["Box.example:80"], has_keys=False)) as server:
        for host in ("evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", "",
                     "[::2]"):
            status, body = ask(server, "GET", path, {"Host": host})
            error = json.loads(body)["error"]
            assert status == 403 and error["code"] == "unknown_host" and "--allowed-host" in error["message"]
        for host in ("localhost", "LOCALHOST:1", "localhost.:8000", "127.0.0.1:8000", "[::1]", "[::1]:8000",
                     "box.example:8000"):
            assert ask(server, "GET", path, {"Host": host})[0] == (404 if path == "/none" else 200)


def test_which_names() -> None:
    here = {"localhost", "127.0.0.1", "::1"}
    assert known_hosts("127.0.0.1", [], has_keys=False) == known_hosts("::1", [], has_keys=False) == here
    assert known_hosts("127.0.0.2", [], has_keys=False) == here | {"127.0.0.2"}
    assert known_hosts("::ffff:127.0.0.1", [], has_keys=False) is not None
    assert known_hosts("127.0.0.1", [], has_keys=True) is None, "a page of another origin has no key"
    for address in ("0.0.0.0", "10.0.0.1", "::", "fe80::1%eth0"):
        assert known_hosts(address, [], has_keys=False) is None
        assert known_hosts(address, ["a.example"], has_keys=True) == here | {address.partition("%")[0], "a.example"}


@pytest.mark.parametrize("headers, status", [
    ({}, 200), ({"Content-Type": "application/json"}, 200), ({"Content-Type": "Application/JSON; charset=utf-8"}, 200),
    ({"Content-Type": "application/vnd.api+json"}, 200), ({"Content-Type": "application/json", "Origin": "null"}, 200),
    ({"Content-Type": "text/plain"}, 415), ({"Content-Type": "text/plain; application/json"}, 415),
    ({"Content-Type": "application/x-www-form-urlencoded"}, 415), ({"Content-Type": "multipart/form-data; b=1"}, 415),
    ({"Content-Type": "", "Origin": "http://evil.example"}, 415), ({"Origin": "null"}, 415),
])
def test_what_pages_send_unasked_is_not_taken(server: Serving, fake: FakeCoordinator, headers: dict[str, str],
                                              status: int) -> None:
    got, body = ask(server, "POST", "/v1/chat/completions", headers, BODY)
    assert got == status and len(fake.requests) == (status == 200)
    if status == 415:
        error = json.loads(body)["error"]
        assert error["code"] == "unsupported_media_type" and "Content-Type: application/json" in error["message"]
    asked_first = ask(server, "OPTIONS", "/v1/chat/completions", {"Origin": "http://evil.example"})
    assert asked_first[0] == 405, "so a page that asks first may not send JSON either"
