"""The synchronous client of a coordinator. tributary.aio has the same for asyncio."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any

import grpc

from tributary.channel import CHANNEL_OPTIONS, CONNECT_TIMEOUT_S, TLS_OPTIONS
from tributary.errors import ServerError, error_from_rpc, no_coordinator
from tributary.events import Accepted, Event, Summary, Tokens, event_from_proto
from tributary.request import GenerateRequest
from tributary.status import ClusterStatus, status_from_proto
from tributary.tls import Tls
from tributary.v1 import coordinator_pb2, coordinator_pb2_grpc


class Generation:
    """An answer under way: iterate over it, once. Leaving it early (cancel(), or the with-block) ends the sequence."""

    def __init__(self, call: Any, address: str) -> None:
        self._call = call
        self._address = address
        self.request_id = ""  # known from the first event on
        self.summary: Summary | None = None  # known when the iteration has ended

    def __iter__(self) -> Iterator[Event]:
        try:
            for message in self._call:
                event = event_from_proto(message)
                if isinstance(event, Accepted):
                    self.request_id = event.request_id
                elif isinstance(event, Summary):
                    self.summary = event
                yield event
        except grpc.RpcError as error:
            raise error_from_rpc(error, self._address) from None
        if self.summary is None:
            raise ServerError(f"the coordinator at {self._address} ended the stream without a summary")

    def tokens(self) -> Iterator[int]:
        """The tokens of the answer alone."""
        for event in self:
            if isinstance(event, Tokens):
                yield from event.tokens

    def cancel(self) -> None:
        """Ends the sequence and frees its KV. From any thread; nothing happens once the answer has ended."""
        self._call.cancel()

    def __enter__(self) -> Generation:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.cancel()


class Client:
    """One connection to the coordinator at `address` (host:port), made on first use and made again when it breaks.

    With `tls` it proves to the coordinator who it is, and asks the same of it; ValueError if the files are not right.

    Safe from any thread. Each call waits up to `connect_timeout_s` for the coordinator to be there; one
    that breaks off half-way is an UnavailableError and not sent again, since its tokens may have been seen.
    """

    def __init__(self, address: str, *, connect_timeout_s: float = CONNECT_TIMEOUT_S, tls: Tls | None = None) -> None:
        self.address = address
        self._connect_timeout_s = connect_timeout_s
        self._channel = (grpc.insecure_channel(address, options=CHANNEL_OPTIONS) if tls is None else
                         grpc.secure_channel(address, tls.credentials(), options=TLS_OPTIONS))
        self._stub = coordinator_pb2_grpc.CoordinatorStub(self._channel)

    def generate(self, prompt_tokens: Sequence[int] | GenerateRequest, *, timeout_s: float | None = None,
                 **fields: Any) -> Generation:
        """Asks for an answer to `prompt_tokens`; `fields` are the others of GenerateRequest.

        Errors come while iterating: InvalidRequestError, OverloadedError, UnavailableError, DeadlineError after
        timeout_s, ... (tributary.errors).
        """
        request = as_request(prompt_tokens, fields).to_proto()
        self._wait_for_connection()
        return Generation(self._stub.Generate(request, timeout=timeout_s), self.address)

    def cancel(self, request_id: str) -> None:
        """Ends a running request or a kept sequence of any client. NotFoundError if there is none of that name."""
        self._unary(self._stub.Cancel, coordinator_pb2.CancelRequest(request_id=request_id))

    def status(self) -> ClusterStatus:
        return status_from_proto(self._unary(self._stub.Status, coordinator_pb2.StatusRequest()))

    def close(self) -> None:
        """Ends all its requests."""
        self._channel.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()

    def _unary(self, method: Any, request: Any) -> Any:
        try:
            return method(request, timeout=self._connect_timeout_s, wait_for_ready=True)
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
                raise no_coordinator(self.address, self._connect_timeout_s) from None
            raise error_from_rpc(error, self.address) from None

    def _wait_for_connection(self) -> None:
        """By a call that costs nothing: watching the channel's state takes a thread of its own, which outlives it."""
        self._unary(self._stub.Status, coordinator_pb2.StatusRequest())


def as_request(prompt_tokens: Sequence[int] | GenerateRequest, fields: dict[str, Any]) -> GenerateRequest:
    if isinstance(prompt_tokens, GenerateRequest):
        if fields:
            raise TypeError(f"{', '.join(fields)} beside a GenerateRequest; put them into it")
        return prompt_tokens
    return GenerateRequest(prompt_tokens=prompt_tokens, **fields)
