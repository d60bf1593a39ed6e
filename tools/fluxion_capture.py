"""Samples for Fluxion's budget predictor: what heads of a model need, at decode steps over long text and at the steps
that answer questions about it (tools/train_fluxion.py calls this).

The model runs densely over a prompt once. At each probe, a few successive positions, every layer's q, k and v are read
as a worker with sinks and a window would have them, and become features and labels (tools/fluxion_features.py).
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path

import torch

import needles
from fluxion_features import BLOCK_SIZES, Probe, error_curve, features_of

SINKS, WINDOW, SPILL_TOKENS = 64, 1024, 64
TARGETS = (0.05, 0.1, 0.2, 0.4)  # output errors that labels are made for


@dataclass
class Prompt:
    name: str
    ids: list[int]
    probes: list[tuple[int, int]]  # first position, steps
    is_retrieval: bool


@dataclass
class Samples:
    """Of one probe: [layers][steps][heads] first."""

    name: str
    is_retrieval: bool
    context: int
    features: torch.Tensor  # [...][41]; the head's rates are 0
    shares: torch.Tensor  # [...][targets][block sizes]
    streaming_error: torch.Tensor  # [...]: of the resident tokens alone


@dataclass
class Capture:
    """What the attention hook looks at while a prompt runs."""

    probes: list[tuple[int, int]] = field(default_factory=list)
    num_layers: int = 0
    on_probe: object = None  # called with (probe index, Probe)


CAPTURE = Capture()


def remote_end(first: int) -> int:
    """Remote tokens are whole spilled blocks."""
    return SINKS + max(0, first - WINDOW - SINKS) // SPILL_TOKENS * SPILL_TOKENS


def attend(module, q, k, v, mask, scaling=None, dropout=0.0, **_):
    """Attention for Transformers that shows CAPTURE's probes what it sees."""
    group = q.shape[1] // k.shape[1]
    out = torch.nn.functional.scaled_dot_product_attention(
        q, k.repeat_interleave(group, 1), v.repeat_interleave(group, 1), is_causal=True, scale=scaling)
    for index, (first, steps) in enumerate(CAPTURE.probes):
        end = first + steps
        CAPTURE.on_probe(index, Probe(
            layer=module.layer_idx, num_layers=CAPTURE.num_layers, q=q[0, :, first:end].transpose(0, 1).float(),
            k=k[0, :, :end].float(), v=v[0, :, :end].float(), scale=scaling, sinks=SINKS,
            remote_end=remote_end(first)))
    return out.transpose(1, 2).contiguous(), None


def load_model(folder: Path):
    from transformers import AttentionInterface, AutoModelForCausalLM
    AttentionInterface.register("fluxion_capture", attend)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="fluxion_capture")
    return model.eval()


def load_encoder(folder: Path):
    """Text to ids: the folder's tokenizer, or bytes."""
    if not (folder / "tokenizer.json").is_file():
        return lambda text: list(text.encode())
    from tokenizers import Tokenizer
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return lambda text: tokenizer.encode(text, add_special_tokens=False).ids


@torch.no_grad()
def run(model, prompt: Prompt, on_probe) -> None:
    CAPTURE.probes, CAPTURE.num_layers, CAPTURE.on_probe = prompt.probes, model.config.num_hidden_layers, on_probe
    model.model(torch.tensor([prompt.ids]), use_cache=False)


def samples_of(model, prompt: Prompt) -> list[Samples]:
    parts: dict[int, list] = {index: [] for index in range(len(prompt.probes))}
    last_mass: dict[int, torch.Tensor] = {}

    def on_probe(index: int, probe: Probe) -> None:
        features, known = features_of(probe, torch.zeros(probe.q.shape[1], 2), last_mass.get(index))
        last_mass[index] = known["group_mass"]
        shares = []
        for block_tokens in BLOCK_SIZES:
            curve = error_curve(probe, block_tokens, known)
            shares.append(torch.stack([curve.least_share(target) for target in TARGETS], -1).transpose(0, 1))
            if block_tokens == BLOCK_SIZES[0]:
                streaming = curve.error[..., 0].transpose(0, 1)
        parts[index].append((features, torch.stack(shares, -1), streaming))

    run(model, prompt, on_probe)
    return [Samples(prompt.name, prompt.is_retrieval, first,
                    *(torch.stack([part[i] for part in parts[index]]) for i in range(3)))
            for index, (first, _) in enumerate(prompt.probes)]


def text_prompt(encode, path: Path, tokens: int, steps: int, rng: random.Random) -> Prompt:
    """Probes every third of what lies behind the window."""
    text = path.read_text(encoding="utf-8", errors="replace")
    begin = text.find(" ", rng.randrange(max(1, len(text) - 8 * tokens))) + 1
    ids = encode(text[begin:begin + 8 * tokens])[:tokens]
    least = WINDOW + SINKS + 512
    firsts = [least + (tokens - steps - least) * i // 3 for i in range(1, 4)]
    return Prompt(f"{path.stem}@{begin}", ids, [(first, steps) for first in firsts], False)


def needle_prompt(encode, path: Path, tokens: int, num_needles: int, rng: random.Random) -> Prompt:
    """Needles in a text; the probe is the question's last token and the answer, teacher-forced."""
    text = path.read_text(encoding="utf-8", errors="replace")
    begin = text.find(" ", rng.randrange(max(1, len(text) - 8 * tokens))) + 1
    names = rng.sample([f"{a} {n}" for a in needles.ADJECTIVES for n in needles.NOUNS], num_needles)
    all_needles = [needles.Needle(name, "".join(rng.choices("0123456789", k=needles.CODE_DIGITS))) for name in names]
    asked = all_needles[rng.randrange(num_needles)]
    question = encode("\n" + asked.stem.decode().rstrip())
    answer = encode(" " + asked.answer.decode())
    room = tokens - len(question) - len(answer) - sum(len(encode(f"\n{n.sentence.decode()}\n")) for n in all_needles)
    hay = encode(text[begin:begin + 8 * tokens])[:room]
    # Those that are asked for lie where only shards have them.
    places = sorted(rng.randrange(SINKS + 64, max(SINKS + 65, len(hay) - WINDOW)) for _ in all_needles)
    ids, last = [], 0
    for place, needle in zip(places, all_needles):
        ids += hay[last:place] + encode(f"\n{needle.sentence.decode()}\n")
        last = place
    ids += hay[last:] + question
    first = len(ids) - 1
    ids += answer
    return Prompt(f"needle in {path.stem}@{begin}", ids, [(first, len(ids) - first)], True)
