#!/usr/bin/env python3
"""Asks SmolLM2 a question in words about a novel's beginning, while most of its KV lies in other processes.

`./dev demo chat` builds, makes the model, and then runs this with the Python of build/python, which has the package of
python/. It starts a local cluster, shows the answer as it comes, then where the context lay and what each stage took.
Exits with 1 if the cluster fails, or if less than half of the context was remote.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import demo

ROOT = Path(__file__).resolve().parent.parent
TEXT = ROOT / "models" / "probe" / "persuasion.txt"
TEXT_CHARACTERS = 20_000  # of the file, at most: about 4,400 tokens
QUESTION = "Where is Kellynch Hall?"
MAX_TOKENS = 48
MIN_REMOTE_SHARE = 0.5


def read_text(path: Path, characters: int) -> str:
    """The beginning of the file, up to the end of a paragraph."""
    text = path.read_text(encoding="utf-8")
    if len(text) <= characters:
        return text.strip()
    end = text.rfind("\n", 0, characters)
    return text[: end if end > 0 else characters].strip()


def message(text: str, question: str) -> str:
    """What the user says to the model."""
    return f"{text}\n\nAnswer a question about the text above in one sentence. {question}"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0], prog="./dev demo chat")
    parser.add_argument("--question", default=QUESTION, help=f"default: {QUESTION}")
    parser.add_argument("--text", type=Path, default=TEXT, help="a file in UTF-8 (default models/probe/persuasion.txt)")
    parser.add_argument("--text-characters", type=int, default=TEXT_CHARACTERS,
                        help=f"only its beginning, cut at a paragraph's end (default {TEXT_CHARACTERS})")
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "smollm2", help="with tokenizer.json")
    parser.add_argument("--max-tokens", type=int, default=MAX_TOKENS, help=f"of the answer (default {MAX_TOKENS})")
    parser.add_argument("--cpu-nodes", type=int, default=2)
    parser.add_argument("--device", default="host", help="of the GPU worker: host (default), cuda or cuda:N")
    parser.add_argument("--window-tokens", type=int, default=512)
    parser.add_argument("--sink-tokens", type=int, default=16)
    parser.add_argument("--json", type=Path, help="write prompt, tokens and placement into this file, too")
    return parser.parse_args()


@contextmanager
def step(number: int, what: str) -> Iterator[None]:
    """Says what is done now, and afterwards how long it took."""
    print(f"[{number}/4] {what}", flush=True)
    begin = time.monotonic()
    yield
    print(f"      {time.monotonic() - begin:.1f} s", flush=True)


def show_prefill(fraction: float, before: float) -> None:
    """One line that fills on a terminal; elsewhere a line for each quarter. `before`: what was shown last."""
    if sys.stdout.isatty():
        print(f"\r      read {fraction:4.0%}", end="" if fraction < 1 else "\n", flush=True)
    elif int(4 * fraction) > int(4 * before):
        print(f"      read {fraction:4.0%}", flush=True)


def ask(client: Any, text: Any, tokens: list[int], arguments: argparse.Namespace) -> tuple[list[int], Any]:
    """Streams the answer to the terminal. Its tokens, and the summary."""
    import tributary

    placement = tributary.Placement(window_tokens=arguments.window_tokens, sink_tokens=arguments.sink_tokens,
                                    kv_dtype="f32")
    generation = client.generate(tokens, max_tokens=arguments.max_tokens, placement=placement,
                                 stop_tokens=sorted(text.end_tokens))
    detokenizer = text.tokenizer.detokenizer()
    answer: list[int] = []
    read = 0.0
    for event in generation:
        if isinstance(event, tributary.Prefill):
            show_prefill(event.fraction, read)
            read = event.fraction
        elif isinstance(event, tributary.Tokens):
            if not answer:
                print("\n    ", end="")
            answer += event.tokens
            for token in event.tokens:
                if token not in text.end_tokens:
                    print(detokenizer.add(token), end="", flush=True)
    print(detokenizer.flush() + "\n", flush=True)
    return answer, generation.summary


def share(summary: Any) -> float:
    return float(summary.remote_tokens / summary.context_tokens)


def show_summary(summary: Any) -> None:
    print(f"where the context lay: {summary.resident_tokens:,} of {summary.context_tokens:,} tokens on the worker, "
          f"{summary.remote_tokens:,} ({share(summary):.0%}) in other processes")
    for node in summary.nodes:
        print(f"  {node.node_id:<18} {node.tokens:>8,} tokens in {node.shards} shard(s), "
              f"{node.kv_bytes / 2**20:.1f} MiB of KV")
    print(f"  over the wire      {summary.bytes_sent / 2**20:.1f} MiB sent, {summary.bytes_received / 2**20:.1f} MiB "
          "received\nhow long it took")
    print(f"  {'prefill':<18} {summary.prefill_s:8.2f} s   {summary.prompt_tokens:,} tokens")
    print(f"  {'first token':<18} {summary.ttft_s:8.2f} s")
    print(f"  {'decode':<18} {summary.decode_s:8.2f} s   {summary.generated_tokens} tokens, of each step:")
    for stage, seconds in summary.stage_s.items():
        print(f"    {stage:<16} {seconds * 1e3:8.2f} ms")


def write_json(path: Path, prompt: list[int], answer: list[int], words: str, summary: Any) -> None:
    path.write_text(json.dumps({
        "prompt_tokens": prompt, "tokens": answer, "text": words, "context_tokens": summary.context_tokens,
        "remote_tokens": summary.remote_tokens, "nodes": {node.node_id: node.tokens for node in summary.nodes},
    }))


def run(arguments: argparse.Namespace) -> bool:
    import tributary
    from tributary.text import load_model_text

    begin = time.monotonic()
    with step(1, f"tokens of {arguments.text.name} and the question"):
        text = load_model_text(arguments.model)
        if text.chat_template is None:
            raise demo.DemoError(f"{arguments.model} has no chat template, so it cannot be asked as in a chat")
        words = read_text(arguments.text, arguments.text_characters)
        turns = [{"role": "user", "content": message(words, arguments.question)}]
        prompt = text.tokenizer.encode(text.chat_template.render(turns), add_special_tokens=False)
        print(f"      {len(words):,} characters, {len(prompt):,} tokens with the question and the chat template")
    with tempfile.TemporaryDirectory(prefix="tributary-demo-") as name:
        with step(2, f"a cluster on this host: coordinator, worker, CPU attention services: {arguments.cpu_nodes}"):
            cluster = demo.Cluster(arguments, Path(name))
            up = cluster.__enter__()
            print("      " + ", ".join(f"{p['name']} (pid {p['pid']})" for p in up["processes"]))
        try:
            with step(3, f"{text.name} reads the text (about half a minute on two cores) and answers\n\n"
                         f"    {arguments.question}"), tributary.Client(up["coordinator"]) as client:
                answer, summary = ask(client, text, prompt, arguments)
        finally:
            with step(4, "the cluster stops"):
                cluster.__exit__()
    print()
    show_summary(summary)
    print(f"\n{time.monotonic() - begin:.1f} s in all")
    if arguments.json:
        write_json(arguments.json, prompt, answer, text.tokenizer.decode(answer), summary)
    return share(summary) >= MIN_REMOTE_SHARE


def main() -> int:
    arguments = parse_arguments()
    try:
        return 0 if run(arguments) else 1
    except demo.DemoError as error:
        sys.exit(f"demo chat: {error}")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
