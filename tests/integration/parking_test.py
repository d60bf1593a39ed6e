"""Processes that stand still and come back: requests wait for them, and lose no token."""

import json
import random
import signal
import time
import unittest

from cluster import Cluster, test_seed, wait_until

SEED = test_seed("parking")
SMALL = ["--window-tokens", "128", "--sink-tokens", "16", "--block-tokens", "16", "--kv-dtype", "f32"]
ANSWER = ["--max-tokens", "1500", "--ignore-eos", *SMALL]
TIMEOUT_S = 120  # of a request that goes on: a loaded machine must not fail the test


def random_text(size, rng):
    return bytes(rng.choice(b"abcdefghijklmnopqrstuvwxyz ") for _ in range(size))


class ParkingTest(unittest.TestCase):
    def stand_still(self, cluster, name, seconds):
        """SIGSTOP for so long."""
        cluster.signal(name, signal.SIGSTOP)
        time.sleep(seconds)
        cluster.signal(name, signal.SIGCONT)

    def finish(self, request):
        status, output, errors = request.finish(TIMEOUT_S)
        self.assertEqual(status, 0, errors)
        return json.loads(output)["tokens"]

    def test_whoever_stands_still_costs_no_token(self):
        """Longer than the node timeout of 5 s, after which the coordinator takes a silent process for dead."""
        text = random_text(1500, random.Random(SEED))
        with Cluster(cpu_nodes=2) as cluster:
            expected = cluster.generate(text, *ANSWER)["tokens"]
            cluster.generate(text[:700], "--max-tokens", "4", *SMALL, "--request-id", "kept", "--keep-s", "600",
                             "--keep-context-tokens", "800")
            for name, seconds in (("cpu-1", 3), ("cpu-1", 7), ("gpu-0", 7), ("coordinator", 8)):
                with self.subTest(process=name, seconds=seconds):
                    request = cluster.start(text, "--json", *ANSWER)
                    wait_until(lambda: cluster.node("gpu-0")["sequences"] == 2, "the request runs")
                    self.stand_still(cluster, name, seconds)
                    begin = time.monotonic()
                    self.assertEqual(self.finish(request), expected)
                    print(f"{name} stood still for {seconds} s; {time.monotonic() - begin:.1f} s later it was answered")
            wait_until(lambda: all(node["state"] == "alive" for node in cluster.status()["nodes"]), "all are back")
            self.assertEqual([kept["request_id"] for kept in cluster.status()["kept_sequences"]], ["kept"])
            answer = cluster.generate(b"and", "--max-tokens", "4", "--continue", "kept")
            self.assertEqual(len(answer["tokens"]), 4)
            self.assertGreater(cluster.scrape("gpu-0")["tributary_sequence_stalls_total"], 0)

    def test_others_go_on_and_new_requests_go_elsewhere(self):
        rng = random.Random(SEED + 1)
        text = random_text(1200, rng)
        with Cluster(cpu_nodes=2) as cluster:
            all_resident = ["--max-tokens", "20", "--all-resident", "--kv-dtype", "f32"]
            resident = cluster.generate(text, *all_resident)["tokens"]
            status, expected, errors = cluster.start(text, *ANSWER, "--quiet").finish(TIMEOUT_S)
            self.assertEqual(status, 0, errors)
            request = cluster.start(text, *ANSWER, "--quiet")
            request.wait_for_output()
            cluster.signal("cpu-1", signal.SIGSTOP)
            self.assertEqual(cluster.generate(text, *all_resident)["tokens"], resident)
            wait_until(lambda: cluster.node("cpu-1")["state"] != "alive", "cpu-1 is suspect")
            answer = cluster.generate(text, "--max-tokens", "20", *SMALL)
            self.assertEqual(answer["tokens"], resident)
            self.assertEqual([node["id"] for node in answer["nodes"]], ["cpu-0"])
            wait_until(lambda: cluster.scrape("coordinator")["tributary_requests_stalled"] == 1, "the request waits")
            self.assertIsNone(request.process.poll())
            cluster.signal("cpu-1", signal.SIGCONT)
            status, output, errors = request.finish(TIMEOUT_S)
            self.assertEqual(status, 0, errors)
            self.assertIn("waiting for 'cpu-1'", errors)
            self.assertEqual(output, expected)
            wait_until(cluster.is_empty, f"pools are empty: {cluster.status()}")

    def test_a_stall_ends_at_its_limit(self):
        text = random_text(1500, random.Random(SEED + 2))
        with Cluster(cpu_nodes=2) as cluster:
            self.assertIn("--max-stall-s", cluster.generate_error(text, *ANSWER, "--max-stall-s", "61"))
            request = cluster.start(text, "--max-tokens", "20000", "--ignore-eos", *SMALL, "--max-stall-s", "5")
            request.wait_for_output()
            cluster.signal("cpu-1", signal.SIGSTOP)
            status, _, errors = request.finish(TIMEOUT_S)
            self.assertEqual(status, 1)
            self.assertIn("'cpu-", errors)
            self.assertIn("--max-stall-s", errors)
            cluster.signal("cpu-1", signal.SIGCONT)
            wait_until(cluster.is_empty, f"pools are empty: {cluster.status()}")

    def test_a_killed_node_is_noticed_at_once(self):
        """Its process is of this host: whoever watches it need not wait for silence."""
        text = random_text(1500, random.Random(SEED + 3))
        with Cluster(cpu_nodes=2) as cluster:
            cluster.check_exit = False
            request = cluster.start(text, "--max-tokens", "20000", "--ignore-eos", *SMALL)
            request.wait_for_output()
            cluster.signal("cpu-1", signal.SIGKILL)
            begin = time.monotonic()
            wait_until(lambda: cluster.scrape("coordinator")[
                'tributary_sequence_rebuilds_total{cause="node",result="ok"}'] == 1, "its KV is computed again")
            print(f"cpu-1 was killed: the request goes on {time.monotonic() - begin:.3f} s later")
            self.assertEqual(cluster.scrape("gpu-0")["tributary_sequence_stalls_total"], 0, "nobody took it for silent")
            request.process.send_signal(signal.SIGINT)
            request.finish(TIMEOUT_S)


if __name__ == "__main__":
    unittest.main(verbosity=2)
