#!/usr/bin/env python3
"""The command line as people and scripts use it: files and pipes in, text out, signals, full disks, chats."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import unittest

from cluster import BIN, MODEL, Cluster, wait_until

RUN = [BIN / "tributary", "run", "--model", MODEL, "--cpu-nodes", "1", "--kv-pool-bytes", "32MB", "--max-tokens", "4",
       "--ignore-eos"]


def tributary(*arguments, stdin=b"", env=None, **options):
    """The finished process; its output is bytes."""
    return subprocess.run([BIN / "tributary", *arguments], input=stdin, capture_output=True, check=False, timeout=120,
                          env={**os.environ, **(env or {})}, **options)


def as_in_a_terminal():
    """Signals at their defaults, in a session of its own."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)


class InputsTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def test_pipes_are_files(self):
        pipe = self.folder / "pipe"
        os.mkfifo(pipe)
        with subprocess.Popen([*RUN, "--json", "--prompt-file", pipe], stdout=subprocess.PIPE) as process:
            pipe.write_bytes(b"hello")
            by_name = json.loads(process.communicate(timeout=120)[0])
        self.assertEqual(by_name["prompt_tokens"], 5)
        by_stdin = json.loads(tributary(*RUN[1:], "--json", "--prompt-file", "/dev/stdin", stdin=b"hello").stdout)
        self.assertEqual(by_stdin["tokens"], by_name["tokens"])
        score = tributary("score", *RUN[2:8], "--text-file", "/dev/stdin", "--prefill-tokens", "3", "--json",
                          stdin=b"hello")
        self.assertEqual(json.loads(score.stdout)["tokens"], 2)

    def test_the_first_signal_ends_who_waits_for_input(self):
        pipe = self.folder / "pipe"
        os.mkfifo(pipe)
        commands = [[*RUN, "--prompt-file", pipe], [*RUN, "--prompt-file", "-"],
                    [BIN / "tributary", "eval", "--model", MODEL, "--text-file", pipe, "--decode-tokens", "5"]]
        for command in commands:
            for number in (signal.SIGINT, signal.SIGTERM):
                with self.subTest(command=command[-1], signal=number), subprocess.Popen(
                        command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=as_in_a_terminal) as process:
                    status = pathlib.Path(f"/proc/{process.pid}/wchan")
                    # It waits: it has two threads, one for signals, and the other sleeps in open() or read().
                    wait_until(lambda p=process: len(os.listdir(f"/proc/{p.pid}/task")) > 1, "its thread for signals")
                    self.assertTrue(status.exists())
                    process.send_signal(number)
                    self.assertEqual(process.wait(timeout=60), 130)

    def test_a_folder_may_have_any_name(self):
        model = os.fsencode(self.folder) + b"/latin-\xe9"
        shutil.copytree(os.fsencode(MODEL), model)
        done = tributary("run", "--model", model, *RUN[4:], "--prompt", "x", "--json")
        self.assertEqual(done.returncode, 0, done.stderr)


class HubTest(unittest.TestCase):
    """The Hub's client is a module of this test's own: no network."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def run_with(self, client, model="someone/small"):
        (self.folder / "huggingface_hub.py").write_text(client)
        return tributary("run", "--model", model, *RUN[4:], "--prompt", "x", "--json", cwd=self.folder,
                         env={"PYTHONPATH": str(self.folder)})

    def test_a_models_name_becomes_a_folder(self):
        client = f"""
import shutil
def snapshot_download(name, local_dir, allow_patterns):
    assert name == "someone/small" and "*.safetensors" in allow_patterns
    shutil.copytree({str(MODEL)!r}, local_dir)
