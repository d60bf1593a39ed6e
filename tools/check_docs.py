#!/usr/bin/env python3
"""Runs the shell blocks of README.md and deploy/README.md as they are written, in the repository's folder.

    tools/check_docs.py            # all of them: half an hour (./dev check-docs)
    tools/check_docs.py --fast     # those that take less than a minute, with what is built (a test runs this)
    tools/check_docs.py --list     # names them, and checks their form
    tools/check_docs.py README.md:96 README.md:106   # these, as --list names them

A block says in a comment how long it takes: "20 s" or "3 min". A line right above it may say more:

    <!-- docs: parsed only, REASON -->     bash reads it, and nobody runs it here: it needs a GPU, several hosts, ...
    <!-- docs: slow -->                    it needs what a slow block has made, however little time it takes itself
    <!-- docs: serves, TEXT -->            it runs until it is interrupted; once it has said TEXT, the next block begins
    <!-- docs: slow and serves, TEXT -->

Exits with 1 at the first block that fails, with 77 if a port that the blocks use is taken. Only the standard library.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = ("README.md", "deploy/README.md")
FAST_S = 60
START_TIMEOUT_S = 120
RUN_TIMEOUT_S = 3600
PORTS = (7000, 8000)
SKIPPED = 77


def heed_interrupts() -> None:
    """A shell in the background ignores SIGINT, its children inherit that, and bash cannot trap it then."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class DocsError(Exception):
    """A block that is not as it should be, or fails."""


@dataclass(frozen=True)
class Block:
    where: str  # FILE:LINE
    document: str
    text: str
    mark: str  # "", "parsed only", "slow", "serves" or "slow and serves"
    detail: str  # the reason, or what it says when it serves
    seconds: int  # as stated; 0 if the block is parsed only and states none

    @property
    def is_fast(self) -> bool:
        return not self.mark.startswith("slow") and self.seconds < FAST_S

    @property
    def serves(self) -> bool:
        return self.mark.endswith("serves")


def stated_seconds(text: str) -> int:
    """The longest time that a comment of the block states; 0 if there is none."""
    comments = " ".join(re.findall(r"(?:^|\s)#(.*)", text))
    return max((int(n) * {"s": 1, "min": 60}[unit] for n, unit in re.findall(r"(\d+) (s|min)\b", comments)), default=0)


def parse_mark(line: str, where: str) -> tuple[str, str]:
    if not line.startswith("<!-- docs:"):
        return "", ""
    found = re.fullmatch(r"<!-- docs: (parsed only|slow|serves|slow and serves)(?:, (.+))? -->", line)
    if found is None or (found[2] is None) != (found[1] == "slow"):
        raise DocsError(f"{where}: '{line}' is no mark that {Path(__file__).name} knows")
    return found[1], found[2] or ""


def blocks_of(document: str, content: str) -> list[Block]:
    found = []
    lines = content.splitlines()
    begins = [i for i, line in enumerate(lines) if line.strip() in ("```sh", "```bash", "```shell")]
    for begin in begins:
        end = lines.index("```", begin)
        where = f"{document}:{begin + 1}"
        text = "\n".join(lines[begin + 1:end]) + "\n"
        mark, detail = parse_mark(lines[begin - 1] if begin else "", where)
        seconds = stated_seconds(text)
        if seconds == 0 and mark != "parsed only":
            raise DocsError(f"{where}: no comment of this block says how long it takes ('20 s', '3 min')")
        found.append(Block(where, document, text, mark, detail, seconds))
    return found


def check_syntax(block: Block) -> None:
    done = subprocess.run(["bash", "-n"], input=block.text, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise DocsError(f"{block.where}: bash cannot read it: {done.stderr.strip()}")
    placeholder = re.search(r"\b(PORT|HOST|FILE|FOLDER|NAME)\b", re.sub(r"#.*", "", block.text))
    if placeholder and block.mark != "parsed only":
        raise DocsError(f"{block.where}: nobody can run '{placeholder[0]}' as it is written")


class Runner:
    """The blocks of one document, in order; what serves is interrupted at the end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.servers: list[tuple[Block, subprocess.Popen[bytes], Path]] = []

    def run(self, block: Block) -> None:
        begin = time.monotonic()
        log = self.folder / f"{block.where.replace('/', '_')}.log"
        with log.open("wb") as target:
            process = subprocess.Popen(["bash", "-euo", "pipefail", "-c", block.text], cwd=ROOT, stdout=target,
                                       stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True,
                                       preexec_fn=heed_interrupts)
        if block.serves:
            self.servers.append((block, process, log))
            self.wait_for_words(block, process, log)
        else:
            try:
                status = process.wait(RUN_TIMEOUT_S)
            except BaseException:
                os.killpg(process.pid, signal.SIGTERM)
                raise
            if status != 0:
                raise DocsError(f"{block.where} ended with status {status}:\n{log.read_text(errors='replace')[-4000:]}")
        print(f"{time.monotonic() - begin:8.1f} s  {block.where} (stated: {block.seconds} s)", flush=True)

    def wait_for_words(self, block: Block, process: subprocess.Popen[bytes], log: Path) -> None:
        end = time.monotonic() + START_TIMEOUT_S
        while block.detail not in log.read_text(errors="replace"):
            if process.poll() is not None or time.monotonic() > end:
                raise DocsError(f"{block.where} does not say '{block.detail}':\n{log.read_text(errors='replace')}")
            time.sleep(0.05)

    def stop(self) -> None:
        """Ctrl-C for what serves, the last one first."""
        while self.servers:
            block, process, log = self.servers.pop()
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGINT)
            status = process.wait(120)
            if status not in (0, 130):
                raise DocsError(f"{block.where} ended with status {status}:\n{log.read_text(errors='replace')[-4000:]}")


def taken_port() -> int | None:
    for port in PORTS:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                return port
    return None


def run_all(blocks: list[Block], fast: bool) -> None:
    """In order, document by document."""
    for document in DOCUMENTS:
        with tempfile.TemporaryDirectory(prefix="tributary-docs-") as name:
            runner = Runner(Path(name))
            try:
                for block in blocks:
                    if block.document != document:
                        continue
                    if block.mark == "parsed only" or (fast and not block.is_fast):
                        print(f"  not run    {block.where} ({block.detail or f'takes {block.seconds} s'})", flush=True)
                    else:
                        runner.run(block)
            finally:
                runner.stop()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fast", action="store_true", help="only those that state less than a minute")
    parser.add_argument("--list", action="store_true", help="run none")
    parser.add_argument("blocks", nargs="*", metavar="FILE:LINE", help="run these alone")
    arguments = parser.parse_args()
    blocks = [block for name in DOCUMENTS for block in blocks_of(name, (ROOT / name).read_text())]
    for block in blocks:
        check_syntax(block)
    if arguments.list:
        for block in blocks:
            print(f"{block.where:<22} {block.seconds:>5} s  {block.mark or 'run'} {block.detail}")
        return 0
    port = taken_port()
    if port is not None:
        print(f"skipped: port {port}, which the documents use, is taken on this host")
        return SKIPPED
    unknown = set(arguments.blocks) - {block.where for block in blocks}
    if unknown:
        raise DocsError(f"there is no block {', '.join(sorted(unknown))}; --list names them")
    run_all([block for block in blocks if not arguments.blocks or block.where in arguments.blocks], arguments.fast)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except DocsError as error:
        sys.exit(f"check-docs: {error}")
