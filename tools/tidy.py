#!/usr/bin/env python3
"""The project's style test: sizes, layers, includes, banned words, unbuilt files, unset metrics, dead links, paths.

Usage: tools/tidy.py [--root DIR]. Prints one line per finding, "path:line: what is wrong and what to do", and exits
with 1 if there is any. Reads files only; takes about a second. ARCHITECTURE.md explains the layers.
"""

import argparse
import fnmatch
import json
import pathlib
import re
import subprocess
import sys

MAX_FILE_LINES = 600
MAX_FUNCTION_LINES = 70
MAX_COLUMNS = 120  # of everything

CPP_SUFFIXES = {".h", ".cc", ".cu", ".cuh"}
OTHER_SUFFIXES = {".py", ".sh", ".cmake"}

# module -> modules it may include, besides itself. A module is the longest of these path prefixes.
ALGEBRA = {"base", "attention", "attention/kv"}
CORE = ALGEBRA | {"policy", "wire", "cluster", "telemetry", "transport", "process/loop", "model", "kv_store"}
EDGE = CORE | {"proto", "rpc", "process", "transport/ucx"}
NODE = CORE - {"model"}
WORKER = CORE - {"kv_store"} | {"gpu_worker/device"}
DEVICE = ALGEBRA | {"policy", "model"}
CLIENT = ALGEBRA | {"policy", "cluster", "telemetry", "model", "proto", "rpc", "process/flags"}
MAY_INCLUDE = {
    "base": set(),
    "attention": {"base"},
    "attention/kv": {"base", "attention"},
    "policy": {"base", "attention/kv"},
    "wire": ALGEBRA,
    "cluster": ALGEBRA | {"policy"},
    "telemetry": {"base"},
    "transport": {"base", "wire"},
    "proto": ALGEBRA | {"policy", "wire", "cluster", "transport"},
    "rpc": {"base", "proto"},
    "process/flags": {"base", "rpc"},
    "process/loop": {"base", "transport"},
    "process": {"base", "telemetry", "rpc", "process/flags"},
    "kv_store": ALGEBRA | {"policy", "cluster"},
    "model": ALGEBRA,
    "transport/ucx": {"base", "wire", "transport"},
    "cpu_attention_service/kernels": ALGEBRA,
    "cpu_attention_service/executor": NODE | {"cpu_attention_service/kernels"},
    "cpu_attention_service/policy": NODE | {"cpu_attention_service/kernels", "cpu_attention_service/executor"},
    "cpu_attention_service/node": NODE | {"cpu_attention_service/kernels", "cpu_attention_service/executor",
                                          "cpu_attention_service/policy"},
    "cpu_attention_service/edge": EDGE | {"cpu_attention_service/kernels", "cpu_attention_service/executor",
                                          "cpu_attention_service/policy", "cpu_attention_service/node"},
    "gpu_worker/device": DEVICE,
    "gpu_worker/device/cuda/kernels": {"base", "attention"},
    "gpu_worker/sequence": WORKER,
    "gpu_worker/remote": WORKER | {"gpu_worker/sequence"},
    "gpu_worker/spill": WORKER | {"gpu_worker/sequence", "gpu_worker/remote"},
    "gpu_worker/step": WORKER | {"gpu_worker/sequence", "gpu_worker/remote", "gpu_worker/spill"},
    "gpu_worker/engine": WORKER | {"gpu_worker/sequence", "gpu_worker/remote", "gpu_worker/spill", "gpu_worker/step"},
    "gpu_worker/edge": EDGE | {"gpu_worker/device", "gpu_worker/device/cuda", "gpu_worker/sequence",
                               "gpu_worker/remote", "gpu_worker/spill", "gpu_worker/step", "gpu_worker/engine"},
    "coordinator/core": CORE - {"model"},
    "coordinator/edge": EDGE | {"coordinator/core"},
    "client/api": CLIENT,
    "client/terminal": CLIENT | {"client/api"},
    "client/text": {"base", "model"},
    "client/eval": CLIENT | {"client/api", "client/terminal", "client/text"},
    "client/cli": CLIENT | {"client/api", "client/terminal", "client/text", "client/eval"},
}
# The CUDA device's rooms, lowest first: each sees those before it, the device itself sees all.
CUDA_ROOMS = [f"gpu_worker/device/cuda{room}"
              for room in ("/kernels", "/runtime", "/policy", "/storage", "/forward", "")]
