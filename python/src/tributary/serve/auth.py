"""API keys: a file with one key a line."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from pathlib import Path

from tributary.serve.errors import ApiError


class ApiKeys:
    """Compares in constant time: each key with what was sent, by their hashes. Without keys everybody may come in."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._digests = [_digest(key) for key in keys]

    def check(self, authorization: str | None) -> str:
        """Whose request it is: a name that is not the key, "" without keys. ApiError 401."""
        if not self._digests:
            return ""
        scheme, _, sent = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not sent.strip():
            raise ApiError(401, "no API key; send it as 'Authorization: Bearer KEY'", code="invalid_api_key")
        digest = _digest(sent.strip())
        found = ""
        for known in self._digests:
            if hmac.compare_digest(known, digest):
                found = known.hex()[:16]
        if not found:
            raise ApiError(401, "this API key is not known here", code="invalid_api_key")
        return found


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode(errors="surrogateescape")).digest()


def load_api_keys(path: Path) -> ApiKeys:
    """Blank lines and those that begin with # are skipped. ValueError if no key is left, or the file cannot be read."""
    try:
        lines = [line.strip() for line in path.read_text().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read the API keys in {path}: {error}") from None
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys:
        raise ValueError(f"{path} has no API key; write one a line, or leave --api-key-file out to let everybody in")
    return ApiKeys(keys)
