"""tributary-serve with a cluster of its own, for as long as a benchmark takes."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
START_S = 120
STOP_S = 60


@contextmanager
def local_server(model: Path, flags: Sequence[str] = ()) -> Iterator[str]:
    """Its HOST:PORT. Ends the program if the server does not start."""
    with tempfile.TemporaryDirectory() as folder:
        port_file, template = Path(folder) / "port.json", Path(folder) / "template.jinja"
        own = []
        if not (model / "tokenizer_config.json").exists():  # the probe model has no template of its own
            template.write_text("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant: ")
            own = ["--chat-template", str(template)]
        process = subprocess.Popen(
            [sys.executable, "-m", "tributary.serve", "--model", str(model), "--port", "0",
             "--port-file", str(port_file), "--tributary", str(ROOT / "build" / "bin" / "tributary"), *own, *flags])
        try:
            end = time.monotonic() + START_S
            while not port_file.exists():
                if process.poll() is not None or time.monotonic() > end:
                    sys.exit(f"{Path(sys.argv[0]).stem}: the server did not start")
                time.sleep(0.1)
            yield json.loads(port_file.read_text())["listen"]
        finally:
            process.terminate()
            process.wait(STOP_S)
