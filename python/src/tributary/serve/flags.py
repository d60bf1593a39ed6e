"""The server's flags."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from pathlib import Path

from tributary.serve.settings import DEFAULT_MAX_TOKENS, Settings
from tributary.text.files import as_utf8
from tributary.tls import Tls

_DESCRIPTION = """\
An OpenAI-compatible server in front of a Tributary cluster: one that runs (--coordinator), or one that is started here
and stopped with the server. What stands behind -- goes to 'tributary cluster up':

  tributary-serve --model models/smollm2 -- --cpu-nodes 4 --device cuda
"""


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="tributary-serve", description=_DESCRIPTION,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--model", type=Path, required=True, metavar="FOLDER",
                      help="the model folder: its tokenizer and chat template, and without --coordinator its weights")
    made.add_argument("--coordinator", metavar="HOST:PORT", help="a running cluster (default: one is started here)")
    for name, help_text in (("--tls-cert", "certificate of this server as a client of a coordinator that speaks TLS"),
                            ("--tls-key", "its private key"), ("--tls-ca", "what vouches for the coordinator")):
        made.add_argument(name, type=Path, metavar="FILE", help=f"{help_text} (PEM)")
    made.add_argument("--tributary", metavar="PATH",
                      help="the program that starts a cluster (default: in $TRIBUTARY_BIN, or in PATH)")
    made.add_argument("--served-model-name", type=as_utf8, metavar="NAME",
                      help="what clients call the model (default: the folder)")
    made.add_argument("--chat-template", type=Path, metavar="FILE", help="used instead of the folder's")
    made.add_argument("--host", default="127.0.0.1", help="where to listen (default %(default)s)")
    made.add_argument("--port", type=_count(0, 65535), default=8000, help="0 is any free one (default %(default)s)")
    made.add_argument("--port-file", type=Path, metavar="FILE", help='written once it listens: {"listen": "HOST:PORT"}')
    made.add_argument("--api-key-file", type=Path, metavar="FILE", help="one key a line (default: everybody may ask)")
    made.add_argument("--allowed-host", action="append", default=[], metavar="NAME",
                      help="a name that clients may call this server by, in the header Host; may be given several "
                           "times. A server at a loopback address without API keys answers to localhost and these "
                           "only, any other one to all names unless some are given here")
    _add_limits(made)
    return made


def _add_limits(made: argparse.ArgumentParser) -> None:
    default = Settings()
    limits = made.add_argument_group("limits")
    limits.add_argument("--max-body-bytes", type=_count(1), default=default.max_body_bytes,
                        help="of a request (default %(default)s)")
    limits.add_argument("--max-bodies-bytes", type=_count(1), default=default.max_bodies_bytes,
                        help="of all requests that are being read and made into prompts; beyond that, and one "
                             "API key or host beyond half of it, clients get 429 (default %(default)s)")
    limits.add_argument("--body-timeout-s", type=_seconds, default=default.body_timeout_s,
                        help="a body that takes longer to come is not waited for (default %(default)s)")
    limits.add_argument("--connect-timeout-s", type=_seconds, default=default.connect_timeout_s,
                        help="a coordinator that is not there that long is an error of the request (default "
                             "%(default)s)")
    limits.add_argument("--max-running", type=_count(1), default=default.max_running,
                        help="answers that the cluster is asked for at the same time; as much as the coordinator's "
                             "--max-running (default %(default)s)")
    limits.add_argument("--max-waiting", type=_count(0), default=default.max_waiting,
                        help="answers that wait for a place; beyond that clients get 429 (default %(default)s)")
    limits.add_argument("--max-choices", type=_count(1), default=default.max_choices,
                        help="answers to one request (default %(default)s)")
    limits.add_argument("--default-max-tokens", type=_count(1), default=default.default_max_tokens,
                        help="of a chat that does not say; memory for them is reserved (default: max_new_tokens of "
                             f"the folder's generation_config.json, else {DEFAULT_MAX_TOKENS})")
    limits.add_argument("--max-kept-chats", type=_count(0), default=default.max_kept_chats,
                        help="chats whose KV stays for the next turn; 0: none (default %(default)s)")
    limits.add_argument("--keep-s", type=_seconds, default=default.keep_s,
                        help="for how long after an answer (default %(default)s)")
    limits.add_argument("--patience-s", type=_seconds, default=default.patience_s,
                        help="a request that waits longer for a place or memory gets that of the kept chat used "
                             "longest ago; so many seconds apart new chats begin while kept ones fill the memory "
                             "(default %(default)s)")
    limits.add_argument("--keep-room-tokens", type=_count(0), default=default.keep_room_tokens,
                        help="reserved for the later turns of a kept chat (default %(default)s)")
    limits.add_argument("--drain-s", type=_count(0, 24 * 3600), default=30,
                        help="SIGTERM: answers under way may take that long (default %(default)s)")


def settings_of(args: argparse.Namespace) -> Settings:
    """ValueError if they do not go together."""
    if args.max_bodies_bytes < 2 * args.max_body_bytes:  # one body of the greatest size would never be taken
        raise ValueError(f"--max-bodies-bytes is {args.max_bodies_bytes}; make it at least twice --max-body-bytes "
                         f"({args.max_body_bytes}), for one API key or host may have half of it")
    fields = {field.name: getattr(args, field.name) for field in dataclasses.fields(Settings) if field.name != "tls"}
    return Settings(tls=_tls_of(args), **fields)


def _tls_of(args: argparse.Namespace) -> Tls | None:
    files = (args.tls_cert, args.tls_key, args.tls_ca)
    if not any(files):
        return None
    if not all(files) or not args.coordinator:
        raise ValueError("--tls-cert, --tls-key and --tls-ca are given together, and with --coordinator")
    return Tls(*files)


def _count(low: int, high: int = 1 << 62) -> Callable[[str], int]:
    def count(text: str) -> int:
        if not text.isascii() or not text.isdigit() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {low} to {high}")
        return int(text)

    return count


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1
    if not 0.001 <= value <= 24 * 3600:  # a lease is at most a day
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 0.001 to {24 * 3600}")
    return value
