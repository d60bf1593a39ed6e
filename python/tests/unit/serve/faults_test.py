"""Faults of the server itself are errors in OpenAI's form on every path; and names that are not UTF-8 are none."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from errors_test import USER, post
from fake_coordinator import FakeCoordinator
from serving import Serving, make_byte_model, serving

from tributary import aio
from tributary.serve import flags
from tributary.serve.metrics import Metrics


def get(server: Serving, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(server.url + path, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.mark.parametrize("owner, name, path", [
    (aio.Client, "status", "/health"), (Metrics, "exposition", "/metrics"),
])
def test_faults_where_no_key_is_needed(server: Serving, monkeypatch: pytest.MonkeyPatch, owner: type, name: str,
                                       path: str) -> None:
    def fails(_: object) -> None:
        raise RuntimeError("unforeseen")

    monkeypatch.setattr(owner, name, fails)
    status, body = get(server, path)
    assert status == 500
    assert json.loads(body)["error"] == {"message": "a fault of this server; its log has more", "type": "server_error",
                                         "param": None, "code": None}


def test_a_first_event_that_cannot_be_sent_is_a_status(server: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: object) -> bytes:
        raise UnicodeEncodeError("utf-8", "\udce9", 0, 1, "surrogates not allowed")

    monkeypatch.setattr("tributary.serve.sse.event_of", fails)
    status, _, answer = post(server, {"messages": USER, "stream": True})
    assert status == 500 and "a fault of this server" in answer["error"]["message"]


def test_a_folder_whose_name_is_not_utf8(fake: FakeCoordinator, tmp_path: Path) -> None:
    folder = make_byte_model(Path(os.fsdecode(os.fsencode(tmp_path) + b"/latin-\xe9")))
    with serving(fake.address, folder) as server:
        assert server.model == "latin-\ufffd"
        assert json.loads(get(server, "/v1/models")[1])["data"][0]["id"] == "latin-\ufffd"
        assert json.loads(get(server, "/health")[1])["model"] == "latin-\ufffd"
        client = server.openai()
        assert client.completions.create(model="latin-\ufffd", prompt="a").choices[0].text == "ok"
        parts = [*client.completions.create(model="latin-\ufffd", prompt="a", stream=True)]
        assert "".join(part.choices[0].text for part in parts) == "ok"


def test_a_served_name_that_is_not_utf8() -> None:
    given = ["--model", "m", "--served-model-name", os.fsdecode(b"caf\xe9")]
    assert flags.parser().parse_args(given).served_model_name == "caf\ufffd"
