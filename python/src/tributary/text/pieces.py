"""What a token of a vocabulary stands for, in bytes: the three spellings that language models use."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

BytesOfPiece = Callable[[str], bytes]

_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def _byte_level_alphabet() -> dict[str, int]:
    """GPT-2's: printable bytes stand for themselves, the others for the characters from U+0100 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    alphabet = {chr(byte): byte for byte in printable}
    others = [byte for byte in range(256) if byte not in set(printable)]
    alphabet.update({chr(256 + i): byte for i, byte in enumerate(others)})
    return alphabet


_ALPHABET = _byte_level_alphabet()


def byte_level(piece: str) -> bytes:
    """Byte-level BPE. A piece with a character outside the alphabet, such as an added token, stands for its text."""
    try:
        return bytes(_ALPHABET[character] for character in piece)
    except KeyError:
        return piece.encode()


def sentence_piece(piece: str) -> bytes:
    return piece.replace("▁", " ").encode()


def sentence_piece_with_bytes(piece: str) -> bytes:
    """Beside text there are pieces for single bytes: <0xE2>."""
    match = _BYTE_PIECE.fullmatch(piece)
    return bytes([int(match[1], 16)]) if match else sentence_piece(piece)


def of_decoder(decoder: dict[str, Any] | None) -> BytesOfPiece | None:
    """The spelling that a tokenizer.json's "decoder" undoes; None if its tokens have no bytes of their own."""
    if decoder is None:
        return None
    steps = decoder["decoders"] if decoder["type"] == "Sequence" else [decoder]
    kinds = [step["type"] for step in steps]
    if kinds == ["ByteLevel"]:
        return byte_level
    blanks = any(step["type"] == "Metaspace" and step.get("replacement", "▁") == "▁" or
                 step["type"] == "Replace" and step["pattern"] == {"String": "▁"} and step["content"] == " "
                 for step in steps)
    if not blanks or not set(kinds) <= {"Metaspace", "Replace", "ByteFallback", "Fuse", "Strip"}:
        return None
    if kinds.count("Replace") > 1:
        return None
    return sentence_piece_with_bytes if "ByteFallback" in kinds else sentence_piece
