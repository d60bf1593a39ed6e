"""What an operator may set; flags.py has the flags."""

from __future__ import annotations

from dataclasses import dataclass

from tributary.tls import Tls

DEFAULT_MAX_TOKENS = 1024


@dataclass(frozen=True, kw_only=True)
class Settings:
    max_body_bytes: int = 64 << 20
    max_bodies_bytes: int = 256 << 20  # of all requests that are being read and made into prompts
    body_timeout_s: float = 60.0  # a body that takes longer to come is not waited for
    connect_timeout_s: float = 5.0  # to the coordinator
    tls: Tls | None = None  # towards the coordinator
    max_running: int = 64  # answers that the coordinator works on for this server
    max_waiting: int = 1024  # answers that wait here for one of those places
    # Of a chat that does not say; memory for them is reserved. None: what the model folder says, else 1024.
    default_max_tokens: int | None = None
    max_choices: int = 64  # prompts x n of one request
    max_kept_chats: int = 16  # 0: no chat is kept after its answer
    keep_s: float = 300.0
    patience_s: float = 0.05  # a request that waits longer for a place or memory gets that of a kept chat
    keep_room_tokens: int = 2048  # what is reserved for the later turns of a kept chat
