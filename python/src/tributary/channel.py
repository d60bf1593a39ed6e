"""The settings of every channel to a coordinator. They are those of the C++ client."""

from __future__ import annotations

from tributary.tls import COORDINATOR_NAME

# A channel connects again by itself, with these pauses. No keepalive: who waits for an answer of a stopped coordinator
# goes on waiting. An answer may be as long as it likes.
CHANNEL_OPTIONS: list[tuple[str, int]] = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 2000),
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),
    ("grpc.use_local_subchannel_pool", 1),
]

# A coordinator that speaks TLS is known by its role, wherever it is.
TLS_OPTIONS: list[tuple[str, int | str]] = [*CHANNEL_OPTIONS, ("grpc.ssl_target_name_override", COORDINATOR_NAME)]

CONNECT_TIMEOUT_S = 5.0
UNARY_TIMEOUT_S = 5.0
