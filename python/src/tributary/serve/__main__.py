"""`python -m tributary.serve` and `tributary-serve`: flags in, a server until SIGTERM or Ctrl-C, an exit status out."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

try:
    import uvicorn

    from tributary.serve.app import Server
except ImportError as missing:
    sys.exit(f"tributary-serve: {missing.name} is not installed; pip install 'tributary[serve]'")

from tributary import Client, Tls, TributaryError
from tributary.serve import flags
from tributary.serve.auth import ApiKeys, load_api_keys
from tributary.serve.fd_limit import raise_fd_limit
from tributary.serve.known_hosts import known_hosts
from tributary.serve.local_cluster import ClusterError, LocalCluster, find_binary
from tributary.text import ModelFolderError, ModelText, load_model_text

_BACKLOG = 2048
_LOOK_AFTER_S = 0.5


def say(text: str) -> None:
    print(f"tributary-serve: {text}", file=sys.stderr, flush=True)


class _Uvicorn(uvicorn.Server):
    """Tells where it listens once it does, and ends when the cluster has."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None], cluster_runs: Callable[[], bool]) -> None:
        super().__init__(config)
        self._on_ready = on_ready
        self._cluster_runs = cluster_runs
        self.cluster_lost = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.should_exit:
            return
        self._on_ready()
        self._watching = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        while self._cluster_runs():
            await asyncio.sleep(_LOOK_AFTER_S)
        if not self.should_exit:
            self.cluster_lost = self.should_exit = True


def main(arguments: Sequence[str] | None = None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    split = given.index("--") if "--" in given else len(given)
    parser = flags.parser()
    args = parser.parse_args(given[:split])
    cluster_flags = given[split + 1:]
    if args.coordinator and cluster_flags:
        parser.error(f"'{cluster_flags[0]}' is for a cluster that is started here, not for --coordinator")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    # uvicorn drains on these and raises them again when it is done; then there is a cluster to stop.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    raise_fd_limit()
    try:
        settings = flags.settings_of(args)
        text = load_model_text(args.model, args.chat_template)
        keys = load_api_keys(args.api_key_file) if args.api_key_file else ApiKeys([])
        warn_of_defaults(text)
        with ExitStack() as stack:
            cluster = None
            if args.coordinator is None:
                say("starting a cluster on this host")
                cluster = stack.enter_context(LocalCluster(find_binary(args.tributary), args.model, cluster_flags))
            coordinator = args.coordinator or (cluster.coordinator if cluster else "")
            check_model(coordinator, text, settings.tls)
            listener = stack.enter_context(listen(args.host, args.port))
            hosts = known_hosts(listener.getsockname()[0], args.allowed_host, has_keys=args.api_key_file is not None)
            app = Server(coordinator, text, keys, settings, args.served_model_name, hosts).app()
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: None)
            server = _Uvicorn(
                uvicorn.Config(app, log_level="warning", access_log=False, backlog=_BACKLOG, server_header=False,
                               timeout_graceful_shutdown=args.drain_s),
                lambda: announce(listener, args.served_model_name or text.name, coordinator, args.port_file),
                lambda: cluster is None or cluster.runs)
            server.run(sockets=[listener])
            if server.cluster_lost:
                say("the cluster has ended, and so does this server")
            return 1 if server.cluster_lost or not server.started else 0
    except (ModelFolderError, ClusterError, TributaryError, ValueError, OSError) as error:
        say(str(error))
        return 1


def warn_of_defaults(text: ModelText) -> None:
    for name, value in text.sampling.not_served.items():
        say(f"generation_config.json asks for {name} {value}, which the engine's sampler does not have: ignored")


def check_model(coordinator: str, text: ModelText, tls: Tls | None) -> None:
    """A coordinator that is not there yet is waited for by /health, and by clients. ValueError if it serves a model
    with another vocabulary."""
    try:
        with Client(coordinator, tls=tls) as client:
            status = client.status()
    except TributaryError as error:
        say(f"{error}; until there is, clients get 503")
        return
    if 0 < status.vocab_size < text.tokenizer.vocab_size:
        raise ValueError(f"the tokenizer of {text.name} has {text.tokenizer.vocab_size} tokens, but the cluster at "
                         f"{coordinator} serves {status.model_name} with {status.vocab_size}; give --model its folder")


def listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise OSError(f"cannot listen at {host}:{port}: {error.strerror or error}") from None


def announce(listener: socket.socket, model: str, coordinator: str, port_file: Path | None) -> None:
    host, port = listener.getsockname()[:2]
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    say(f"{model} at http://{address}/v1 (coordinator {coordinator})")
    if port_file is not None:
        part = port_file.with_name(port_file.name + ".part")
        part.write_text(json.dumps({"listen": address, "coordinator": coordinator, "pid": os.getpid()}))
        part.rename(port_file)


if __name__ == "__main__":
    sys.exit(main())
