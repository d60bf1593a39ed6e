"""Without Chromium the page's tests are skipped, and ctest is told so."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2]


def test_without_chromium_ctest_is_told_that_nothing_ran() -> None:
    without = {name: value for name, value in os.environ.items() if name != "TRIBUTARY_CHROMIUM"}
    done = subprocess.run([sys.executable, "-m", "pytest", "-rs", "-p", "no:cacheprovider", "tests/page"], cwd=PACKAGE,
                          env={**without, "PATH": ""}, capture_output=True, text=True, check=False)
    assert done.returncode == 77 and "./dev setup page installs" in done.stdout, done.stdout + done.stderr
