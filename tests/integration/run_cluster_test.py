#!/usr/bin/env python3
"""deploy/local/run_cluster.sh: Ctrl-C lets running requests end, and leaves no process."""

import os
import pathlib
import re
import signal
import socket
import subprocess
import tempfile
import unittest

from cluster import BIN, ROOT, Request, wait_until

TOKENS = 400


def free_port():
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        return holder.getsockname()[1]


def runs(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


class RunClusterTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="tributary-test-")
        self.addCleanup(folder.cleanup)
        self.output = pathlib.Path(folder.name) / "output.txt"
        self.port = free_port()
        with self.output.open("wb") as target:
            # A process group of its own, which gets SIGINT as a whole, as from a terminal.
            self.script = subprocess.Popen([ROOT / "deploy" / "local" / "run_cluster.sh"], stdout=target,
                                           stderr=subprocess.STDOUT, start_new_session=True, stdin=subprocess.DEVNULL,
                                           # What a shell in the background ignores, bash could not trap.
                                           preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
                                           env={**os.environ, "TRIBUTARY_BIN": str(BIN), "PORT": str(self.port)})
        self.addCleanup(self.end)
        wait_until(lambda: "Ctrl-C stops" in self.said() or self.script.poll() is not None, "the cluster is up", 90)
        self.assertIsNone(self.script.poll(), self.said())
        self.pids = [int(pid) for pid in re.findall(r" pid (\d+)", self.said())]
        self.assertEqual(len(self.pids), 4)

    def end(self):
        """Whatever the test found, nothing of it stays."""
        for pid in [self.script.pid, *getattr(self, "pids", [])]:
            if runs(pid):
                os.kill(pid, signal.SIGKILL)
        self.script.wait()

    def said(self):
        return self.output.read_text()

    def ask(self):
        return Request(["--coordinator", f"127.0.0.1:{self.port}", "--prompt", "The river " * 60, "--window-tokens",
                        "64", "--sink-tokens", "4", "--max-tokens", str(TOKENS), "--ignore-eos"])

    def test_ctrl_c_lets_a_request_end(self):
        request = self.ask()
        request.wait_for_output()
        os.killpg(self.script.pid, signal.SIGINT)
        status, output, errors = request.finish(300)
        self.assertEqual(status, 0, errors)
        self.assertIn(f"{TOKENS} tokens", output.decode(errors="replace"))
        self.assertEqual(self.script.wait(300), 0, self.said())
        self.assertIn("stopped; logs are in", self.said())
        self.assertFalse([pid for pid in self.pids if runs(pid)])

    def test_the_second_stops_at_once(self):
        request = Request(["--coordinator", f"127.0.0.1:{self.port}", "--prompt", "The river ", "--max-tokens",
                           "30000", "--ignore-eos"])
        request.wait_for_output()
        os.killpg(self.script.pid, signal.SIGINT)
        wait_until(lambda: "running requests may end" in self.said(), "the script stops")
        self.assertIsNone(request.process.poll())
        os.killpg(self.script.pid, signal.SIGINT)
        self.assertNotEqual(request.finish(300)[0], 0)
        self.assertEqual(self.script.wait(300), 0, self.said())
        self.assertFalse([pid for pid in self.pids if runs(pid)])


if __name__ == "__main__":
    unittest.main()
