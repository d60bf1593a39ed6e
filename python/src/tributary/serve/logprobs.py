"""Log-probabilities of tokens in the two forms that OpenAI's API has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tributary.serve.answer import TokenInfo
from tributary.text import Tokenizer

_LOWEST = -9999.0  # JSON has no infinity; OpenAI's API says this, too


def of_chat(infos: Sequence[TokenInfo], top_logprobs: int, tokenizer: Tokenizer) -> dict[str, Any]:
    return {"content": [{**_entry(info.token, info.logprob, tokenizer),
                         "top_logprobs": [_entry(token, logprob, tokenizer)
                                          for token, logprob in info.top[:top_logprobs]]}
                        for info in infos], "refusal": None}


def of_completion(infos: Sequence[TokenInfo], top_logprobs: int, tokenizer: Tokenizer) -> dict[str, Any]:
    return {
        "tokens": [_text(info.token, tokenizer) for info in infos],
        "token_logprobs": [None if info.logprob is None else max(info.logprob, _LOWEST) for info in infos],
        "top_logprobs": [None if info.logprob is None else
                         {_text(token, tokenizer): max(logprob, _LOWEST) for token, logprob in info.top[:top_logprobs]}
                         for info in infos],
        "text_offset": [info.begin for info in infos],
    }


def _entry(token: int, logprob: float | None, tokenizer: Tokenizer) -> dict[str, Any]:
    data = tokenizer.token_bytes(token)
    assert logprob is not None, "chats have no echo"
    return {"token": data.decode(errors="replace"), "logprob": max(logprob, _LOWEST), "bytes": list(data)}


def _text(token: int, tokenizer: Tokenizer) -> str:
    """A token that is a part of a character is spelled out, so that no two have the same text."""
    data = tokenizer.token_bytes(token)
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)
