"""By which names the server may be called. A page of another origin whose name is made to mean this host (DNS
rebinding) counts for the browser as a page of this server: it would read answers, if its name were not refused."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection

from starlette.types import ASGIApp, Receive, Scope, Send

from tributary.serve.errors import ApiError

_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def known_hosts(address: str, names: Collection[str], *, has_keys: bool) -> Collection[str] | None:
    """`address` is where the server listens, `names` are those of --allowed-host. None: any will do, since a page has
    no API key, or since others than this host are to be served and nobody said by which name."""
    listens_at = ipaddress.ip_address(address.partition("%")[0])
    listens_at = getattr(listens_at, "ipv4_mapped", None) or listens_at
    if not names and (has_keys or not listens_at.is_loopback):
        return None
    return {*_LOOPBACK, str(listens_at), *(_without_port(name) for name in names)}


class KnownHosts:
    """Answers 403 to requests for other hosts. What has no Host comes from no browser."""

    def __init__(self, app: ASGIApp, hosts: Collection[str] | None) -> None:
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._hosts is not None:
            for name, value in scope["headers"]:
                if name == b"host" and _without_port(value.decode("latin-1")) not in self._hosts:
                    await _refusal(value.decode("latin-1")).response()(scope, receive, send)
                    return
        await self._app(scope, receive, send)


def _refusal(host: str) -> ApiError:
    return ApiError(403, f"this server does not answer for the host {host[:128]!r}; ask it at localhost, or start it "
                    "with --allowed-host NAME for each other name, or with --api-key-file", code="unknown_host",
                    closes=True)


def _without_port(host: str) -> str:
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    name = host if host.count(":") > 1 else host.partition(":")[0]
    return name.removesuffix(".")
