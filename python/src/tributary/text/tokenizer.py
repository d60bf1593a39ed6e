"""Tokenizers of model folders behind one interface. load_tokenizer() finds out which a folder has."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from tributary.text import pieces
from tributary.text.detokenizer import ByteDetokenizer, Detokenizer, WindowDetokenizer
from tributary.text.files import ModelFolderError, check_folder, read_bytes, read_object, read_object_if_there
from tributary.text.longest_token import longest_token_characters

BYTE_VOCAB = 256


class EncodeError(Exception):
    """The text has something that the vocabulary has no token for."""


class Tokenizer(Protocol):
    """Safe from any thread."""

    vocab_size: int
    longest_token_characters: int | None  # no token stands for more of a text; None: not known

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Special tokens that are spelled out in the text are recognised. add_special_tokens: those that the model
        wants around a text (often one in front). EncodeError if its vocabulary has no token for something."""

    def decode(self, tokens: Sequence[int]) -> str:
        """A whole text; special tokens are left out."""

    def detokenizer(self) -> Detokenizer:
        """For an answer: text that goes on behind a prompt, so a leading blank is text. Special tokens are left out."""

    def token_bytes(self, token: int) -> bytes:
        """What the token stands for, a special one for its name; nothing for an id without a token."""

    def is_special(self, token: int) -> bool:
        """Whether it stands for no text, such as the end of a turn."""

    def token_id(self, piece: str) -> int | None:
        """The id of a special token by its name."""


class ByteTokenizer:
    """Token i is byte i."""

    vocab_size = BYTE_VOCAB
    longest_token_characters: int | None = 1

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        return list(text.encode())

    def decode(self, tokens: Sequence[int]) -> str:
        return b"".join(map(self.token_bytes, tokens)).decode(errors="replace")

    def detokenizer(self) -> Detokenizer:
        return ByteDetokenizer(self.token_bytes)

    def token_bytes(self, token: int) -> bytes:
        return bytes([token]) if 0 <= token < BYTE_VOCAB else b""

    def is_special(self, token: int) -> bool:
        return False

    def token_id(self, piece: str) -> int | None:
        return None


class JsonTokenizer:
    """A tokenizer.json, by the package tokenizers."""

    def __init__(self, path: Path) -> None:
        import tokenizers

        description = read_object(path)
        try:
            self._tokenizer = tokenizers.Tokenizer.from_buffer(read_bytes(path))
        except Exception as error:  # noqa: BLE001 - the package raises nothing narrower
            raise ModelFolderError(f"{path} is no tokenizer that the package tokenizers {tokenizers.__version__} "
                                   f"knows: {error}") from None
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._special = {token["id"] for token in description.get("added_tokens") or [] if token.get("special")}
        self._bytes_of_piece = pieces.of_decoder(description.get("decoder"))
        self.vocab_size = int(self._tokenizer.get_vocab_size(with_added_tokens=True))
        self.longest_token_characters = longest_token_characters(
            description, self._tokenizer.get_vocab(with_added_tokens=True).keys())

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        try:
            # Other than encode(), it lets go of the interpreter's lock meanwhile.
            return list(self._tokenizer.encode_batch_fast([text], add_special_tokens=add_special_tokens)[0].ids)
        except Exception as error:  # noqa: BLE001 - the package raises nothing narrower
            raise EncodeError(f"the model's tokenizer cannot encode this text: {error}") from None

    def encode_with_begins(self, text: str) -> tuple[list[int], list[int]]:
        """The tokens, none of them added, and the characters where they begin; those that share one begin with it."""
        try:
            encoding = self._tokenizer.encode(text, add_special_tokens=False)
        except Exception as error:  # noqa: BLE001 - the package raises nothing narrower
            raise EncodeError(f"the model's tokenizer cannot encode this text: {error}") from None
        return list(encoding.ids), [begin for begin, _ in encoding.offsets]

    def decode(self, tokens: Sequence[int]) -> str:
        return str(self._tokenizer.decode(tokens, skip_special_tokens=True))

    def detokenizer(self) -> Detokenizer:
        if self._bytes_of_piece is None:
            return WindowDetokenizer(self.decode, self._special.__contains__)
        return ByteDetokenizer(lambda token: b"" if token in self._special else self.token_bytes(token))

    def token_bytes(self, token: int) -> bytes:
        piece = self._tokenizer.id_to_token(token)
        if piece is None:
            return b""
        if token in self._special:
            return str(piece).encode()
        if self._bytes_of_piece is None:
            return self.decode([token]).encode()
        return self._bytes_of_piece(piece)

    def is_special(self, token: int) -> bool:
        return token in self._special

    def token_id(self, piece: str) -> int | None:
        found = self._tokenizer.token_to_id(piece)
        return None if found is None else int(found)


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """tokenizer.json if the folder has one, else tokenizer.model (SentencePiece), else bytes if config.json says that
    there are 256 tokens. ModelFolderError if there is none of these, or what there is cannot be used."""
    folder = Path(folder)
    if (folder / "tokenizer.json").exists():
        return JsonTokenizer(folder / "tokenizer.json")
    if (folder / "tokenizer.model").exists():
        from tributary.text.sentencepiece_tokenizer import SentencePieceTokenizer

        return SentencePieceTokenizer(folder)
    check_folder(folder)
    if read_object_if_there(folder / "config.json").get("vocab_size") == BYTE_VOCAB:
        return ByteTokenizer()
    raise ModelFolderError(f"{folder} has neither tokenizer.json nor tokenizer.model; copy the model's into it")


SpecialTokens = dict[str, str]  # "eos_token" -> "</s>"


def special_tokens(folder: str | Path) -> SpecialTokens:
    """The names of the special tokens, as chat templates use them."""
    names: SpecialTokens = {}
    for file in ("special_tokens_map.json", "tokenizer_config.json"):
        for name, value in read_object_if_there(Path(folder) / file).items():
            if isinstance(value, dict):
                value = value.get("content")
            if name.endswith("_token") and isinstance(value, str):
                names[name] = value
    return names

