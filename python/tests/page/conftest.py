"""Chromium for the page's tests; without it, or without the package playwright, they are skipped with a word, and if
nothing else ran, pytest ends with 77, which ctest calls skipped."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

PROGRAMS = ("chromium", "chromium-headless-shell", "google-chrome")


SKIPPED = 77  # SKIP_RETURN_CODE of python/CMakeLists.txt


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if exitstatus == 0 and reporter is not None and reporter.stats.get("skipped") and not reporter.stats.get("passed"):
        session.exitstatus = SKIPPED


def chromium() -> str:
    found = os.environ.get("TRIBUTARY_CHROMIUM") or next(filter(None, map(shutil.which, PROGRAMS)), None)
    if found is None:
        pytest.skip(f"there is none of {', '.join(PROGRAMS)}; ./dev setup page installs Debian's")
    return found


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    program = chromium()
    api = pytest.importorskip("playwright.sync_api", reason="./dev setup page installs the package playwright")
    with api.sync_playwright() as playwright:
        one = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield one
        one.close()


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Where screenshots go: the folder $TRIBUTARY_PICTURES, to be looked at, else one that is thrown away."""
    folder = Path(os.environ.get("TRIBUTARY_PICTURES", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    return folder
