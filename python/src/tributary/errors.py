"""What can go wrong with a request, made from a gRPC status. The message is the coordinator's: it says what to do."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import grpc

from tributary.channel import KEEPALIVE_TIMEOUT_S
from tributary.v1 import rpc_status_pb2

# gRPC's words for a ping without an answer, and the system's for bytes that nobody acknowledged.
_SILENCE = re.compile(r"(ipv[46]:\S+ )?(keepalive|ping timeout|(recvmsg:)?Connection timed out)")
_RETRY_INFO = "type.googleapis.com/google.rpc.RetryInfo"
_DETAILS_KEY = "grpc-status-details-bin"


class TributaryError(Exception):
    """Base of all errors of this package."""

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_s = retry_after_s  # when the coordinator said after how long to come back


class InvalidRequestError(TributaryError):
    """The request cannot be served as it is."""


class NotFoundError(TributaryError):
    """No such request, or no such kept sequence (any more)."""


class PreconditionError(TributaryError):
    """A kept sequence cannot be continued like this."""


class OutOfRangeError(TributaryError):
    """A kept sequence may not grow that much."""


class OverloadedError(TributaryError):
    """There is no room now; `retry_after_s` says when to come back, if the coordinator knows."""


class UnavailableError(TributaryError):
    """The coordinator, or a node that the request needs, is not there or is shutting down."""


class RequestCancelledError(TributaryError):
    """Somebody cancelled the request."""


class DeadlineError(TributaryError):
    """The request's timeout is over."""


class ServerError(TributaryError):
    """The cluster failed; a fault of ours."""


_ERRORS: dict[grpc.StatusCode, type[TributaryError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequestError,
    grpc.StatusCode.UNIMPLEMENTED: InvalidRequestError,
    grpc.StatusCode.ALREADY_EXISTS: InvalidRequestError,
    grpc.StatusCode.NOT_FOUND: NotFoundError,
    grpc.StatusCode.FAILED_PRECONDITION: PreconditionError,
    grpc.StatusCode.OUT_OF_RANGE: OutOfRangeError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: OverloadedError,
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
    grpc.StatusCode.CANCELLED: RequestCancelledError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineError,
}


def _retry_after_s(metadata: Iterable[Any]) -> float | None:
    for key, value in metadata:
        if key != _DETAILS_KEY or not isinstance(value, bytes):
            continue
        details = rpc_status_pb2.RpcStatus()
        retry = rpc_status_pb2.RetryInfo()
        try:
            details.MergeFromString(value)
            for detail in details.details:
                if detail.type_url == _RETRY_INFO:
                    retry.MergeFromString(detail.value)
                    return float(retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9)
        except Exception:  # noqa: BLE001 - bytes of a foreign server; then nothing is known about a delay
            return None
    return None


def error_from_rpc(error: Any, address: str) -> TributaryError:
    """`error`: the RpcError or AioRpcError of a call to the coordinator at `address`."""
    code = error.code()
    message = error.details() or str(code)
    if code == grpc.StatusCode.UNAVAILABLE and _SILENCE.match(message):
        message = (f"the coordinator at {address} has answered nothing, not even a ping, for "
                   f"{KEEPALIVE_TIMEOUT_S} s ({message}): it stands still, its host is gone, or the network between is "
                   f"cut. Ask again once 'tributary status --coordinator {address}' answers")
    elif code == grpc.StatusCode.UNAVAILABLE:  # gRPC's own words, such as "Socket closed", name neither side
        message = f"{message} (coordinator {address}; does it still run?)"
    return _ERRORS.get(code, ServerError)(message, retry_after_s=_retry_after_s(error.trailing_metadata() or ()))


def no_coordinator(address: str, waited_s: float) -> UnavailableError:
    return UnavailableError(f"no coordinator answers at {address} after {waited_s:g} s; is the address right? "
                            "'tributary cluster up' starts a local cluster and prints its address")