for _height, _room in enumerate(CUDA_ROOMS):
    MAY_INCLUDE.setdefault(_room, DEVICE | {"gpu_worker/device", *CUDA_ROOMS[:_height]})

# Words of one policy, which nobody says outside its own folders, policy/NAME/. Each row of policy/policies.def has its
# own; exact attention has none.
POLICY_WORDS = {
    "delta": re.compile(r"delta_nats|DeltaPolicy|DeltaParams|DeltaShard"),
    "dense": None,
    "fluxion": re.compile(r"fluxion|budget_mode|select_block_tokens|captured_mass|min_block_mass|target_output_error",
                          re.IGNORECASE),
    "hgca": re.compile(r"hgca|\bmaw|context.?cache|keep_next", re.IGNORECASE),
}
POLICY_TABLE = "policy/policies.def"
# Words of policies in general, which nobody says outside folders named `policy`.
SELECTION_WORDS = re.compile(r"salien", re.IGNORECASE)
# A policy's folders are rooms of their own: each sees the room that it lies in, and the policy's rules.
for _name in POLICY_WORDS:
    MAY_INCLUDE[f"policy/{_name}"] = ALGEBRA | {"policy"}
    _node, _device = "cpu_attention_service/policy", "gpu_worker/device"
    MAY_INCLUDE[f"{_node}/{_name}"] = MAY_INCLUDE[_node] | {_node, f"policy/{_name}"}
    _facet = DEVICE | {_device, f"policy/{_name}", f"{_device}/policy/{_name}"}
    MAY_INCLUDE[f"{_device}/policy/{_name}"] = MAY_INCLUDE[f"{_device}/host/policy/{_name}"] = _facet
    MAY_INCLUDE[f"{_device}/cuda/policy/{_name}"] = _facet | MAY_INCLUDE[f"{_device}/cuda/policy"] | {
        f"{_device}/cuda/policy"}

# What may include every module: it puts parts together from outside.
FREE_FOLDERS = ("tests", "benchmarks")

# third-party header -> modules that may include it (prefix match on the module's name)
EXTERNAL = [
    (re.compile(r"^uc[pst]/"), ("transport/ucx",), "UCX"),
    (re.compile(r"^prometheus/"), ("telemetry",), "prometheus-cpp"),
    (re.compile(r"^(cuda|cublas|nccl|nvtx)"), ("gpu_worker/device",), "CUDA"),
    (re.compile(r"^(immintrin|x86intrin|arm_neon|arm_sve)\.h"), ("cpu_attention_service/kernels", "gpu_worker/device"),
     "intrinsics"),
    (re.compile(r"^cblas"), ("gpu_worker/device",), "BLAS"),
    (re.compile(r"^(grpc|grpcpp|google/protobuf|tributary/v1)/"), ("proto", "rpc", "process", "client", "/edge"),
     "gRPC and protobuf"),
    # Channels and servers are made in one place, which knows keepalive, limits and credentials.
    (re.compile(r"^grpcpp/(create_channel|server_builder|security/.*|grpcpp)(\.h)?$"), ("rpc",),
     "gRPC channels and servers"),
    (re.compile(r"^CLI/"), ("client", "process", "/edge"), "CLI11"),
    (re.compile(r"^microhttpd\.h$"), ("process",), "libmicrohttpd"),
]
EXTERNAL_FREE = {"gRPC and protobuf", "gRPC channels and servers",
                 "CLI11", "BLAS", "intrinsics", "CUDA"}  # in FREE_FOLDERS
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
BANNED_EXEMPT = {"base/mutex.h", "cmake/flags.cmake", "tools/tidy.py"}

