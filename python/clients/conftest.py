"""A server with a cluster of its own, in front of the probe model, whose tokens are bytes. It runs in build/python;
these tests run in build/clients, which has nothing of Tributary."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(os.environ.get("TRIBUTARY_BIN", ROOT / "build" / "bin"))
TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant: "
KEY = "a-key-of-the-tests"
START_S = 120


@dataclass(frozen=True)
class Served:
    base_url: str
    key: str = KEY
    model: str = "probe"


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("server")
    (folder / "template.jinja").write_text(TEMPLATE)
    (folder / "keys").write_text(KEY)
    port_file, log = folder / "port.json", folder / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [ROOT / "build" / "python" / "bin" / "python", "-m", "tributary.serve", "--model",
             ROOT / "models" / "probe", "--chat-template", folder / "template.jinja", "--api-key-file",
             folder / "keys", "--port", "0", "--port-file", port_file, "--tributary", BIN / "tributary", "--",
             "--log-dir", folder / "logs"],
            stderr=output, start_new_session=True)
    try:
        end = time.monotonic() + START_S
        while not port_file.exists():
            assert process.poll() is None and time.monotonic() < end, log.read_text()
            time.sleep(0.05)
        yield Served(f"http://{json.loads(port_file.read_text())['listen']}/v1")
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, log.read_text()
        assert "Traceback" not in log.read_text()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
