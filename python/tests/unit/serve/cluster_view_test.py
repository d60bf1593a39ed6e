"""What /cluster tells, and the page's files."""

from __future__ import annotations

import json
import socket
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from fake_coordinator import FakeCoordinator
from prometheus_client.parser import text_string_to_metric_families
from serving import Serving, serving

from tributary.serve import cluster_view
from tributary.serve.cluster_view import figures_in

METRICS = """# TYPE tributary_decode_step_duration_seconds histogram
tributary_decode_step_duration_seconds_bucket{le="+Inf"} 4
tributary_decode_step_duration_seconds_sum 0.5
tributary_decode_step_duration_seconds_count 4
# TYPE tributary_batch_size histogram
tributary_batch_size_sum 6
# TYPE tributary_appended_tokens_total counter
tributary_appended_tokens_total 3
# TYPE tributary_decode_phase_duration_seconds histogram
tributary_decode_phase_duration_seconds_sum{phase="qkv"} 0.25
# TYPE tributary_attention_attended_tokens_total counter
tributary_attention_attended_tokens_total 7
# TYPE other_total counter
other_total 1
"""


def get(url: str) -> tuple[int, dict[str, str], bytes]:
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return answer.status, dict(answer.headers), answer.read()
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers), error.read()


def test_figures() -> None:
    assert figures_in(METRICS) == {"step_s": 0.5, "steps": 4, "sequence_steps": 6, "appended_tokens": 3,
                                   "phases_s": {"qkv": 0.25}, "attended_tokens": 7}
    assert figures_in("") == {}
    with pytest.raises(ValueError):
        figures_in("tributary_attention_attended_tokens_total seven\n")


def test_only_what_is_wanted_is_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[str] = []

    def parse(text: str):  # noqa: ANN202
        parsed.extend(text.splitlines())
        return text_string_to_metric_families(text)

    monkeypatch.setattr(cluster_view, "text_string_to_metric_families", parse)
    others = "".join(f'other_{i}_total{{a="b"}} {i}\n' for i in range(10_000))
    assert figures_in(others + METRICS + others + "no exposition {") == figures_in(METRICS)
    assert len(parsed) == 2 * 6
    with pytest.raises(ValueError, match="1025 lines"):
        figures_in("tributary_attention_attended_tokens_total 7\n" * 1025)


def test_figures_are_finite() -> None:
    name = "tributary_attention_attended_tokens_total"
    phase = "tributary_decode_phase_duration_seconds_sum"
    assert figures_in(f"{name} NaN\n{name} +Inf\n{name} 7\n") == {"attended_tokens": 7}
    assert figures_in(f"{name} 1e308\n{name} 1e308\n") == {}
    assert figures_in(f'{phase}{{phase="a"}} NaN\n{phase}{{phase="b"}} 1\n') == {"phases_s": {"b": 1}}


@pytest.mark.parametrize("address", ["127.0.0.1:99999", "127.0.0.1:-1", "127.0.0.1:many", "127.0.0.1:1"])
def test_an_address_where_nothing_can_be(server: Serving, fake: FakeCoordinator, address: str) -> None:
    fake.metrics_address = address
    status, _, body = get(f"{server.url}/cluster")
    assert status == 200 and json.loads(body)["nodes"][0]["figures"] is None


def test_a_node_without_metrics_is_shown_without_figures(server: Serving, fake: FakeCoordinator) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, and says nothing
        fake.metrics_address = f"127.0.0.1:{silent.getsockname()[1]}"
        status, _, body = get(f"{server.url}/cluster")
    told = json.loads(body)
    assert status == 200 and told["running"] == 0 and told["kept"] == []
    assert told["nodes"][0]["node_id"] == "gpu-0" and told["nodes"][0]["figures"] is None


def test_it_wants_a_key_and_a_coordinator(fake: FakeCoordinator, model: Path) -> None:
    with serving(fake.address, model, keys=("secret",)) as server:
        assert get(f"{server.url}/cluster")[0] == 401
        assert get(server.url)[0] == 200
    with serving("127.0.0.1:1", model, connect_timeout_s=0.2) as server:
        status, _, body = get(f"{server.url}/cluster")
        assert status == 503 and "no coordinator" in json.loads(body)["error"]["message"]


def test_the_page_reaches_nobody_else(server: Serving) -> None:
    for path, kind in (("/", "text/html"), ("/page/main.js", "text/javascript"), ("/page/style.css", "text/css")):
        status, headers, body = get(server.url + path)
        assert status == 200 and headers["content-type"].startswith(kind)
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert b"http://" not in body.replace(b"http://www.w3.org/2000/svg", b"") and b"https://" not in body
    assert get(f"{server.url}/page/absent.js")[0] == 404
