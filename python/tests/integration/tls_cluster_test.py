"""The package as a client of a coordinator that speaks TLS."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from certificates import Authority
from connections_test import Server

from tributary import Client, Tls, TributaryError, UnavailableError, aio


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def coordinator(authority: Authority) -> Iterator[str]:
    server = Server("tributary-coordinator", *authority.flags("coordinator"))
    yield server.listen
    server.close()


def test_a_client_with_a_certificate(authority: Authority, coordinator: str) -> None:
    tls = Tls(*authority.files("client"), authority.ca)
    with Client(coordinator, tls=tls) as client:
        assert client.status().nodes == ()

    async def ask() -> None:
        async with aio.Client(coordinator, tls=tls) as client:
            await client.status()

    asyncio.run(ask())


def test_others_are_refused(authority: Authority, coordinator: str, tmp_path: Path) -> None:
    with Client(coordinator, connect_timeout_s=1) as client, pytest.raises(UnavailableError):
        client.status()
    node = Tls(*authority.files("node"), authority.ca)
    with Client(coordinator, tls=node) as client, pytest.raises(TributaryError, match="is for the role client"):
        client.status()
    foreign = Authority(tmp_path, "foreign")
    tls = Tls(*foreign.files("client"), authority.ca)
    with Client(coordinator, connect_timeout_s=1, tls=tls) as client, pytest.raises(UnavailableError):
        client.status()
