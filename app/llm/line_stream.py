"""Mends for what litellm reads with httpx: line ends that are none, and answers that have no end.

`httpx.Response.aiter_lines` splits where `str.splitlines` does, so also at U+0085, U+2028 and U+2029, which may stand
raw in JSON text. In a JSON string the character and its escape mean the same, and nowhere else in a stream of
events can one stand: `LineStream` escapes them on the way in. `BoundedStream` keeps a provider that never ends a line,
or an error's text, from filling the memory.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from time import monotonic
from typing import Any

import anyio.lowlevel
import httpx

from app.llm.failures import failed

_ESCAPES = ((b"\xe2\x80\xa8", rb"\u2028"), (b"\xe2\x80\xa9", rb"\u2029"), (b"\xc2\x85", rb"\u0085"))
_BEGINNINGS = (b"\xe2\x80", b"\xe2", b"\xc2")


class LineStream(httpx.AsyncByteStream):
    """The bytes of ``stream`` with the three characters escaped, wherever its reads end."""

    def __init__(self, stream: httpx.AsyncByteStream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        rest = b""
        async for read in self._stream:
            data = rest + read
            rest = next((b for b in _BEGINNINGS if data.endswith(b)), b"")
            data = data[: len(data) - len(rest)]
            for raw, escape in _ESCAPES:
                if raw in data:
                    data = data.replace(raw, escape)
            if data:
                yield data
        if rest:
            yield rest

    async def aclose(self) -> None:
        await self._stream.aclose()


def keep_lines_whole(handler: type[Any]) -> None:
    """Make every client that litellm's ``AsyncHTTPHandler`` creates from now on read event streams this way."""
    create = handler.create_client
    if getattr(create, "keeps_lines_whole", False):
        return

    def create_client(*args: Any, **kwargs: Any) -> httpx.AsyncClient:
        client: httpx.AsyncClient = create(*args, **kwargs)
        client.headers["accept-encoding"] = "identity"
        client.event_hooks["response"].append(_mend)
        return client

    create_client.keeps_lines_whole = True  # type: ignore[attr-defined]
    handler.create_client = create_client


async def _mend(response: httpx.Response) -> None:
    is_events = response.headers.get("content-type", "").startswith("text/event-stream")
    if is_events and "content-encoding" not in response.headers:
        assert isinstance(response.stream, httpx.AsyncByteStream)
        response.stream = LineStream(response.stream)


PIECE_BYTES = 4_096
TURN_S = 0.002
"""How long what has arrived already may keep everything else waiting: litellm takes 64 KB of chunks without a pause,
half a second, and a few such reads took a worker's heartbeat."""

MOST_UNBROKEN_BYTES = 8_000_000
MOST_ERROR_BYTES = 1_000_000


class BoundedStream(httpx.AsyncByteStream):
    """The bytes of ``stream``, in small pieces between which the rest of the process has its turn.

    Raises UpstreamFailed past 8 MB without a line's end, and past ``most`` in all.
    """

    def __init__(self, stream: httpx.AsyncByteStream, most: float) -> None:
        self._stream = stream
        self._most = most

    async def __aiter__(self) -> AsyncIterator[bytes]:
        unbroken = size = 0
        ran_from = monotonic()
        async for read in self._stream:
            end = read.rfind(b"\n")
            unbroken = unbroken + len(read) if end < 0 else len(read) - end - 1
            size += len(read)
            if unbroken > MOST_UNBROKEN_BYTES or size > self._most:
                raise failed("the upstream sent more than can be read")
            for start in range(0, len(read), PIECE_BYTES):
                yield read[start : start + PIECE_BYTES]
                if monotonic() - ran_from > TURN_S:
                    await anyio.lowlevel.checkpoint()
                    ran_from = monotonic()

    async def aclose(self) -> None:
        await self._stream.aclose()


def bound_responses(owner: type[Any], name: str) -> None:
    """Make every client that ``owner``'s method creates from now on read responses through a `BoundedStream`."""
    create = getattr(owner, name)
    if getattr(create, "bounds_responses", False):
        return

    def create_client(*args: Any, **kwargs: Any) -> httpx.AsyncClient:
        client: httpx.AsyncClient = create(*args, **kwargs)
        client.event_hooks["response"].append(_bound)
        return client

    create_client.bounds_responses = True  # type: ignore[attr-defined]
    create_client.keeps_lines_whole = True  # type: ignore[attr-defined]
    static = isinstance(owner.__dict__[name], staticmethod)
    setattr(owner, name, staticmethod(create_client) if static else create_client)


async def _bound(response: httpx.Response) -> None:
    assert isinstance(response.stream, httpx.AsyncByteStream)
    response.stream = BoundedStream(response.stream, float("inf") if response.is_success else MOST_ERROR_BYTES)
