"""A tokenizer.model without a tokenizer.json, by the package sentencepiece, which is an extra of this one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from tributary.text import pieces
from tributary.text.detokenizer import ByteDetokenizer, Detokenizer
from tributary.text.files import ModelFolderError, read_bytes, read_object_if_there


class SentencePieceTokenizer:
    """Added tokens of tokenizer_config.json or added_tokens.json are recognised in text; what stands between them is
    encoded by itself, as Transformers' slow tokenizers do."""

    def __init__(self, folder: Path) -> None:
        try:
            import sentencepiece
        except ImportError:
            raise ModelFolderError(f"{folder} has a tokenizer.model and no tokenizer.json; to read it, "
                                   "pip install 'tributary[sentencepiece]'") from None
        path = folder / "tokenizer.model"
        self._model = sentencepiece.SentencePieceProcessor()
        try:
            self._model.LoadFromSerializedProto(read_bytes(path))
        except RuntimeError as error:
            raise ModelFolderError(f"{path} is no SentencePiece model: {error}") from None
        config = read_object_if_there(folder / "tokenizer_config.json")
        self._added: dict[str, int] = dict(read_object_if_there(folder / "added_tokens.json"))
        for token, description in (config.get("added_tokens_decoder") or {}).items():
            self._added[description["content"]] = int(token)
        self._names = {token: name for name, token in self._added.items()}
        self._special = {token for token in range(self._model.vocab_size()) if self._model.is_control(token)}
        self._special |= set(self._names)
        self._splitter = re.compile("|".join(re.escape(name) for name in sorted(self._added, key=len, reverse=True))
                                    or r"(?!)")
        self._front = [self._model.bos_id()] if config.get("add_bos_token", True) and self._model.bos_id() >= 0 else []
        self.longest_token_characters: int | None = None  # its normalizer leaves out blanks
        self._behind = [self._model.eos_id()] if config.get("add_eos_token", False) else []
        self.vocab_size = max(self._model.vocab_size(), max(self._names, default=-1) + 1)

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        tokens = list(self._front) if add_special_tokens else []
        end = 0
        for match in self._splitter.finditer(text):
            tokens += self._model.encode(text[end:match.start()]) if match.start() > end else []
            tokens.append(self._added[match.group()])
            end = match.end()
        tokens += self._model.encode(text[end:]) if end < len(text) else []
        return tokens + (self._behind if add_special_tokens else [])

    def decode(self, tokens: Sequence[int]) -> str:
        detokenizer = self.detokenizer()
        text = "".join(map(detokenizer.add, tokens)) + detokenizer.flush()
        return text.removeprefix(" ")  # the blank that encode() puts in front

    def detokenizer(self) -> Detokenizer:
        return ByteDetokenizer(lambda token: b"" if token in self._special else self.token_bytes(token))

    def token_bytes(self, token: int) -> bytes:
        if token in self._names:
            return self._names[token].encode()
        if not 0 <= token < self._model.vocab_size():
            return b""
        piece = self._model.id_to_piece(token)
        return pieces.sentence_piece_with_bytes(piece) if self._model.is_byte(token) else pieces.sentence_piece(piece)

    def is_special(self, token: int) -> bool:
        return token in self._special

    def token_id(self, piece: str) -> int | None:
        if piece in self._added:
            return self._added[piece]
        token = int(self._model.piece_to_id(piece))
        return None if token == self._model.unk_id() and piece != self._model.id_to_piece(token) else token
