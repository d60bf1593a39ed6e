"""Processes that hold KV of an answer are killed in the middle of it: it is computed again elsewhere, and no token is
lost, repeated or another."""

import json
import random
import signal
import time
import unittest

from cluster import Cluster, test_seed, wait_until

SEED = test_seed("rebuild")
SMALL = ["--window-tokens", "128", "--sink-tokens", "16", "--block-tokens", "16"]
ANSWER = ["--max-tokens", "700", "--ignore-eos", *SMALL]
TIMEOUT_S = 120  # a loaded machine must not fail the test


def random_text(size, rng):
    return bytes(rng.choice(b"abcdefghijklmnopqrstuvwxyz ") for _ in range(size))


class RebuildTest(unittest.TestCase):
    def kill_and_finish(self, cluster, name, request, num_bytes):
        request.wait_for_output(num_bytes)
        cluster.signal(name, signal.SIGKILL)
        begin = time.monotonic()
        status, output, errors = request.finish(TIMEOUT_S)
        print(f"{name} was killed: answered {time.monotonic() - begin:.1f} s later: {errors.strip()}")
        self.assertEqual(status, 0, errors)
        self.assertIn(f"'{name}' is gone", errors)
        self.assertIn("going on", errors)
        return output

    def rebuilds(self, cluster, cause, result):
        return cluster.scrape("coordinator")[
            f'tributary_sequence_rebuilds_total{{cause="{cause}",result="{result}"}}']

    def test_a_killed_node_costs_no_token(self):
        """Whatever the KV is stored in, and whoever chooses the tokens; other requests are not disturbed."""
        rng = random.Random(SEED)
        text = random_text(1500, rng)
        sampled = ["--temperature", "0.8", "--top-p", "0.9", "--seed", "7", "--repetition-penalty", "1.1"]
        for flags in (["--kv-dtype", "f32"], ["--remote-k-dtype", "int8", "--remote-v-dtype", "int4", *sampled]):
            with self.subTest(flags=flags), Cluster(cpu_nodes=2) as cluster:
                cluster.check_exit = False
                status, expected, errors = cluster.start(text, *ANSWER, *flags, "--quiet").finish(TIMEOUT_S)
                self.assertEqual(status, 0, errors)
                resident = ["--max-tokens", "50", "--all-resident", "--ignore-eos"]
                undisturbed = cluster.generate(text, *resident)["tokens"]
                request = cluster.start(text, *ANSWER, *flags, "--quiet")
                bystander = cluster.start(text, *resident, "--json")
                self.assertEqual(self.kill_and_finish(cluster, "cpu-1", request, rng.randint(1, 400)), expected)
                status, output, errors = bystander.finish(TIMEOUT_S)
                self.assertEqual(status, 0, errors)
                self.assertEqual(json.loads(output)["tokens"], undisturbed)
                self.assertEqual(self.rebuilds(cluster, "node", "ok"), 1)
                wait_until(cluster.is_empty, f"pools are empty: {cluster.status()}")

    def test_a_killed_worker_costs_no_token(self):
        text = random_text(1200, random.Random(SEED + 1))
        with Cluster(cpu_nodes=2, workers=2) as cluster:
            cluster.check_exit = False
            status, expected, errors = cluster.start(text, *ANSWER, "--quiet").finish(TIMEOUT_S)
            self.assertEqual(status, 0, errors)
            request = cluster.start(text, *ANSWER, "--quiet")
            request.wait_for_output()
            worker = next(node["id"] for node in cluster.status()["nodes"] if node["sequences"] == 1)
            self.assertEqual(self.kill_and_finish(cluster, worker, request, 100), expected)
            self.assertEqual(self.rebuilds(cluster, "worker", "ok"), 1)
            wait_until(cluster.is_empty, f"pools are empty: {cluster.status()}")

    def test_without_a_place_it_ends_in_time_and_says_why(self):
        text = random_text(1200, random.Random(SEED + 2))
        with Cluster(cpu_nodes=1) as cluster:
            cluster.check_exit = False
            request = cluster.start(text, "--max-tokens", "20000", "--ignore-eos", *SMALL, "--max-stall-s", "3")
            request.wait_for_output()
            cluster.signal("cpu-0", signal.SIGKILL)
            wait_until(lambda: cluster.scrape("coordinator")["tributary_requests_stalled"] == 1, "the request waits")
            status, _, errors = request.finish(TIMEOUT_S)
            self.assertEqual(status, 1)
            self.assertIn("'cpu-0'", errors)
            self.assertIn("could not be rebuilt within 3.0 s", errors)
            self.assertEqual(self.rebuilds(cluster, "node", "failed"), 1)
            wait_until(cluster.is_empty, f"pools are empty: {cluster.status()}")


if __name__ == "__main__":
    unittest.main(verbosity=2)
