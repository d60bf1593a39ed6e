"""Peers prove who they are: with certificates, or with the cluster's secret; others are refused, told why, and counted.

Run by ctest (label multiprocess).
"""

import datetime
import json
import os
import pathlib
import random
import signal
import stat
import subprocess
import tempfile
import unittest

from certificates import Authority
from cluster import BIN, MODEL, Cluster, test_seed, wait_until
from connections_test import Server

HOSTILE_PEER = pathlib.Path(os.environ.get("HOSTILE_PEER", BIN.parent / "tests" / "hostile_peer"))
SEED = test_seed("security_test")
PROMPT = bytes(random.Random(SEED).choices(b"abcdefghij klmnop qrstu vwxyz.", k=700))
PLACEMENT = ("--window-tokens", "128", "--sink-tokens", "16", "--block-tokens", "16", "--kv-dtype", "f32")
REQUEST = ("--max-tokens", "12", "--ignore-eos", "--json", *PLACEMENT)
PERMISSION_DENIED, UNAVAILABLE, UNAUTHENTICATED = 7, 14, 16
MEMBERS_METHODS = ("Register", "Heartbeat", "WorkerChannel", "Connect", "Disconnect", "OpenShard", "CloseShard")


def run(binary, *arguments, timeout_s=60):
    return subprocess.run([binary, *map(str, arguments)], capture_output=True, text=True, timeout=timeout_s,
                          check=False)


def attack(coordinator, node, *flags):
    """{method: (code, message)} of what the hostile peer tried."""
    done = run(HOSTILE_PEER, coordinator, node, *flags, timeout_s=200)
    assert done.returncode == 0, done.stderr
    lines = [line.split(" ", 2) for line in done.stdout.splitlines()]
    return {method: (int(code), message) for method, code, message in lines}


def refusals(samples, reason):
    """{method: count} of a scrape."""
    found = {}
    for method in MEMBERS_METHODS:
        count = samples.get(f'tributary_rpc_refused_calls_total{{method="{method}",reason="{reason}"}}', 0)
        if count:
            found[method] = count
    return found


