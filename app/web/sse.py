"""Open streams: bytes from a source to a client for as long as both last, whatever the client does.

Choices:

1. A stream is a bare ASGI handler that awaits the disconnect beside its write loop. A stalled client that vanishes is
   only seen by the former, and leaving the handler is what closes its socket. Nothing rests on a generator's
   ``finally``: with such a client it stayed unrun for minutes.
2. Where the server's ``receive()`` is a future (Granian's is) the disconnect is a callback on it. A task group for it
   costs 6 KB an idle observer, a fifth of all it may take. Other servers get the task.
3. One watchdog per process bounds every send and finds the streams that have been silent: a timer per send would cost
   more than the send.
4. While a client keeps up, what comes is written from where it was read, not by the stream's task (see `push`).
5. A stream ends cleanly with its final chunk; a source that must not look complete (plain text cut short) is left
   without it, so that the client's own HTTP library reports the cut.
"""

from __future__ import annotations

from asyncio import Future, isfuture
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from time import monotonic
from typing import Any, Protocol

import anyio
import structlog
from anyio.abc import TaskStatus
from litestar.types import ASGIApp, Receive, Scope, Send

from app.errors import Unavailable
from app.telemetry import Metrics
from app.web.shell import WIRE

RETRY = b"retry: 1000\n\n"
AWAY = b"retry: 3000\n\n: not now, come back\n\n"
"""The whole answer to an observer that cannot be served now: EventSource gives up for good on anything but 200."""

PING = b": ping\n\n"
HEADERS = [(b"cache-control", b"no-store"), (b"x-accel-buffering", b"no")]
EVENT_STREAM = b"text/event-stream; charset=utf-8"
DRAIN_SEND_S = 2.0
"""How long a write may still take when the process is stopping."""

logger = structlog.get_logger(__name__)


class Source(Protocol):
    """What a stream writes. ``cut`` says, once over, that it must not look complete."""

    @property
    def over(self) -> bool: ...

    @property
    def cut(self) -> bool: ...

    async def read(self) -> bytes:
        """What is ready now; empty when nothing is, or when it is over. Raises Unavailable."""

    @property
    def pushed_at(self) -> float:
        """When it last wrote by itself, ``time.monotonic()``; 0 for never."""

    async def wait(self) -> Awaitable[Any] | None:
        """Returns when there may be something to read, or after `ring`, perhaps with a write to be awaited first.

        Raises Unavailable.
        """

    def ring(self) -> None:
        """Ends a `wait`."""

    def push_to(self, send: Send) -> None:
        """Its server takes what there is room for at once: while a `wait` lasts the source may write there itself."""

    def close(self) -> None: ...


class Writer(Protocol):
    """One open connection as the watchdog sees it."""

    sending_since: float
    ping_due: bool
    scope: anyio.CancelScope

    @property
    def sent_at(self) -> float: ...

    def ring(self) -> None: ...


class Streams:
    """Every open stream of this process."""

    def __init__(self, ping_s: float, send_timeout_s: float, metrics: Metrics, most_of_a_key: int = 1_000) -> None:
        self.ping_s = ping_s
        self._most_of_a_key = most_of_a_key
        self._of_keys: Counter[str] = Counter()
        self.send_timeout_s = send_timeout_s
        self.metrics = metrics
        self.draining = False
        self.open: set[Writer] = set()

    def __len__(self) -> int:
        return len(self.open)

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """The watchdog: lets go of clients that do not take what they are sent, has silent streams pinged."""
        task_status.started()
        while True:
            await anyio.sleep(min(1.0, self.ping_s / 4, self.send_timeout_s / 4))
            now = monotonic()
            longest = min(DRAIN_SEND_S, self.send_timeout_s) if self.draining else self.send_timeout_s
            for writer in self.open:
                if writer.sending_since:
                    if now - writer.sending_since > longest:
                        self.metrics.slow_observers.inc()
                        writer.sending_since = 0.0
                        writer.scope.cancel()
                elif now - writer.sent_at >= self.ping_s:
                    writer.ping_due = True
                    writer.ring()

    def drain(self) -> None:
        """The process is stopping: from here on a write that hangs is not waited for. Sources end by themselves."""
        self.draining = True
        for writer in self.open:
            writer.ring()

    @contextmanager
    def place(self, scope: Scope) -> Iterator[bool]:
        """A place among the streams of the request's key, for the time of the block; False where none is left."""
        bearer = scope["state"].get("bearer")
        if bearer is None or bearer.root:
            yield True
            return
        if self._of_keys[bearer.key_id] >= self._most_of_a_key:
            yield False
            return
        self._of_keys[bearer.key_id] += 1
        try:
            yield True
        finally:
            self._of_keys[bearer.key_id] -= 1
            if not self._of_keys[bearer.key_id]:
                del self._of_keys[bearer.key_id]

    def enter(self, writer: Writer, kind: str) -> None:
        """Has the writer watched until it leaves."""
        self.open.add(writer)
        self.metrics.observers.labels(kind).inc()

    def leave(self, writer: Writer, kind: str) -> None:
        self.open.discard(writer)
        self.metrics.observers.labels(kind).dec()

    def response(
        self,
        open_source: Callable[[], Source],
        *,
        kind: str = "stream",
        content_type: bytes = EVENT_STREAM,
        first: bytes = RETRY,
        ping: bytes = PING,
    ) -> ASGIApp:
        """An ASGI app that answers 200, writes a source to its end and closes it.

        The source is opened by the app itself: one opened earlier would stay behind if the app were never called.
        """

        opening = [open_source]

        async def stream(scope: Scope, receive: Receive, send: Send) -> None:
            with self.place(scope) as free:
                if not free:
                    await turn_away(scope, receive, send)
                    return
                try:
                    source = opening.pop()()  # not kept: what it needed to open would be held as long as the stream
                except Unavailable:
                    await turn_away(scope, receive, send)
                    return
                wire: Send = scope["state"][WIRE]
                await _Connection(self, source, wire, first, ping).run(send, receive, kind, content_type)

        return stream


