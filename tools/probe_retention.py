#!/usr/bin/env python3
"""What a threshold of beta / N keeps of the tokens before the window: by query head, by KV head, over many queries.

HGCA compares attention weights with beta times the uniform weight. What that keeps depends on whose weights they are:
those of one query head at one query, the mean over the query heads of a KV head (by which a node selects after a
prefill), or the mean over the queries of an appended prompt, too. docs/quality.md quotes it for the probe model. It is
a forward pass in NumPy (python3-numpy, which matplotlib brings) of Llama without biases, without code of the engine.

    tools/probe_retention.py [--tokens 8192] [--beta 1]
"""

import argparse
import json
import pathlib
import struct

import numpy

MODEL = pathlib.Path(__file__).resolve().parent.parent / "models" / "probe"
CHUNK = 1024  # queries that attend together
LAST_QUERIES = 32


class Weights:
    """The bf16 tensors of one safetensors file, as f32."""

    def __init__(self, path):
        self.data = path.read_bytes()
        (size,) = struct.unpack("<Q", self.data[:8])
        self.header, self.begin = json.loads(self.data[8:8 + size]), 8 + size

    def __getitem__(self, name):
        entry = self.header[name]
        first, last = (self.begin + offset for offset in entry["data_offsets"])
        bits = numpy.frombuffer(self.data[first:last], numpy.uint16).astype(numpy.uint32) << 16
        return bits.view(numpy.float32).reshape(entry["shape"])


def rms_norm(x, weight, eps):
    return x / numpy.sqrt((x * x).mean(-1, keepdims=True) + eps) * weight


def rope(x, theta):
    """`x`: [token][head][head_dim]."""
    half = x.shape[-1] // 2
    angles = numpy.arange(len(x))[:, None] / theta ** (numpy.arange(half) / half)
    cos, sin = (f(angles).astype(numpy.float32)[:, None] for f in (numpy.cos, numpy.sin))
    first, second = x[..., :half], x[..., half:]
    return numpy.concatenate([first * cos - second * sin, second * cos + first * sin], -1)


def softmax(scores):
    exps = numpy.exp(scores - scores.max(-1, keepdims=True))
    return exps / exps.sum(-1, keepdims=True)


def attend(q, k, v):
    """Causal attention of one query head."""
    out = numpy.empty_like(q)
    for begin in range(0, len(q), CHUNK):
        end = min(len(q), begin + CHUNK)
        scores = q[begin:end] @ k[:end].T / numpy.sqrt(q.shape[1])
        scores[numpy.arange(begin, end)[:, None] < numpy.arange(end)] = -numpy.inf
        out[begin:end] = softmax(scores) @ v[:end]
    return out


def kept_shares(q, k, remote, group, beta):
    """Of the last queries: std of the scores; per cent kept by query head, by KV head, by KV head over all queries."""
    scores = numpy.stack([q[-LAST_QUERIES:, head] @ k[remote, head // group].T for head in range(q.shape[1])], 1)
    scores /= numpy.sqrt(q.shape[2])
    weights = softmax(scores)  # [query][query head][token]
    threshold = beta / weights.shape[2]
    by_query_head = 100 * (weights >= threshold).mean(2)
    means = weights.reshape(len(weights), -1, group, weights.shape[2]).mean(2)
    by_kv_head = 100 * (means >= threshold).mean(2)
    over_queries = 100 * (means.mean(0) >= threshold).mean(1)
    return scores.std(2).mean(0), by_query_head, by_kv_head.mean(0), over_queries


def row(values, digits=1):
    return " ".join(f"{value:5.{digits}f}" for value in values)


def run(num_tokens, beta, sinks=64, window=1024):
    config = json.loads((MODEL / "config.json").read_text())
    weights = Weights(MODEL / "model.safetensors")
    heads, kv_heads, eps = (config[name] for name in ("num_attention_heads", "num_key_value_heads", "rms_norm_eps"))
    text = (MODEL / "persuasion.txt").read_bytes()[:num_tokens]
    x = weights["model.embed_tokens.weight"][numpy.frombuffer(text, numpy.uint8)]
    for layer in range(config["num_hidden_layers"]):
        def part(name):
            return weights[f"model.layers.{layer}.{name}.weight"]
        y = rms_norm(x, part("input_layernorm"), eps)
        q, k, v = ((y @ part(f"self_attn.{name}_proj").T).reshape(len(x), count, -1)
                   for name, count in (("q", heads), ("k", kv_heads), ("v", kv_heads)))
        q, k = rope(q, config["rope_theta"]), rope(k, config["rope_theta"])
        group = heads // kv_heads
        out = numpy.stack([attend(q[:, h], k[:, h // group], v[:, h // group]) for h in range(heads)], 1)
        spread, by_query_head, by_kv_head, over_queries = kept_shares(q, k, slice(sinks, len(x) - window), group, beta)
        least = by_query_head.min()
        print(f"layer {layer}: std of the scores {row(spread)}\n"
              f"  kept (%) by query head {row(by_query_head.mean(0))}, by one query at least {least:.2f}\n"
              f"  by KV head {row(by_kv_head)}; by KV head over {LAST_QUERIES} queries {row(over_queries)}", flush=True)
        x = x + out.reshape(len(x), -1) @ part("self_attn.o_proj").T
        y = rms_norm(x, part("post_attention_layernorm"), eps)
        gate = y @ part("mlp.gate_proj").T
        x = x + (gate / (1 + numpy.exp(-gate)) * (y @ part("mlp.up_proj").T)) @ part("mlp.down_proj").T


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=8192, help="of the text (default 8192)")
    parser.add_argument("--beta", type=float, default=1, help="threshold, times the uniform weight (default 1)")
    arguments = parser.parse_args()
    run(arguments.tokens, arguments.beta)


if __name__ == "__main__":
    main()
