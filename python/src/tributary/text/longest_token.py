"""How many characters of text one token of a tokenizer.json can stand for: what is longer than a context of the longest
tokens need not be encoded to be refused."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from tokenizers import pre_tokenizers

_NFC_CHARACTERS = 4  # become one at most: a letter and three marks
_BYTE_PIECES = [f"<0x{byte:02X}>" for byte in range(256)]


def longest_token_characters(description: dict[str, Any], vocab: Collection[str]) -> int | None:
    """None if there is no such number: a part of the tokenizer leaves text out, or has one token for text of any
    length, or is not known here."""
    model = description.get("model") or {}
    steps = list(_flat(description.get("pre_tokenizer")))
    is_byte_level = any(step.get("type") == "ByteLevel" for step in steps)
    every_byte = pre_tokenizers.ByteLevel.alphabet() if is_byte_level else _BYTE_PIECES
    if model.get("type") != "BPE" or not (is_byte_level or model.get("byte_fallback")):
        return None
    if not all(piece in vocab for piece in every_byte):
        return None
    if not all(map(_keeps_all, steps)) or any(
            token.get("lstrip") or token.get("rstrip") for token in description.get("added_tokens") or []):
        return None
    factor = 1
    for step in _flat(description.get("normalizer")):
        if step.get("type") == "NFC":
            factor = _NFC_CHARACTERS
        elif step.get("type") != "Prepend" and not _is_blank_to_mark(step):
            return None
    return factor * max(map(len, vocab))


def _flat(step: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    """The steps of a sequence of sequences."""
    if step is None:
        return
    if step.get("type") != "Sequence":
        yield step
        return
    for part in step.get("normalizers") or step.get("pretokenizers") or []:
        yield from _flat(part)


def _keeps_all(step: dict[str, Any]) -> bool:
    if step.get("type") == "Split":
        return step.get("behavior") != "Removed"
    return step.get("type") in ("ByteLevel", "Digits", "Metaspace")


def _is_blank_to_mark(step: dict[str, Any]) -> bool:
    return step.get("type") == "Replace" and step.get("pattern") == {"String": " "} and step.get("content") == "▁"
