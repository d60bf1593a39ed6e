"""The client of a coordinator for asyncio; tributary.client has the words about each method."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from types import TracebackType
from typing import Any

import grpc
import grpc.aio

from tributary.channel import CHANNEL_OPTIONS, CONNECT_TIMEOUT_S, TLS_OPTIONS, UNARY_TIMEOUT_S
from tributary.client import as_request
from tributary.errors import ServerError, error_from_rpc, no_coordinator
from tributary.events import Accepted, Event, Summary, Tokens, event_from_proto
from tributary.request import GenerateRequest
from tributary.status import ClusterStatus, status_from_proto
from tributary.tls import Tls
from tributary.v1 import coordinator_pb2, coordinator_pb2_grpc


class Generation:
    """An answer under way: iterate over it, once. A task that is cancelled while it iterates ends the sequence."""

    def __init__(self, call: Any, address: str) -> None:
        self._call = call
        self._address = address
        self.request_id = ""
        self.summary: Summary | None = None

    async def __aiter__(self) -> AsyncGenerator[Event, None]:
        try:
            async for message in self._call:
                event = event_from_proto(message)
                if isinstance(event, Accepted):
                    self.request_id = event.request_id
                elif isinstance(event, Summary):
                    self.summary = event
                yield event
        except grpc.RpcError as error:
            raise error_from_rpc(error, self._address) from None
        finally:
            self._call.cancel()
        if self.summary is None:
            raise ServerError(f"the coordinator at {self._address} ended the stream without a summary")

    async def tokens(self) -> AsyncIterator[int]:
        async for event in self:
            if isinstance(event, Tokens):
                for token in event.tokens:
                    yield token

    def cancel(self) -> None:
        self._call.cancel()

    async def __aenter__(self) -> Generation:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None,
                        trace: TracebackType | None) -> None:
        self.cancel()


class Client:
    """For one event loop: make it inside the loop that uses it."""

    def __init__(self, address: str, *, connect_timeout_s: float = CONNECT_TIMEOUT_S, tls: Tls | None = None) -> None:
        self.address = address
        self._connect_timeout_s = connect_timeout_s
        self._channel = (grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS) if tls is None else
                         grpc.aio.secure_channel(address, tls.credentials(), options=TLS_OPTIONS))
        self._stub = coordinator_pb2_grpc.CoordinatorStub(self._channel)

    async def generate(self, prompt_tokens: Sequence[int] | GenerateRequest, *, timeout_s: float | None = None,
                       **fields: Any) -> Generation:
        request = as_request(prompt_tokens, fields).to_proto()
        await self._wait_for_connection()
        return Generation(self._stub.Generate(request, timeout=timeout_s), self.address)

    async def cancel(self, request_id: str) -> None:
        await self._unary(self._stub.Cancel, coordinator_pb2.CancelRequest(request_id=request_id))

    async def status(self) -> ClusterStatus:
        return status_from_proto(await self._unary(self._stub.Status, coordinator_pb2.StatusRequest()))

    async def close(self) -> None:
        await self._channel.close()

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None,
                        trace: TracebackType | None) -> None:
        await self.close()

    async def _unary(self, method: Any, request: Any) -> Any:
        await self._wait_for_connection()
        try:
            return await method(request, timeout=UNARY_TIMEOUT_S)
        except grpc.RpcError as error:
            raise error_from_rpc(error, self.address) from None

    async def _wait_for_connection(self) -> None:
        if self._channel.get_state(try_to_connect=True) == grpc.ChannelConnectivity.READY:
            return
        try:
            await asyncio.wait_for(self._channel.channel_ready(), self._connect_timeout_s)
        except asyncio.TimeoutError:
            raise no_coordinator(self.address, self._connect_timeout_s) from None
