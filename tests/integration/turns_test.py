#!/usr/bin/env python3
"""Kept sequences over several processes: a conversation in turns, and the ends of its lease."""

import json
import random
import signal
import subprocess
import time
import unittest

from cluster import BIN, Cluster, test_seed, wait_until

SEED = test_seed("turns_test")
FLAGS = ["--ignore-eos"]
PLACEMENT = ["--window-tokens", "128", "--sink-tokens", "16", "--block-tokens", "16", "--kv-dtype", "f32"]
KEEP = ["--keep-s", "60", "--keep-context-tokens", "4000"]


def random_text(length, rng):
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9))) for _ in range(60)]
    return " ".join(rng.choice(words) for _ in range(length))[:length].encode()


def finish(request):
    status, output, errors = request.finish()
    assert status == 0, errors
    return json.loads(output)


class TurnsTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        print(f"seed {SEED}")
        cls.rng = random.Random(SEED)
        cls.cluster = Cluster(cpu_nodes=3).__enter__()
        cls.addClassCleanup(cls.cluster.__exit__, None, None, None)

    def tearDown(self):
        wait_until(self.cluster.is_empty, f"pools are empty: {self.cluster.status()}")

    def kept(self):
        return {kept["request_id"]: kept for kept in self.cluster.status()["kept_sequences"]}

    def test_a_conversation_has_the_tokens_of_one_request_with_all_of_it(self):
        for cut in ("tokens", "heads"):
            text = random_text(900, self.rng)
            answer = self.cluster.generate(text, "--max-tokens", "12", *FLAGS, *PLACEMENT, "--shard-cut", cut,
                                           "--request-id", "chat", *KEEP)
            self.assertEqual(answer["kept"]["request_id"], "chat")
            self.assertEqual(answer["kept"]["growth_tokens"], 4000 - 912)
            whole = text + bytes(answer["tokens"])
            for turn, length in enumerate((1, 0, 300, 40)):
                self.assertIn("chat", self.kept())
                self.assertEqual(self.kept()["chat"]["context_tokens"], len(whole))
                more = random_text(length, self.rng)
                last = turn == 3
                answer = self.cluster.generate(more, "--max-tokens", "10", *FLAGS, "--continue", "chat",
                                               *([] if last else ["--keep-s", "60"]))
                whole += more
                expected = self.cluster.generate(whole, "--max-tokens", "10", *FLAGS, *PLACEMENT)
                self.assertEqual(answer["tokens"], expected["tokens"])
                for ours, theirs in zip(answer["logprobs"], expected["logprobs"]):
                    self.assertAlmostEqual(ours, theirs, delta=2e-3)
                self.assertEqual(answer["prompt_tokens"], len(more))
                whole += bytes(answer["tokens"])
                self.assertEqual(answer["context_tokens"], len(whole))
            self.assertNotIn("kept", answer)
            self.assertEqual(self.kept(), {})

    def converse(self, turns, *policy):
        """The answers of one conversation; turns[0] is its first prompt."""
        answers = [self.cluster.generate(turns[0], "--max-tokens", "20", *FLAGS, *PLACEMENT, *policy,
                                         "--request-id", "chat", *KEEP)]
        for i, text in enumerate(turns[1:], start=2):
            keep = ["--keep-s", "60"] if i < len(turns) else []
            answers.append(self.cluster.generate(text, "--max-tokens", "20", *FLAGS, "--continue", "chat", *keep))
        return answers

    def test_a_conversation_in_hgca(self):
        turns = [random_text(length, self.rng) for length in (1200, 1, 250, 30)]
        dense = self.converse(turns)
        everything = self.converse(turns, "--policy", "hgca", "--beta", "0")
        for answer, exact in zip(everything, dense):
            self.assertEqual(answer["policy"], "hgca")
            self.assertEqual(answer["tokens"], exact["tokens"])
            self.assertEqual(answer["logprobs"], exact["logprobs"])
        sparse = ["--policy", "hgca", "--beta", "4", "--keep-min", "1", "--quality-sample-rate", "1"]
        some = self.converse(turns, *sparse)
        self.assertEqual(some[0]["tokens"][0], dense[0]["tokens"][0])  # the prompt reads everything
        for answer in some:
            self.assertEqual(answer["policy"], "hgca")
            self.assertGreater(answer["attention"]["remote_read_share"], 0)
            self.assertLess(answer["attention"]["remote_read_share"], 0.9)
            self.assertLess(answer["attention"]["kept_mass_mean"], 1)
        again = self.converse(turns, *sparse)
        self.assertEqual([answer["tokens"] for answer in again], [answer["tokens"] for answer in some])

    def test_turns_of_several_at_once(self):
        texts = [random_text(self.rng.randint(100, 700), self.rng) for _ in range(4)]
        more = [random_text(self.rng.randint(1, 300), self.rng) for _ in texts]
        first = [self.cluster.start(text, "--json", "--max-tokens", "8", *FLAGS, *PLACEMENT, "--request-id",
                                    f"chat-{i}", *KEEP) for i, text in enumerate(texts)]
        answers = [finish(request) for request in first]
        second = [self.cluster.start(text, "--json", "--max-tokens", "8", *FLAGS, "--continue", f"chat-{i}")
                  for i, text in enumerate(more)]
        for i, request in enumerate(second):
            whole = texts[i] + bytes(answers[i]["tokens"]) + more[i]
            expected = self.cluster.generate(whole, "--max-tokens", "8", *FLAGS, *PLACEMENT)
            self.assertEqual(finish(request)["tokens"], expected["tokens"])

    def test_what_cannot_be_continued_says_why(self):
        self.cluster.generate(b"hello", "--max-tokens", "2", *FLAGS, *PLACEMENT, "--request-id", "why", *KEEP)
        for flags, words in (
                (["--continue", "nobody"], "no kept sequence is named 'nobody'"),
                (["--continue", "why", "--max-tokens", "5000"], "may grow by 3993"),
                (["--continue", "why", "--window-tokens", "256"], "is 256, but the kept sequence has 128"),
                (["--continue", "why", "--policy", "hgca"], "the policy is hgca, but the kept sequence has dense"),
        ):
            with self.subTest(flags=flags):
                self.assertIn(words, self.cluster.generate_error(b"more", *flags))
        # It is as it was.
        answer = self.cluster.generate(b"more", "--max-tokens", "2", *FLAGS, "--continue", "why", "--keep-s", "0.3")
        self.assertEqual(answer["context_tokens"], 13)
        wait_until(lambda: self.kept() == {}, "the lease has ended", 10)
        self.assertIn("its lease of 0.300 s has expired", self.cluster.generate_error(b"x", "--continue", "why"))

    def test_status_and_metrics_show_what_is_kept(self):
        self.cluster.generate(random_text(600, self.rng), "--max-tokens", "2", *FLAGS, *PLACEMENT, "--request-id",
                              "seen", "--keep-s", "3", "--keep-context-tokens", "700")
        kept = self.kept()["seen"]
        self.assertLess(kept["lease_left_s"], 3)
        self.assertGreater(kept["resident_bytes"], 0)
        self.assertGreater(kept["shard_bytes"], 0)
        self.assertEqual(self.cluster.status()["requests_running"], 0)
        table = subprocess.run([BIN / "tributary", "status", "--coordinator", self.cluster.coordinator],
                               capture_output=True, text=True, check=True, timeout=30).stdout
        self.assertRegex(table, r"seen +\S+ +\S+ m?s +602 of 700")
        wait_until(lambda: self.cluster.scrape("coordinator")["tributary_kept_sequences"] == 1, "the gauge follows", 2)
        worker = self.cluster.scrape(next(name for name in self.cluster.pids if "gpu" in name))
        self.assertEqual(worker["tributary_sequences_idle"], 1)
        wait_until(lambda: self.kept() == {}, "the lease has ended", 10)
        ended = self.cluster.scrape("coordinator")['tributary_leases_ended_total{end="expired"}']
        self.assertGreaterEqual(ended, 1)


