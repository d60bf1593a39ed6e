"""What tools/gpu_check measures of the CPU attention kernels of a many-core host, and which bars hold there.

Working sets are larger than any L3 cache. Shares are of the read ceiling of the same run.
"""

import pathlib
import re

BENCH = "bin/cpu_attention_bench"
KV_LEN = 131072
COMMON = f"--kv-len {KV_LEN} --working-set-mib 2560 --slices 20 --row-seconds 3"
DTYPES = "bf16,int8,int4"
BF16_BAR = 0.90
# Tokens per second against bf16, by K and V.
BARS_AGAINST_BF16 = {"int8": 1.85, "int4": 3.0}
BLOCKS_BAR = 0.60


def thread_counts(cores):
    """1, 2, 4, ... and 3/4 of the cores, and all of them."""
    counts = {cores, max(1, cores * 3 // 4)}
    counts |= {1 << i for i in range(cores.bit_length()) if 1 << i <= cores}
    return sorted(counts)


def commands(cores):
    """(what, words for the bench): the scaling table, every kernel and group at all cores, chosen blocks."""
    threads = ",".join(str(n) for n in thread_counts(cores))
    return (
        ("scaling", f"--what attend --path dense --dtype {DTYPES} --group-size 4 --threads {threads} {COMMON}"),
        ("kernels", f"--what attend --path dense --dtype {DTYPES},fp8 --isa amx,avx512_bf16,avx512,avx2 "
                    f"--group-size 4,8 --threads {cores} {COMMON}"),
        ("blocks", f"--what attend,select --path blocks --dtype {DTYPES} --block-tokens 32,64,128 --threads {cores} "
                   f"{COMMON}"),
    )


def available(words, cpu_flags):
    """The words without the kernels that this CPU lacks: a named kernel that cannot run is an error of the bench."""
    needs = {"amx": "amx_bf16", "avx512_bf16": "avx512_bf16", "avx512": "avx512f", "avx2": "avx2"}
    return re.sub(r"--isa (\S+)",
                  lambda m: "--isa " + ",".join(i for i in m[1].split(",") if needs[i] in cpu_flags), words)


def report_rows(what, rows, cores):
    """Rows of gpu_check's table from those of the bench. Bars hold for the best kernel at all cores."""
    bf16 = {}
    for row in rows:
        if row["dtype_k"] == row["dtype_v"] == "bf16":
            bf16.setdefault((row["path"], row["block_tokens"], row["group_size"], row["threads"]), row)
    for row in rows:
        ratio = row["ratio_to_ceiling"]
        result = {"name": f"cpu {what}: {row['name']}", "value": row["gb_per_s"], "unit": "GB/s",
                  "ceiling": row["ceiling_gb_per_s"], "ceiling_name": "GB/s", "ratio": ratio}
        barred = what == "scaling" and row["threads"] == cores
        if row["dtype_k"] == "bf16" and (barred or what == "blocks" and row["path"] == "blocks"):
            bar = BF16_BAR if barred else BLOCKS_BAR
            result |= {"bar": f">= {bar:.2f} of it", "ok": ratio >= bar}
        yield result
        other = bf16.get((row["path"], row["block_tokens"], row["group_size"], row["threads"]))
        if other is None or row["dtype_k"] == "bf16" or not other["ratio_to_ceiling"]:
            continue
        # In units of the ceiling, since the two rows may have seen different states of the memory.
        speed = [r["ratio_to_ceiling"] * r["tokens"] / r["bytes"] for r in (row, other)]
        result = {"name": f"cpu {what}: tokens/s against bf16, {row['name']}", "value": speed[0] / speed[1],
                  "unit": "x"}
        bar = BARS_AGAINST_BF16.get(row["dtype_k"])
        if barred and bar is not None:
            result |= {"bar": f">= {bar:.2f}x", "ok": result["value"] >= bar}
        yield result


def cpu_flags():
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("flags"):
            return set(line.split(":", 1)[1].split())
    return set()


def cpu_name():
    names = re.findall(r"^model name\s*: (.*)$", pathlib.Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return names[0] if names else "unknown CPU"