# The same, of production code alone.
PRODUCTION_BANNED = [
    (re.compile(r"\bstd::(mutex|lock_guard|unique_lock|scoped_lock|condition_variable)\b"), True,
     "use base/mutex.h, so that tools/thread_safety.py sees what the lock guards"),
]

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
    for depth in range(len(parts) - 1, 0, -1):
        prefix = "/".join(parts[:depth])
        if prefix in MAY_INCLUDE:
            return prefix
    return None


def has_no_room(path):
    """True for a C++ file that lies directly in a folder whose code is divided into rooms."""
    folder = str(pathlib.PurePosixPath(path).parent)
    return module_of(path) is None and any(room.startswith(folder + "/") for room in MAY_INCLUDE)


def is_of(module, name):
    """True if the module is the named one, lies in it, or is a service's part of that name ("/edge")."""
    return module is not None and (module == name or module.startswith(name + "/") or module.endswith(name))


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
            if not free and not any(is_of(module, name) for name in allowed):
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
        may_be_long = INCLUDE.match(line) or 'R"' in line or "http" in line
        if len(line) > MAX_COLUMNS and not may_be_long:
            findings.add(path, number, f"{len(line)} columns; at most {MAX_COLUMNS}")
        if line.rstrip() != line:
            findings.add(path, number, "blanks at the end of the line")
        if path in BANNED_EXEMPT:
            continue
        for pattern, cpp_only, why in BANNED if path.startswith(FREE_FOLDERS) else BANNED + PRODUCTION_BANNED:
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


def check_own_header_first(path, lines, files, findings):
    """A source includes its own header first, so that the compiler sees whether that stands alone."""
    own = str(pathlib.PurePosixPath(path).with_suffix(".h"))
    if not path.endswith((".cc", ".cu")) or own not in files:
        return
    for number, line in enumerate(lines, 1):
        match = INCLUDE.match(line)
        if match:
            if match.group(1) != own:
                findings.add(path, number, f'"{own}" comes first')
            return


def check_test_place(path, files, findings):
    """A unit test lies where its source does: tests/unit/FOLDER/x_test.cc tests something of FOLDER/."""
    if not path.startswith("tests/unit/"):
        return
    folder = str(pathlib.PurePosixPath(path).parent)[len("tests/unit/"):]
    if not any(name.startswith(folder + "/") for name in files):
        findings.add(path, 1, f"there is no folder {folder}; a unit test lies where its source does")


def check_policy_words(path, lines, findings):
    folders = path.split("/")[:-1]
    if folders and folders[0] in FREE_FOLDERS:
        return
    for number, line in enumerate(lines, 1):
        for name, words in POLICY_WORDS.items():
            match = words.search(line) if words else None
            if match and ("policy", name) not in zip(folders, folders[1:]):
                findings.add(path, number, f"'{match.group(0)}' is a word of policy {name}: only its folders know it")
        match = SELECTION_WORDS.search(line)
        if match and "policy" not in folders:
            findings.add(path, number, f"'{match.group(0)}' is a word of policies: only their folders know it")


def check_policy_table(root, findings):
    table = root / POLICY_TABLE
    rows = re.findall(r"^TRIBUTARY_POLICY\((\w+)", table.read_text(), re.MULTILINE) if table.exists() else []
    for name in set(rows) - set(POLICY_WORDS):
        findings.add(POLICY_TABLE, 1, f"policy {name} has no entry in POLICY_WORDS of tools/tidy.py")


def check_links(root, files, findings):
    for name in files:
        if not name.endswith(".md"):
            continue
        folder = (root / name).parent
        for number, line in enumerate((root / name).read_text().splitlines(), 1):
            for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", line):
                if "://" not in target and not (folder / target).exists():
                    findings.add(name, number, f"link to '{target}', which does not exist")