"""
        done = self.run_with(client)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertTrue((self.folder / "models" / "someone" / "small" / "config.json").is_file())
        again = self.run_with("raise AssertionError('it is there')")
        self.assertEqual(json.loads(again.stdout)["tokens"], json.loads(done.stdout)["tokens"])

    def test_a_model_is_never_taken_for_anothers(self):
        shutil.copytree(MODEL, self.folder / "models" / "small")
        shutil.copytree(MODEL, self.folder / "models" / "another" / "small")
        done = self.run_with("def snapshot_download(*_, **__):\n    raise OSError('no such model')\n")
        self.assertEqual(done.returncode, 1)
        self.assertIn(b"OSError: no such model", done.stderr)
        self.assertIn(b"--model models/small uses it", done.stderr)
        self.assertEqual(self.run_with("", "another/small").returncode, 0)

    def test_what_broke_off_is_not_complete_and_goes_on(self):
        client = f"""
import pathlib, shutil
def snapshot_download(name, local_dir, allow_patterns):
    pathlib.Path(local_dir).mkdir(parents=True, exist_ok=True)
    shutil.copy({str(MODEL / "config.json")!r}, local_dir)
    raise OSError("connection lost")
"""
        done = self.run_with(client)
        self.assertEqual(done.returncode, 1)
        self.assertIn("could not be fetched", json.loads(done.stdout)["error"]["message"])
        self.assertFalse((self.folder / "models" / "someone" / "small").exists())
        client = f"""
import pathlib, shutil
def snapshot_download(name, local_dir, allow_patterns):
    assert (pathlib.Path(local_dir) / "config.json").is_file(), "it does not go on"
    shutil.copytree({str(MODEL)!r}, local_dir, dirs_exist_ok=True)
"""
        done = self.run_with(client)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(os.listdir(self.folder / "models" / "someone"), ["small"])

    def test_what_the_hub_says_is_shown(self):
        done = self.run_with("def snapshot_download(*_, **__):\n    raise OSError('no such model')\n")
        self.assertEqual(done.returncode, 1)
        self.assertIn(b"OSError: no such model", done.stderr)
        self.assertIn("could not be fetched", json.loads(done.stdout)["error"]["message"])

    def test_without_its_client_the_user_is_told(self):
        done = self.run_with("raise ImportError")
        self.assertEqual(done.returncode, 1)
        message = json.loads(done.stdout)["error"]["message"]
        self.assertIn("hf download someone/small --local-dir models/someone/small", message)


class OtherFormatsTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def refusal(self, model):
        done = tributary("run", "--model", model, *RUN[4:], "--prompt", "x", "--json", cwd=self.folder)
        self.assertEqual(done.returncode, 1)
        return json.loads(done.stdout)["error"]["message"]

    def test_gguf_is_told_how_it_is_converted(self):
        (self.folder / "models").mkdir()
        (self.folder / "models" / "x.gguf").write_bytes(b"GGUF")
        for model in ("models", "models/x.gguf", self.folder / "models" / "x.gguf", "models/absent.gguf"):
            with self.subTest(model=model):
                self.assertIn("convert the weights to safetensors", self.refusal(model))

    def test_autogptq_is_named(self):
        shutil.copytree(MODEL, self.folder / "model")
        (self.folder / "model" / "quantize_config.json").write_text("{}")
        self.assertIn("GPTQ", self.refusal("model"))


class OtherProgramsTest(unittest.TestCase):
    """Commands that another program carries out."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def test_serve_is_the_python_packages_program(self):
        server = self.folder / "tributary-serve"
        server.write_text('#!/bin/sh\nprintf "%s|" "$TRIBUTARY_BIN" "$@"\nexit 7\n')
        server.chmod(0o755)
        path = {"PATH": f"{self.folder}:{os.environ['PATH']}"}
        done = tributary("serve", "--model", "a b", "--", "--cpu-nodes", "1", env=path)
        self.assertEqual(done.returncode, 7)
        self.assertEqual(done.stdout.decode(), f"{BIN.resolve()}|--model|a b|--|--cpu-nodes|1|")
        self.assertTrue(tributary("help", "serve", env=path).stdout.endswith(b"|--help|"))

    def test_without_it_the_user_is_told_how_to_install_it(self):
        done = tributary("serve", env={"PATH": str(self.folder)})
        self.assertEqual(done.returncode, 1)
        self.assertIn(b"pip install ./python[serve]", done.stderr)

    def test_they_are_commands_like_the_others(self):
        for document in (["help"], ["man"], ["completion", "bash"]):
            text = tributary(*document).stdout
            self.assertIn(b"demo", text)
            self.assertIn(b"serve", text)

    def test_help_has_the_flags_of_the_demo(self):
        done = tributary("help", "demo")
        self.assertEqual(done.returncode, 0, done.stderr)
        for flag in (b"--codes", b"--cpu-nodes", b"--window-tokens"):
            self.assertIn(flag, done.stdout)


