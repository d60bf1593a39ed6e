"""Features and labels of Fluxion's budget predictor, in PyTorch: the twin of policy/fluxion/head_features.cc.

Everything is of one layer at the successive decode steps of a probe: queries of positions `first`, `first` + 1, ...
over keys and values that were captured from dense attention (tools/fluxion_capture.py). What each feature is stands in
policy/fluxion/feature_spec.h, from which the names and the spec's hash are read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import torch

SPEC = Path(__file__).resolve().parent.parent / "policy" / "fluxion" / "feature_spec.h"
COARSE_TOKENS = 128
BLOCK_SIZES = (16, 32, 64, 128)
RECENT_TOKENS = 64
BEST_BLOCKS = 16
EMA_WEIGHT = 1 / 8
MAX_PAST_STEPS = 16
LEAST = 1e-20  # of logarithms


def feature_spec() -> list[tuple[str, str]]:
    """The rows of the table: name and formula."""
    rows = re.findall(r'^    \{"([^"]+)", "([^"]+)"\},$', SPEC.read_text(encoding="utf-8"), re.MULTILINE)
    if len(rows) != 41:
        raise RuntimeError(f"{SPEC} has {len(rows)} features instead of 41")
    return rows


def fnv1a(data: bytes) -> str:
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return f"{value:016x}"


def spec_hash() -> str:
    return fnv1a("".join(f"{name}:{formula}\n" for name, formula in feature_spec()).encode())


@dataclass
class Probe:
    """Of one layer: q [steps][heads][dim] of the last `steps` positions, k and v [kv_heads][tokens][dim]."""

    layer: int
    num_layers: int
    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    scale: float
    sinks: int
    remote_end: int  # remote tokens are [sinks, remote_end)

    @property
    def first(self) -> int:
        return self.k.shape[1] - self.q.shape[0]

    @property
    def group(self) -> int:
        return self.q.shape[1] // self.k.shape[0]


def log(x: torch.Tensor) -> torch.Tensor:
    return torch.log(x.clamp(min=LEAST))


def blocks_of(x: torch.Tensor, tokens: int, fill: float) -> torch.Tensor:
    """[..., n, dim] as [..., blocks, tokens, dim], the last block padded."""
    n = x.shape[-2]
    pad = -n % tokens
    if pad:
        x = torch.cat([x, x.new_full((*x.shape[:-2], pad, x.shape[-1]), fill)], -2)
    return x.reshape(*x.shape[:-2], -1, tokens, x.shape[-1])


def per_head(x: torch.Tensor, group: int) -> torch.Tensor:
    """[kv_heads, ...] repeated for the query heads of each group."""
    return x.repeat_interleave(group, 0)


def scores_of(p: Probe) -> torch.Tensor:
    """[heads][steps][tokens]: scaled scores; -inf for tokens that a step does not see."""
    tokens = p.k.shape[1]
    scores = torch.einsum("hsd,htd->hst", p.q.transpose(0, 1), per_head(p.k, p.group)) * p.scale
    visible = torch.arange(tokens)[None] <= (p.first + torch.arange(p.q.shape[0]))[:, None]
    return scores.masked_fill(~visible[None], -torch.inf)


def coarse_scores(p: Probe) -> tuple[torch.Tensor, torch.Tensor]:
    """c and u: [heads][steps][blocks]."""
    k = p.k[:, p.sinks:p.remote_end]
    n = k.shape[1]
    count = torch.full((-(-n // COARSE_TOKENS),), float(COARSE_TOKENS))
    count[-1] = n - COARSE_TOKENS * (len(count) - 1)
    mean = blocks_of(k, COARSE_TOKENS, 0.0).sum(-2) / count[None, :, None]
    q = p.q.transpose(0, 1)
    c = torch.einsum("hsd,hbd->hsb", q, per_head(mean, p.group)) * p.scale + torch.log(count)
    low = per_head(blocks_of(k, COARSE_TOKENS, torch.inf).amin(-2), p.group)
    high = per_head(blocks_of(k, COARSE_TOKENS, -torch.inf).amax(-2), p.group)
    u = (torch.einsum("hsd,hbd->hsb", q.clamp(min=0), high) + torch.einsum("hsd,hbd->hsb", q.clamp(max=0), low))
    return c, u * p.scale


def kv_features(p: Probe) -> torch.Tensor:
    """[steps][heads][7]: distribution of K and V."""
    k, v = p.k[:, p.sinks:p.remote_end], p.v[:, p.sinks:p.remote_end]
    k_norm, v_norm = k.norm(dim=-1), v.norm(dim=-1)
    mean_k, square = k.mean(1), (k * k).sum(-1).mean(1)
    blocks = blocks_of(k, COARSE_TOKENS, 0.0)
    count = torch.full((blocks.shape[1],), float(COARSE_TOKENS))
    count[-1] = k.shape[1] - COARSE_TOKENS * (len(count) - 1)
    block_mean = blocks.sum(-2) / count[None, :, None]
    between = (count[None] * (block_mean * block_mean).sum(-1)).sum(1) / k.shape[1]
    around = (square - (mean_k * mean_k).sum(-1)).clamp(min=LEAST)
    norms = p.v.norm(dim=-1)
    sink = norms[:, :p.sinks].mean(1)
    steps = []
    for step in range(p.q.shape[0]):
        end = p.first + step + 1
        resident = torch.cat([norms[:, :p.sinks], norms[:, p.remote_end:end]], 1).mean(1)
        steps.append(torch.stack([
            log(k_norm.mean(1)), k_norm.std(1, unbiased=False) / k_norm.mean(1).clamp(min=LEAST), log(v_norm.mean(1)),
            log(resident), sink / v_norm.mean(1).clamp(min=LEAST),
            (mean_k * mean_k).sum(-1) / square.clamp(min=LEAST), (square - between) / around], -1))
    return torch.stack(steps).repeat_interleave(p.group, 1)


def coarse_features(c: torch.Tensor, u: torch.Tensor, lse: torch.Tensor) -> torch.Tensor:
    """[steps][heads][8]."""
    blocks = c.shape[-1]
    mean, spread, peak = c.mean(-1), c.std(-1, unbiased=False), c.amax(-1)
    weights = torch.softmax(c, -1)
    entropy = -(weights * log(weights)).sum(-1)
    best = weights.sort(-1, descending=True).values
    top = [best[..., :-(-blocks * share // 100)].sum(-1) for share in (1, 5)]
    return torch.stack([
        peak - lse, torch.logsumexp(c, -1) - lse, spread, (peak - mean) / spread.clamp(min=LEAST),
        entropy / torch.log(torch.tensor(float(max(blocks, 2)))), *top, u.amax(-1) - lse], -1).transpose(0, 1)


def resident_parts(p: Probe, scores: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """lse [heads][steps], out [heads][steps][dim] and weights [heads][steps][tokens] of the resident attention."""
    resident = scores.clone()
    resident[:, :, p.sinks:p.remote_end] = -torch.inf
    weights = torch.softmax(resident, -1)
    return torch.logsumexp(resident, -1), torch.einsum("hst,htd->hsd", weights, per_head(p.v, p.group)), weights


def out_features(p: Probe, out: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """[steps][heads][6]."""
    norm = out.norm(dim=-1)
    sink = weights[:, :, :p.sinks].sum(-1)
    recent = torch.stack([weights[:, s, :].narrow(1, max(0, p.first + s + 1 - RECENT_TOKENS),
                                                  min(RECENT_TOKENS, p.first + s + 1)).sum(-1)
                          for s in range(p.q.shape[0])], 1)
    entropy = -(weights * log(weights)).sum(-1)
    sink_norm = per_head(p.v[:, :p.sinks].norm(dim=-1).mean(1), p.group)[:, None]
    return torch.stack([log(norm), norm / norm.amax(0, keepdim=True).clamp(min=LEAST), entropy, sink, recent,
                        sink * sink_norm / norm.clamp(min=LEAST)], -1).transpose(0, 1)


def cosine(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1)).clamp(min=LEAST)


def ema_before(x: torch.Tensor) -> torch.Tensor:
    """Of x [steps, ...]: at each step the average of those before; of the first its own."""
    out = [x[0]]
    average = x[0]
    for step in range(1, x.shape[0]):
        out.append(average)
        average = average + EMA_WEIGHT * (x[step] - average)
    return torch.stack(out)


def dynamics_features(p: Probe, c: torch.Tensor) -> torch.Tensor:
    """[steps][heads][5]."""
    q, norm = p.q, p.q.norm(dim=-1)
    steps = []
    best = c.transpose(0, 1).topk(min(BEST_BLOCKS, c.shape[-1]), -1).indices
    sets = torch.zeros(*c.transpose(0, 1).shape, dtype=torch.bool).scatter_(2, best, True)
    mean_q, mean_norm = ema_before(q), ema_before(norm)
    for step in range(q.shape[0]):
        last = max(step - 1, 0)
        both, either = (sets[step] & sets[last]).sum(-1), (sets[step] | sets[last]).sum(-1)
        steps.append(torch.stack([cosine(q[step], q[last]), log(norm[step]),
                                  norm[step] / mean_norm[step].clamp(min=LEAST), cosine(q[step], mean_q[step]),
                                  both / either], -1))
    return torch.stack(steps)


def features_of(p: Probe, head_rates: torch.Tensor, last_layer: torch.Tensor | None) -> tuple[torch.Tensor, dict]:
    """[steps][heads][41], and what labels and the next layer need. head_rates: [heads][2] of the layer."""
    scores = scores_of(p)
    lse, out, weights = resident_parts(p, scores)
    c, u = coarse_scores(p)
    steps, heads = p.q.shape[:2]
    n = p.remote_end - p.sinks
    context = p.first + 1.0 + torch.arange(steps)
    structure = torch.stack([torch.full((steps,), p.layer / max(p.num_layers - 1, 1)), torch.log2(context / 4096),
                             torch.log2(n / (context - n))], -1)[:, None].expand(-1, heads, -1)
    coarse = coarse_features(c, u, lse)
    outs = out_features(p, out, weights)
    past = torch.stack([ema_before(coarse[..., 1]), ema_before(coarse[..., 0]), ema_before(coarse[..., 7]),
                        ema_before(outs[..., 1]), ema_before(coarse[..., 4]),
                        torch.log1p(torch.arange(steps).clamp(max=MAX_PAST_STEPS).float())[:, None].expand(-1, heads)],
                       -1)
    norm = out.norm(dim=-1).transpose(0, 1)
    rank = (norm[:, None, :] < norm[:, :, None]).sum(-1) / max(heads - 1, 1)
    by_group = coarse.reshape(steps, -1, p.group, 8).amax(2).repeat_interleave(p.group, 1)
    across = torch.stack([rank, by_group[..., 0], coarse[..., 1].mean(1, keepdim=True).expand(-1, heads),
                          torch.zeros(steps, heads) if last_layer is None else last_layer], -1)
    features = torch.cat([structure, head_rates[None].expand(steps, -1, -1), kv_features(p), coarse, outs,
                          dynamics_features(p, c), past, across], -1)
    return features, {"scores": scores, "lse": lse, "out": out, "group_mass": by_group[..., 1]}


def quest_scores(p: Probe, block_tokens: int) -> torch.Tensor:
    """[heads][steps][whole blocks]: bounds by int8 minima and maxima, as kv_store/block_summaries.cc rounds them."""
    whole = (p.remote_end - p.sinks) // block_tokens
    k = p.k[:, p.sinks:p.sinks + whole * block_tokens].reshape(p.k.shape[0], whole, block_tokens, -1)
    low, high = k.amin(2), k.amax(2)
    scale = (torch.maximum(low.abs(), high.abs()).amax(-1, keepdim=True) / 127).clamp(min=1e-30)
    low = per_head(torch.floor(low / scale).clamp(min=-128) * scale, p.group)
    high = per_head(torch.ceil(high / scale).clamp(max=127) * scale, p.group)
    q = p.q.transpose(0, 1)
    return (torch.einsum("hsd,hbd->hsb", q.clamp(min=0), high)
            + torch.einsum("hsd,hbd->hsb", q.clamp(max=0), low)) * p.scale


@dataclass
class Curve:
    """Of one block size: after how many of a head's best blocks its output has which error."""

    bounds: torch.Tensor  # [heads][steps][blocks]
    order: torch.Tensor  # likewise: blocks, the best first
    error: torch.Tensor  # [heads][steps][blocks + 1]
    kept: torch.Tensor  # likewise: share of the remote mass

    def least_share(self, target: float) -> torch.Tensor:
        """[heads][steps]: of the blocks, the smallest share that brings the error to the target."""
        return (self.error <= target).float().argmax(-1) / (self.error.shape[-1] - 1)


