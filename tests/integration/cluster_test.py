"""Several processes over UCX: right tokens, clear errors, nothing lost. Run by ctest (label multiprocess)."""

import json
import os
import pathlib
import random
import re
import signal
import socket
import subprocess
import tempfile
import time
import unittest

from cluster import BIN, MODEL, Cluster, test_seed, wait_until

SEED = test_seed("cluster_test")
SMALL = ["--window-tokens", "128", "--sink-tokens", "16", "--block-tokens", "16", "--kv-dtype", "f32"]
# A lost node must end its requests within this time.
LOSS_TIMEOUT_S = 30


def random_text(length, rng):
    """Words with repeats, so that greedy continuations differ and depend on far tokens."""
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9))) for _ in range(60)]
    text = " ".join(rng.choice(words) for _ in range(length // 2))
    return text[:length].encode()


class TokensTest(unittest.TestCase):
    """One cluster of four nodes; nothing is harmed."""

    @classmethod
    def setUpClass(cls):
        print(f"seed {SEED}")
        cls.rng = random.Random(SEED)
        cls.cluster = cls.enterClassContext(Cluster(cpu_nodes=4)) if hasattr(cls, "enterClassContext") else None
        if cls.cluster is None:
            cls.cluster = Cluster(cpu_nodes=4).__enter__()
            cls.addClassCleanup(cls.cluster.__exit__, None)

    def tearDown(self):
        wait_until(self.cluster.is_empty, f"pools are empty: {self.cluster.status()}")

    def test_tokens_are_those_of_the_all_resident_run(self):
        text = random_text(1500, self.rng)
        expected = self.cluster.generate(text, "--max-tokens", "40", "--ignore-eos", "--kv-dtype", "f32",
                                         "--all-resident")
        self.assertEqual(expected["remote_tokens"], 0)
        self.assertEqual(len(expected["tokens"]), 40)
        for cut in ("tokens", "heads", "both"):
            for nodes in ("1", "2", "4"):
                with self.subTest(cut=cut, nodes=nodes):
                    answer = self.cluster.generate(text, "--max-tokens", "40", "--ignore-eos", *SMALL, "--shard-cut",
                                                   cut, "--max-nodes", nodes)
                    self.assertEqual(answer["tokens"], expected["tokens"])
                    self.assertGreater(answer["remote_tokens"], 1200)
                    self.assertEqual(answer["remote_tokens"] + answer["resident_tokens"], answer["context_tokens"])

    def test_hgca_that_selects_everything_is_dense(self):
        text = random_text(1500, self.rng)
        flags = ["--max-tokens", "40", "--ignore-eos", *SMALL]
        for cut, nodes in (("tokens", "1"), ("heads", "2"), ("both", "4")):
            with self.subTest(cut=cut, nodes=nodes):
                where = ["--shard-cut", cut, "--max-nodes", nodes]
                dense = self.cluster.generate(text, *flags, *where)
                hgca = self.cluster.generate(text, *flags, *where, "--policy", "hgca", "--beta", "0",
                                             "--quality-sample-rate", "0.5")
                self.assertEqual(hgca["tokens"], dense["tokens"])
                self.assertEqual(hgca["logprobs"], dense["logprobs"])
                self.assertNotIn("attention", dense)
                self.assertEqual(hgca["attention"]["remote_read_share"], 1)
                self.assertEqual(hgca["attention"]["kept_mass_min"], 1)
                self.assertEqual(hgca["attention"]["output_error_max"], 0)

    def test_hgca_says_what_it_read_and_kept(self):
        text = random_text(3000, self.rng)
        flags = ["--max-tokens", "60", "--ignore-eos", *SMALL, "--policy", "hgca", "--beta", "2", "--alpha", "0.25",
                 "--keep-min", "1", "--quality-sample-rate", "1"]
        answer = self.cluster.generate(text, *flags)
        self.assertEqual(answer["policy"], "hgca")
        attention = answer["attention"]
        self.assertGreater(attention["remote_read_share"], 0)
        self.assertLess(attention["remote_read_share"], 0.9)
        self.assertEqual(attention["samples"], 58)  # of 59 steps; the first reads everything
        self.assertLessEqual(attention["kept_mass_min"], attention["kept_mass_mean"])
        self.assertLess(attention["kept_mass_mean"], 1)
        self.assertGreater(attention["output_error_mean"], 0)
        self.assertLessEqual(attention["output_error_mean"], attention["output_error_max"])
        self.assertLessEqual(attention["output_error_p95"], attention["output_error_max"])
        self.assertNotIn("heads", attention)
        self.assertLess(answer["attended_tokens_mean"], 0.9 * answer["context_tokens"])
        heads = self.cluster.generate(text, *flags, "--report-attention-heads")["attention"]["heads"]
        self.assertEqual(len(heads), 6 * 2)
        self.assertAlmostEqual(sum(head["kept_mass_mean"] for head in heads) / len(heads),
                               attention["kept_mass_mean"], places=6)
        self.assertAlmostEqual(sum(head["output_error_mean"] for head in heads) / len(heads),
                               attention["output_error_mean"], places=6)
        # A limit that nothing meets, or a floor, makes every head read everything.
        strict = self.cluster.generate(text, *flags, "--max-output-error", "1e-9")["attention"]
        self.assertGreater(strict["remote_read_share"], attention["remote_read_share"])
        self.assertLess(strict["output_error_mean"], attention["output_error_mean"])
        self.assertGreater(strict["fallback_heads"], 0)
        exact = self.cluster.generate(text, *flags, "--min-kept-mass", "1")["attention"]
        self.assertGreater(exact["remote_read_share"], attention["remote_read_share"])
        self.assertGreater(exact["fallback_heads"], 0)

    def test_bad_policies_are_refused_by_the_coordinator(self):
        text = random_text(300, self.rng)
        for flags, words in ((["--policy", "hgca", "--dense-layers", "99"], "99"),
                             (["--policy", "hgca", "--dense-heads", "0:7"], "7")):
            with self.subTest(flags=flags):
                self.assertIn(words, self.cluster.generate_error(text, *SMALL, *flags))

    def test_shards_store_the_dtypes_that_were_asked_for(self):
        text = random_text(1500, self.rng)
        flags = ["--max-tokens", "8", "--ignore-eos", *SMALL]
        plain = self.cluster.generate(text, *flags)
        self.assertEqual((plain["remote_k_dtype"], plain["remote_v_dtype"]), ("f32", "f32"))
        small = self.cluster.generate(text, *flags, "--remote-k-dtype", "int8", "--remote-v-dtype", "fp8-e4m3")
        self.assertEqual((small["remote_k_dtype"], small["remote_v_dtype"]), ("int8", "fp8-e4m3"))
        self.assertEqual(small["remote_tokens"], plain["remote_tokens"])
        bytes_of = lambda answer: sum(node["kv_bytes"] for node in answer["nodes"])  # noqa: E731
        self.assertLess(bytes_of(small), 0.3 * bytes_of(plain))
        self.assertGreater(bytes_of(small), 0.2 * bytes_of(plain))

    def test_requests_at_once_give_the_tokens_of_requests_alone(self):
        texts = [random_text(self.rng.randint(50, 1800), self.rng) for _ in range(8)]
        flags = ["--max-tokens", "24", "--ignore-eos", *SMALL]
        alone = [self.cluster.generate(text, *flags)["tokens"] for text in texts]
        requests = [self.cluster.start(text, "--json", *flags) for text in texts]
        for expected, request in zip(alone, requests):
            status, output, errors = request.finish()
            self.assertEqual(status, 0, errors)
            self.assertEqual(json.loads(output)["tokens"], expected)

    def test_sampling_follows_its_seed(self):
        text = random_text(600, self.rng)
        flags = ["--max-tokens", "30", "--ignore-eos", "--temperature", "1.5", *SMALL]
        first = self.cluster.generate(text, *flags, "--seed", "7")["tokens"]
        self.assertEqual(self.cluster.generate(text, *flags, "--seed", "7")["tokens"], first)
        self.assertNotEqual(self.cluster.generate(text, *flags, "--seed", "8")["tokens"], first)

    def test_score_does_not_depend_on_where_kv_lies(self):
        text = self.cluster.prompt_file(random_text(700, self.rng))
        scores = []
        for placement in (SMALL, ["--all-resident", "--kv-dtype", "f32"]):
            done = subprocess.run([BIN / "tributary", "score", "--coordinator", self.cluster.coordinator, "--text-file",
                                   text, "--prefill-tokens", "600", "--json", *placement],
                                  capture_output=True, text=True, check=True, timeout=120)
            scores.append(json.loads(done.stdout))
        self.assertEqual(scores[0]["tokens"], 100)
        self.assertGreater(scores[0]["remote_tokens"], 300)
        self.assertAlmostEqual(scores[0]["nll_mean"], scores[1]["nll_mean"], delta=1e-3)

    def test_stdout_has_the_answer_alone(self):
        """gRPC's log, of which errors come on their own when a connection is slow, goes to stderr."""
        text = self.cluster.prompt_file(random_text(100, self.rng))
        done = subprocess.run(
            [BIN / "tributary", "generate", "--coordinator", self.cluster.coordinator, "--prompt-file", text,
             "--max-tokens", "2", "--json"],
            capture_output=True, text=True, timeout=60, check=True, env={**os.environ, "GRPC_VERBOSITY": "debug"})
        self.assertIn("gRPC: ", done.stderr)
        self.assertEqual(len(json.loads(done.stdout)["tokens"]), 2)

    def test_client_gone_frees_its_kv(self):
        request = self.cluster.start(random_text(1500, self.rng), "--max-tokens", "20000", "--ignore-eos", *SMALL)
        request.wait_for_output()
        self.assertFalse(self.cluster.is_empty())
        request.process.kill()
        request.finish()
        wait_until(self.cluster.is_empty, "the KV of a client that is gone is freed")

    def test_bad_requests_are_refused_with_a_reason(self):
        for text, flags, words in (
                (b"", [], "empty"),
                (b"hello", ["--window-tokens", "8", "--block-tokens", "64"], "window"),
                (b"hello", ["--policy", "hgca", "--dense-layers", "99"], "--dense-layers names layer 99"),
        ):
            with self.subTest(flags=flags):
                self.assertIn(words, self.cluster.generate_error(text, *flags))

    def test_metrics_of_every_process(self):
        self.cluster.generate(random_text(1000, self.rng), "--max-tokens", "8", "--ignore-eos", *SMALL)
        for name in self.cluster.pids:
            with self.subTest(name=name):
                metrics = self.cluster.scrape(name)
                self.assertGreater(metrics["process_resident_memory_bytes"], 1e6)
                self.assertTrue(any(key.startswith("tributary_build_info{") for key in metrics))
        self.cluster.generate(random_text(1000, self.rng), "--max-tokens", "8", "--ignore-eos", *SMALL, "--policy",
                              "hgca", "--quality-sample-rate", "1")
        sparse = self.cluster.scrape("gpu-0")
        self.assertGreater(sparse["tributary_sparse_attended_tokens_total"], 0)
        self.assertGreaterEqual(sparse["tributary_sparse_covered_tokens_total"],
                                sparse["tributary_sparse_attended_tokens_total"])
        self.assertGreater(sparse["tributary_kept_mass_mean_ratio_count"], 5)
        self.assertEqual(sparse["tributary_attention_output_error_count"] %
                         sparse["tributary_kept_mass_mean_ratio_count"], 0)  # all heads of each measured step
        self.assertGreater(sparse["tributary_attention_output_error_count"], 5)
        self.assertGreater(self.cluster.scrape("coordinator")["tributary_generated_tokens_total"], 7)
        self.assertGreater(self.cluster.scrape("gpu-0")["tributary_decode_step_duration_seconds_count"], 6)
        self.assertGreater(self.cluster.scrape("cpu-0")['tributary_transport_bytes_total{direction="received"}'], 1000)

    def test_idle_processes_sleep(self):
        self.cluster.generate(random_text(1000, self.rng), "--max-tokens", "8", *SMALL)
        time.sleep(0.5)  # what the request left to do
        # The least of a few measurements: a process that polls is busy in each, what the machine adds is not. Ticks of
        # 10 ms make a short look coarse, so the bound is far from what is seen (0.2 to 0.5 %) and from polling (100 %).
        seconds = 3
        least = dict.fromkeys(self.cluster.pids, 1.0)
        for _ in range(3):
            before = {name: self.cluster.cpu_seconds(name) for name in self.cluster.pids}
            time.sleep(seconds)
            for name in self.cluster.pids:
                least[name] = min(least[name], (self.cluster.cpu_seconds(name) - before[name]) / seconds)
        for name, share in least.items():
            self.assertLess(share, 0.1, f"{name} uses {share:.1%} of a core while idle")


class FaultsTest(unittest.TestCase):
    """A node is lost while two requests decode: one with shards on it, for which no other node has room, and one
    without."""

    def test_killed_node(self):
        rng = random.Random(SEED + signal.SIGKILL)
        text = random_text(1200, rng)
        bystander_flags = ["--all-resident", "--max-tokens", "300", "--ignore-eos", "--kv-dtype", "f32"]
        with Cluster(cpu_nodes=2, flags=["--kv-pool-bytes", "88MB"]) as cluster:
            expected = cluster.generate(text, *bystander_flags)["tokens"]
            bystander = cluster.start(text, "--json", *bystander_flags)
            victim = cluster.start(random_text(1500, rng), "--max-tokens", "20000", "--ignore-eos", *SMALL,
                                   "--max-stall-s", "2")
            victim.wait_for_output()
            cluster.signal("cpu-1", signal.SIGKILL)
            lost_at = time.monotonic()
            status, _, errors = victim.finish(LOSS_TIMEOUT_S)
            print(f"cpu-1 was killed: the request ended after {time.monotonic() - lost_at:.2f} s: {errors.strip()}")
            self.assertEqual(status, 1)
            self.assertIn("cpu-1", errors)
            self.assertRegex(errors, r"could not be rebuilt within 2\.0 s.*\[UNAVAILABLE\]")
            status, output, errors = bystander.finish()
            self.assertEqual(status, 0, errors)
            self.assertEqual(json.loads(output)["tokens"], expected)
            # The cluster goes on with the other node.
            wait_until(lambda: cluster.node("cpu-1")["state"] != "alive", "cpu-1 is given up")
            resident = cluster.generate(text, "--max-tokens", "20", "--all-resident", "--kv-dtype", "f32")
            answer = cluster.generate(text, "--max-tokens", "20", *SMALL)
            self.assertEqual(answer["tokens"], resident["tokens"])
            self.assertEqual([node["id"] for node in answer["nodes"]], ["cpu-0"])
            wait_until(cluster.is_empty, f"pools are empty: {cluster.status()}")

    def test_killed_coordinator(self):
        with Cluster(cpu_nodes=1) as cluster:
            cluster.check_exit = False
            text = random_text(1200, random.Random(SEED))
            request = cluster.start(text, "--max-tokens", "20000", "--ignore-eos", *SMALL)
            request.wait_for_output()
            cluster.signal("coordinator", signal.SIGKILL)
            status, _, errors = request.finish(LOSS_TIMEOUT_S)
            self.assertEqual(status, 1)
            self.assertIn(f"the connection to the coordinator at {cluster.coordinator} is lost", errors)
            self.assertIn("UNAVAILABLE", errors)
            wait_until(lambda: cluster.process.poll() is not None, "cluster up has ended")
            self.assertEqual(cluster.process.returncode, 1)

    def test_children_die_with_the_cli(self):
        with Cluster(cpu_nodes=1) as cluster:
            cluster.process.kill()
            cluster.process.wait()
            for pid in cluster.pids.values():
                wait_until(lambda pid=pid: not pathlib.Path(f"/proc/{pid}/exe").exists(), f"process {pid} is gone")
            cluster.check_exit = False

    def test_sigterm_lets_requests_end(self):
        rng = random.Random(SEED)
        with Cluster(cpu_nodes=1) as cluster:
            text = random_text(300, rng)
            expected = cluster.generate(text, "--max-tokens", "1500", "--ignore-eos")["tokens"]
            request = cluster.start(text, "--json", "--max-tokens", "1500", "--ignore-eos")
            wait_until(lambda: cluster.status()["requests_running"] == 1, "the request runs")
            self.assertEqual(cluster.stop(), 0, cluster.errors)
            status, output, errors = request.finish()
            self.assertEqual(status, 0, errors)
            self.assertEqual(json.loads(output)["tokens"], expected)

    def test_sigterm_of_one_process_lets_its_requests_end(self):
        text = random_text(1200, random.Random(SEED))
        flags = ["--max-tokens", "500", "--ignore-eos", *SMALL]
        for name in ("cpu-1", "gpu-0"):
            with self.subTest(process=name), Cluster(cpu_nodes=2) as cluster:
                expected = cluster.generate(text, *flags)["tokens"]
                request = cluster.start(text, "--json", *flags)
                wait_until(lambda cluster=cluster: cluster.node("cpu-1")["shards"] == 1, "the request is placed")
                cluster.signal(name, signal.SIGTERM)
                status, output, errors = request.finish()
                self.assertEqual(status, 0, errors)
                self.assertEqual(json.loads(output)["tokens"], expected)
                exe = pathlib.Path(f"/proc/{cluster.pids[name]}/exe")
                wait_until(lambda exe=exe: not exe.exists(), f"{name} is gone")
                self.assertIn(cluster.node(name)["state"], ("draining", "dead"))

    def test_pool_too_small(self):
        with Cluster(cpu_nodes=1, flags=["--kv-pool-bytes", "8MB"]) as cluster:
            text = random_text(4000, random.Random(SEED))
            self.assertRegex(cluster.generate_error(text, *SMALL), "RESOURCE_EXHAUSTED|INVALID_ARGUMENT")
            answer = cluster.generate(text[:300], "--max-tokens", "4", "--ignore-eos", *SMALL)
            self.assertEqual(len(answer["tokens"]), 4)


class StartTest(unittest.TestCase):
    """Processes that cannot start say why and exit."""

    SERVERS = ("tributary-coordinator", "tributary-cpu-attention", "tributary-gpu-worker")

    def run_binary(self, *command):
        done = subprocess.run([BIN / command[0], *command[1:]], capture_output=True, text=True, timeout=60, check=False)
        return done.returncode, done.stdout + done.stderr

    def test_unknown_flags(self):
        for server in self.SERVERS:
            with self.subTest(server=server):
                status, text = self.run_binary(server, "--node-id", "a", "--model", MODEL, "--coordinator",
                                               "127.0.0.1:1", "--frob")
                self.assertNotEqual(status, 0)
                self.assertIn("--frob", text)

    def test_busy_port(self):
        with socket.socket() as busy:
            busy.bind(("127.0.0.1", 0))
            busy.listen()
            address = f"127.0.0.1:{busy.getsockname()[1]}"
            for flag in ("--listen", "--metrics-listen"):
                with self.subTest(flag=flag):
                    other = "--metrics-listen" if flag == "--listen" else "--listen"
                    status, text = self.run_binary("tributary-coordinator", flag, address, other, "127.0.0.1:0")
                    self.assertNotEqual(status, 0)
                    self.assertIn(address, text)

    def test_cores_and_memory_that_are_not_there(self):
        for flags, words in ((["--cpus", "0-b"], "'0-b' is no list of cores"),
                             (["--numa-node", "99"], "--numa-node 99: this host has"),
                             (["--numa-node", "10000000000"], "10000000000 not in range 0 to 1023"),
                             (["--huge-pages", "large"], "--huge-pages"),
                             (["--kv-pool-bytes", "900TB"], "bytes needed"),
                             (["--extent-bytes", "5000"], "extent_bytes is 5000")):
            with self.subTest(flags=flags):
                status, text = self.run_binary("tributary-cpu-attention", "--node-id", "a", *flags)
                self.assertEqual(status, 1)
                self.assertIn(words, text)

    def test_broken_model_says_what_is_wrong(self):
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            (folder / "config.json").write_text((MODEL / "config.json").read_text())
            (folder / "model.safetensors").write_bytes((MODEL / "model.safetensors").read_bytes()[:100000])
            status, text = self.run_binary("tributary", "run", "--model", folder, "--cpu-nodes", "1", "--prompt", "x")
            self.assertEqual(status, 1)
            self.assertIn("model.safetensors", text)
            self.assertIn("gpu-0", text)
            log = re.search(r"log: (\S+)\)", text)
            self.assertTrue(log and pathlib.Path(log.group(1)).exists(), text)

    def test_run_is_up_generate_down(self):
        status, text = self.run_binary("tributary", "run", "--model", MODEL, "--cpu-nodes", "2", "--prompt",
                                       "It was the best of times" * 40, "--max-tokens", "8", "--ignore-eos", "--json",
                                       *SMALL)
        self.assertEqual(status, 0, text)
        answer = json.loads(text)
        self.assertEqual(len(answer["tokens"]), 8)
        self.assertEqual(len(answer["nodes"]), 2)

    def test_run_with_hgca_prints_what_was_read_and_kept(self):
        status, text = self.run_binary("tributary", "run", "--model", MODEL, "--cpu-nodes", "2", "--prompt",
                                       "It was the best of times, it was the worst of times. " * 20, "--max-tokens",
                                       "30", "--ignore-eos", *SMALL, "--policy", "hgca", "--beta", "1", "--alpha",
                                       "0.5", "--keep-min", "2", "--min-kept-mass", "0", "--quality-sample-rate", "1")
        self.assertEqual(status, 0, text)
        self.assertRegex(text, r"read of the remote KV +\d+\.\d\d %; kept of its softmax mass \d+\.\d\d %")


if __name__ == "__main__":
    unittest.main(verbosity=2)
