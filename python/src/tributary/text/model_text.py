"""Everything about text that a model folder says: tokenizer, chat template, how answers end, sampling defaults."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tributary.text.chat_template import ChatTemplate, load_chat_template
from tributary.text.context import max_context_tokens
from tributary.text.files import ModelFolderError, as_utf8, read_object_if_there
from tributary.text.tokenizer import Tokenizer, load_tokenizer, special_tokens

if TYPE_CHECKING:
    from tributary.client import Generation  # which needs gRPC; nothing else here does


# Fields of generation_config.json that the engine's sampler does not have, and what each of them is when it is off.
_NOT_SERVED: Mapping[str, Any] = {
    "typical_p": 1.0, "epsilon_cutoff": 0.0, "eta_cutoff": 0.0, "top_h": None, "no_repeat_ngram_size": 0,
    "encoder_repetition_penalty": 1.0, "num_beams": 1, "penalty_alpha": 0.0, "min_length": 0, "min_new_tokens": 0,
    "bad_words_ids": None, "suppress_tokens": None, "begin_suppress_tokens": None, "sequence_bias": None,
    "forced_bos_token_id": None, "forced_eos_token_id": None, "guidance_scale": 1.0,
}


@dataclass(frozen=True)
class SamplingDefaults:
    """Of generation_config.json; None is what it does not say. As Transformers means it, "do_sample": false is greedy,
    whatever the temperature beside it."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    max_new_tokens: int | None = None  # of an answer
    not_served: Mapping[str, Any] = field(default_factory=dict)  # fields that would change an answer, and their values


@dataclass(frozen=True)
class ModelText:
    name: str  # the folder's, in UTF-8 whatever its bytes are
    tokenizer: Tokenizer
    chat_template: ChatTemplate | None
    end_tokens: frozenset[int]  # an answer ends with any of them, and they are not part of its text
    sampling: SamplingDefaults
    max_context_tokens: int | None  # None: config.json does not say

    def text_of(self, generation: Generation) -> Iterator[str]:
        """The answer as text, piece by piece."""
        detokenizer = self.tokenizer.detokenizer()
        for token in generation.tokens():
            piece = "" if token in self.end_tokens else detokenizer.add(token)
            if piece:
                yield piece
        rest = detokenizer.flush()
        if rest:
            yield rest


def load_model_text(folder: str | Path, chat_template: str | Path | None = None) -> ModelText:
    """`chat_template`: a file to use instead of the folder's. ModelFolderError says which file cannot be used."""
    folder = Path(folder)
    tokenizer = load_tokenizer(folder)
    config = read_object_if_there(folder / "config.json")
    generation = read_object_if_there(folder / "generation_config.json")
    ends = _ids(config, "eos_token_id", folder / "config.json")
    ends |= _ids(generation, "eos_token_id", folder / "generation_config.json")
    eos = special_tokens(folder).get("eos_token")
    eos_id = tokenizer.token_id(eos) if eos is not None else None
    if eos_id is not None:
        ends.add(eos_id)
    return ModelText(as_utf8(folder.resolve().name), tokenizer, load_chat_template(folder, chat_template),
                     frozenset(ends), _sampling(generation, folder / "generation_config.json"),
                     max_context_tokens(config))


def _ids(values: Mapping[str, Any], name: str, path: Path) -> set[int]:
    value = values.get(name)
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(token, int) and token >= 0 for token in ids):
        raise ModelFolderError(f"{path}: {name} is {value!r}, which is neither a token id nor a list of them")
    return set(ids)


def _sampling(values: Mapping[str, Any], path: Path) -> SamplingDefaults:
    found: dict[str, Any] = {"not_served": {name: values[name] for name, neutral in _NOT_SERVED.items()
                                            if values.get(name) not in (None, neutral)}}
    for name in ("temperature", "top_p", "top_k", "min_p", "repetition_penalty"):
        value = values.get(name)
        if value is None:
            continue
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value) or value < 0:
            raise ModelFolderError(f"{path}: {name} is {value!r}; it must be a number from 0 on")
        found[name] = int(value) if name == "top_k" else float(value)
    for name, low, high in (("min_p", 0, 1), ("top_p", 0, 1), ("repetition_penalty", 0.01, 100)):
        if name in found and not low <= found[name] <= high:
            raise ModelFolderError(f"{path}: {name} is {found[name]}; it must be from {low} to {high}")
    longest = values.get("max_new_tokens")
    if longest is not None:
        if not isinstance(longest, int) or isinstance(longest, bool) or not 1 <= longest < 1 << 31:
            raise ModelFolderError(f"{path}: max_new_tokens is {longest!r}; it must be a whole number from 1 on")
        found["max_new_tokens"] = longest
    if values.get("do_sample") is False:
        found["temperature"] = 0.0
    return SamplingDefaults(**found)
