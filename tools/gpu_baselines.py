#!/usr/bin/env python3
"""What others need for the same work on the same GPU, in the rows that tools/gpu_check reads.

  sdpa   torch's scaled_dot_product_attention of one decode step's window, by backend, called one by one and replayed as
         a CUDA graph over more KV than the L2 cache holds
  hf     a decode step of Hugging Face Transformers with the offloaded cache: all KV in host memory, copied in by layers

Needs torch, and transformers for hf. With --rows FILE (rows of our benchmarks of the same run), sdpa says whether ours
is as fast.
"""

import argparse
import json
import pathlib
import re
import statistics
import sys
import time
import traceback

ROOT = pathlib.Path(__file__).resolve().parent.parent
NUM_Q_HEADS, NUM_KV_HEADS, HEAD_DIM, WINDOW = 32, 8, 128, 4096
ROUND_BYTES = 1 << 30  # of KV to go round over: many times the L2 cache


def median_us(torch, call, repeats=25):
    """Median time of a call, by events, after a warm-up."""
    times = []
    for i in range(repeats + 5):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        call(i)
        end.record()
        torch.cuda.synchronize()
        if i >= 5:
            times.append(begin.elapsed_time(end) * 1e3)
    return statistics.median(times)


def graph_us(torch, call, count):
    """Time of one of `count` calls in a replayed graph."""
    graph = torch.cuda.CUDAGraph()
    call(0)
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        for i in range(count):
            call(i)
    return median_us(torch, lambda _: graph.replay(), 9) / count


def sdpa_rows(ours):
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    rows = []
    for batch in (1, 8, 32):
        bytes_per_set = 2 * batch * WINDOW * NUM_KV_HEADS * HEAD_DIM * 2
        sets = max(2, ROUND_BYTES // bytes_per_set)
        shape = (batch, NUM_KV_HEADS, WINDOW, HEAD_DIM)
        keys = [torch.randn(shape, device="cuda", dtype=torch.bfloat16) for _ in range(sets)]
        values = [torch.randn(shape, device="cuda", dtype=torch.bfloat16) for _ in range(sets)]
        q = torch.randn((batch, NUM_Q_HEADS, 1, HEAD_DIM), device="cuda", dtype=torch.bfloat16)
        best = {}
        for name, backend in (("flash", SDPBackend.FLASH_ATTENTION), ("cudnn", SDPBackend.CUDNN_ATTENTION)):
            def call(i):
                return torch.nn.functional.scaled_dot_product_attention(q, keys[i % sets], values[i % sets],
                                                                        enable_gqa=True)
            try:
                with sdpa_kernel(backend):
                    best[name] = (median_us(torch, call), graph_us(torch, call, sets))
            except RuntimeError as error:
                print(f"sdpa {name}: {error}", file=sys.stderr)
        if not best:
            rows.append({"name": f"torch SDPA, window {WINDOW}, batch {batch}", "value": "no backend", "ok": False})
            continue
        called, replayed = min(b[0] for b in best.values()), min(b[1] for b in best.values())
        name = f"torch SDPA, window {WINDOW}, batch {batch}"
        rows.append({"name": f"{name}, best backend, called", "value": round(called, 1), "unit": "us"})
        rows.append({"name": f"{name}, best backend, in a graph", "value": round(replayed, 1), "unit": "us"})
        for row in ours:
            if re.fullmatch(rf"window {WINDOW} \+ merge of 4 .*batch {batch}", row["name"]):
                rows.append({"name": f"{row['name']}: ours against that", "value": row["value"], "unit": "us",
                             "bar": f"<= {called:.1f} us", "ok": row["value"] <= called})
    return rows


def hf_rows(context, steps):
    import torch
    import transformers

    settings = json.loads((ROOT / "benchmarks/configs/llama3-8b/config.json").read_text())
    settings["max_position_embeddings"] = context + 64
    config = transformers.LlamaConfig(**settings)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = transformers.LlamaForCausalLM._from_config(config, attn_implementation="sdpa").eval()
    cache = transformers.DynamicCache(config=config, offloading=True)  # what cache_implementation="offloaded" makes
    shape = (1, NUM_KV_HEADS, context, HEAD_DIM)
    with torch.inference_mode():
        for layer in range(config.num_hidden_layers):
            cache.update(torch.randn(shape, device="cuda"), torch.randn(shape, device="cuda"), layer)
        torch.cuda.synchronize()
        times = []
        for i in range(steps + 1):
            begin = time.monotonic()
            model(input_ids=torch.tensor([[1]], device="cuda"), past_key_values=cache, use_cache=True)
            torch.cuda.synchronize()
            times.append(time.monotonic() - begin)
    return [{"name": f"Transformers {transformers.__version__}, offloaded cache: step, {context} tokens",
             "value": round(statistics.median(times[1:]) * 1e3, 1), "unit": "ms"}]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", default="sdpa,hf", help="parts, by comma: %(default)s")
    parser.add_argument("--context", type=int, default=131072, help="of hf")
    parser.add_argument("--steps", type=int, default=2, help="of hf; they take seconds")
    parser.add_argument("--rows", type=pathlib.Path, help="rows of our benchmarks, JSON")
    parser.add_argument("--json", action="store_true", help="one line for tools/gpu_check")
    args = parser.parse_args()
    ours = json.loads(args.rows.read_text()) if args.rows else []
    rows = []
    for part in args.part.split(","):
        try:
            rows += sdpa_rows(ours) if part == "sdpa" else hf_rows(args.context, args.steps)
        except Exception as error:  # a baseline that does not run here must not hide the others
            traceback.print_exc()
            rows.append({"name": f"baseline {part}", "value": f"{type(error).__name__}: {error}"[:100]})
    if args.json:
        print(json.dumps({"rows": rows}))
    else:
        for row in rows:
            print(f"{row['name']:72} {row['value']} {row.get('unit', '')}")


if __name__ == "__main__":
    main()