class OutputsTest(unittest.TestCase):
    def test_output_that_is_lost_is_an_error(self):
        with open("/dev/full", "wb") as full:
            for flags in (["--json"], [], ["--quiet"]):
                done = subprocess.run([*RUN, "--prompt", "x", *flags], stdout=full, stderr=subprocess.PIPE, check=False,
                                      timeout=120)
                self.assertEqual(done.returncode, 1)
                self.assertIn(b"cannot write to standard output: No space left on device", done.stderr)
            done = subprocess.run([BIN / "tributary", "help"], stdout=full, stderr=subprocess.PIPE, check=False)
            self.assertEqual(done.returncode, 1)
            for server in ("tributary-coordinator", "tributary-gpu-worker", "tributary-cpu-attention"):
                for flag in ("--help", "--version"):
                    done = subprocess.run([BIN / server, flag], stdout=full, stderr=subprocess.PIPE, check=False)
                    self.assertEqual(done.returncode, 1)
                    self.assertIn(b"cannot write to standard output: No space left on device", done.stderr)

    def test_results_that_are_lost_are_an_error(self):
        done = tributary("eval", *RUN[2:8], "--text-file", MODEL / "persuasion.txt", "--prefill-tokens", "64",
                         "--decode-tokens", "4", "--csv", "/dev/full")
        self.assertEqual(done.returncode, 1)
        self.assertIn(b"cannot write '/dev/full': No space left on device", done.stderr)
        self.assertTrue(pathlib.Path("/dev/full").is_char_device())

    def test_a_reader_that_goes_away_ends_the_answer_and_leaves_nothing(self):
        with tempfile.TemporaryDirectory() as folder:
            command = [*RUN[:8], "--ignore-eos", "--max-tokens", "3000", "--prompt", "x"]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                       env={**os.environ, "TMPDIR": folder})
            process.stdout.read(1)
            process.stdout.close()
            self.assertEqual(process.wait(timeout=60), 141)
            process.stderr.close()
            self.assertEqual(os.listdir(folder), [])

    def test_errors_are_json_if_that_is_asked_for(self):
        done = tributary("run", "--model", "/nonexistent", "--prompt", "x", "--json")
        self.assertEqual(done.returncode, 1)
        self.assertEqual(json.loads(done.stdout)["error"]["code"], "NOT_FOUND")
        done = tributary("run", "--json", "--model", "m", "--prompt", "x", "--frob")
        self.assertEqual(done.returncode, 2)
        self.assertIn("--frob", json.loads(done.stdout)["error"]["message"])

    def test_errors_name_flags_as_they_are_typed(self):
        for flags, words in ((["--policy", "hgca", "--keep-min", "65", "--block-tokens", "64"], b"--keep-min"),
                             (["--policy", "hgca", "--dense-heads", "9999:0"], b"--dense-heads names 9999:0"),
                             (["--max-stall-s", "nan"], b"--max-stall-s: 'nan' is no finite number"),
                             (["--window-tokens", "10000000000"], b"no whole number from 0 to 4294967295")):
            with self.subTest(flags=flags):
                done = tributary(*RUN[1:], "--prompt", "x", *flags)
                self.assertNotEqual(done.returncode, 0)
                self.assertIn(words, done.stderr)


class TextTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.cluster = Cluster(cpu_nodes=1).__enter__()
        cls.addClassCleanup(cls.cluster.__exit__, None, None, None)

    def generate(self, *flags, stdin=b""):
        return tributary("generate", "--coordinator", self.cluster.coordinator, "--ignore-eos", *flags, stdin=stdin)

    def chat(self, text, *flags):
        return tributary("chat", "--coordinator", self.cluster.coordinator, "--ignore-eos", "--max-tokens", "8", *flags,
                         stdin=text.encode())

    def test_a_stop_string_ends_the_answer_across_tokens(self):
        whole = json.loads(self.generate("--prompt", "the", "--max-tokens", "30", "--json").stdout)["text"]
        stop = whole[10:13]
        cut = self.generate("--prompt", "the", "--max-tokens", "30", "--stop", stop, "--quiet")
        self.assertEqual(cut.returncode, 0, cut.stderr)
        self.assertEqual(cut.stdout.decode(), whole[:whole.index(stop)])
        result = json.loads(self.generate("--prompt", "the", "--max-tokens", "30", "--stop", stop, "--json").stdout)
        self.assertEqual((result["finish_reason"], result["stop_string"]), ("stop", stop))
        self.assertEqual(result["text"], whole[:whole.index(stop)])

    def test_ids_that_were_printed_are_taken(self):
        first = self.generate("--prompt", "the", "--json")
        again = self.generate("--prompt-tokens-file", "-", "--json", stdin=first.stdout)
        self.assertEqual(json.loads(again.stdout)["prompt_tokens"], len(json.loads(first.stdout)["tokens"]))

    def test_what_is_not_remote_is_noted(self):
        self.assertIn(b"nothing was remote", self.generate("--prompt", "the").stderr)
        self.assertNotIn(b"nothing was remote", self.generate("--prompt", "the" * 400, "--window-tokens", "64").stderr)

    def test_ids_with_control_characters_or_no_utf8_are_refused(self):
        for name in (b"evil\nline", b"\xff", b"x" * 300):
            done = self.generate("--prompt", "x", "--request-id", name)
            self.assertEqual(done.returncode, 1)
            self.assertIn(b"--request-id", done.stderr)
            self.assertIn(b"INVALID_ARGUMENT", done.stderr)
            self.assertEqual(done.stderr.count(b"\n"), 1, done.stderr)

    def test_a_chat_keeps_its_sequence(self):
        done = self.chat("one\ntwo\n/exit\nnever\n")
        self.assertEqual(done.returncode, 0, done.stderr)
        turns = [line for line in done.stderr.decode().splitlines() if line.startswith("[")]
        self.assertEqual(len(turns), 2)
        self.assertIn("4 tokens in, 8 out; context 12 tokens", turns[0])
        self.assertIn("5 tokens in, 8 out; context 25 tokens", turns[1])  # the line's end, and "two"
        wait_until(self.cluster.is_empty, "the chat let go of its sequence")
        quiet = self.chat("one\ntwo\n", "--quiet")
        self.assertEqual(quiet.stdout, done.stdout)
        self.assertEqual(quiet.stderr, b"")

    def test_a_chat_that_is_full_says_so(self):
        done = self.chat("one\n" + "x" * 100 + "\n", "--keep-context-tokens", "40")
        self.assertEqual(done.returncode, 1)
        self.assertIn(b"--keep-context-tokens than 40", done.stderr)

    def test_ctrl_c_ends_the_answer_and_not_the_chat(self):
        command = [BIN / "tributary", "chat", "--coordinator", self.cluster.coordinator, "--ignore-eos",
                   "--max-tokens", "7000"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              preexec_fn=as_in_a_terminal) as process:
            process.stdin.write(b"one\n")
            process.stdin.flush()
            process.stdout.read(5)
            process.send_signal(signal.SIGINT)
            process.stdin.write(b"/exit\n")
            errors = process.communicate(timeout=60)[1]
        self.assertEqual(process.returncode, 0, errors)
        self.assertIn(b"[interrupted after", errors)

    def test_status_is_watched(self):
        command = [BIN / "tributary", "status", "--coordinator", self.cluster.coordinator, "--watch", "0.1"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, preexec_fn=as_in_a_terminal) as process:
            seen = b""
            while seen.count(b"membership epoch") < 3:
                seen += process.stdout.read1(4096)
            process.send_signal(signal.SIGINT)
            self.assertEqual(process.wait(timeout=60), 0)


if __name__ == "__main__":
    unittest.main()
