#!/usr/bin/env python3
"""Plants codes in licence texts and asks the probe model for them, while most of the text's KV lies in other processes.

`./dev demo` builds and then runs this; `tributary demo` of an installed package is this file, too. It starts a local
cluster, asks for every code through it, asks again with the whole context on the worker, and compares token for token.
Exits with 1 if a code is wrong, if the tokens differ, or if less than 80 % of the context was remote. Only the standard
library is used.
"""

import argparse
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

import needles

ROOT = pathlib.Path(__file__).resolve().parent.parent
TRIBUTARY = pathlib.Path(os.environ.get("TRIBUTARY_BIN", ROOT / "build" / "bin")) / "tributary"
# In the source's folder, or where a package puts it; this file is then libexec/tributary/demo.py.
MODELS = (ROOT / "models" / "probe", ROOT.parent / "share" / "tributary" / "models" / "probe")
LICENCES = pathlib.Path("/usr/share/common-licenses")
ANSWER_TOKENS = 7  # six digits and the full stop
MIN_REMOTE_SHARE = 0.80
START_TIMEOUT_S = 90
COMPARE_FOR_S = 30  # on a slow machine not every question is asked a second time, all resident; the first always is


class DemoError(Exception):
    """Something that the reader of the terminal must know."""


def colour(code, text):
    return f"\033[{code}m{text}\033[0m" if sys.stdout.isatty() else text


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], prog="tributary demo")
    parser.add_argument("--model", type=pathlib.Path, default=next((m for m in MODELS if m.exists()), MODELS[-1]),
                        help="of a byte vocabulary that can recall codes (default: the probe model)")
    parser.add_argument("--bytes", type=int, default=8400, help="length of the text (default 8400)")
    parser.add_argument("--codes", type=int, default=8, help="codes planted in it (default 8)")
    parser.add_argument("--cpu-nodes", type=int, default=2)
    parser.add_argument("--device", default="host", help="of the GPU worker: host (default), cuda or cuda:N")
    parser.add_argument("--window-tokens", type=int, default=1024)
    parser.add_argument("--sink-tokens", type=int, default=64)
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of names, codes and places")
    return parser.parse_args()


class Cluster:
    """`tributary cluster up` for the time of a with-block."""

    def __init__(self, arguments, folder):
        self.port_file = folder / "cluster.json"
        command = [TRIBUTARY, "cluster", "up", "--model", arguments.model, "--cpu-nodes", str(arguments.cpu_nodes),
                   "--device", arguments.device, "--port-file", self.port_file]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def __enter__(self):
        end = time.monotonic() + START_TIMEOUT_S
        while not self.port_file.exists():
            if self.process.poll() is not None:
                raise DemoError(f"the cluster did not start: {self.process.stderr.read().strip()}")
            if time.monotonic() > end:
                self.process.kill()
                raise DemoError(f"the cluster did not start within {START_TIMEOUT_S} s")
            time.sleep(0.02)
        return json.loads(self.port_file.read_text())

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            _, errors = self.process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise DemoError("the cluster did not stop within 60 s") from None
        if self.process.returncode != 0:
            raise DemoError(f"the cluster ended with status {self.process.returncode}: {errors.strip()}")


