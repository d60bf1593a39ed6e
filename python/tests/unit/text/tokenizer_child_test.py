"""tools/tokenizer.py as the child that it is: it does not outlive whoever started it, however busy it is."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[4]

# Stands in for the real bridge, and for a text that takes for ever: it looks at its input no more.
BUSY = """\
import signal

def serve(folder, lines, out, with_frame):
    out.write("busy\\n")
    out.flush()
    signal.pause()
"""

# Starts the child as `tributary` does, signals blocked and its standard error inherited, and dies by SIGKILL once the
# child is busy.
PARENT = """\
import os, signal, subprocess, sys
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
child = subprocess.Popen([sys.executable, "-B", *sys.argv[1:]], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
assert child.stdout.readline() == b"busy\\n"
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_it_ends_with_its_parent(tmp_path: Path) -> None:
    program = tmp_path / "bin" / "tributary-tokenizer.py"
    package = tmp_path / "share" / "tributary" / "python" / "tributary" / "text"
    for folder in (program.parent, package, tmp_path / "model"):
        folder.mkdir(parents=True)
    shutil.copy(ROOT / "tools" / "tokenizer.py", program)
    (package / "bridge.py").write_text(BUSY)
    (tmp_path / "model" / "tokenizer.json").touch()
    # Whoever holds the pipe's other end lives: it is closed when both have ended, else this is killed after a minute.
    done = subprocess.run([sys.executable, "-c", PARENT, program, tmp_path / "model"], stderr=subprocess.PIPE,
                          timeout=60, check=False)
    assert done.returncode == -9 and done.stderr == b""
