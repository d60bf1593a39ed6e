#!/usr/bin/env python3
"""The project's style test: sizes, layers, includes, banned words, unbuilt files, unset metrics, dead links.

Usage: tools/tidy.py [--root DIR]. Prints one line per finding, "path:line: what is wrong and what to do", and exits
with 1 if there is any. Reads files only; takes about a second. ARCHITECTURE.md explains the layers.
"""

import argparse
import json
import pathlib
import re
import subprocess
import sys

MAX_FILE_LINES = 600
MAX_FUNCTION_LINES = 70
MAX_CODE_COLUMNS = 100
MAX_COMMENT_COLUMNS = 125
MAX_OTHER_COLUMNS = 120  # Python, CMake, shell

CPP_SUFFIXES = {".h", ".cc", ".cu", ".cuh"}
OTHER_SUFFIXES = {".py", ".sh", ".cmake"}

# module -> modules it may include, besides itself. A module is the longest of these path prefixes. gRPC adapters and
# mains of a service (layer 5; EDGE_STEM knows them by name) are a module of their own, "<service>:edge".
CORE = {"base", "attention", "telemetry", "transport", "model", "kv_store"}
EDGE = CORE | {"proto", "transport/ucx"}
MAY_INCLUDE = {
    "base": set(),
    "attention": {"base"},
    "telemetry": {"base"},
    "transport": {"base", "attention"},
    "proto": {"base", "attention", "transport"},
    "kv_store": {"base", "attention"},
    "model": {"base", "attention"},
    "cpu_attention_service/kernels": {"base", "attention"},
    "gpu_worker/device": {"base", "attention", "model"},
    "transport/ucx": {"base", "attention", "transport"},
    "coordinator": CORE - {"model"},
    "gpu_worker": CORE - {"kv_store"} | {"gpu_worker/device"},
    "cpu_attention_service": CORE - {"model"} | {"cpu_attention_service/kernels"},
    "coordinator:edge": EDGE | {"coordinator"},
    "gpu_worker:edge": EDGE | {"gpu_worker", "gpu_worker/device"},
    "cpu_attention_service:edge": EDGE | {"cpu_attention_service", "cpu_attention_service/kernels"},
    "kv_store:edge": EDGE,
    "client": {"base", "attention", "telemetry", "model", "proto"},
}
SERVICES = ("coordinator", "gpu_worker", "cpu_attention_service", "kv_store")
EDGE_STEM = re.compile(r"_(main|service|channel|registration|flags|convert|writer|client|connector)$")
# What may include every module: it puts parts together from outside.
FREE_FOLDERS = ("tests", "benchmarks")

# third-party header -> modules that may include it (prefix match on the module's name)
EXTERNAL = [
    (re.compile(r"^uc[pst]/"), ("transport/ucx",), "UCX"),
    (re.compile(r"^prometheus/"), ("telemetry",), "prometheus-cpp"),
    (re.compile(r"^(cuda|cublas|nccl|nvtx)"), ("gpu_worker/device",), "CUDA"),
    (re.compile(r"^(immintrin|x86intrin|arm_neon|arm_sve)\.h"), ("cpu_attention_service/kernels",), "intrinsics"),
    (re.compile(r"^cblas"), ("gpu_worker/device",), "BLAS"),
    (re.compile(r"^(grpc|grpcpp|google/protobuf|tributary/v1)/"), ("proto", "client", ":edge"), "gRPC and protobuf"),
    (re.compile(r"^CLI/"), ("client", ":edge"), "CLI11"),
]
EXTERNAL_FREE = {"gRPC and protobuf", "CLI11", "BLAS", "intrinsics", "CUDA"}  # in FREE_FOLDERS
# UCX is free in benchmarks alone, which compare with it.
BENCH_FREE = {"UCX"}

# (pattern, C++ only, what to do)
BANNED = [
    (re.compile(r"\b(TODO|FIXME|XXX)\b"), False, "unfinished work goes into an issue, not into the code"),
    (re.compile(r"-ffast-math|-Ofast"), False, "it deletes the guard of the empty merge (docs/numerics.md)"),
    (re.compile(r"using namespace std\b"), True, "write std::"),
    (re.compile(r"(?<![\w.])assert\("), True, "use TRIBUTARY_CHECK, which is always on"),
    (re.compile(r"#include <(cassert|assert\.h)>"), True, "use base/check.h"),
]
BANNED_EXEMPT = {"cmake/flags.cmake", "tools/tidy.py"}

