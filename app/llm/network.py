"""Connections of plain asyncio for httpcore: its network backend without anyio's streams in between.

Choices:

1. Closing aborts: what was not sent or read is dropped, TLS says no goodbye, and the socket is closed within one turn
   of the loop.
2. A request's head waits for its body: one system call, one packet.
3. All connections read into one buffer: the loop fills it and hands it over in the same step, and what was read is
   copied. asyncio by itself allocates 256 KB for every read.
"""

from __future__ import annotations

import asyncio
import select
import ssl
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import anyio
import httpcore

STAGGER_S = 0.25
"""A host with several addresses is tried at the next one after this long; a host with one costs nothing more."""

READ_BYTES = 65_536
UNREAD_BYTES = 262_144
"""What may wait unread before the peer is made to wait."""


class AsyncioBackend(httpcore.AsyncNetworkBackend):
    """TCP and TLS on the running loop; socket options and local addresses are not taken."""

    def __init__(self) -> None:
        self._input = memoryview(bytearray(READ_BYTES))

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> _Stream:
        loop = asyncio.get_running_loop()
        with _connecting(), anyio.fail_after(timeout):
            _, stream = await loop.create_connection(
                lambda: _Stream(self._input), host, port, happy_eyeballs_delay=STAGGER_S
            )
        return stream


@contextmanager
def _connecting() -> Iterator[None]:
    try:
        yield
    except TimeoutError as error:
        raise httpcore.ConnectTimeout(str(error)) from error
    except (OSError, UnicodeError) as error:  # TLS errors are OSErrors, a name that is none is a UnicodeError
        raise httpcore.ConnectError(str(error)) from error


class _Stream(asyncio.BufferedProtocol, httpcore.AsyncNetworkStream):
    """One connection, with at most one reader and one writer at a time."""

    def __init__(self, shared_input: memoryview) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._input = shared_input
        self._unread = b""
        self._held = b""
        self._ended = False
        self._lost = False
        self._paused = False
        self._full = False
        self._error: Exception | None = None
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._input

    def buffer_updated(self, nbytes: int) -> None:
        self._unread += bytes(self._input[:nbytes])
        if len(self._unread) > UNREAD_BYTES:
            self._paused = True
            self._transport.pause_reading()
        _wake(self._reader)

    def eof_received(self) -> None:
        self._ended = True
        _wake(self._reader)

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = self._ended = True
        self._error = exc
        _wake(self._reader)
        _wake(self._writer)

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        _wake(self._writer)

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if self._held and not self._transport.is_closing():
            self._transport.write(self._held)
            self._held = b""
        if not self._unread and not self._ended:
            self._reader = self._loop.create_future()
            try:
                if timeout is None:
                    await self._reader
                else:
                    with anyio.fail_after(timeout):
                        await self._reader
            except TimeoutError as error:
                raise httpcore.ReadTimeout(str(error)) from error
        if not self._unread and self._error is not None:
            raise httpcore.ReadError(str(self._error)) from self._error
        data, self._unread = self._unread[:max_bytes], self._unread[max_bytes:]
        if self._paused and len(self._unread) <= UNREAD_BYTES:
            self._paused = False
            self._transport.resume_reading()
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        if self._transport.is_closing():
            raise httpcore.WriteError("the connection is closed")
        if buffer and not self._held:
            self._held = buffer  # until the next write, an empty one too, or the next read
            return
        self._transport.write(self._held + buffer)
        self._held = b""
        if not self._full:
            return
        self._writer = self._loop.create_future()
        try:
            with anyio.fail_after(timeout):
                await self._writer
        except TimeoutError as error:
            raise httpcore.WriteTimeout(str(error)) from error
        if self._full:
            raise httpcore.WriteError("the connection was lost")

    async def aclose(self) -> None:
        if not self._lost:  # asyncio cannot abort what has closed by itself
            self._transport.abort()
        await asyncio.sleep(0)

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> _Stream:
        with _connecting(), anyio.fail_after(timeout):  # the loop closes the connection when this fails
            secure = await self._loop.start_tls(self._transport, self, ssl_context, server_hostname=server_hostname)
        self._transport = cast(asyncio.Transport, secure)
        return self

    def get_extra_info(self, info: str) -> Any:
        if info == "is_readable":
            return self._ended or bool(self._unread) or self._transport.is_closing() or self._has_input()
        names = {"server_addr": "peername", "client_addr": "sockname"}
        return self._transport.get_extra_info(names.get(info, info))

    def _has_input(self) -> bool:
        """Whether the kernel knows what a busy loop has not seen yet: the peer's end."""
        poll = select.poll()
        poll.register(self._transport.get_extra_info("socket"), select.POLLIN)
        return bool(poll.poll(0))


def _wake(future: asyncio.Future[None] | None) -> None:
    if future is not None and not future.done():
        future.set_result(None)
