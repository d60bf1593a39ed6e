"""Everything about text that a model folder says: tokenizer, chat template, how answers end, sampling defaults."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tributary.client import Generation
from tributary.text.chat_template import ChatTemplate, load_chat_template
from tributary.text.files import ModelFolderError, read_object_if_there
from tributary.text.tokenizer import Tokenizer, load_tokenizer, special_tokens


@dataclass(frozen=True)
class SamplingDefaults:
    """Of generation_config.json; None is what it does not say."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None


@dataclass(frozen=True)
class ModelText:
    name: str  # the folder's
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
    return ModelText(folder.resolve().name, tokenizer, load_chat_template(folder, chat_template), frozenset(ends),
                     _sampling(generation, folder / "generation_config.json"), _context(config))


def _ids(values: Mapping[str, Any], name: str, path: Path) -> set[int]:
    value = values.get(name)
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(token, int) and token >= 0 for token in ids):
        raise ModelFolderError(f"{path}: {name} is {value!r}, which is neither a token id nor a list of them")
    return set(ids)


def _sampling(values: Mapping[str, Any], path: Path) -> SamplingDefaults:
    found: dict[str, Any] = {}
    for name in ("temperature", "top_p", "top_k", "min_p", "repetition_penalty"):
        value = values.get(name)
        if value is None:
            continue
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value) or value < 0:
            raise ModelFolderError(f"{path}: {name} is {value!r}; it must be a number from 0 on")
        found[name] = int(value) if name == "top_k" else float(value)
    return SamplingDefaults(**found)


def _context(config: Mapping[str, Any]) -> int | None:
    value = config.get("max_position_embeddings")
    return value if isinstance(value, int) and value > 0 else None