class SecretTest(unittest.TestCase):
    """`tributary cluster up`, whose processes have a secret of their own."""

    @classmethod
    def setUpClass(cls):
        cls.cluster = cls.enterClassContext(Cluster(cpu_nodes=2)) if hasattr(cls, "enterClassContext") else None
        if cls.cluster is None:
            cls.cluster = Cluster(cpu_nodes=2).__enter__()
            cls.addClassCleanup(cls.cluster.__exit__, None, None, None)
        cls.logs = pathlib.Path(cls.cluster.folder.name) / "logs"
        cls.node = json.loads((cls.logs / "cpu-0.json").read_text())["listen"]

    def members(self):
        return sorted((node["id"], node["state"]) for node in self.cluster.status()["nodes"])

    def test_nobody_else_may_read_the_secret(self):
        mode = (self.logs / "cluster.secret").stat().st_mode
        self.assertTrue(stat.S_ISREG(mode))
        self.assertEqual(mode & 0o777, 0o600)

    def test_a_stranger_is_refused_and_disturbs_nothing(self):
        undisturbed = self.cluster.generate(PROMPT, *REQUEST)["tokens"]
        before = self.members()
        for name, flags in (("without a secret", ()), ("with another", self.other_secret())):
            counted = [refusals(self.cluster.scrape(process), "unauthenticated") for process in
                       ("coordinator", "cpu-0")]
            request = self.cluster.start(PROMPT, *REQUEST)
            tried = attack(self.cluster.coordinator, self.node, *flags)
            status, output, errors = request.finish()
            with self.subTest(name):
                self.assertEqual(status, 0, errors)
                self.assertEqual(json.loads(output)["tokens"], undisturbed)
                self.assertEqual(sorted(tried), sorted(MEMBERS_METHODS))
                for method, (code, message) in tried.items():
                    self.assertEqual(code, UNAUTHENTICATED, f"{method}: {message}")
                    self.assertIn("secret", message, method)
                self.assertEqual(self.members(), before)
                after = [refusals(self.cluster.scrape(process), "unauthenticated") for process in
                         ("coordinator", "cpu-0")]
                for methods, then, now in zip((MEMBERS_METHODS[:3], MEMBERS_METHODS[3:]), counted, after):
                    self.assertEqual({method: now.get(method, 0) - then.get(method, 0) for method in methods},
                                     {method: 1 for method in methods})
        wait_until(self.cluster.is_empty, "nothing is left")

    def other_secret(self):
        path = pathlib.Path(self.cluster.folder.name) / "other.secret"
        path.write_text("not the secret of this cluster\n")
        path.chmod(0o600)
        return "--cluster-secret-file", path, "--role", "node"

    def test_a_member_does_what_its_role_may(self):
        tried = attack(self.cluster.coordinator, self.node, "--role", "client", "--cluster-secret-file",
                       self.logs / "cluster.secret")
        for method, (code, message) in tried.items():
            self.assertEqual(code, PERMISSION_DENIED, f"{method}: {message}")
            self.assertIn("the caller has the role client", message)

    def test_a_foreign_node_and_a_foreign_worker_end_and_say_why(self):
        for binary, *flags in (("tributary-cpu-attention", "--kv-pool-bytes", "16MiB", "--threads", "1"),
                               ("tributary-gpu-worker", "--model", MODEL)):
            done = run(BIN / binary, "--coordinator", self.cluster.coordinator, "--node-id", "foreign",
                       "--transport-tls", "posix,self", *flags)
            self.assertEqual(done.returncode, 1, done.stderr)
            self.assertIn("--cluster-secret-file", done.stderr.splitlines()[-1])

    def test_a_node_with_the_secret_joins(self):
        node = Server("tributary-cpu-attention", "--coordinator", self.cluster.coordinator, "--node-id", "later",
                      "--kv-pool-bytes", "16MiB", "--threads", "1", "--transport-tls", "posix,self",
                      "--cluster-secret-file", self.logs / "cluster.secret")
        try:
            wait_until(lambda: ("later", "alive") in self.members(), "it is a member")
        finally:
            node.close()


class ThrowAwayTest(unittest.TestCase):
    def test_the_secret_goes_with_the_cluster(self):
        with Cluster(cpu_nodes=1) as cluster:
            path = pathlib.Path(cluster.folder.name) / "logs" / "cluster.secret"
            self.assertTrue(path.exists())
            self.assertEqual(cluster.stop(), 0)
            self.assertFalse(path.exists())


