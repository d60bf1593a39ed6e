#!/usr/bin/env python3
"""Measures what sparse policies cost in quality, and rewrites tables and figures of docs/quality.md.

`./dev quality` builds and then runs this. Everything follows from the seed; only times differ from run to run. What is
outside of the marked blocks of the page is left alone, and so are blocks that nothing was measured for. A run that was
interrupted goes on where it was; one that is complete is not measured again unless its flags have changed.

Models: `probe` (in the repository) and `smollm2` (made by ./dev model smollm2). Parts of each: text, tasks (asked with
the prompt), tasks-after (asked after the selection), drift; and hgca, HGCA's own tables, of the probe model alone.
tools/quality_compare.py and tools/quality_hgca.py say what is run.

    tools/quality.py                     measure, draw, rewrite (hours on two cores, about one on sixteen)
    tools/quality.py --model probe --part text
    tools/quality.py --jobs 4            four local clusters side by side
    tools/quality.py --device cuda       on a GPU, computing in f32
    tools/quality.py --reuse             draw and rewrite from what is in build/quality
    tools/quality.py --quick             a small version of everything, into build/quality-quick
"""

import argparse
import concurrent.futures
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading

import eval_figures
import quality_compare
import quality_hgca

ROOT = pathlib.Path(__file__).resolve().parent.parent
TRIBUTARY = pathlib.Path(os.environ.get("TRIBUTARY_BIN", ROOT / "build" / "bin")) / "tributary"
TEXT = ROOT / "models" / "probe" / "persuasion.txt"
PAGE = ROOT / "docs" / "quality.md"
RESULTS = ROOT / "build" / "quality"
TOKENIZER_PYTHON = ROOT / "build" / "smollm2" / "venv" / "bin" / "python"
PARTS = (*quality_compare.PARTS, "hgca")


class QualityError(Exception):
    """Something that the reader of the terminal must know."""


class Runs:
    """The processes that are running, so that Ctrl-C reaches them all."""

    def __init__(self):
        self.lock = threading.Lock()
        self.processes = set()
        self.stopped = False

    def run(self, command, log):
        """The exit status; output to the terminal, or to the file `log`."""
        with self.lock:
            if self.stopped:
                return -signal.SIGINT
            output = log.open("w") if log else None
            process = subprocess.Popen(command, stdout=output, stderr=output)
            self.processes.add(process)
        try:
            return process.wait()
        finally:
            with self.lock:
                self.processes.discard(process)
            if output:
                output.close()

    def stop(self):
        with self.lock:
            self.stopped = True
            for process in self.processes:
                process.send_signal(signal.SIGINT)


def device_flags(device):
    """A GPU computes in f32, too: what policies cost would drown in the rounding of bf16."""
    return [] if device == "host" else ["--device", device, "--compute-dtype", "f32"]


def planned_runs(arguments, folder):
    """{run's name: flags}, in the order of the page."""
    planned = {}
    for name in arguments.models:
        model = quality_compare.MODELS[name]
        base = ["--model", model.folder, *device_flags(arguments.device)]
        if (model.folder / "tokenizer.json").exists() and TOKENIZER_PYTHON.exists():
            base += ["--python", TOKENIZER_PYTHON]
        texts = [*quality_compare.write_stretches(model, TEXT, folder), *arguments.texts]
        for (part, policy), flags in quality_compare.runs(name, texts, arguments.quick).items():
            if part in arguments.parts:
                planned[f"{name}-{part}-{policy}"] = [*base, *flags]
        if name == "probe" and "hgca" in arguments.parts:
            for run, flags in quality_hgca.runs(arguments.quick).items():
                planned[run] = [*base, "--text-file", TEXT, *flags]
    return {name: [str(flag) for flag in flags] for name, flags in planned.items()}


def load_if_complete(folder, name, flags=None):
    """The results of a run with these flags (any, if None), or None."""
    path, of = folder / f"{name}.json", folder / f"{name}.flags"
    if not path.exists() or (flags is not None and (not of.exists() or json.loads(of.read_text()) != flags)):
        return None
    data = eval_figures.load(path)
    return data if data["complete"] else None