INCLUDE = re.compile(r'^\s*#\s*include\s+["<]([^">]+)[">]')
STRIP = re.compile(r'R"\((?:.|\n)*?\)"|//[^\n]*|/\*(?:.|\n)*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])+\'')


class Findings:
    def __init__(self):
        self.lines = []

    def add(self, path, line, text):
        self.lines.append(f"{path}:{line}: {text}")


def tracked_files(root):
    """Files of the work tree that git does not ignore."""
    command = ["git", "ls-files", "-co", "--exclude-standard", "-z"]
    listing = subprocess.run(command, cwd=root, capture_output=True, check=True).stdout.decode()
    names = sorted(name for name in listing.split("\0") if name)
    return [name for name in names if (root / name).is_file()]


def module_of(path):
    """The module a file belongs to, or None for files outside the layers."""
    parts = path.split("/")
    if len(parts) < 2:
        return None
    for depth in (2, 1):
        prefix = "/".join(parts[:depth])
        if len(parts) > depth and prefix in MAY_INCLUDE:
            if prefix in SERVICES and EDGE_STEM.search(pathlib.PurePath(path).stem):
                return prefix + ":edge"
            return prefix
    return None


def check_includes(path, lines, findings):
    module = module_of(path)
    folder = path.split("/")[0]
    for number, line in enumerate(lines, 1):
        match = INCLUDE.match(line)
        if not match:
            continue
        target = match.group(1)
        for pattern, allowed, what in EXTERNAL:
            if not pattern.match(target):
                continue
            free = folder in FREE_FOLDERS and (what in EXTERNAL_FREE or (folder == "benchmarks" and what in BENCH_FREE))
            if not free and not (module and any(module == a or module.endswith(a) for a in allowed)):
                findings.add(path, number, f"<{target}>: {what} may be included only by {', '.join(allowed)}")
        target_module = module_of(target)
        if module is None or target_module is None or target_module == module:
            continue
        if target_module not in MAY_INCLUDE[module]:
            findings.add(path, number, f'"{target}": {module} may not know {target_module} (layers: ARCHITECTURE.md)')


def blank(match):
    """Keeps line numbers when comments and strings are cut out."""
    return "\n" * match.group(0).count("\n") if match.group(0)[0] in "/R" else '""'


def check_functions(path, text, findings):
    stack = []  # (kind, line where its head begins)
    head_begin, line, head = 1, 1, []
    for token in re.findall(r"[{};\n]|[^{};\n]+", STRIP.sub(blank, text)):
        if token == "\n":
            line += 1
        elif token == "{":
            words = " ".join(head)
            if any(kind != "scope" for kind, _ in stack):
                kind = "inner"
            elif re.search(r"\b(namespace|class|struct|enum|union|extern)\b", words) and ")" not in words:
                kind = "scope"
            else:
                kind = "function" if "(" in words else "inner"
            stack.append((kind, head_begin))
            head = []
        elif token == "}":
            if stack:
                kind, begin = stack.pop()
                if kind == "function" and line - begin + 1 > MAX_FUNCTION_LINES:
                    findings.add(path, begin, f"function of {line - begin + 1} lines; at most {MAX_FUNCTION_LINES}")
            head = []
        elif token == ";":
            head = []
        elif token.strip() and not token.lstrip().startswith("#"):
            if not head:
                head_begin = line
            head.append(token.strip())


