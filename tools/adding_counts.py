#!/usr/bin/env python3
"""How many files a new thing touches, counted on things that are there: the figures of docs/adding.md.

Usage: tools/adding_counts.py [--root DIR] [--write]. Prints the production files that name one example of each kind;
with --write, puts them into docs/adding.md. A test compares the two (tests/unit/tools/adding_counts_test.py).
"""

import argparse
import pathlib
import re
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import tidy  # noqa: E402

DOCUMENT = "docs/adding.md"
BEGIN, END = "```counts\n", "```\n"
PRODUCTION_SUFFIXES = tidy.CPP_SUFFIXES | {".def", ".proto"}
POLICY = "hgca"
# (what is added, the example, how the files that it has touched name it)
EXAMPLES = [
    ("policy parameter", "keep_next", r"keep_next"),
    ("metric", "tributary_kv_row_cache_bytes", r"\bkRowCacheBytes\b|\brow_cache_bytes\b"),
    ("flag", "--scrub-bytes-per-second", r"scrub[-_.]bytes[-_]per[-_]second"),
    ("dtype", "fp8-e4m3", r"\bkFp8E4m3\b|\bfp8-e4m3\b|\bDTYPE_FP8_E4M3\b"),
    ("CPU kernel", "avx512_bf16", r"\bDecodeAttentionAvx512Bf16\b|\bavx512_bf16\b"),
    ("CUDA kernel", "GatherHeads", r"\bGatherHeads\b|kernels/gather_heads\.h"),
    ("model family", "qwen3", r"(?i)qwen3"),
]


def production_texts(root):
    """Text by path of the files that go into a process: no tests, benchmarks, tools, build files or documents."""
    texts = {}
    for name in tidy.tracked_files(root):
        if pathlib.PurePath(name).suffix in PRODUCTION_SUFFIXES and not name.startswith(tidy.FREE_FOLDERS):
            texts[name] = (root / name).read_text()
    return texts


def is_of_policy(path):
    """True in one of the policy's own folders, policy/NAME/."""
    return f"policy/{POLICY}/" in path


def report(root):
    texts = production_texts(root)
    strangers = tidy.Findings()
    for name, text in texts.items():
        if pathlib.PurePath(name).suffix in tidy.CPP_SUFFIXES:
            tidy.check_policy_words(name, text.splitlines(), strangers)
    rows = [f"policy {POLICY}",
            f"  files in its own folders: {sum(map(is_of_policy, texts))}",
            f"  C++ files outside that use its words: {len({line.split(':')[0] for line in strangers.lines})}"]
    for kind, example, pattern in EXAMPLES:
        touched = [name for name, text in texts.items() if re.search(pattern, text)]
        own = sum(map(is_of_policy, touched))
        rows.append(f"{kind} {example}: {len(touched)} files" + (f", {own} of them its policy's" if own else ""))
        rows += [f"  {name}" for name in touched]
    return "\n".join(rows) + "\n"


def documented(text):
    """The part of the document that report() has printed."""
    begin = text.index(BEGIN) + len(BEGIN)
    return text[begin:text.index(END, begin)]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parent.parent)
    parser.add_argument("--write", action="store_true", help=f"put the figures into {DOCUMENT}")
    arguments = parser.parse_args()
    counts = report(arguments.root)
    if arguments.write:
        document = arguments.root / DOCUMENT
        text = document.read_text()
        document.write_text(text.replace(BEGIN + documented(text) + END, BEGIN + counts + END))
    else:
        print(counts, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