class LossTest(unittest.TestCase):
    def test_a_node_that_dies_costs_a_conversation_no_token(self):
        """What is kept holds no memory after that, until its next turn has it computed again."""
        text = random_text(900, random.Random(SEED))
        answers = {}
        with Cluster(cpu_nodes=2) as cluster:
            cluster.check_exit = False
            for name in ("undisturbed", "lost"):
                cluster.generate(text, "--max-tokens", "20", *FLAGS, *PLACEMENT, "--request-id", name, *KEEP)
                if name == "lost":
                    cluster.signal("cpu-1", signal.SIGKILL)
                    wait_until(lambda: cluster.status()["kept_sequences"][0]["shard_bytes"] == 0, "its KV is lost", 30)
                answers[name] = cluster.generate(b"And then?", "--max-tokens", "20", *FLAGS, "--continue", name)
        for field in ("tokens", "logprobs", "prompt_tokens", "context_tokens"):
            self.assertEqual(answers["lost"][field], answers["undisturbed"][field])
        self.assertEqual([node["id"] for node in answers["lost"]["nodes"]], ["cpu-0"])

    def test_a_cluster_that_stops_does_not_wait_for_leases(self):
        with Cluster(cpu_nodes=1) as cluster:
            cluster.generate(random_text(600, random.Random(SEED)), "--max-tokens", "2", *FLAGS, *PLACEMENT, *KEEP)
            begin = time.monotonic()
            self.assertEqual(cluster.stop(), 0)
            self.assertLess(time.monotonic() - begin, 15)


if __name__ == "__main__":
    unittest.main(verbosity=2)
