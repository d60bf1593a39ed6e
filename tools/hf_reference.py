"""The reference: a checkpoint run by HF Transformers, as the golden files and the evaluation use it."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.integrations import sdpa_attention


def load(folder: Path, dtype: torch.dtype, device: torch.device) -> PreTrainedModel:
    """The model with its stored weights cast to `dtype`, in full precision of that type."""
    torch.backends.cuda.matmul.allow_tf32 = False
    # PyTorch's grouped-query path exists for 16-bit types only; in float32 it falls back to a kernel that writes the
    # whole score matrix (34 GB for 32k tokens). Repeating K and V, as Transformers does elsewhere, gives the same sums.
    if hasattr(sdpa_attention, "use_gqa_in_sdpa"):
        sdpa_attention.use_gqa_in_sdpa = lambda *_, **__: False
    # PyTorch's attention knows no soft-cap, and Transformers leaves the cap out without a word.
    capped = getattr(AutoConfig.from_pretrained(folder), "attn_logit_softcapping", None) is not None
    attention = {"attn_implementation": "eager"} if capped else {}
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, **attention).to(device).eval()
