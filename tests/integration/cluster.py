"""A real cluster of processes under a test's control. Only the standard library is used."""

import json
import os
import pathlib
import random
import signal
import subprocess
import tempfile
import threading
import time
import urllib.request
import zlib

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(os.environ.get("TRIBUTARY_BIN", ROOT / "build" / "bin"))
MODEL = ROOT / "models" / "probe"
DEVICE = os.environ.get("TRIBUTARY_TEST_DEVICE", "host")  # cuda: the same tests with a GPU worker on a GPU, in f32
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


def test_seed(name):
    """The seed of a test's random inputs, as tests/testutil/test_seed.h has it: the same in each run, unless
    TRIBUTARY_TEST_SEED is a number, or "random"."""
    text = os.environ.get("TRIBUTARY_TEST_SEED", "")
    if text == "random":
        return random.SystemRandom().randrange(1 << 32)
    return int(text) if text else zlib.crc32(name.encode())


def wait_until(condition, what, timeout_s=30):
    """Polls until condition() is true and returns its value; AssertionError naming `what` otherwise."""
    end = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"after {timeout_s} s still not true: {what}")
        time.sleep(0.02)


class Request:
    """`tributary generate` as a process whose text is read as it streams."""

    def __init__(self, arguments):
        self.process = subprocess.Popen([BIN / "tributary", "generate", *arguments], stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE)
        self.output = b""
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        for chunk in iter(lambda: self.process.stdout.read1(4096), b""):
            self.output += chunk

    def wait_for_output(self, num_bytes=1):
        wait_until(lambda: len(self.output) >= num_bytes or self.process.poll() is not None, "the request streams", 60)
        if self.process.poll() is not None and len(self.output) < num_bytes:
            raise AssertionError(f"the request ended early: {self.process.stderr.read().decode()}")

    def finish(self, timeout_s=60):
        """(exit status, stdout, stderr)"""
        self.process.wait(timeout=timeout_s)
        self.reader.join(timeout=10)
        with self.process.stdout, self.process.stderr:
            return self.process.returncode, self.output, self.process.stderr.read().decode()


class Cluster:
    """`tributary cluster up` for the time of a with-block. Its exit status is checked unless check_exit is cleared."""

    def __init__(self, cpu_nodes=2, flags=(), model=MODEL, workers=1):
        self.cpu_nodes, self.flags, self.model, self.workers = cpu_nodes, flags, model, workers
        self.check_exit = True

    def __enter__(self):
        self.folder = tempfile.TemporaryDirectory(prefix="tributary-test-")
        port_file = pathlib.Path(self.folder.name) / "cluster.json"
        command = [BIN / "tributary", "cluster", "up", "--model", self.model, "--cpu-nodes", str(self.cpu_nodes),
                   "--device", ",".join([DEVICE] * self.workers), "--compute-dtype",
                   "model" if DEVICE == "host" else "f32", "--log-dir",
                   pathlib.Path(self.folder.name) / "logs", "--port-file", port_file, *self.flags]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        wait_until(lambda: port_file.exists() or self.process.poll() is not None, "the cluster is up", 90)
        if not port_file.exists():
            raise AssertionError(f"the cluster did not start: {self.process.communicate()[1]}")
        info = json.loads(port_file.read_text())
        self.coordinator = info["coordinator"]
        self.pids = {p["name"]: p["pid"] for p in info["processes"]}
        self.metrics = {p["name"]: p["metrics"] for p in info["processes"]}
        return self

    def __exit__(self, kind, *_):
        status = self.stop()
        logs = self.logs() if kind is not None or (self.check_exit and status != 0) else ""
        self.folder.cleanup()
        if logs:
            print(logs)
        if kind is None and self.check_exit:
            assert status == 0, f"cluster up ended with status {status}"

    def stop(self, timeout_s=60):
        """SIGTERM; returns the exit status of `cluster up`."""
        for pid in self.pids.values():
            self.signal_pid(pid, signal.SIGCONT)
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        self.output, self.errors = self.process.communicate(timeout=timeout_s)
        return self.process.returncode

    def logs(self):
        folder = pathlib.Path(self.folder.name) / "logs"
        return "".join(f"---- {log.name}\n{log.read_text()[-4000:]}" for log in sorted(folder.glob("*.log")))

    @staticmethod
    def signal_pid(pid, number):
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass

    def signal(self, name, number):
        self.signal_pid(self.pids[name], number)

    def prompt_file(self, text):
        path = pathlib.Path(self.folder.name) / f"prompt-{abs(hash(text))}.txt"
        path.write_bytes(text)
        return path

    def start(self, text, *flags):
        return Request(["--coordinator", self.coordinator, "--prompt-file", self.prompt_file(text), *flags])

    def generate(self, text, *flags):
        """The JSON object of a request that must succeed."""
        status, output, errors = self.start(text, "--json", *flags).finish()
        assert status == 0, f"generate ended with status {status}: {errors}\n{self.logs()}"
        try:
            return json.loads(output)
        except json.JSONDecodeError as error:
            raise AssertionError(f"not one JSON object ({error}): {output!r}\nstderr: {errors}") from error

    def generate_error(self, text, *flags):
        """The error line of a request that must fail."""
        status, output, errors = self.start(text, "--json", *flags).finish()
        assert status == 1, f"generate ended with status {status}: {output} {errors}"
        return errors

    def status(self):
        done = subprocess.run([BIN / "tributary", "status", "--coordinator", self.coordinator, "--json"],
                              capture_output=True, text=True, timeout=30, check=True)
        return json.loads(done.stdout)

    def node(self, name):
        return next(node for node in self.status()["nodes"] if node["id"] == name)

    def is_empty(self):
        """No request, shard or sequence is left, and all KV memory is free."""
        status = self.status()
        return status["requests_running"] == status["requests_waiting"] == 0 and all(
            node["shards"] == 0 and node["sequences"] == 0 and
            (node["role"] != "cpu_attention" or node["free_bytes"] == node["capacity_bytes"])
            for node in status["nodes"] if node["state"] == "alive")

    def scrape(self, name):
        """{'metric{labels}': value} of one process."""
        with urllib.request.urlopen(f"http://{self.metrics[name]}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines if not line.startswith("#")}

    def cpu_seconds(self, name):
        fields = pathlib.Path(f"/proc/{self.pids[name]}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / CLOCK_TICKS
