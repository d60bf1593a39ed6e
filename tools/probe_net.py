"""The probe model as plain PyTorch, for training: the arithmetic and the tensor names of LlamaForCausalLM.

Written so that one compiled graph serves every sequence length: all but attention sees a flat [tokens, ...] batch of
constant size, and attention itself is a library call.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel


@dataclass(frozen=True)
class Shape:
    """The names are those of the model's config.json."""

    vocab_size: int = 256
    hidden_size: int = 256
    num_hidden_layers: int = 6
    num_attention_heads: int = 8
    num_key_value_heads: int = 2
    head_dim: int = 64
    intermediate_size: int = 768
    max_position_embeddings: int = 65536
    rope_theta: float = 500000.0
    rms_norm_eps: float = 1e-5

    def config_json(self) -> str:
        fixed = {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_act": "silu",
            "attention_bias": False,
            "mlp_bias": False,
            "attention_dropout": 0.0,
            "rope_scaling": None,
            "tie_word_embeddings": False,
            "bos_token_id": None,
            "eos_token_id": None,
            "torch_dtype": "bfloat16",
            "use_cache": True,
        }
        return json.dumps({**fixed, **asdict(self)}, indent=2) + "\n"


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """A product in bf16 with weights kept in f32 (their gradients come back in f32)."""
    return F.linear(x.to(torch.bfloat16), weight.to(torch.bfloat16))


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """RoPE over [tokens, heads, head_dim] in the two-halves layout of Llama checkpoints."""
    low, high = x.float().chunk(2, dim=-1)
    cos, sin = cos[:, None, :], sin[:, None, :]
    return torch.cat((low * cos - high * sin, high * cos + low * sin), dim=-1).to(x.dtype)


