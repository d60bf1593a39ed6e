"""A cluster of processes on this host, started by `tributary cluster up` and stopped with the server."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

_START_TIMEOUT_S = 600.0  # weights of a large model from a slow disk
_STOP_TIMEOUT_S = 60.0
_PR_SET_PDEATHSIG = 1


class ClusterError(Exception):
    """The cluster did not start; the message repeats what it said."""


def find_binary(given: str | None) -> Path:
    """`given`, or the one in $TRIBUTARY_BIN, or the one in PATH."""
    folder = os.environ.get("TRIBUTARY_BIN")
    path = given or (os.path.join(folder, "tributary") if folder else shutil.which("tributary"))
    if path is None:
        raise ClusterError("there is no program 'tributary' in PATH; name the one that was built with --tributary "
                           "PATH, or a running cluster with --coordinator HOST:PORT")
    if not os.access(path, os.X_OK):
        raise ClusterError(f"{path} is no program")
    return Path(path)


class LocalCluster:
    """For one with-block."""

    def __init__(self, binary: Path, model: Path, flags: Sequence[str]) -> None:
        self._command = [str(binary), "cluster", "up", "--model", str(model), *flags]
        self.coordinator = ""

    def __enter__(self) -> LocalCluster:
        self._folder = tempfile.TemporaryDirectory(prefix="tributary-serve-")
        port_file = Path(self._folder.name) / "cluster.json"
        errors = Path(self._folder.name) / "errors.txt"
        with errors.open("wb") as target:
            self._process = subprocess.Popen([*self._command, "--port-file", str(port_file)], stdin=subprocess.DEVNULL,
                                             stdout=subprocess.DEVNULL, stderr=target, start_new_session=True,
                                             preexec_fn=_die_with_parent)
        end_s = time.monotonic() + _START_TIMEOUT_S
        try:
            while not port_file.exists():
                if self._process.poll() is not None:
                    raise ClusterError(f"the cluster did not start: {errors.read_text(errors='replace').strip()}")
                if time.monotonic() > end_s:
                    raise ClusterError(f"the cluster was not ready after {_START_TIMEOUT_S:g} s")
                time.sleep(0.02)
            self.coordinator = json.loads(port_file.read_text())["coordinator"]
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    @property
    def runs(self) -> bool:
        return self._process.poll() is None

    def _stop(self) -> None:
        """It drains; what does not end by itself is killed."""
        if self.runs:
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._folder.cleanup()


def _die_with_parent() -> None:
    """In the child, before it becomes the cluster: SIGTERM if this server is killed."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
