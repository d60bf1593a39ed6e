"""The page in Chromium, in front of the scripted coordinator: what it shows, and that it asks nobody else."""

from __future__ import annotations

import http.server
import itertools
import re
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from fake_coordinator import FakeCoordinator, Failure, Script, text, wait_until
from serving import Serving, serving

# What a look adds, which is its number times these: 10 steps of 20 ms, 5 ms of them in qkv; in each of the 2 layers two
# nodes have 300 and 100 remote tokens, of which 30 and 20 are read.
WORKER = """# TYPE tributary_decode_step_duration_seconds histogram
tributary_decode_step_duration_seconds_sum {0.2}
tributary_decode_step_duration_seconds_count {10}
# TYPE tributary_decode_phase_duration_seconds histogram
tributary_decode_phase_duration_seconds_sum{phase="qkv"} {0.05}
tributary_decode_phase_duration_seconds_sum{phase="remote_wait"} {0.15}
# TYPE tributary_batch_size histogram
tributary_batch_size_sum {10}
# TYPE tributary_appended_tokens_total counter
tributary_appended_tokens_total {0}
# TYPE tributary_kept_mass_mean_ratio histogram
tributary_kept_mass_mean_ratio_sum {1.75}
tributary_kept_mass_mean_ratio_count {2}
"""
NODES = {
    "cpu-0": "tributary_attention_covered_tokens_total {6000}\ntributary_attention_attended_tokens_total {600}\n",
    "cpu-1": "tributary_attention_covered_tokens_total {2000}\ntributary_attention_attended_tokens_total {400}\n",
}


@contextmanager
def metrics(text_of_look: str) -> Iterator[str]:
    """The address of metrics whose values in braces are multiplied by the number of the look."""
    looks = 0

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # noqa: N802 - its name
            nonlocal looks
            looks += 1
            body = re.sub(r"\{([\d.]+)\}", lambda number: str(looks * float(number[1])), text_of_look).encode()
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
def worker() -> Iterator[str]:
    with metrics(WORKER) as address:
        yield address


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


def test_what_each_step_reads(page: Any, fake: FakeCoordinator, pictures: Path) -> None:
    """A strip of bars that grows while an answer comes, and tells of the one that is pointed at."""
    with ExitStack() as stack:
        fake.node_metrics_addresses = {name: stack.enter_context(metrics(text)) for name, text in NODES.items()}
        gate = threading.Event()
        fake.script = lambda request: text("a river", gate=gate)
        say(page, "Go")
        page.locator("#steps g").nth(5).wait_for()
        wait_for(page, "#steps", "12.5 %")
        wait_for(page, "#steps", "50 of 400 in each layer of a step")
        wait_for(page, "#steps .legend", "cpu-0: 30 tokens a step")
        wait_for(page, "#steps .legend", "cpu-1: 20 tokens a step")
        page.locator("#steps g").nth(1).hover()  # what it says stays while bars are added
        wait_for(page, "#reading", "Steps 11 to 20, their mean: 12.5 %, 50 tokens; softmax mass kept 87.5 %")
        page.screenshot(path=pictures / "steps.png", full_page=True)
        page.set_viewport_size({"width": 420, "height": 900})
        page.screenshot(path=pictures / "steps-narrow.png", full_page=True)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing sticks out of it"
        gate.set()
        wait_for(page, ".turn.assistant", "tokens/s")
        page.evaluate("""() => {
            window.fewest = Infinity;
            const bars = () => document.querySelectorAll("#steps g").length;
            const count = () => { window.fewest = Math.min(window.fewest, bars()); };
            new MutationObserver(count).observe(document.getElementById("steps"), { childList: true });
        }""")
        say(page, "Again")
        wait_until(lambda: page.evaluate("window.fewest") <= 1, "the next answer begins a strip of its own")


COPIES = itertools.count()


def look(number: int, worker: dict[str, float], node: dict[str, float] | None, running: int = 1) -> dict[str, Any]:
    return {"time_s": number, "layers": 2, "running": running, "nodes": [
        {"node_id": "gpu-0", "role": "gpu_worker", "figures": worker},
        {"node_id": "cpu-0", "role": "cpu_attention", "figures": node}]}


def readings(page: Any, *looks: dict[str, Any]) -> tuple[list[tuple[float, ...]], float]:
    """(begin, steps, covered, read) of each reading, and how many steps there were, by a copy of the module."""
    told = page.evaluate("""async ([copy, looks]) => {
        const { add } = await import("/page/reads.js?" + copy);
        return looks.map((look) => add(look)).at(-1);
    }""", [str(next(COPIES)), looks])
    made = [(one["begin"], one["steps"], one["covered"], one["read"]) for one in told["readings"]]
    return made, told["totals"]["position"]


def test_readings(page: Any) -> None:
    """What a look is worth: a dense answer, a sparse one, several at once, and those that tell nothing."""
    node = {"covered_tokens": 300, "attended_tokens": 100}
    begin = look(0, {}, {})
    dense = look(1, {"sequence_steps": 2}, node)
    assert readings(page, begin, dense) == ([(0, 2, 150, 50)], 2)
    sparse = {"sequence_steps": 2, "covered_tokens": 160, "attended_tokens": 40}
    assert readings(page, begin, look(1, sparse, node)) == ([(0, 2, 160, 40)], 2)
    assert readings(page, begin, look(1, sparse, node, running=2)) == ([(0, 2, 150, 50)], 2)
    appended = look(2, {"sequence_steps": 5, "appended_tokens": 9}, {"covered_tokens": 900, "attended_tokens": 900})
    after = look(3, {"sequence_steps": 6, "appended_tokens": 9}, {"covered_tokens": 1000, "attended_tokens": 920})
    assert readings(page, begin, dense, appended, after) == ([(0, 2, 150, 50), (5, 1, 50, 10)], 6)
    assert readings(page, begin, look(1, {}, node)) == ([], 0), "no step"
    assert readings(page, begin, dense, begin) == ([(0, 2, 150, 50)], 2), "they began anew"
    assert readings(page, begin, look(1, {"sequence_steps": 2}, None)) == ([], 0), "a silent node"
    assert readings(page, begin, {**dense, "time_s": 0}) == ([], 0), "the same look"


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
