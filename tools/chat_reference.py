#!/usr/bin/env python3
"""What HF Transformers answers to the question of `./dev demo chat`, in float32 on a CPU, greedily.

    python3 tools/chat_reference.py --model models/smollm2 --out tests/smollm2/chat_golden.safetensors

Transformers makes the prompt, too, by its own tokenizer and chat template. tests/smollm2/README.md says what the file
holds. Needs torch, transformers and safetensors; written so that any version from 4.45 on does.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

import demo_chat


def greedy(model: PreTrainedModel, prompt: list[int], ends: set[int]) -> tuple[Tensor, Tensor]:
    """The tokens [n], the last one an end or the demo's limit, and the lead [n] of each over the second likeliest."""
    tokens, leads = [], []
    fed, cache = torch.tensor([prompt]), None
    while len(tokens) < demo_chat.MAX_TOKENS and not (tokens and tokens[-1] in ends):
        out = model.model(fed, past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        logprobs = model.lm_head(out.last_hidden_state[0, -1]).double().log_softmax(-1)
        top = logprobs.topk(2)
        tokens.append(int(top.indices[0]))
        leads.append(float(top.values[0] - top.values[1]))
        fed = top.indices[:1].view(1, 1)
    return torch.tensor(tokens, dtype=torch.int32), torch.tensor(leads, dtype=torch.float32)


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="the folder, usually models/smollm2")
    parser.add_argument("--out", type=Path, required=True, help="the file to write")
    args = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    # Every version knows this name of the type's argument; 4.56 and later prefer another.
    model = AutoModelForCausalLM.from_pretrained(args.model, torch_dtype=torch.float32).eval()
    words = demo_chat.read_text(demo_chat.TEXT, demo_chat.TEXT_CHARACTERS)
    turns = [{"role": "user", "content": demo_chat.message(words, demo_chat.QUESTION)}]
    chat = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    prompt = tokenizer.encode(chat, add_special_tokens=False)
    tokens, leads = greedy(model, prompt, {tokenizer.eos_token_id})
    print(f"{len(prompt)} tokens; closest call {leads.min().item():.4f}; says {tokenizer.decode(tokens)!r}")
    metadata = {"format": "pt", "transformers": transformers.__version__, "torch": torch.__version__,
                "model": "models/smollm2"}
    save_file({"prompt_tokens": torch.tensor(prompt, dtype=torch.int32), "greedy_tokens": tokens, "leads": leads},
              args.out, metadata=metadata)
    args.out.chmod(0o644)


if __name__ == "__main__":
    main()
