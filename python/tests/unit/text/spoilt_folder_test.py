"""Model folders whose files are spoilt in any one place: they load, or say which file is wrong."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tributary.text import EncodeError, ModelFolderError, load_model_text
from tributary.text.chat_template import ChatError

VALUES = [None, True, -1, 0, 1.5, 10**30, "", "\ud800", [], {}, [None], {"a": None}, [[]], ["a", 1]]
TEMPLATE = "{% for m in messages %}{{ bos_token }}{{ m.content }}{% endfor %}"
FILES: dict[str, Any] = {
    "config.json": {"vocab_size": 256, "eos_token_id": [0], "max_position_embeddings": 100},
    "generation_config.json": {"eos_token_id": 0, "temperature": 0.5, "top_p": 0.5, "top_k": 5, "min_p": 0.1,
                               "repetition_penalty": 1.1, "do_sample": True, "num_beams": 1, "max_new_tokens": 9},
    "tokenizer_config.json": {"chat_template": [{"name": "default", "template": TEMPLATE}], "eos_token": "b",
                              "bos_token": {"content": "a"}},
    "special_tokens_map.json": {"eos_token": {"content": "b"}},
    "tokenizer.json": {
        "version": "1.0", "truncation": None, "padding": None, "normalizer": None, "pre_tokenizer": None,
        "added_tokens": [{"id": 1, "content": "b", "special": True, "single_word": False, "lstrip": False,
                          "rstrip": False, "normalized": False}],
        "post_processor": None, "decoder": {"type": "Sequence", "decoders": [{"type": "Fuse"}, {
            "type": "Replace", "pattern": {"String": "▁"}, "content": " "}]},
        "model": {"type": "WordLevel", "vocab": {"a": 0, "b": 1}, "unk_token": "a"}},
}


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


def spoilt(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    whole = copy.deepcopy(value)
    inner = whole
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = new
    return whole


def try_out(folder: Path) -> None:
    try:
        text = load_model_text(folder)
    except ModelFolderError as error:
        assert str(folder) in str(error)
        return
    try:
        tokens = text.tokenizer.encode("a b", add_special_tokens=True)
    except EncodeError:
        return
    detokenizer = text.tokenizer.detokenizer()
    "".join(map(detokenizer.add, tokens))
    if text.chat_template is not None:
        try:
            text.chat_template.render([{"role": "user", "content": "a"}])
        except ChatError:
            pass


@pytest.mark.parametrize("file", sorted(FILES))
def test_one_value_is_another(tmp_path: Path, file: str) -> None:
    for name, value in FILES.items():
        (tmp_path / name).write_text(json.dumps(value))
    load_model_text(tmp_path)
    for path in places(FILES[file]):
        for new in VALUES:
            (tmp_path / file).write_text(json.dumps(spoilt(FILES[file], path, new)))
            try_out(tmp_path)


@pytest.mark.parametrize("file", sorted(FILES))
def test_bytes_are_cut_or_changed(tmp_path: Path, file: str) -> None:
    rng = random.Random(3)
    for name, value in FILES.items():
        (tmp_path / name).write_text(json.dumps(value))
    whole = (tmp_path / file).read_bytes()
    for _ in range(60):
        data = bytearray(whole[:rng.randrange(len(whole) + 1)])
        for _ in range(rng.randrange(3)):
            if data:
                data[rng.randrange(len(data))] = rng.randrange(256)
        (tmp_path / file).write_bytes(data)
        try_out(tmp_path)
