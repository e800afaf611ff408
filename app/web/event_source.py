"""Slow streams of small events, served by sse-starlette: the feed's, an integration's. The only place that imports that
library (importing it patches uvicorn where that is installed).

What a reader holds is released by the handler, not by the generator the library iterates: a generator's ``finally``
runs when the library gets to it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator

from litestar.types import ASGIApp, Receive, Scope, Send
from sse_starlette.event import ServerSentEvent
from sse_starlette.sse import EventSourceResponse, SendTimeoutError

from app.web.sse import Streams, turn_away

PIECE_BYTES = 65_536
"""What is handed to a client in one write, one event at least."""


def pieces(frames: Iterable[bytes]) -> Iterator[bytes]:
    """The frames, joined to what is written at once."""
    parts: list[bytes] = []
    size = 0
    for frame in frames:
        parts.append(frame)
        size += len(frame)
        if size >= PIECE_BYTES:
            yield b"".join(parts)
            parts, size = [], 0
    if parts:
        yield b"".join(parts)


def event_source(written: AsyncIterator[bytes], streams: Streams, kind: str, close: Callable[[], None]) -> ASGIApp:
    """Serves what is ``written`` to its end and then calls ``close``; ``kind`` is the gauge's name for it."""

    async def stream(scope: Scope, receive: Receive, send: Send) -> None:
        response = EventSourceResponse(
            written,
            ping=streams.ping_s,
            sep="\n",
            ping_message_factory=lambda: ServerSentEvent(comment="ping", sep="\n"),
            send_timeout=streams.send_timeout_s,
        )
        try:
            with streams.place(scope) as free, streams.metrics.observing(kind):
                await (response if free else turn_away)(scope, receive, send)  # type: ignore[arg-type]
        except SendTimeoutError:
            streams.metrics.slow_observers.inc()
        finally:
            close()

    return stream
