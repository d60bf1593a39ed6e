#!/usr/bin/env python3
"""280 requests in a row leave every pool empty and the memory of every process flat."""

import pathlib
import random
import unittest

from cluster import Cluster, test_seed, wait_until

REQUESTS = 280
WARM_UP_REQUESTS = 140  # by then pools, arenas and allocators have seen every size that the prompts below have
MAX_GROWTH_BYTES = 8 << 20  # over the other 140; a leak of one 600-token prompt's KV each would be 250 MB
POOL_BYTES = 1 << 30  # of a node, by default; no other mapping is as large
PLACEMENT = ["--window-tokens", "64", "--sink-tokens", "16", "--block-tokens", "16"]


def resident_bytes(pid):
    """Without the pools of KV: a pool keeps the pages that sequences have lain in, which are other ones from run to
    run, and is empty in the end or is_empty() says so."""
    total = size_bytes = 0
    for line in pathlib.Path(f"/proc/{pid}/smaps").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "Size":
            size_bytes = int(value.split()[0]) * 1024
        elif name == "Rss" and size_bytes < POOL_BYTES:
            total += int(value.split()[0]) * 1024
    if total == 0:
        raise AssertionError(f"process {pid} has no resident memory")
    return total


class SoakTest(unittest.TestCase):
    def setUp(self):
        self.seed = test_seed("soak_test")
        self.rng = random.Random(self.seed)

    def one_request(self, cluster, index):
        text = bytes(self.rng.randrange(32, 127) for _ in range(self.rng.randint(1, 600)))
        if index % 20 == 19:  # now and then a client leaves in the middle of its answer
            request = cluster.start(text, "--max-tokens", "20000", "--ignore-eos", *PLACEMENT)
            request.wait_for_output()
            request.process.kill()
            request.finish()
            return
        if index % 4 == 1:
            return self.one_conversation(cluster, text, f"chat-{index}", index)
        answer = cluster.generate(text, "--max-tokens", "8", "--ignore-eos", *PLACEMENT)
        self.assertEqual(len(answer["tokens"]), 8)

    def one_conversation(self, cluster, text, name, index):
        """Two turns. Some sequences are not kept after the second, some are cancelled by a client that leaves, and
        some leases expire."""
        cluster.generate(text, "--max-tokens", "4", "--ignore-eos", *PLACEMENT, "--request-id", name, "--keep-s", "60",
                         "--keep-context-tokens", "2000")
        more = bytes(self.rng.randrange(32, 127) for _ in range(self.rng.randint(1, 200)))
        flags = ["--ignore-eos", "--continue", name]
        if index % 12 == 1:
            request = cluster.start(more, "--max-tokens", "1000", *flags)
            request.wait_for_output()
            request.process.kill()
            request.finish()
            return
        keep = ["--keep-s", "0.05"] if index % 12 == 5 else []
        answer = cluster.generate(more, "--max-tokens", "4", *flags, *keep)
        self.assertEqual(answer["context_tokens"], len(text) + len(more) + 8)

    def test_pools_empty_and_memory_flat(self):
        with self.subTest(seed=self.seed), Cluster(cpu_nodes=2) as cluster:
            for index in range(REQUESTS):
                self.one_request(cluster, index)
                if index + 1 == WARM_UP_REQUESTS:
                    before = {name: resident_bytes(pid) for name, pid in cluster.pids.items()}
            wait_until(cluster.is_empty, "all pools are empty")
            for name, pid in cluster.pids.items():
                growth = resident_bytes(pid) - before[name]
                self.assertLess(growth, MAX_GROWTH_BYTES, f"{name} grew by {growth} bytes")


if __name__ == "__main__":
    unittest.main(verbosity=2)
