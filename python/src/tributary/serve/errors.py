"""Errors in the form that OpenAI's clients expect: a status, and {"error": {message, type, param, code}}."""

from __future__ import annotations

import math
from typing import Any

from starlette.responses import JSONResponse

from tributary import errors as rpc

Headers = dict[str, str]


class ApiError(Exception):
    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None,
                 retry_after_s: float | None = None, closes: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.retry_after_s = retry_after_s
        self.closes = closes  # the connection: the rest of the body is not wanted

    def body(self) -> dict[str, Any]:
        return {"error": {"message": self.message, "type": _TYPES.get(self.status, "invalid_request_error"),
                          "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        return JSONResponse(self.body(), self.status, headers=self.headers())

    def headers(self) -> Headers:
        headers: Headers = {}
        if self.retry_after_s is not None:
            headers["Retry-After"] = str(max(1, math.ceil(self.retry_after_s)))
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        if self.closes:
            headers["Connection"] = "close"
        return headers


_TYPES = {401: "authentication_error", 429: "rate_limit_error", 500: "server_error", 503: "server_error",
          504: "server_error"}

RETRY_AFTER_S = 1.0  # when nobody knows better


def bad_request(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    return ApiError(400, message, param=param, code=code)


def from_rpc(error: rpc.TributaryError) -> ApiError:
    """What a client is told about an error of the cluster."""
    retry = error.retry_after_s if error.retry_after_s is not None else RETRY_AFTER_S
    if isinstance(error, rpc.OverloadedError):
        if error.retry_after_s is None:  # it would not fit into an empty cluster either
            return ApiError(400, error.message, code="too_large")
        return ApiError(429, error.message, code="overloaded", retry_after_s=retry)
    if isinstance(error, rpc.InvalidRequestError):
        return ApiError(400, error.message)
    if isinstance(error, (rpc.UnavailableError, rpc.RequestCancelledError)):
        return ApiError(503, error.message, code="unavailable", retry_after_s=retry)
    if isinstance(error, rpc.DeadlineError):
        return ApiError(504, error.message, code="timeout")
    return ApiError(500, error.message)