class NamedPaths:
    """Which of the repository's files and folders a text may name."""

    # In documents what stands in backticks; {a,b}, * and the placeholders NAME and ISA stand for several.
    IN_DOCUMENT = re.compile(r"`((?:[\w.*-]|\{[\w,]+\})+(?:/(?:[\w.*-]|\{[\w,]+\})+)*/?)`")
    # In comments what begins with a folder and ends as sources and documents do.
    IN_COMMENT = re.compile(r"(?<![\w/.<-])((?:[\w-]+/)+[\w.-]+\.(?:h|cc|cu|cuh|py|md|proto|def|cmake))\b")
    SOURCE = re.compile(r"[\w}]\.(?:h|cc|cu|cuh|\{h,cc\}|\{h,cu\}|py|md|proto|def|cmake)$")
    PLACEHOLDER = re.compile(r"NAME|ISA")

    def __init__(self, files):
        self.paths = sorted(set(files) | {name[:end.start()] for name in files for end in re.finditer("/", name)})
        # Also by their ends, and without what follows the name: base/dtype.h is dtype.h, base/dtype and dtype, too.
        ends = {path[begin:] for path in self.paths for begin in [0, *(m.end() for m in re.finditer("/", path))]}
        self.known = ends | {end.rsplit(".", 1)[0] for end in ends}
        self.tops = {name.split("/")[0] for name in files if "/" in name}

    def exists(self, name):
        """True if each of the paths that the name stands for is there, or is the end of one that is."""
        return all(path in self.known or self._is_pattern(self.PLACEHOLDER.sub("*", path))
                   for path in spelled_out(name.rstrip("/")))

    def _is_pattern(self, pattern):
        return "*" in pattern and any(fnmatch.fnmatchcase(f"/{path}", f"*/{pattern}") for path in self.paths)

    def missing(self, path, line):
        """What the line of this file names and is not there."""
        if path.endswith(".md"):
            named = [name for name in self.IN_DOCUMENT.findall(line)
                     if self.SOURCE.search(name) or ("/" in name and name.split("/")[0] in self.tops)]
        else:
            comment = line.partition("//")[2]
            named = [name for name in self.IN_COMMENT.findall(comment) if name.split("/")[0] in self.tops]
        return [name for name in named if not self.exists(name)]


def spelled_out(name):
    """ "x.{h,cc}" is x.h and x.cc."""
    match = re.search(r"\{([\w,]+)\}", name)
    if not match:
        return [name]
    return [path for one in match.group(1).split(",")
            for path in spelled_out(name[:match.start()] + one + name[match.end():])]


def check_named_paths(root, files, findings):
    paths = NamedPaths(files)
    for name in files:
        if name.endswith(".md") or pathlib.PurePath(name).suffix in CPP_SUFFIXES:
            for number, line in enumerate((root / name).read_text().splitlines(), 1):
                for missing in paths.missing(name, line):
                    findings.add(name, number, f"'{missing}' does not exist; name the file that is meant")


def run(root):
    findings = Findings()
    files = tracked_files(root)
    known = set(files)
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
        check_test_place(name, files, findings)
        check_policy_words(name, lines, findings)
        if has_no_room(name):
            findings.add(name, 1, "it lies in no room of its folder; ARCHITECTURE.md says which there are")
        check_includes(name, lines, findings)
        check_own_header_first(name, lines, known, findings)
        check_functions(name, text, findings)
        if name.endswith(".h") and not name.endswith("-inl.h") and "#pragma once" not in text:
            findings.add(name, 1, "a header begins with #pragma once")
    check_policy_table(root, findings)
    check_listed(root, files, findings)
    check_metrics(root, files, texts, findings)
    check_links(root, files, findings)
    check_named_paths(root, files, findings)
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