def check_lines(path, lines, findings):
    is_cpp = pathlib.PurePath(path).suffix in CPP_SUFFIXES
    if len(lines) > MAX_FILE_LINES:
        findings.add(path, len(lines), f"{len(lines)} lines; at most {MAX_FILE_LINES}: split it by responsibility")
    in_block_comment = False
    for number, line in enumerate(lines, 1):
        stripped = line.lstrip()
        comment = in_block_comment or stripped.startswith(("//", "#", "*", "/*"))
        in_block_comment = stripped.startswith("/*") and "*/" not in line or in_block_comment and "*/" not in line
        if is_cpp:
            limit = MAX_COMMENT_COLUMNS if comment else MAX_CODE_COLUMNS
            if len(line) > limit and not INCLUDE.match(line) and 'R"' not in line and "http" not in line:
                findings.add(path, number, f"{len(line)} columns; at most {limit}")
        elif len(line) > MAX_OTHER_COLUMNS and "http" not in line:
            findings.add(path, number, f"{len(line)} columns; at most {MAX_OTHER_COLUMNS}")
        if line.rstrip() != line:
            findings.add(path, number, "blanks at the end of the line")
        if path in BANNED_EXEMPT:
            continue
        for pattern, cpp_only, why in BANNED:
            match = pattern.search(line)
            if match and (is_cpp or not cpp_only) and not (comment and "math" in match.group(0)):
                findings.add(path, number, f"'{match.group(0)}': {why}")


def check_listed(root, files, findings):
    """Every C++ file stands in a CMakeLists.txt of its folder or one above it."""
    lists = {name: (root / name).read_text() for name in files if name.endswith("CMakeLists.txt")}
    for path in files:
        pure = pathlib.PurePath(path)
        if pure.suffix not in CPP_SUFFIXES or (path.startswith(FREE_FOLDERS) and pure.suffix == ".h"):
            continue
        for folder in pure.parents:
            name = str(folder / "CMakeLists.txt") if str(folder) != "." else "CMakeLists.txt"
            relative = re.escape(str(pure.relative_to(folder)))
            if re.search(rf"(?<![\w/.-]){relative}(?![\w/.-])", lists.get(name, "")):
                break
        else:
            findings.add(path, 1, "no CMakeLists.txt lists it: nobody builds it")


def check_metrics(root, files, texts, findings):
    table = "telemetry/metric_names.h"
    text = texts.get(table, "")
    constants = dict(re.findall(r'inline constexpr MetricSpec (k\w+)\{\s*"(\w+)"', text))
    used = set(re.findall(r"&metrics::(k\w+)", text))
    others = "\n".join(texts[name] for name in texts if name != table and not name.startswith("tests/"))
    for constant in constants:
        if constant not in used:
            findings.add(table, 1, f"metrics::{constant} is missing in kAllMetrics")
        if not re.search(rf"\bmetrics::{constant}\b", others):
            findings.add(table, 1, f"metrics::{constant} is set nowhere; use it or delete it")
    known = set(constants.values())
    for name in files:
        if not name.startswith("deploy/") or not name.endswith((".json", ".yml", ".yaml")):
            continue
        content = (root / name).read_text()
        if name.endswith(".json"):
            json.loads(content)
        for number, line in enumerate(content.splitlines(), 1):
            for metric in re.findall(r"\b(?:tributary|process)_[a-z_]+\b", line):
                if metric not in known and re.sub(r"_(bucket|sum|count)$", "", metric) not in known:
                    findings.add(name, number, f"{metric} is no metric (docs/metrics.md)")


def check_links(root, files, findings):
    for name in files:
        if not name.endswith(".md"):
            continue
        folder = (root / name).parent
        for number, line in enumerate((root / name).read_text().splitlines(), 1):
            for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", line):
                if "://" not in target and not (folder / target).exists():
                    findings.add(name, number, f"link to '{target}', which does not exist")


def run(root):
    findings = Findings()
    files = tracked_files(root)
    texts = {}
    for name in files:
        suffix = pathlib.PurePath(name).suffix
        is_cpp = suffix in CPP_SUFFIXES
        if not is_cpp and suffix not in OTHER_SUFFIXES and not name.endswith("CMakeLists.txt") and name != "dev":
            continue
        text = (root / name).read_text()
        lines = text.splitlines()
        check_lines(name, lines, findings)
        if not is_cpp:
            continue
        texts[name] = text
        check_includes(name, lines, findings)
        check_functions(name, text, findings)
        if name.endswith(".h") and not name.endswith("-inl.h") and "#pragma once" not in text:
            findings.add(name, 1, "a header begins with #pragma once")
    check_listed(root, files, findings)
    check_metrics(root, files, texts, findings)
    check_links(root, files, findings)
    return findings.lines


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parent.parent)
    findings = run(parser.parse_args().root)
    for line in findings:
        print(line)
    if findings:
        print(f"tidy: {len(findings)} findings", file=sys.stderr)
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
