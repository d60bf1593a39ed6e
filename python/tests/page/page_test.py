"""The page in Chromium, in front of the scripted coordinator: what it shows, and that it asks nobody else."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from fake_coordinator import FakeCoordinator, Failure, Script, text
from serving import Serving, serving

METRICS = """# TYPE tributary_decode_step_duration_seconds histogram
tributary_decode_step_duration_seconds_sum {step_s}
tributary_decode_step_duration_seconds_count {steps}
# TYPE tributary_decode_phase_duration_seconds histogram
tributary_decode_phase_duration_seconds_sum{{phase="qkv"}} {qkv_s}
tributary_decode_phase_duration_seconds_sum{{phase="remote_wait"}} {wait_s}
"""


@pytest.fixture
def worker() -> Iterator[str]:
    """A worker's metrics: with each look it has made 10 steps of 20 ms, 5 ms of them in qkv."""
    looks = 0

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # noqa: N802 - its name
            nonlocal looks
            looks += 1
            body = METRICS.format(steps=10 * looks, step_s=0.2 * looks, qkv_s=0.05 * looks,
                                  wait_s=0.15 * looks).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.fixture
def page(browser: Any, server: Serving, fake: FakeCoordinator, worker: str) -> Iterator[Any]:
    fake.metrics_address = worker
    one = browser.new_page(viewport={"width": 1400, "height": 1100})
    wrong: list[str] = []
    one.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    one.on("pageerror", lambda error: wrong.append(str(error)))
    one.on("request", lambda request: None if request.url.startswith(server.url) else wrong.append(request.url))
    one.set_default_timeout(30_000)
    one.goto(server.url)
    yield one
    one.close()
    assert [entry for entry in wrong if "status of 4" not in entry] == []


def say(page: Any, message: str) -> None:
    page.get_by_label("Message", exact=True).fill(message)
    page.get_by_role("button", name="Send").click()


def wait_for(page: Any, where: str, what: str) -> None:
    page.locator(where).get_by_text(what).first.wait_for()


def test_a_chat_and_where_it_lay(page: Any, fake: FakeCoordinator, pictures: Path) -> None:
    fake.script = lambda request: text("<b>two</b> rivers")
    wait_for(page, "#health", "0 running, 0 waiting")
    wait_for(page, "#stages", "20 ms each")
    wait_for(page, "#stages", "remote_wait")
    page.get_by_text("Settings").click()
    page.get_by_label("Policy").fill("hgca")
    say(page, "How many?")
    wait_for(page, ".turn.assistant", "<b>two</b> rivers")
    wait_for(page, ".turn.assistant", "tokens/s")
    wait_for(page, "#where", "cpu-0")
    wait_for(page, "#read", "75.0 %")
    wait_for(page, "#read", "25.0 %")
    wait_for(page, "#read", "0.013")
    wait_for(page, "#nodes", "gpu-0")
    assert bytes(fake.requests[0].prompt_tokens).startswith(b"[user]How many?")
    say(page, "And then?")
    page.locator(".turn.assistant").nth(1).get_by_text("rivers").wait_for()
    page.locator("#read").get_by_text("prompt from a kept sequence").wait_for()
    assert fake.requests[1].continue_request_id == fake.requests[0].request_id
    page.screenshot(path=pictures / "light.png", full_page=True)
    page.emulate_media(color_scheme="dark")
    page.screenshot(path=pictures / "dark.png", full_page=True)
    page.set_viewport_size({"width": 420, "height": 900})
    page.screenshot(path=pictures / "narrow.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing sticks out of a narrow window"


def test_an_answer_is_stopped_and_an_error_is_shown(page: Any, fake: FakeCoordinator) -> None:
    gate = threading.Event()
    fake.script = lambda request: text("never", gate=gate)
    say(page, "Wait")
    page.get_by_role("button", name="Stop").click()
    wait_for(page, ".turn.assistant", "stopped")
    fake.script = lambda request: Script(refused=Failure(grpc.StatusCode.INVALID_ARGUMENT, "no such policy"))
    say(page, "Again")
    wait_for(page, ".turn .error", "no such policy")
    gate.set()


def test_by_keyboard_and_by_name(page: Any) -> None:
    """Each control has a name, and Enter sends."""
    unnamed = page.evaluate("""[...document.querySelectorAll('input, textarea, button')]
        .filter((one) => !(one.labels?.length || one.textContent.trim())).map((one) => one.outerHTML)""")
    assert unnamed == []
    page.get_by_label("Message", exact=True).fill("Hi")
    page.keyboard.press("Enter")
    wait_for(page, ".turn.assistant", "ok")
    assert page.evaluate("document.activeElement.id") == "message"


def test_a_key_is_asked_for(browser: Any, fake: FakeCoordinator, model: Path) -> None:
    with serving(fake.address, model, keys=("secret",)) as server:
        page = browser.new_page()
        page.goto(server.url)
        wait_for(page, "#health", "no API key")
        page.get_by_text("Settings").click()
        page.get_by_label("API key").fill("secret")
        wait_for(page, "#health", "0 running")
        page.close()