def ask(coordinator, prompt_file, placement):
    """One answer, as the CLI's JSON object."""
    command = [TRIBUTARY, "generate", "--coordinator", coordinator, "--prompt-file", prompt_file, "--max-tokens",
               str(ANSWER_TOKENS), "--ignore-eos", "--json", *placement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise DemoError(done.stderr.strip())
    return json.loads(done.stdout)


def remote_share(answer):
    return answer["remote_tokens"] / answer["context_tokens"]


def show_question(needle, answer, same_tokens):
    """`same_tokens`: None if the question was not asked all-resident too."""
    recalled = answer["text"][: len(needle.code)]
    right = recalled == needle.code
    mark = colour("32", "ok   ") if right and same_tokens is not False else colour("31", "WRONG")
    compared = {None: "", True: "same tokens all-resident", False: "OTHER TOKENS all-resident"}[same_tokens]
    print(f"  {mark} {needle.name:<22} planted {needle.code}  recalled {recalled:<6}  "
          f"{remote_share(answer):6.1%} remote  first token {answer['ttft_s']:5.2f} s  {compared}", flush=True)
    return right


class Results:
    """What the questions gave, to be judged at the end."""

    def __init__(self):
        self.answers = []
        self.recalled = self.compared = self.same = 0


def ask_for_all(arguments, folder, coordinator, planted, text):
    distributed = ["--window-tokens", str(arguments.window_tokens), "--sink-tokens", str(arguments.sink_tokens)]
    prompt_file = folder / "prompt.txt"
    results = Results()
    begin = time.monotonic()
    for needle in planted:
        prompt_file.write_bytes(text + needle.question)
        answer = ask(coordinator, prompt_file, distributed)
        same_tokens = None
        if not results.answers or time.monotonic() - begin < COMPARE_FOR_S:
            resident = ask(coordinator, prompt_file, ["--all-resident"])
            if resident["remote_tokens"] != 0:
                raise DemoError(f"the all-resident run had {resident['remote_tokens']} remote tokens")
            same_tokens = answer["tokens"] == resident["tokens"]
            results.compared += 1
            results.same += same_tokens
        results.recalled += show_question(needle, answer, same_tokens)
        results.answers.append(answer)
    return results


def show_result(num_codes, results, seconds):
    share = min(remote_share(answer) for answer in results.answers)
    last = results.answers[-1]
    print(f"\nwhere the context lay: {last['resident_tokens']:,} of {last['context_tokens']:,} tokens on the worker, "
          f"{last['remote_tokens']:,} in other processes:")
    for node in last["nodes"]:
        print(f"  {node['id']:<8} {node['tokens']:>6,} tokens in {node['shards']} shard(s), "
              f"{node['kv_bytes'] / 2**20:.1f} MiB of KV")
    print(f"exchanged per answer: {last['bytes_sent'] / 2**20:.1f} MiB sent, "
          f"{last['bytes_received'] / 2**20:.1f} MiB received\n")
    checks = [
        (results.recalled == num_codes, f"{results.recalled} of {num_codes} codes recalled"),
        (share > MIN_REMOTE_SHARE, f"{share:.1%} of the context was remote (more than {MIN_REMOTE_SHARE:.0%})"),
        (results.same == results.compared,
         f"tokens equal those of the all-resident run for {results.same} of {results.compared} questions compared"),
    ]
    for good, what in checks:
        print(colour("32", "PASS ") + what if good else colour("31", "FAIL ") + what)
    print(f"{seconds:.1f} s")
    return all(good for good, _ in checks)


def main():
    arguments = parse_arguments()
    rng = random.Random(arguments.seed)
    begin = time.monotonic()
    planted = needles.draw_needles(arguments.codes, rng)
    text = needles.build_haystack(needles.read_licence_texts(LICENCES), planted, arguments.bytes, rng)
    rng.shuffle(planted)
    print(f"{len(planted)} codes are strewn over {len(text):,} bytes of licence texts (seed {arguments.seed}):\n"
          f"  \"{planted[0].sentence.decode()}\"\n"
          f"The model keeps {arguments.sink_tokens} + {arguments.window_tokens} tokens; the KV of the others lies in "
          f"{arguments.cpu_nodes} CPU attention services.\n", flush=True)
    with tempfile.TemporaryDirectory(prefix="tributary-demo-") as name:
        folder = pathlib.Path(name)
        with Cluster(arguments, folder) as cluster:
            print("cluster: " + ", ".join(f"{p['name']} (pid {p['pid']})" for p in cluster["processes"]), flush=True)
            results = ask_for_all(arguments, folder, cluster["coordinator"], planted, text)
    return 0 if show_result(len(planted), results, time.monotonic() - begin) else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except DemoError as error:
        sys.exit(f"demo: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
