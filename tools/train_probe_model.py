#!/usr/bin/env python3
"""Trains the probe model (models/probe): a 5.6 M parameter Llama over bytes, with real retrieval heads.

    python3 tools/train_probe_model.py --texts FOLDER_OF_NOVELS --out models/probe --minutes 13

Needs torch, numpy and safetensors, and one GPU with 40 GB (on a CPU it runs, for a test of the script only). The length
of the training is wall time, not steps: learning rate and mixture of lengths follow the share of it that is gone.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import random
import time
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Iterator

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from probe_data import LOSS_WEIGHTS, RECALLED, Mixture, split_novels
from probe_net import Probe, Shape, load, save

# (length, share of the steps) per stage. Looking back is learnt on short rows, where a step is cheap and a lesson near;
# only then is it worth the price of long rows to carry it far.
STAGES = (
    ((1024, 1.0),),
    ((1024, 0.40), (4096, 0.30), (16384, 0.30)),
    ((1024, 0.28), (4096, 0.24), (16384, 0.28), (32768, 0.20)),
    ((1024, 0.28), (4096, 0.22), (16384, 0.22), (32768, 0.16), (65536, 0.12)),
)
# A stage ends when the loss of recalled digits is below the first number, or when the second share of the time is gone.
STAGE_ENDS = ((0.25, 0.40), (0.0, 0.40), (0.0, 0.65))


def parse_arguments() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--texts", type=Path, required=True, help="folder of plain ASCII novels (*.txt); 10 MB or more")
    p.add_argument("--out", type=Path, required=True, help="folder for config.json and model.safetensors")
    p.add_argument("--minutes", type=float, default=13.0, help="wall time of the training, compilation left out")
    p.add_argument("--tokens", type=int, default=262144, help="bytes per step, a multiple of 65536")
    p.add_argument("--rate", type=float, default=1.5e-3, help="highest learning rate")
    p.add_argument("--warmup", type=int, default=200, help="steps over which the learning rate rises")
    p.add_argument("--hold", type=float, default=0.35, help="share of the time after which the learning rate falls")
    p.add_argument("--decay", type=float, default=0.1, help="weight decay of the matrices")
    p.add_argument("--workers", type=int, default=12, help="processes that make training rows")
    p.add_argument("--resume", type=Path, help="checkpoint folder to go on from (weights only, no moments)")
    p.add_argument("--first-stage", type=int, default=0, choices=range(len(STAGES)), help="stage to begin with")
    p.add_argument("--seed", type=int, default=1, help="seed of weights and rows")
    p.add_argument("--save-every", type=float, default=60.0, help="seconds between checkpoints")
    p.add_argument("--log-every", type=int, default=50, help="steps between lines of the log")
    p.add_argument("--no-compile", action="store_true", help="skip torch.compile (slower steps, instant start)")
    return p.parse_args()


class Rows(IterableDataset):
    """An endless stream of batches; the length of each follows the stage that the trainer is in."""

    def __init__(self, novels: list[bytes], stage: Synchronized, args: argparse.Namespace) -> None:
        self.novels, self.stage, self.tokens, self.seed = novels, stage, args.tokens, args.seed

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        worker = get_worker_info()
        seed = self.seed * 1000 + (worker.id if worker else 0)
        mixture, rng = Mixture(self.novels, seed), random.Random(seed)
        while True:
            lengths, shares = zip(*STAGES[self.stage.value])
            length = rng.choices(lengths, shares)[0]
            data, classes = mixture.batch(self.tokens // length, length)
            yield torch.from_numpy(data), torch.from_numpy(classes)


def learning_rate(args: argparse.Namespace, step: int, gone: float) -> float:
    """Up over `warmup` steps, level until `hold` of the time is gone, then down half a cosine to 2 %."""
    fall = max(0.0, (gone - args.hold) / (1 - args.hold))
    rise = min(1.0, (step + 1) / args.warmup)
    return args.rate * rise * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, fall))))


class Trainer:
    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.manual_seed(args.seed)
        self.net = Probe(Shape(), compiled=not args.no_compile).to(self.device)
        if args.resume:
            load(self.net, args.resume)
        matrices = [p for p in self.net.parameters() if p.ndim >= 2]
        vectors = [p for p in self.net.parameters() if p.ndim < 2]
        groups = [{"params": matrices, "weight_decay": args.decay}, {"params": vectors, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(groups, lr=args.rate, betas=(0.9, 0.95), fused=True)
        self.weights = torch.tensor(LOSS_WEIGHTS, device=self.device)
        self.stage = args.first_stage
        self.step = 0
        self.digit_loss = math.inf

    def train_step(self, data: torch.Tensor, classes: torch.Tensor, rate: float) -> torch.Tensor:
        """One update; returns the log values, still on the device."""
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        data = data.to(self.device, non_blocking=True).long()
        classes = classes.to(self.device, non_blocking=True).int()
        loss, log = self.net(data, classes, self.weights, RECALLED)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        return log

    def advance_stage(self, gone: float, shared: Synchronized) -> None:
        if self.stage < len(STAGE_ENDS):
            enough, latest = STAGE_ENDS[self.stage]
            if self.digit_loss < enough or gone > latest:
                self.stage += 1
                shared.value = self.stage
                print(f"step {self.step}: stage {self.stage}, lengths {STAGES[self.stage]}", flush=True)

    def report(self, logs: dict[int, list[torch.Tensor]], rate: float, start: float, seconds: float) -> None:
        parts = []
        for length, values in sorted(logs.items()):
            text, digit, hits = torch.stack(values).mean(0).tolist()
            parts.append(f"{length}: text {text:.3f} digit {digit:.3f} hit {hits:.1%}")
            if length == 1024:
                self.digit_loss = digit
        steps = sum(len(v) for v in logs.values())
        elapsed = time.monotonic() - start
        print(
            f"step {self.step} {elapsed:.0f} s, {self.args.minutes * 60 - elapsed:.0f} s to go, rate {rate:.2e}, "
            f"{steps * self.args.tokens / seconds / 1e6:.2f} M tokens/s | " + " | ".join(parts),
            flush=True,
        )

    def run(self) -> None:
        args = self.args
        shared = multiprocessing.Value("i", args.first_stage)
        novels, _ = split_novels(args.texts)
        loader = DataLoader(
            Rows(novels, shared, args), batch_size=None, num_workers=args.workers,
            prefetch_factor=3 if args.workers else None, pin_memory=self.device.type == "cuda",
        )  # fmt: skip
        batches = iter(loader)
        print("attention:", self.net.choose_backend(self.device), flush=True)
        compiling = time.monotonic()
        self.train_step(*next(batches), rate=0.0).tolist()
        print(f"first step took {time.monotonic() - compiling:.0f} s (compilation)", flush=True)
        start = saved = mark = time.monotonic()
        logs: dict[int, list[torch.Tensor]] = {}
        while (gone := (time.monotonic() - start) / (args.minutes * 60)) < 1:
            rate = learning_rate(args, self.step, gone)
            data, classes = next(batches)
            logs.setdefault(classes.shape[1], []).append(self.train_step(data, classes, rate))
            self.step += 1
            if self.step % args.log_every == 0:
                self.report(logs, rate, start, time.monotonic() - mark)
                logs, mark = {}, time.monotonic()
                self.advance_stage(gone, shared)
            if time.monotonic() - saved > args.save_every:
                save(self.net, args.out)
                saved = time.monotonic()
        save(self.net, args.out)
        print(f"done: {self.step} steps in {time.monotonic() - start:.0f} s, saved to {args.out}", flush=True)


if __name__ == "__main__":
    Trainer(parse_arguments()).run()
