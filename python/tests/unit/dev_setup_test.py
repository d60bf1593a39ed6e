"""`./dev setup python` with a pip that fails: only a registry out of reach lets the Python tests be skipped."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
OUT_OF_REACH = 75


@pytest.mark.skipif(shutil.which("dpkg-query") is None, reason="./dev is for Debian and Ubuntu")
@pytest.mark.parametrize("said, status", [
    ("WARNING: Retrying after connection broken by 'NewConnectionError(...)': /simple/grpcio/\n"
     "ERROR: Could not find a version that satisfies the requirement (from versions: none)", OUT_OF_REACH),
    ("Failed to establish a new connection: [Errno -3] Temporary failure in name resolution", OUT_OF_REACH),
    ("Failed to establish a new connection: [Errno -2] Name or service not known", OUT_OF_REACH),
    ("ReadTimeoutError: Read timed out.", OUT_OF_REACH),
    ("HTTPSConnectionPool(host='pypi.org', port=443): Max retries exceeded", OUT_OF_REACH),
    ("ERROR: Could not find a version that satisfies the requirement grcpio (from versions: none)", 1),
    ("ERROR: Could not find a version that satisfies the requirement grpcio==0 (from versions: 1.0, 1.1)", 1),
])
def test_what_pip_says_of_a_registry(tmp_path: Path, said: str, status: int) -> None:
    shutil.copy(ROOT / "dev", tmp_path / "dev")
    for name in ("tools/packages/debian.txt", "python/requirements.txt", "said.txt", "build/python/bin/python"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "said.txt").write_text(said + "\n")
    fake_python = tmp_path / "build/python/bin/python"
    fake_python.write_text("#!/bin/sh\ncat said.txt >&2\nexit 1\n")
    fake_python.chmod(0o755)
    done = subprocess.run([tmp_path / "dev", "setup", "python"], capture_output=True, text=True, check=False)
    assert done.returncode == status and said in done.stderr, done.stderr