class TlsCluster:
    """A coordinator, two nodes and a worker whose files are of one CA."""

    def __init__(self, folder):
        self.authority = Authority(folder)
        self.servers = []
        self.coordinator = self.start("tributary-coordinator", "coordinator", "--listen", "127.0.0.1:0")
        member = ("--coordinator", self.coordinator.listen, "--transport-tls", "posix,self")
        self.nodes = [self.start("tributary-cpu-attention", "node", *member, "--node-id", f"cpu-{i}", "--kv-pool-bytes",
                                 "64MiB", "--threads", "1") for i in range(2)]
        self.worker = self.start("tributary-gpu-worker", "worker", *member, "--node-id", "gpu-0", "--model", MODEL)
        self.client = self.authority.flags("client")
        wait_until(lambda: [node["state"] for node in self.status()["nodes"]] == ["alive"] * 3, "all have registered")

    def start(self, binary, role, *flags):
        self.servers.append(Server(binary, *self.authority.flags(role), *flags))
        return self.servers[-1]

    def tributary(self, command, *flags, tls=None):
        return run(BIN / "tributary", command, "--coordinator", self.coordinator.listen,
                   *(self.client if tls is None else tls), *flags)

    def status(self):
        done = self.tributary("status", "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def tokens(self, tls=None):
        done = self.tributary("generate", "--prompt", PROMPT.decode(), *REQUEST, tls=tls)
        assert done.returncode == 0, done.stderr + "".join(server.log() for server in self.servers)
        return json.loads(done.stdout)["tokens"]

    def close(self):
        for server in reversed(self.servers):
            server.close()


class TlsTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory(prefix="tributary-test-")
        cls.addClassCleanup(folder.cleanup)
        cls.folder = pathlib.Path(folder.name)
        cls.cluster = TlsCluster(cls.folder)
        cls.addClassCleanup(cls.cluster.close)
        cls.other = Authority(cls.folder, "other-ca")

    def setUp(self):
        self.members = self.cluster.status()["nodes"]

    def tearDown(self):
        self.assertEqual([(node["id"], node["state"]) for node in self.cluster.status()["nodes"]],
                         [(node["id"], node["state"]) for node in self.members])

    def error_of(self, tls):
        done = self.cluster.tributary("status", tls=tls)
        self.assertEqual(done.returncode, 1, done.stdout)
        return done.stderr

    def test_tokens_are_those_of_a_cluster_without(self):
        with Cluster(cpu_nodes=2) as plain:
            expected = plain.generate(PROMPT, *REQUEST)["tokens"]
        self.assertEqual(self.cluster.tokens(), expected)
        self.assertGreater(self.cluster.coordinator.metric("tributary_rpc_tls_handshakes_total"), 3)
        self.assertGreater(self.cluster.coordinator.metric("tributary_tls_certificate_not_after_seconds"), 1.7e9)

    def test_clients_that_are_refused_learn_why(self):
        authority, other = self.cluster.authority, self.other
        self.assertIn("the server there speaks TLS: give --tls-cert", self.error_of([]))
        self.assertIn("does not vouch for the server's certificate", self.error_of(other.flags("client")))
        certificate, key = other.files("client2", "client")
        self.assertIn("the server refuses --tls-cert",
                      self.error_of(self.trusting(certificate, key, self.cluster.authority.ca)))
        self.assertIn("gives node, and this process is a client", self.error_of(authority.flags("a-node", "node")))
        expired = authority.flags("late", "client", ends=-datetime.timedelta(minutes=5))
        self.assertIn("has expired on", self.error_of(expired))
        files = authority.flags("open", "client")
        files[3].chmod(0o644)
        self.assertIn("lets others read", self.error_of(files))

    def trusting(self, certificate, key, ca):
        """Flags for a certificate of one CA and the other CA: our programs find that out at their start, unless the
        file vouches for both."""
        both = self.folder / "both.crt"
        both.write_text(ca.read_text() + self.other.ca.read_text())
        return ["--tls-cert", certificate, "--tls-key", key, "--tls-ca", both]

    def handshakes(self):
        return self.cluster.coordinator.metric("tributary_rpc_tls_handshakes_total")

    def test_a_server_refuses_what_has_expired(self):
        """Our programs do not start with such a certificate, so another one shows it."""
        for ends, taken in ((-datetime.timedelta(minutes=5), 0), (datetime.timedelta(days=1), 1)):
            certificate, key = self.cluster.authority.files(f"other-{taken}", "client", ends=ends)
            before = self.handshakes()
            process = subprocess.Popen(["openssl", "s_client", "-connect", self.cluster.coordinator.listen, "-cert",
                                        certificate, "-key", key, "-CAfile", self.cluster.authority.ca, "-alpn", "h2"],
                                       stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            process.stdout.read()  # until the server hangs up: at once, or because nothing comes
            process.stdin.close()
            process.wait(timeout=60)
            process.stdout.close()
            self.assertEqual(self.handshakes() - before, taken)

    def test_a_client_may_not_act_as_a_member(self):
        tried = attack(self.cluster.coordinator.listen, self.cluster.nodes[0].listen, *self.cluster.client)
        for method, (code, message) in tried.items():
            self.assertEqual(code, PERMISSION_DENIED, f"{method}: {message}")
            self.assertIn("by the certificate of 'client'", message)
        self.assertGreaterEqual(self.cluster.coordinator.metric(
            'tributary_rpc_refused_calls_total{method="Register",reason="permission_denied"}'), 1)
        self.assertGreaterEqual(self.cluster.nodes[0].metric(
            'tributary_rpc_refused_calls_total{method="OpenShard",reason="permission_denied"}'), 1)

    def test_a_node_may_not_act_as_a_worker_or_as_the_coordinator(self):
        tried = attack(self.cluster.coordinator.listen, self.cluster.nodes[0].listen, "--role", "node",
                       *self.cluster.authority.flags("evil-node", "node"))
        for method in ("WorkerChannel", "Connect", "Disconnect", "OpenShard", "CloseShard"):
            code, message = tried[method]
            self.assertEqual(code, PERMISSION_DENIED, f"{method}: {message}")

    def test_strangers_get_no_connection(self):
        certificate, key = self.other.files("stranger", "node")
        flags = ["--role", "node", *self.trusting(certificate, key, self.cluster.authority.ca)]
        for stranger in ([], flags):
            tried = attack(self.cluster.coordinator.listen, self.cluster.nodes[0].listen, *stranger)
            self.assertEqual({code for code, _ in tried.values()}, {UNAVAILABLE}, tried)

    def test_files_are_read_again(self):
        """New certificates of a new CA, while everything runs. The coordinator trusts both until all have moved."""
        authority = self.cluster.authority
        newer = Authority(self.folder, "newer-ca")
        newer_client = self.trusting_both(newer)
        before = authority.ca.read_text()
        self.assertIn("the server refuses --tls-cert", self.error_of(newer_client))
        replace(authority.ca, before + newer.ca.read_text())
        wait_until(lambda: self.cluster.tributary("status", tls=newer_client).returncode == 0, "it is trusted", 60)
        self.assertEqual(self.cluster.tokens(newer_client), self.cluster.tokens())
        replace(authority.ca, before)
        wait_until(lambda: self.cluster.tributary("status", tls=newer_client).returncode == 1, "and no more", 60)

    def trusting_both(self, newer):
        certificate, key = newer.files("client")
        both = self.folder / "both-newer.crt"
        both.write_text(self.cluster.authority.ca.read_text() + newer.ca.read_text())
        return ["--tls-cert", certificate, "--tls-key", key, "--tls-ca", both]


def replace(path, text):
    """As an operator should: no reader sees half of it."""
    part = path.with_suffix(".part")
    part.write_text(text)
    part.rename(path)


class RefusedStartTest(unittest.TestCase):
    """Servers say what is wrong with their files, and do not listen to a network that they ask nothing of."""

    def error_of(self, *flags, binary="tributary-coordinator"):
        done = run(BIN / binary, *flags)
        self.assertEqual(done.returncode, 1, done.stderr)
        return done.stderr.splitlines()[-1]

    def test_open_to_others(self):
        error = self.error_of("--listen", "0.0.0.0:0")
        self.assertIn("'0.0.0.0:0' is open to other hosts", error)
        self.assertIn("--cluster-secret-file", error)
        server = Server("tributary-coordinator", "--listen", "0.0.0.0:0", "--insecure")
        try:
            self.assertIn("gRPC asks nobody who he is", server.log())
        finally:
            server.close()

    def test_files_that_are_not_right(self):
        with tempfile.TemporaryDirectory() as name:
            authority = Authority(name)
            flags = authority.flags("coordinator")
            self.assertIn("--tls-ca is missing", self.error_of(*flags[:4]))
            self.assertIn("--tls-cert '/nonexistent': No such file",
                          self.error_of("--tls-cert", "/nonexistent", *flags[2:]))
            other = authority.flags("coordinator2", "coordinator")
            self.assertIn("is not the key of --tls-cert", self.error_of(*flags[:2], *other[2:]))
            self.assertIn("this process is a coordinator", self.error_of(*authority.flags("node")))
            late = authority.flags("late", "coordinator", ends=-datetime.timedelta(minutes=5))
            self.assertIn("has expired on", self.error_of(*late))
            self.assertIn("--cluster-secret-file '/nonexistent'",
                          self.error_of("--cluster-secret-file", "/nonexistent"))


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    unittest.main(verbosity=2)
