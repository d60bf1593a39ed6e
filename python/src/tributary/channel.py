"""The settings of every channel to a coordinator. They are those of the C++ client."""

from __future__ import annotations

from tributary.tls import COORDINATOR_NAME

# A channel connects again by itself, with these pauses; an attempt may take as long as the smallest of a coordinator's
# deadlines. One that stops answering is given up after KEEPALIVE_INTERVAL_S and KEEPALIVE_TIMEOUT_S; one that stands
# still for less (a paused process, a virtual machine that moves) is waited for. An answer may be as long as it likes.
KEEPALIVE_INTERVAL_S = 10
KEEPALIVE_TIMEOUT_S = 20

CHANNEL_OPTIONS: list[tuple[str, int]] = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 5000),
    ("grpc.max_reconnect_backoff_ms", 2000),
    ("grpc.keepalive_time_ms", KEEPALIVE_INTERVAL_S * 1000),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_S * 1000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),
    ("grpc.use_local_subchannel_pool", 1),
]

# A coordinator that speaks TLS is known by its role, wherever it is.
TLS_OPTIONS: list[tuple[str, int | str]] = [*CHANNEL_OPTIONS, ("grpc.ssl_target_name_override", COORDINATOR_NAME)]

CONNECT_TIMEOUT_S = 5.0
UNARY_TIMEOUT_S = 5.0
