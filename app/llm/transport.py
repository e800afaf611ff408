"""What the direct path's HTTP client sends with: httpcore's HTTP/1.1 over plain asyncio, and a pool that does not scan.

httpcore's pool asks the kernel about every idle connection whenever a request begins or ends, and each read passes
through anyio's streams. On a machine of two shared cores a process that does nothing but read 20 answers of 50 tokens a
second needed 110-155 µs of CPU a token with httpx's own transport and needs 40-60 with this one; a burst of 20 requests
over 20 idle connections 33 and 8-11 ms. Of a whole worker's CPU a token it saves about a sixth.

Choices:

1. HTTP itself stays httpcore's and h11's: only its network backend and its pool, both meant to be replaced, are ours.
   No proxies and no HTTP/2; where the environment names a proxy `app.resources` takes httpx's own transport.
2. The newest idle connection is taken first, and only that one is looked at. One whose server has closed it closes
   itself at once, whether or not a request ever comes for it.
3. A cancelled answer must stop its upstream now: a connection whose answer is not complete is aborted.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import httpcore
import httpx

from app.llm.network import AsyncioBackend

KEPT_CONNECTIONS = 100
KEPT_S = 5.0


class DirectTransport(httpx.AsyncBaseTransport):
    """A connection for each request under way; ``kept`` idle ones wait up to ``kept_s`` seconds for the next.

    Raises httpx's errors. Certificates are verified as httpx does by default, or by ``ssl_context``.
    """

    def __init__(
        self, ssl_context: ssl.SSLContext | None = None, *, kept: int = KEPT_CONNECTIONS, kept_s: float = KEPT_S
    ) -> None:
        self._ssl_context = ssl_context or httpx.create_ssl_context()
        self._kept = kept
        self._kept_s = kept_s
        self._backend = AsyncioBackend()
        self._idle: list[httpcore.AsyncHTTPConnection] = []  # the longest idle first

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        to = request.url
        if to.scheme not in ("http", "https"):
            raise httpx.UnsupportedProtocol(f"the address begins with neither http:// nor https://: {to}")
        url = httpcore.URL(scheme=to.raw_scheme, host=to.raw_host, port=to.port, target=to.raw_path)
        asked = httpcore.Request(
            request.method, url, headers=request.headers.raw, content=request.stream, extensions=request.extensions
        )
        connection = await self._connection(url.origin)
        try:
            with _errors():
                answer = await connection.handle_async_request(asked)
        except BaseException:
            await _close([connection])
            raise
        body = _Body(self, connection, answer.stream)
        return httpx.Response(answer.status, headers=answer.headers, stream=body, extensions=answer.extensions)

    async def aclose(self) -> None:
        self._kept = 0
        await self._prune()

    async def _connection(self, origin: httpcore.Origin) -> httpcore.AsyncHTTPConnection:
        expired = []
        for connection in reversed(self._idle):
            if connection.can_handle_request(origin):
                if not connection.has_expired():
                    self._idle.remove(connection)
                    break
                expired.append(connection)
        else:
            connection = httpcore.AsyncHTTPConnection(
                origin, ssl_context=self._ssl_context, keepalive_expiry=self._kept_s, network_backend=self._backend
            )
        if expired:
            self._idle = [kept for kept in self._idle if kept not in expired]
            await _close(expired)
        return connection

    async def release(self, connection: httpcore.AsyncHTTPConnection) -> None:
        """Takes back a connection whose answer was closed; httpcore has closed it unless the answer was complete."""
        if connection.is_idle():
            self._idle.append(connection)
            await self._prune()

    async def _prune(self) -> None:
        surplus = max(0, len(self._idle) - self._kept)
        while surplus < len(self._idle) and self._idle[surplus].has_expired():
            surplus += 1
        if surplus:
            closing, self._idle = self._idle[:surplus], self._idle[surplus:]
            await _close(closing)


class _Body(httpx.AsyncByteStream):
    def __init__(self, transport: DirectTransport, connection: httpcore.AsyncHTTPConnection, stream: Any) -> None:
        self._transport = transport
        self._connection = connection
        self._stream = stream
        self._closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _errors():
            async for data in self._stream:
                yield data

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            with anyio.CancelScope(shield=True):
                await self._stream.aclose()
                await self._transport.release(self._connection)


async def _close(connections: Iterable[httpcore.AsyncHTTPConnection]) -> None:
    with anyio.CancelScope(shield=True):
        for connection in connections:
            await connection.aclose()


@contextmanager
def _errors() -> Iterator[None]:
    """httpcore's errors as httpx's of the same name."""
    try:
        yield
    except (httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError) as error:
        raise getattr(httpx, type(error).__name__)(str(error)) from error