def measure(runs, name, flags, folder, shared_by, fresh):
    """Runs `tributary eval`, unless it is done. Returns whether it was complete."""
    if not fresh and load_if_complete(folder, name, flags) is not None:
        print(f"== {name}: done before", flush=True)
        return True
    if runs.stopped:
        return False
    of = folder / f"{name}.flags"
    command = [TRIBUTARY, "eval", *flags, "--json", folder / f"{name}.json", "--csv", folder / f"{name}.csv"]
    if fresh or not of.exists() or json.loads(of.read_text()) != flags:
        command.append("--restart")
    of.write_text(json.dumps(flags))
    log = None
    if shared_by > 1:
        threads = str(max(1, (os.cpu_count() or 1) // shared_by // 2))
        command += ["--worker-threads", threads, "--node-threads", threads]
        log = folder / f"{name}.log"
    print(f"== {name}: {' '.join(flags)}{f' (output: {log})' if log else ''}", flush=True)
    status = runs.run(command, log)
    print(f"== {name}: {'done' if status == 0 else f'ended with status {status}'}", flush=True)
    return status == 0


def measure_all(planned, folder, jobs, fresh):
    runs = Runs()
    jobs = min(jobs, len(planned))
    with concurrent.futures.ThreadPoolExecutor(max_workers=jobs) as pool:
        waiting = {name: pool.submit(measure, runs, name, flags, folder, jobs, fresh)
                   for name, flags in planned.items()}
        try:
            failed = [name for name, future in waiting.items() if not future.result()]
        except KeyboardInterrupt:
            runs.stop()
            raise
    if failed:
        raise QualityError(f"'tributary eval' of {', '.join(failed)} failed; the same call goes on where it was, "
                           "after a new build with --fresh")


def replace_block(page, name, text):
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    pattern = re.compile(re.escape(begin) + r".*?" + re.escape(end), re.DOTALL)
    if len(pattern.findall(page)) != 1:
        raise QualityError(f"{PAGE.name} must have one block '{begin} ... {end}'")
    filled = f"{begin}\n{text}\n{end}" if "\n" in text else f"{begin}{text}{end}"
    return pattern.sub(lambda _: filled, page)


def rewrite_page(page, results):
    """Those blocks that all results are there for: a model's with any of its parts, HGCA's with all of its runs."""
    for name in quality_compare.MODELS:
        of_model = {part: results[f"{name}-{part}"] for part in quality_compare.PARTS if f"{name}-{part}" in results}
        if of_model:
            page = replace_block(page, f"compare-{name}", quality_compare.block(name, of_model))
    if set(quality_hgca.runs(quick=False)) <= set(results):
        for name, text in quality_hgca.blocks(results).items():
            page = replace_block(page, name, text)
    return page


def draw(results, folder, figures):
    calls = {f"{name}-text": (name, [["--figures", "policies"]]) for name in quality_compare.MODELS}
    calls |= {run: (run, flags) for run, flags in quality_hgca.FIGURES.items()}
    for name, (target, flag_lists) in calls.items():
        for flags in flag_lists if name in results else []:
            tool = [sys.executable, ROOT / "tools" / "eval_figures.py", folder / f"{name}.json",
                    "--out", figures / target]
            if subprocess.run([*tool, *flags], check=False).returncode != 0:
                raise QualityError("tools/eval_figures.py failed; what it said is above")


def choose_models(asked):
    """Those asked for; by default those that are there, with a word on the others."""
    models = []
    for name in asked or quality_compare.MODELS:
        model = quality_compare.MODELS[name]
        if (model.folder / "config.json").exists():
            models.append(name)
        elif asked:
            raise QualityError(f"{model.folder} is not there; make it: {model.made_by}")
        else:
            print(f"{name} is left out, for {model.folder} is not there; make it: {model.made_by}", file=sys.stderr)
    return models


def merge_policies(folder):
    """{"MODEL-PART": its results} of what is complete, written into files of these names for the figures."""
    policies = [experiment["policy"] for experiment in quality_compare.experiments()]
    results = {}
    for name in (f"{model}-{part}" for model in quality_compare.MODELS for part in quality_compare.PARTS):
        of_policies = [data for policy in policies
                       if (data := load_if_complete(folder, f"{name}-{policy}")) is not None]
        if of_policies:
            results[name] = quality_compare.merged(of_policies)
            (folder / f"{name}.json").write_text(json.dumps(results[name]))
    return results


def run(arguments):
    folder = RESULTS.with_name("quality-quick") if arguments.quick else RESULTS
    folder.mkdir(parents=True, exist_ok=True)
    arguments.models = choose_models(arguments.model)
    arguments.parts = arguments.part or PARTS
    if not arguments.reuse:
        planned = planned_runs(arguments, folder)
        if not planned:
            raise QualityError("there is nothing to run: hgca is a part of the probe model")
        measure_all(planned, folder, arguments.jobs, arguments.fresh)
    results = {name: data for name in quality_hgca.runs(quick=False)
               if (data := load_if_complete(folder, name)) is not None}
    results |= merge_policies(folder)
    page = rewrite_page(PAGE.read_text(), results)
    draw(results, folder, folder if arguments.quick else PAGE.parent / "figures")
    target = folder / PAGE.name if arguments.quick else PAGE
    target.write_text(page)
    print(target)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", choices=tuple(quality_compare.MODELS),
                        help="only this model (may be repeated)")
    parser.add_argument("--part", action="append", choices=PARTS, help="only this part (may be repeated)")
    parser.add_argument("--texts", type=lambda text: [pathlib.Path(word).absolute() for word in text.split(",")],
                        default=[], help="more texts, separated by commas, beside three stretches of persuasion.txt")
    parser.add_argument("--jobs", type=int, default=1, help="local clusters side by side (default 1)")
    parser.add_argument("--device", default="host", metavar="NAME",
                        help="of the worker: host (default), or cuda, which takes minutes where two cores take hours")
    parser.add_argument("--fresh", action="store_true", help="measure anew what is there, complete or not")
    parser.add_argument("--reuse", action="store_true", help="do not measure")
    parser.add_argument("--quick", action="store_true", help="a small version, which leaves docs alone")
    try:
        run(parser.parse_args())
    except (QualityError, eval_figures.FigureError) as error:
        sys.exit(f"quality: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
