#!/usr/bin/env python3
"""Trains a budget predictor for Fluxion's mode `predictor`: how many blocks each query head of one model needs.

    tools/train_fluxion.py capture MODEL --texts a.txt,b.txt --out build/fluxion   # runs the model: minutes
    tools/train_fluxion.py train MODEL --samples build/fluxion --out MODEL/fluxion_predictor.safetensors
    tools/train_fluxion.py report MODEL --samples build/unseen --predictor MODEL/fluxion_predictor.safetensors

Half of the samples is long text, half the steps at which answers are copied out of it: what text needs says little of
what a question needs. A network 41-256-256-128-3 learns whether a head needs blocks at all, and the 0.9 quantile of the
share that it needs, by block size; needs beyond the censoring limit count as "at least that much". Keep the texts that
you report on out of training. The file carries the hash of the feature spec and the identity of the model, and a worker
refuses it for others. Needs torch, transformers, safetensors and, for text models, tokenizers (PyPI).
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
from pathlib import Path

import torch

import fluxion_capture as capture
from fluxion_features import BLOCK_SIZES, fnv1a, spec_hash

WIDTHS = (41, 256, 256, 128, 3)
MAX_DEVIATIONS = 8.0
LEAST_LOG_SHARE = -9.0
CENSOR_SHARE = 0.2
QUANTILE = 0.9
MISS_WEIGHT = 4.0  # of a head that needs blocks and is said to need none
NEEDY_ERRORS = 2.0  # a head is needy if the resident tokens alone err by more than so many targets
NEEDY_RECALL = 0.995


def model_identity(folder: Path) -> str:
    """As model/model_identity.cc."""
    from safetensors import safe_open
    config = json.loads((folder / "config.json").read_text())
    heads, layers = config["num_attention_heads"], config["num_hidden_layers"]
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    data = (f"{layers},{heads},{config.get('num_key_value_heads', heads)},{head_dim},{config['hidden_size']},"
            f"{config['vocab_size']}").encode()
    index = folder / "model.safetensors.index.json"
    files = json.loads(index.read_text())["weight_map"] if index.is_file() else {}
    names = [f"model.layers.{layer}.input_layernorm.weight" for layer in range(layers)] + ["model.norm.weight"]
    for name in names:
        with safe_open(folder / files.get(name, "model.safetensors"), framework="pt") as file:
            data += bytes(file.get_tensor(name).view(torch.uint8).numpy())
    return fnv1a(data)


# ---- samples ----

class Table:
    """Samples as rows: one for each layer, step and head."""

    def __init__(self, samples: list[capture.Samples], target: float):
        at = capture.TARGETS.index(target)
        flat = lambda x, *rest: x.reshape(-1, *rest)  # noqa: E731
        self.features = torch.cat([flat(s.features, 41) for s in samples])
        self.shares = torch.cat([flat(s.shares[..., at, :], len(BLOCK_SIZES)) for s in samples])
        self.streaming_error = torch.cat([flat(s.streaming_error) for s in samples])
        places, retrieval, contexts = [], [], []
        for s in samples:
            layers, steps, heads = s.streaming_error.shape
            place = torch.arange(layers)[:, None, None] * heads + torch.arange(heads)[None, None]
            places.append(place.expand(layers, steps, heads).reshape(-1))
            retrieval.append(torch.full((layers * steps * heads,), s.is_retrieval))
            contexts.append(torch.full((layers * steps * heads,), s.context))
        self.place, self.is_retrieval = torch.cat(places), torch.cat(retrieval)
        self.context = torch.cat(contexts)
        self.num_places = samples[0].features.shape[0] * samples[0].features.shape[2]

    @property
    def needs(self) -> torch.Tensor:
        return self.shares[:, 0] > 0

    def head_rates(self) -> torch.Tensor:
        """[places][2]: the streaming rate, and the mean log of the shares that are needed."""
        count = torch.zeros(self.num_places).index_add_(0, self.place, torch.ones(len(self.place)))
        needy = torch.zeros(self.num_places).index_add_(0, self.place, self.needs.float())
        logs = torch.log(self.shares[:, 0].clamp(min=math.exp(LEAST_LOG_SHARE))) * self.needs
        mean = torch.zeros(self.num_places).index_add_(0, self.place, logs) / needy.clamp(min=1)
        overall = logs.sum() / self.needs.sum().clamp(min=1)
        return torch.stack([1 - needy / count.clamp(min=1), torch.where(needy > 0, mean, overall)], -1)

    def with_rates(self, rates: torch.Tensor) -> torch.Tensor:
        features = self.features.clone()
        features[:, 3:5] = rates[self.place]
        return features


def load_samples(folder: Path) -> list[capture.Samples]:
    files = sorted(folder.glob("*.pt"))
    if not files:
        raise SystemExit(f"there are no samples in {folder}; make some with the command capture")
    torch.serialization.add_safe_globals([capture.Samples])
    return [sample for file in files for sample in torch.load(file)]


# ---- the network ----

class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(torch.nn.Linear(i, o) for i, o in zip(WIDTHS, WIDTHS[1:]))
        self.register_buffer("mean", torch.zeros(WIDTHS[0]))
        self.register_buffer("std", torch.ones(WIDTHS[0]))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        x = ((features - self.mean) / self.std).clamp(-MAX_DEVIATIONS, MAX_DEVIATIONS)
        for layer in self.layers[:-1]:
            x = torch.relu(layer(x))
        return self.layers[-1](x)


def shares_of(out: torch.Tensor) -> torch.Tensor:
    """[rows][block sizes], where the head needs blocks."""
    share = torch.exp(out[:, 1].clamp(LEAST_LOG_SHARE, 0.0))
    growth = share * torch.nn.functional.softplus(out[:, 2])
    return (share[:, None] + growth[:, None] * torch.arange(len(BLOCK_SIZES))).clamp(max=1.0)


def loss_of(out: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    needs = (shares[:, 0] > 0).float()
    weight = torch.where(needs > 0, MISS_WEIGHT, 1.0)
    retrieval = torch.nn.functional.binary_cross_entropy_with_logits(out[:, 0], needs, weight=weight)
    censored = shares >= CENSOR_SHARE
    label = torch.log(shares.clamp(math.exp(LEAST_LOG_SHARE), CENSOR_SHARE))
    share = torch.exp(out[:, 1].clamp(LEAST_LOG_SHARE - 1, 0.5))
    growth = share * torch.nn.functional.softplus(out[:, 2])
    predicted = torch.log(share[:, None] + growth[:, None] * torch.arange(len(BLOCK_SIZES)))
    below = label - predicted
    pinball = torch.maximum(QUANTILE * below, (QUANTILE - 1) * below)
    # Of a need beyond the limit it is only known that it is at least that much.
    pinball = torch.where(censored, (QUANTILE * below).clamp(min=0), pinball).mean(-1)
    return retrieval + (pinball * needs).sum() / needs.sum().clamp(min=1)


def fit(features: torch.Tensor, table: Table, args: argparse.Namespace) -> Net:
    torch.manual_seed(args.seed)
    net = Net()
    net.mean.copy_(features.mean(0))
    net.std.copy_(features.std(0).clamp(min=1e-3))
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-3)
    # Text and retrieval weigh the same.
    weights = torch.where(table.is_retrieval, 0.5 / table.is_retrieval.sum().clamp(min=1),
                          0.5 / (~table.is_retrieval).sum().clamp(min=1))
    steps = args.epochs * len(features) // args.batch
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(steps, 1))
    drawn = torch.multinomial(weights.double(), max(steps, 1) * args.batch, replacement=True)
    for step in range(steps):
        rows = drawn[step * args.batch:(step + 1) * args.batch]
        loss = loss_of(net(features[rows]), table.shares[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % max(1, steps // 10) == 0:
            print(f"step {step} of {steps}: loss {loss.item():.4f}", file=sys.stderr, flush=True)
    return net.eval()


def threshold_for(logits: torch.Tensor, table: Table, target: float) -> float:
    """The highest threshold that finds enough of the needy heads."""
    needy = logits[table.streaming_error > NEEDY_ERRORS * target]
    if len(needy) == 0:
        return 0.0
    return float(torch.quantile(needy[:1 << 24], 1 - NEEDY_RECALL))


# ---- files and figures ----

def save(net: Net, rates: torch.Tensor, threshold: float, folder: Path, target: float, path: Path) -> None:
    from safetensors.torch import save_file
    layers = json.loads((folder / "config.json").read_text())["num_hidden_layers"]
    tensors = {"feature_mean": net.mean, "feature_std": net.std, "head_rates": rates.reshape(layers, -1, 2)}
    for i, layer in enumerate(net.layers, 1):
        tensors[f"w{i}"], tensors[f"b{i}"] = layer.weight.detach().half(), layer.bias.detach()
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata={
        "format": "fluxion-predictor-1", "feature_spec": spec_hash(), "model": model_identity(folder),
        "retrieval_threshold": f"{threshold:.6f}", "target_output_error": f"{target}"})
    path.chmod(0o644)
    print(f"wrote {path}, {path.stat().st_size} bytes", file=sys.stderr)


def load(path: Path, folder: Path) -> tuple[Net, torch.Tensor, float, float]:
    from safetensors import safe_open
    net = Net()
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        for key, expected in (("feature_spec", spec_hash()), ("model", model_identity(folder))):
            if metadata[key] != expected:
                raise SystemExit(f"{path}: its {key} is {metadata[key]}, and here it is {expected}; train it anew")
        net.mean.copy_(file.get_tensor("feature_mean"))
        net.std.copy_(file.get_tensor("feature_std"))
        for i, layer in enumerate(net.layers, 1):
            layer.weight.data.copy_(file.get_tensor(f"w{i}").float())
            layer.bias.data.copy_(file.get_tensor(f"b{i}"))
        rates = file.get_tensor("head_rates").reshape(-1, 2)
    return net.eval(), rates, float(metadata["retrieval_threshold"]), float(metadata["target_output_error"])


@torch.no_grad()
def report(net: Net, rates: torch.Tensor, threshold: float, target: float, table: Table) -> None:
    out = torch.cat([net(part) for part in table.with_rates(rates).split(65536)])
    found = out[:, 0] >= threshold
    shares = shares_of(out) * found[:, None]
    print("| steps | needy heads found | heads that read | share read, of 16 | least that suffices | enough |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    kinds = [("text", ~table.is_retrieval), ("answers", table.is_retrieval)]
    for context in sorted(set(table.context.tolist())):
        kinds += [(f"{name} at {context}", rows & (table.context == context)) for name, rows in kinds[:2]]
    for name, rows in kinds:
        if not rows.any():
            continue
        needy = rows & (table.streaming_error > NEEDY_ERRORS * target)
        enough = shares[rows, 0] >= table.shares[rows, 0].clamp(max=CENSOR_SHARE) - 1e-9
        recall = f"{found[needy].float().mean():.1%}" if needy.any() else "none"
        print(f"| {name} | {recall} | {found[rows].float().mean():.1%} | {shares[rows, 0].mean():.2%} | "
              f"{table.shares[rows, 0].mean():.2%} | {enough.float().mean():.1%} |")


# ---- commands ----

def do_capture(args: argparse.Namespace) -> None:
    model, encode, rng = capture.load_model(args.model), capture.load_encoder(args.model), random.Random(args.seed)
    texts = [Path(text) for text in args.texts.split(",")]
    args.out.mkdir(parents=True, exist_ok=True)
    for i in range(args.prompts):
        tokens = int(args.min_tokens * (args.max_tokens / args.min_tokens) ** rng.random())
        text = texts[i // 2 % len(texts)]
        if i % 2 == 0:
            prompt = capture.text_prompt(encode, text, tokens, args.steps, rng)
        else:
            prompt = capture.needle_prompt(encode, text, tokens, rng.choice([1, 4, 8]), rng)
        path = args.out / f"{i:03d}.pt"
        if path.exists():  # an earlier call with the same arguments was interrupted
            continue
        torch.save(capture.samples_of(model, prompt), path.with_suffix(".part"))
        path.with_suffix(".part").rename(path)
        print(f"{i + 1} of {args.prompts}: {prompt.name}, {tokens} tokens", file=sys.stderr, flush=True)


def do_train(args: argparse.Namespace) -> None:
    table = Table(load_samples(args.samples), args.target)
    rates = table.head_rates()
    features = table.with_rates(rates)
    net = fit(features, table, args)
    with torch.no_grad():
        logits = torch.cat([net(part)[:, 0] for part in features.split(65536)])
    threshold = threshold_for(logits, table, args.target)
    save(net, rates, threshold, args.model, args.target, args.out)
    report(net, rates, threshold, args.target, table)


def do_report(args: argparse.Namespace) -> None:
    net, rates, threshold, target = load(args.predictor, args.model)
    report(net, rates, threshold, target, Table(load_samples(args.samples), target))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("capture", help="runs the model densely over prompts and keeps samples")
    one.set_defaults(do=do_capture)
    one.add_argument("--texts", required=True, help="plain text files, separated by commas")
    one.add_argument("--prompts", type=int, default=24)
    one.add_argument("--min-tokens", type=int, default=2600)
    one.add_argument("--max-tokens", type=int, default=7000)
    one.add_argument("--steps", type=int, default=12, help="of a probe in a text")
    two = commands.add_parser("train", help="fits a predictor to samples")
    two.set_defaults(do=do_train)
    two.add_argument("--target", type=float, default=0.1, choices=capture.TARGETS, help="output error to keep to")
    two.add_argument("--epochs", type=int, default=8)
    two.add_argument("--batch", type=int, default=8192)
    three = commands.add_parser("report", help="recall and budgets of a predictor on samples that it has not seen")
    three.set_defaults(do=do_report)
    three.add_argument("--predictor", type=Path, required=True)
    for command in (one, two, three):
        command.add_argument("--threads", type=int, default=4)
        command.add_argument("model", type=Path, help="the model's folder")
        command.add_argument("--seed", type=int, default=1)
    for command in (one, two):
        command.add_argument("--out", type=Path, required=True)
    for command in (two, three):
        command.add_argument("--samples", type=Path, required=True, help="a folder that capture wrote")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.do(args)


if __name__ == "__main__":
    main()