def error_curve(p: Probe, block_tokens: int, known: dict) -> Curve:
    bounds = quest_scores(p, block_tokens)
    whole = bounds.shape[-1]
    scores, v = known["scores"], per_head(p.v, p.group)
    high = scores.amax(-1, keepdim=True)
    end = p.sinks + whole * block_tokens
    weights = torch.exp(scores - high)
    by_block = weights[:, :, p.sinks:end].reshape(*bounds.shape[:2], whole, block_tokens)
    block_v = v[:, p.sinks:end].reshape(v.shape[0], whole, block_tokens, -1)
    mass, value = by_block.sum(-1), torch.einsum("hsbt,hbtd->hsbd", by_block, block_v)
    order = bounds.sort(dim=-1, descending=True, stable=True).indices
    mass = torch.gather(mass, 2, order).cumsum(-1)
    value = torch.gather(value, 2, order[..., None].expand_as(value)).cumsum(2)
    always = weights.clone()
    always[:, :, p.sinks:end] = 0
    base_mass, base_value = always.sum(-1), torch.einsum("hst,htd->hsd", always, v)
    all_mass = torch.cat([base_mass[..., None], base_mass[..., None] + mass], -1)
    out = torch.cat([base_value[:, :, None], base_value[:, :, None] + value], 2) / all_mass[..., None]
    full = out[:, :, -1:]
    largest = full.norm(dim=-1).amax(0, keepdim=True)
    error = (out - full).norm(dim=-1) / largest.clamp(min=LEAST)
    error[..., -1] = 0
    kept = torch.cat([torch.zeros_like(mass[..., :1]), mass / mass[..., -1:].clamp(min=LEAST)], -1)
    return Curve(bounds, order, error, kept)


def golden_probe() -> tuple[Probe, torch.Tensor, torch.Tensor]:
    """Numbers that tests/unit/policy/fluxion/head_features_test.cc makes, too: the probe, head rates, last layer."""
    def numbers(begin: int, *shape: int) -> torch.Tensor:
        count = torch.Size(shape).numel()
        i = torch.arange(begin, begin + count, dtype=torch.float64)
        return (torch.sin(0.37 * i + 0.11 * (i * i % 97)) * (1 + i % 7 / 3)).float().reshape(shape)

    steps, heads, kv_heads, dim, tokens = 3, 4, 2, 8, 403
    probe = Probe(layer=1, num_layers=3, q=numbers(1, steps, heads, dim), k=numbers(1000, kv_heads, tokens, dim),
                  v=numbers(9000, kv_heads, tokens, dim), scale=dim**-0.5, sinks=4, remote_end=304)
    return probe, numbers(20000, heads, 2), numbers(21000, steps, heads)


def main() -> None:
    """Prints the golden features: a line for each step and head."""
    features, _ = features_of(*golden_probe())
    for step in features:
        for head in step:
            print(" ".join(f"{value:.6g}" for value in head.tolist()))


if __name__ == "__main__":
    main()