def attention_inputs(
    x: Tensor, norm: Tensor, wq: Tensor, wk: Tensor, wv: Tensor, cos: Tensor, sin: Tensor, head_dim: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    h = rms_norm(x, norm, eps)
    q = linear(h, wq).unflatten(-1, (-1, head_dim))
    k = linear(h, wk).unflatten(-1, (-1, head_dim))
    v = linear(h, wv).unflatten(-1, (-1, head_dim))
    return rotate(q, cos, sin), rotate(k, cos, sin), v


def after_attention(
    x: Tensor, attended: Tensor, wo: Tensor, norm: Tensor, gate: Tensor, up: Tensor, down: Tensor, eps: float
) -> Tensor:
    x = x + linear(attended, wo).float()
    h = rms_norm(x, norm, eps)
    return x + linear(F.silu(linear(h, gate)) * linear(h, up), down).float()


def weighted_loss(
    x: Tensor, norm: Tensor, head: Tensor, targets: Tensor, classes: Tensor, weights: Tensor, recalled: int, eps: float
) -> tuple[Tensor, Tensor]:
    """The loss, and for the log [mean text loss, mean loss of recalled digits, share of recalled digits guessed]."""
    logits = linear(rms_norm(x, norm, eps), head).float()
    each = F.cross_entropy(logits, targets, reduction="none")
    weight = weights[classes]
    loss = (each * weight).sum() / weight.sum()
    digit = (classes == recalled).float()
    text = (classes == 1).float()
    hits = (logits.argmax(-1) == targets).float()
    digits = digit.sum().clamp(min=1)
    log = torch.stack(((each * text).sum() / text.sum(), (each * digit).sum() / digits, (hits * digit).sum() / digits))
    return loss, log.detach()


class Layer(nn.Module):
    def __init__(self, s: Shape) -> None:
        super().__init__()
        q_size, kv_size = s.num_attention_heads * s.head_dim, s.num_key_value_heads * s.head_dim
        bare = lambda n_in, n_out: nn.Linear(n_in, n_out, bias=False)  # noqa: E731
        self.input_layernorm = nn.RMSNorm(s.hidden_size)
        self.self_attn = nn.ModuleDict(
            {
                "q_proj": bare(s.hidden_size, q_size),
                "k_proj": bare(s.hidden_size, kv_size),
                "v_proj": bare(s.hidden_size, kv_size),
                "o_proj": bare(q_size, s.hidden_size),
            }
        )
        self.post_attention_layernorm = nn.RMSNorm(s.hidden_size)
        self.mlp = nn.ModuleDict(
            {
                "gate_proj": bare(s.hidden_size, s.intermediate_size),
                "up_proj": bare(s.hidden_size, s.intermediate_size),
                "down_proj": bare(s.intermediate_size, s.hidden_size),
            }
        )


class Probe(nn.Module):
    """The weights, under the names that a Llama checkpoint has."""

    def __init__(self, shape: Shape, compiled: bool) -> None:
        super().__init__()
        self.shape = shape
        self.model = nn.ModuleDict(
            {
                "embed_tokens": nn.Embedding(shape.vocab_size, shape.hidden_size),
                "layers": nn.ModuleList(Layer(shape) for _ in range(shape.num_hidden_layers)),
                "norm": nn.RMSNorm(shape.hidden_size),
            }
        )
        self.lm_head = nn.Linear(shape.hidden_size, shape.vocab_size, bias=False)
        self._initialise()
        wrap: Callable = (lambda f: torch.compile(f, dynamic=False)) if compiled else (lambda f: f)
        self.before, self.after, self.loss = wrap(attention_inputs), wrap(after_attention), wrap(weighted_loss)
        self.backend = SDPBackend.MATH
        self._angles: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}

    def _initialise(self) -> None:
        for name, p in self.named_parameters():
            if p.ndim < 2:
                continue
            std = 0.6 / math.sqrt(p.shape[1]) if "embed" not in name else 0.1
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                std /= math.sqrt(2 * self.shape.num_hidden_layers)
            nn.init.normal_(p, std=std)

    def _cos_sin(self, rows: int, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """cos and sin for every token of a flat batch, [rows * length, head_dim / 2]."""
        key = (rows, length)
        if key not in self._angles:
            half = self.shape.head_dim // 2
            frequency = self.shape.rope_theta ** (-torch.arange(half, dtype=torch.float64) / half)
            angle = torch.outer(torch.arange(length, dtype=torch.float64), frequency).repeat(rows, 1)
            self._angles[key] = (angle.cos().float().to(device), angle.sin().float().to(device))
        return self._angles[key]

    def attend(self, q: Tensor, k: Tensor, v: Tensor, rows: int) -> Tensor:
        """Causal attention within each row; flat tokens in, flat tokens out."""
        q, k, v = (t.view(rows, -1, *t.shape[1:]).transpose(1, 2) for t in (q, k, v))
        with sdpa_kernel(self.backend):
            out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return out.transpose(1, 2).reshape(-1, q.shape[1] * q.shape[3])

    def forward(self, tokens: Tensor, classes: Tensor, weights: Tensor, recalled: int) -> tuple[Tensor, Tensor]:
        """tokens [rows, length + 1], classes [rows, length]; returns what weighted_loss does."""
        rows, length = classes.shape
        s = self.shape
        cos, sin = self._cos_sin(rows, length, tokens.device)
        x = self.model["embed_tokens"](tokens[:, :-1].reshape(-1))
        for layer in self.model["layers"]:
            a, m = layer.self_attn, layer.mlp
            q, k, v = self.before(
                x, layer.input_layernorm.weight, a["q_proj"].weight, a["k_proj"].weight, a["v_proj"].weight,
                cos, sin, s.head_dim, s.rms_norm_eps,
            )  # fmt: skip
            attended = self.attend(q, k, v, rows)
            x = self.after(
                x, attended, a["o_proj"].weight, layer.post_attention_layernorm.weight, m["gate_proj"].weight,
                m["up_proj"].weight, m["down_proj"].weight, s.rms_norm_eps,
            )  # fmt: skip
        targets = tokens[:, 1:].reshape(-1)
        return self.loss(
            x, self.model["norm"].weight, self.lm_head.weight, targets, classes.reshape(-1), weights, recalled,
            s.rms_norm_eps,
        )  # fmt: skip

    def choose_backend(self, device: torch.device, length: int = 16384) -> str:
        """The fastest attention that runs here, forward and backward, at a long length."""
        if device.type == "cpu":
            return "MATH"
        s, best = self.shape, (math.inf, SDPBackend.MATH)
        for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION):
            try:
                best = min(best, (self._time_backend(backend, s, device, length), backend), key=lambda b: b[0])
            except RuntimeError as error:
                print(f"attention {backend.name}: unusable here ({str(error).splitlines()[0][:120]})", flush=True)
        self.backend = best[1]
        return f"{best[1].name}, {best[0] * 1e3:.1f} ms a layer at length {length}"

    def _time_backend(self, backend: SDPBackend, s: Shape, device: torch.device, length: int) -> float:
        self.backend = backend
        rows = 4
        make = lambda heads: torch.randn(  # noqa: E731
            rows * length, heads, s.head_dim, device=device, dtype=torch.bfloat16, requires_grad=True
        )
        q, k, v = make(s.num_attention_heads), make(s.num_key_value_heads), make(s.num_key_value_heads)
        for _ in range(3):
            torch.cuda.synchronize()
            start = time.monotonic()
            self.attend(q, k, v, rows).sum().backward()
            torch.cuda.synchronize()
        seconds = time.monotonic() - start
        if not all(torch.isfinite(t.grad).all() for t in (q, k, v)):
            raise RuntimeError("gradients are not finite")
        print(f"attention {backend.name}: {seconds * 1e3:.1f} ms for {rows} x {length}", flush=True)
        return seconds


def save(net: Probe, folder: Path) -> None:
    """config.json and model.safetensors in bf16, replaced whole, so that a copy taken at any time is complete."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: p.detach().to(torch.bfloat16).cpu().contiguous() for name, p in net.named_parameters()}
    fresh = folder / "model.safetensors.new"
    save_file(tensors, fresh, metadata={"format": "pt"})
    fresh.replace(folder / "model.safetensors")
    (folder / "config.json").write_text(net.shape.config_json())


def load(net: Probe, folder: Path) -> None:
    """The weights of a checkpoint that `save` wrote, back in float32."""
    from safetensors.torch import load_file

    net.load_state_dict({name: t.float() for name, t in load_file(folder / "model.safetensors").items()})
