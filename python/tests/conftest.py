"""What tests share: a fake coordinator, a model folder whose tokens are bytes, and a server in front of both."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from fake_coordinator import FakeCoordinator, running  # noqa: E402
from serving import Serving, make_byte_model, serving  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def fake() -> Iterator[FakeCoordinator]:
    with running(FakeCoordinator()) as coordinator:
        yield coordinator


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_byte_model(tmp_path / "bytes")


@pytest.fixture
def server(fake: FakeCoordinator, model: Path) -> Iterator[Serving]:
    with serving(fake.address, model) as one:
        yield one
