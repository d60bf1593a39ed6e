"""Newcomers and those that are there: ids are taken from nobody who lives, and given back in time.

Run by ctest (label multiprocess).
"""

import json
import pathlib
import random
import re
import signal
import socket
import subprocess
import unittest

from cluster import BIN, MODEL, Cluster, test_seed, wait_until
from connections_test import Server, cluster_status

SEED = test_seed("peers_test")


def run_to_its_end(*command):
    done = subprocess.run([BIN / command[0], *command[1:]], capture_output=True, text=True, timeout=120, check=False)
    return done.returncode, done.stdout + done.stderr


class NewcomerTest(unittest.TestCase):
    def check_refused(self, cluster, node_id, *command):
        secret = pathlib.Path(cluster.folder.name) / "logs" / "cluster.secret"
        status, text = run_to_its_end(*command, "--coordinator", cluster.coordinator, "--node-id", node_id, "--threads",
                                      "1", "--transport-tls", "posix,self", "--cluster-secret-file", secret)
        self.assertEqual(status, 1, text)
        self.assertIn(f"node id '{node_id}' belongs to another process", text)
        self.assertIn("give this one another --node-id", text)

    def test_an_id_in_use_is_refused_and_nobody_is_disturbed(self):
        text = bytes(random.Random(SEED).randrange(97, 123) for _ in range(1500))
        flags = ["--max-tokens", "40", "--ignore-eos", "--window-tokens", "64", "--sink-tokens", "16",
                 "--block-tokens", "16"]
        with Cluster(cpu_nodes=1) as cluster:
            expected = cluster.generate(text, *flags)["tokens"]
            before = {node["id"]: node for node in cluster.status()["nodes"]}
            kept = cluster.generate(text, "--request-id", "kept", "--keep-s", "600", "--keep-context-tokens", "4000",
                                    *flags)
            self.assertEqual(kept["tokens"], expected)
            self.check_refused(cluster, "gpu-0", "tributary-gpu-worker", "--model", MODEL)
            self.check_refused(cluster, "cpu-0", "tributary-cpu-attention", "--kv-pool-bytes", "16MiB")
            after = {node["id"]: node for node in cluster.status()["nodes"]}
            self.assertEqual(set(before), set(after))
            self.assertEqual({node["state"] for node in after.values()}, {"alive"})
            # What was kept stands, so neither the worker nor the node was replaced.
            status, output, errors = cluster.start(b"and", "--json", "--continue", "kept", "--max-tokens", "4").finish()
            self.assertEqual(status, 0, errors)
            self.assertEqual(len(json.loads(output)["tokens"]), 4)

    def test_without_an_id_a_process_has_one_of_its_own(self):
        coordinator = Server("tributary-coordinator")
        self.addCleanup(coordinator.close)
        for _ in range(2):
            node = Server("tributary-cpu-attention", "--coordinator", coordinator.listen, "--kv-pool-bytes", "16MiB",
                          "--threads", "1", "--transport-tls", "posix,self")
            self.addCleanup(node.close)
        wait_until(lambda: len(cluster_status(coordinator.listen)["nodes"]) == 2, "both are members")
        ids = [node["id"] for node in cluster_status(coordinator.listen)["nodes"]]
        host = re.sub("[^A-Za-z0-9]", "-", socket.gethostname()[:32].split(".")[0])
        for node_id in ids:
            self.assertRegex(node_id, f"^cpu-{host}-[0-9a-f]{{6}}$")
        self.assertNotEqual(ids[0], ids[1])


class RestartTest(unittest.TestCase):
    """A process that is started again has its id back: at once after an orderly end, else after the node timeout."""

    def setUp(self):
        self.coordinator = Server("tributary-coordinator", "--node-timeout-ms", "3000", "--heartbeat-interval-ms",
                                  "200")
        self.addCleanup(self.coordinator.close)

    def start_node(self):
        return Server("tributary-cpu-attention", "--node-id", "n0", "--coordinator", self.coordinator.listen,
                      "--kv-pool-bytes", "16MiB", "--threads", "1", "--transport-tls", "posix,self")

    def nodes(self):
        return cluster_status(self.coordinator.listen)["nodes"]

    def check(self, end):
        first = self.start_node()
        wait_until(lambda: [node["state"] for node in self.nodes()] == ["alive"], "the node is a member")
        end(first)
        second = self.start_node()
        self.addCleanup(second.close)
        wait_until(lambda: "registered with the coordinator" in second.log(), "its successor is a member")
        self.assertEqual([node["state"] for node in self.nodes()], ["alive"])
        return second

    def test_after_an_orderly_end(self):
        second = self.check(lambda node: node.close())
        self.assertNotIn("belongs to another process", second.log())

    def test_after_a_crash(self):
        def crash(node):
            node.process.send_signal(signal.SIGKILL)
            node.process.wait(timeout=30)
            node.close()
        self.check(crash)


if __name__ == "__main__":
    unittest.main(verbosity=2)