class _Connection:
    """One client and its source."""

    __slots__ = (
        "_first",
        "_ping",
        "_receive",
        "_send",
        "_sent_at",
        "_source",
        "_streams",
        "ping_due",
        "scope",
        "sending_since",
    )

    def __init__(self, streams: Streams, source: Source, send: Send, first: bytes, ping: bytes) -> None:
        self._streams = streams
        self._source = source
        self._send = send
        self._first = first
        self._ping = ping
        self.scope = anyio.CancelScope()
        self.sending_since = 0.0
        self.ping_due = False
        self._sent_at = monotonic()

    @property
    def sent_at(self) -> float:
        return max(self._sent_at, self._source.pushed_at)

    def ring(self) -> None:
        self._source.ring()

    async def run(self, start: Send, receive: Receive, kind: str, content_type: bytes) -> None:
        """``start`` begins the response past everybody who wants to know; the bodies go straight to the server."""
        self._streams.enter(self, kind)
        try:
            with self.scope:
                event = receive()
                if isfuture(event):
                    self._listen(receive, event)
                    self._source.push_to(self._send)
                    await self._write(start, content_type)
                else:
                    async with anyio.create_task_group() as group:
                        group.start_soon(self._await_disconnect, receive, event)
                        await self._write(start, content_type)
                        group.cancel_scope.cancel()
        finally:
            self._source.close()
            self._streams.leave(self, kind)

    def _listen(self, receive: Receive, event: Future[Any]) -> None:
        """Has the disconnect leave the stream, without a task of its own (choice 2)."""
        self._receive = receive
        event.add_done_callback(self._heard)

    def _heard(self, event: Future[Any]) -> None:
        if event.cancelled() or event.exception() or event.result()["type"] == "http.disconnect":
            self.scope.cancel()
        else:
            self._listen(self._receive, self._receive())  # type: ignore[arg-type]  # once a future, always one

    async def _await_disconnect(self, receive: Receive, event: Awaitable[Any]) -> None:
        while (await event)["type"] != "http.disconnect":
            event = receive()
        self.scope.cancel()

    async def _write(self, start: Send, content_type: bytes) -> None:
        source = self._source
        headers = [(b"content-type", content_type), *HEADERS]
        await start({"type": "http.response.start", "status": 200, "headers": headers})
        # even when empty: Granian sends the headers with the first body, and a response that never had one as complete
        await self._put(self._first)
        with suppress(Unavailable):  # resumable: the client comes back with its cursor
            await self._write_all(source)
        if not source.cut:
            await self._put(b"", more=False)

    async def _write_all(self, source: Source) -> None:
        while True:
            data = await source.read()
            if data:
                await self._put(data)
            elif source.over:
                return
            elif self.ping_due:
                self.ping_due = False
                if self._ping:
                    await self._put(self._ping)
            else:
                unsent = await source.wait()
                if unsent is not None:
                    await self._sent(unsent)

    async def _put(self, data: bytes, *, more: bool = True) -> None:
        await self._sent(self._send({"type": "http.response.body", "body": data, "more_body": more}))

    async def _sent(self, sending: Awaitable[Any]) -> None:
        self.sending_since = monotonic()
        await sending
        self.sending_since = 0.0
        self._sent_at = monotonic()


async def turn_away(scope: Scope, receive: Receive, send: Send) -> None:
    """The answer to an observer that cannot be served now: it comes back in three seconds."""
    headers = [(b"content-type", EVENT_STREAM), *HEADERS]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": AWAY, "more_body": False})
