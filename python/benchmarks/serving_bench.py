#!/usr/bin/env python3
"""What NVIDIA's AIPerf, a client that is not ours, measures of tributary-serve: time to first token, time between
tokens, requests a second.

build/python/bin/python runs this; ./dev serving-bench does so. A server is started with a cluster of its own in front
of --model, and asked for chats: one at a time, many at once, and conversations whose turns go on with kept sequences.
The window is so small that most of each context lies in other processes. Exits with 1 if AIPerf counts an error, or
fewer answers than it asked for. What it wrote lies in build/serving-bench/results.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from local_server import ROOT, local_server

HOME = ROOT / "build" / "serving-bench"
AIPERF = HOME / "bin" / "aiperf"


@dataclass(frozen=True)
class Scenario:
    name: str
    at_once: int
    conversations: int
    turns: int = 1
    seed: int = 0  # texts of its own, so that none goes on with what another has kept

    @property
    def requests(self) -> int:
        return self.conversations * self.turns


def scenarios(args: argparse.Namespace) -> list[Scenario]:
    return [Scenario("one at a time", 1, args.chats, seed=args.seed),
            Scenario(f"{args.at_once} at once", args.at_once, args.at_once * args.chats // 2, seed=args.seed + 1),
            Scenario("conversations of 3 turns, 2 at once", 2, args.chats // 2, turns=3, seed=args.seed + 2)]


def command_of(scenario: Scenario, address: str, results: Path, args: argparse.Namespace) -> list[str]:
    extra = {"ignore_eos": True, "temperature": 0, "tributary": {"window_tokens": args.window_tokens}}
    command = [str(AIPERF), "profile", "--model-names", args.model.name, "--url", f"http://{address}",
               "--endpoint-type", "chat", "--streaming", "--tokenizer", str(args.model.resolve()),
               "--isl", str(args.prompt_tokens), "--isl-stddev", "0", "--osl", str(args.tokens),
               "--concurrency", str(scenario.at_once), "--extra-inputs", json.dumps(extra),
               "--random-seed", str(scenario.seed), "--no-gpu-telemetry", "--ui", "none",
               "--artifact-dir", str(results)]
    if scenario.turns > 1:
        return command + ["--num-conversations", str(scenario.conversations), "--conversation-turn-mean",
                          str(scenario.turns), "--conversation-turn-stddev", "0"]
    return command + ["--request-count", str(scenario.requests)]


def measured(scenario: Scenario, address: str, args: argparse.Namespace) -> dict[str, Any]:
    """What AIPerf exports. Ends the program if it could not measure."""
    results = HOME / "results" / scenario.name.replace(" ", "_").replace(",", "")
    shutil.rmtree(results, ignore_errors=True)
    results.mkdir(parents=True)
    log = results / "aiperf.log"
    with log.open("w") as output:
        done = subprocess.run(command_of(scenario, address, results, args), stdout=output, stderr=subprocess.STDOUT,
                              check=False)
    export = results / "profile_export_aiperf.json"
    if done.returncode != 0 or not export.exists():
        sys.exit(f"serving_bench: aiperf ended with {done.returncode}; {log} has what it said")
    return json.loads(export.read_text())


def figure(export: dict[str, Any], metric: str, statistic: str = "avg") -> float:
    return float((export.get(metric) or {}).get(statistic) or 0)


def row(scenario: Scenario, export: dict[str, Any]) -> str:
    first = " | ".join(f"{figure(export, 'time_to_first_token', p):.0f}" for p in ("p50", "p90", "p99"))
    between = " | ".join(f"{figure(export, 'inter_token_latency', p):.1f}" for p in ("p50", "p90", "p99"))
    cached = 100 * figure(export, "total_usage_prompt_cache_read_tokens") / max(
        1, figure(export, "total_usage_prompt_tokens"))
    return (f"| {scenario.name} | {scenario.requests} | {first} | {between} | "
            f"{figure(export, 'request_throughput'):.2f} | {figure(export, 'output_token_throughput'):.1f} | "
            f"{cached:.0f} % |")


HEADER = """\
| chats | answers | first token, ms: median | 90 % | 99 % | between tokens, ms: median | 90 % | 99 % | requests/s \
| tokens/s | of the prompts kept |
|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|"""


def faults(scenario: Scenario, export: dict[str, Any]) -> list[str]:
    answers, errors = int(figure(export, "request_count")), export.get("error_summary") or []
    found = [f"{scenario.name}: {error}" for error in errors]
    if answers != scenario.requests:
        found.append(f"{scenario.name}: {answers} answers of {scenario.requests}")
    return found


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", metavar="HOST:PORT", help="a server that runs (default: one is started)")
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "smollm2", help="its folder (default: smollm2)")
    parser.add_argument("--chats", type=int, default=4, help="one after the other (default %(default)s)")
    parser.add_argument("--at-once", type=int, default=4, help="(default %(default)s)")
    parser.add_argument("--prompt-tokens", type=int, default=512, help="of each chat or turn (default %(default)s)")
    parser.add_argument("--tokens", type=int, default=64, help="of each answer (default %(default)s)")
    parser.add_argument("--window-tokens", type=int, default=128, help="that stay on the worker (default %(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args(given)


def measure_all(address: str, args: argparse.Namespace) -> int:
    rows, found, begin = [], [], time.monotonic()
    for scenario in scenarios(args):
        print(f"serving_bench: {scenario.name}, {scenario.requests} answers", file=sys.stderr, flush=True)
        export = measured(scenario, address, args)
        rows.append(row(scenario, export))
        found += faults(scenario, export)
    print(HEADER)
    print("\n".join(rows))
    print(f"\nprompts of {args.prompt_tokens} tokens, answers of {args.tokens}, window {args.window_tokens}; "
          f"{time.monotonic() - begin:.0f} s in all")
    for fault in found:
        print(f"serving_bench: {fault}", file=sys.stderr)
    return 1 if found else 0


def main() -> int:
    args = arguments()
    if args.url:
        return measure_all(args.url, args)
    with local_server(args.model) as address:
        return measure_all(address, args)


if __name__ == "__main__":
    sys.exit(main())
