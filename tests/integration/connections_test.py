"""Bursts of connections: a server keeps answering, refuses what it has no descriptor for, and recovers.

Run by ctest (label multiprocess). The clients here are bare sockets, so that none of their timeouts matter.
"""

import contextlib
import json
import pathlib
import re
import resource
import socket
import subprocess
import tempfile
import time
import unittest
import urllib.request

from cluster import BIN, wait_until

BURST = 1100
LOW_LIMIT = 256
# The client's half of HTTP/2's greeting: the preface and empty settings.
GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
SETTINGS_ACK = bytes([0, 0, 0, 4, 1, 0, 0, 0, 0])
PING = bytes([0, 0, 8, 6, 0, 0, 0, 0, 0]) + b"anybody?"
PONG = bytes([0, 0, 8, 6, 1, 0, 0, 0, 0]) + b"anybody?"


class Server:
    """One of the server binaries, with a limit of open files if one is given (soft, hard)."""

    def __init__(self, binary, *flags, limit=None):
        self.folder = tempfile.TemporaryDirectory(prefix="tributary-test-")
        port_file = pathlib.Path(self.folder.name) / "ports.json"
        self.log_file = pathlib.Path(self.folder.name) / "log"
        command = [BIN / binary, "--port-file", port_file, "--metrics-listen", "127.0.0.1:0", *flags]
        set_limit = (lambda: resource.setrlimit(resource.RLIMIT_NOFILE, limit)) if limit else None
        with self.log_file.open("w") as log:
            self.process = subprocess.Popen(command, stderr=log, preexec_fn=set_limit)
        wait_until(lambda: port_file.exists() or self.process.poll() is not None, "the server is up", 60)
        assert port_file.exists(), self.log()
        ports = json.loads(port_file.read_text())
        self.listen, self.metrics = ports["listen"], ports["metrics"]

    def log(self):
        return self.log_file.read_text()

    def metric(self, name):
        with urllib.request.urlopen(f"http://{self.metrics}/metrics", timeout=60) as answer:
            lines = answer.read().decode().splitlines()
        return next(float(line.rsplit(" ", 1)[1]) for line in lines if line.rsplit(" ", 1)[0] == name)

    def close(self):
        self.process.terminate()
        try:
            self.process.wait(timeout=30)
        finally:
            self.process.kill()
            self.folder.cleanup()


def connect(address, timeout_s=10):
    host, port = address.rsplit(":", 1)
    return socket.create_connection((host, int(port)), timeout=timeout_s)


def read_until(connection, wanted):
    """True once `wanted` has come; False if the connection ends, or is silent for its timeout."""
    data = b""
    try:
        while wanted not in data:
            more = connection.recv(4096)
            if not more:
                return False
            data += more
        return True
    except OSError:
        return False


def greet(address):
    """An HTTP/2 connection that the server has answered, or None if it refused it."""
    connection = connect(address)
    try:
        connection.sendall(GREETING + SETTINGS_ACK + PING)
    except OSError:
        pass
    if read_until(connection, PONG):
        return connection
    connection.close()
    return None


def is_served(address):
    connection = greet(address)
    if connection is not None:
        connection.close()
    return connection is not None


def answers(connection):
    connection.sendall(PING)
    return read_until(connection, PONG)


@contextlib.contextmanager
def burst(*addresses, count=BURST):
    """`count` connections to each address that say nothing, for the time of a with-block."""
    connections = []
    try:
        for address in addresses:
            host, port = address.rsplit(":", 1)
            for _ in range(count):
                connection = socket.socket()
                connection.setblocking(False)
                connection.connect_ex((host, int(port)))
                connections.append(connection)
        yield
    finally:
        for connection in connections:
            connection.close()


def cluster_status(address):
    done = subprocess.run([BIN / "tributary", "status", "--coordinator", address, "--json"], capture_output=True,
                          text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


class ConnectionsTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        cls.hard = hard
        if hard != resource.RLIM_INFINITY and hard < 4 * BURST:
            raise unittest.SkipTest(f"the hard limit of open files is {hard}; this test opens {3 * BURST}")
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        cls.addClassCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))

    def start(self, binary, *flags, limit=None):
        server = Server(binary, *flags, limit=limit)
        self.addCleanup(server.close)
        return server

    def start_node(self, coordinator, limit=None):
        return self.start("tributary-cpu-attention", "--node-id", "n0", "--coordinator", coordinator.listen,
                          "--kv-pool-bytes", "16MiB", "--threads", "1", "--transport-tls", "posix,self", limit=limit)

    def test_a_burst_leaves_nobody_deaf(self):
        # The soft limit of most systems. Servers raise it.
        limit = (1024, self.hard)
        coordinator = self.start("tributary-coordinator", limit=limit)
        node = self.start_node(coordinator, limit=limit)
        self.assertEqual(coordinator.metric("process_max_fds"), self.hard)
        with burst(coordinator.listen, node.listen, coordinator.metrics):
            # The kernel has taken the connections; each server must come to those that are made now.
            self.assertTrue(is_served(coordinator.listen))
            self.assertTrue(is_served(node.listen))
            # Here the oldest connections make room.
            self.assertEqual(coordinator.metric("process_max_fds"), self.hard)
            self.assertEqual(cluster_status(coordinator.listen)["nodes"][0]["state"], "alive")
        self.assertTrue(is_served(node.listen))
        # Its heartbeats go on, over the connection it had.
        self.assertEqual(cluster_status(coordinator.listen)["nodes"][0]["state"], "alive")
        self.assertGreaterEqual(coordinator.metric('tributary_rpc_connections_total{outcome="accepted"}'), BURST)
        self.assertNotIn("Failed accept", coordinator.log() + node.log())

    def check_low_limit(self, server):
        old_client = greet(server.listen)
        self.assertIsNotNone(old_client)
        begin = time.monotonic()
        with burst(server.listen):
            self.assertTrue(answers(old_client))
            # A newcomer is refused as soon as the burst has taken what there was, and at once.
            wait_until(lambda: not is_served(server.listen), "newcomers are refused")
            self.assertTrue(answers(old_client))
        # Recovered: newcomers are served.
        wait_until(lambda: is_served(server.listen), "newcomers are served again")
        self.assertTrue(answers(old_client))
        old_client.close()
        self.assertGreater(server.metric('tributary_rpc_connections_total{outcome="refused"}'), 100)
        reports = re.findall(r"(\d+) connections refused", server.log())
        self.assertGreater(len(reports), 0)
        self.assertLessEqual(len(reports), time.monotonic() - begin + 2)

    def test_a_coordinator_with_few_descriptors(self):
        coordinator = self.start("tributary-coordinator", limit=(LOW_LIMIT, LOW_LIMIT))
        self.assertIn(f"at most {LOW_LIMIT} files and connections", coordinator.log())
        self.check_low_limit(coordinator)
        self.assertEqual(cluster_status(coordinator.listen)["nodes"], [])

    def test_a_node_with_few_descriptors(self):
        coordinator = self.start("tributary-coordinator")
        node = self.start_node(coordinator, limit=(LOW_LIMIT, LOW_LIMIT))
        self.check_low_limit(node)
        self.assertEqual(cluster_status(coordinator.listen)["nodes"][0]["state"], "alive")


if __name__ == "__main__":
    unittest.main(verbosity=2)
