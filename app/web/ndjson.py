"""Newline-delimited JSON to a client that takes it at its own pace: one object a line, flat memory.

Choices:

1. A bare ASGI app, as for the other streams: what feeds it may hold a database connection, which must not depend on
   when a generator is collected. A send that takes longer than ``send_timeout_s`` ends the answer.
2. The first lines are read before the answer starts, so that an engine that is down is still a proper 503. One that
   goes down later leaves the answer without its final chunk: the client's HTTP library reports it as cut.
3. Lines are joined into writes of about ``WRITE_BYTES``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

import anyio
import msgspec
import structlog
from litestar.types import ASGIApp, Receive, Scope, Send

from app.errors import Unavailable
from app.telemetry import Metrics
from app.web.problem import send_problem

WRITE_BYTES = 64 * 1024
CONTENT_TYPE = b"application/x-ndjson"

log = structlog.get_logger(__name__)


def ndjson(
    rows: Callable[[], AsyncIterator[Any]], *, send_timeout_s: float, metrics: Metrics, filename: str
) -> ASGIApp:
    """An ASGI app that sends each of ``rows()`` as a line. The iterator is made and closed by the app itself."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        blocks = _blocks(rows())
        async with aclosing(blocks):
            try:
                first = await anext(blocks, b"")
            except Unavailable as error:
                await send_problem(error, scope, send, metrics)
                return
            headers = [
                (b"content-type", CONTENT_TYPE),
                (b"content-disposition", f'attachment; filename="{filename}"'.encode()),
                (b"cache-control", b"no-store"),
            ]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            try:
                await _send(send, first, send_timeout_s)
                async for block in blocks:
                    await _send(send, block, send_timeout_s)
            except (Unavailable, TimeoutError, OSError) as error:
                log.warning("export.cut", reason=type(error).__name__)
                return
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    return app


async def _send(send: Send, block: bytes, seconds: float) -> None:
    with anyio.fail_after(seconds):
        await send({"type": "http.response.body", "body": block, "more_body": True})


async def _blocks(rows: AsyncIterator[Any]) -> Any:
    """Lines joined; the iterator is closed with us where it can be."""
    lines, size = [], 0
    try:
        async for row in rows:
            line = msgspec.json.encode(row)
            lines.append(line)
            size += len(line)
            if size >= WRITE_BYTES:
                yield b"\n".join(lines) + b"\n"
                lines, size = [], 0
        if lines:
            yield b"\n".join(lines) + b"\n"
    finally:
        close = getattr(rows, "aclose", None)
        if close is not None:
            await close()
