#!/usr/bin/env python3
"""Clang's thread-safety analysis over the sources with locks (base/mutex.h): who touches what a mutex guards holds it.

Usage: tools/thread_safety.py [--all] [FILE...]. Checks the .cc files outside tests and benchmarks that use a Mutex or
include a header of the house that does; a source that has passed is checked again only when it, a header, a .proto
file or the compiler has changed. Exits with 1 if there is a finding. Nothing is compiled: seconds for each file.
"""

import argparse
import concurrent.futures
import hashlib
import os
import pathlib
import re
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
WORK = ROOT / "build" / "thread_safety"  # generated messages, and one empty file for each check that has passed
FREE_FOLDERS = ("tests", "benchmarks")
INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.MULTILINE)
MUTEX = re.compile(r"\bMutex(Lock)?\b")
FLAGS = ["-std=c++20", "-fsyntax-only", "-Wno-everything", "-Wthread-safety", "-Werror", "-DSPDLOG_COMPILED_LIB",
         "-DSPDLOG_FMT_EXTERNAL", "-DSPDLOG_SHARED_LIB", "-DFMT_SHARED", f"-I{ROOT}", "-isystem", str(WORK / "proto")]


def tracked(*patterns):
    command = ["git", "ls-files", "-co", "--exclude-standard", "--", *patterns]
    return sorted(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines())


class Texts:
    """Contents of the house's files, read once; None for what is not one of them."""

    def __init__(self):
        self.known = {}

    def get(self, path):
        if path not in self.known:
            file = ROOT / path
            self.known[path] = file.read_text() if file.is_file() else None
        return self.known[path]

    def includes(self, path):
        return [name for name in INCLUDE.findall(self.get(path)) if self.get(name) is not None]

    def closure(self, path):
        """The file and all headers of the house that it includes, directly or not."""
        seen, todo = set(), [path]
        while todo:
            name = todo.pop()
            if name not in seen:
                seen.add(name)
                todo += self.includes(name)
        return sorted(seen)


def has_locks(path, texts):
    return any(MUTEX.search(texts.get(name)) for name in [path, *texts.includes(path)])


def generate_messages():
    """C++ headers of the .proto files, as the build makes them."""
    out = WORK / "proto"
    out.mkdir(parents=True, exist_ok=True)
    plugin = shutil.which("grpc_cpp_plugin")
    protoc = shutil.which("protoc")
    if plugin is None or protoc is None:
        sys.exit("thread_safety: no protoc or grpc_cpp_plugin; './dev setup' installs them")
    protos = [str(ROOT / name) for name in tracked("proto/*.proto")]
    subprocess.run([protoc, f"-I{ROOT / 'proto'}", f"--cpp_out={out}", f"--grpc_out={out}",
                    f"--plugin=protoc-gen-grpc={plugin}", *protos], check=True)


def digest_of(path, texts, compiler_version, protos):
    digest = hashlib.sha256(f"{compiler_version}{FLAGS}{protos}".encode())
    for name in texts.closure(path):
        digest.update(f"{name}\0{texts.get(name)}\0".encode())
    return digest.hexdigest()


def check(compiler, path):
    done = subprocess.run([compiler, *FLAGS, str(ROOT / path)], cwd=ROOT, capture_output=True, text=True)
    return done.returncode, done.stderr


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true", help="also what has passed before")
    parser.add_argument("files", nargs="*", help="default: every source with locks")
    arguments = parser.parse_args()
    compiler = shutil.which("clang++") or sys.exit("thread_safety: no clang++; './dev setup check' installs it")
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout
    texts = Texts()
    paths = arguments.files or [path for path in tracked("*.cc")
                                if not path.startswith(FREE_FOLDERS) and has_locks(path, texts)]
    protos = "".join(texts.get(name) for name in tracked("proto/*.proto"))
    passed = WORK / "passed"
    passed.mkdir(parents=True, exist_ok=True)
    digests = {path: digest_of(path, texts, version, protos) for path in paths}
    todo = [path for path in paths if arguments.all or not (passed / digests[path]).exists()]
    if todo:
        generate_messages()
    failures = 0
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for path, (status, text) in zip(todo, pool.map(lambda path: check(compiler, path), todo)):
            if status == 0:
                (passed / digests[path]).touch()
            else:
                failures += 1
                print(text, end="")
    for old in passed.iterdir():
        if not arguments.files and old.name not in digests.values():
            old.unlink()
    if failures:
        print(f"thread_safety: {failures} of {len(paths)} files have findings", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
