"""Observing over a WebSocket: the same events, one ``data`` object a text frame; ``{"type": "cancel"}`` cancels.

A browser cannot read the status of a refused handshake, so every refusal is accepted first and then closed with
4000 + the HTTP status, the error's code and message as the reason. The end of the message closes with 1000, a stopping
process with 1001.
"""

from __future__ import annotations

from time import monotonic
from typing import Any, Protocol

import anyio
import msgspec
from litestar import WebSocket, websocket
from litestar.handlers import WebsocketRouteHandler
from litestar.params import FromPath

from app.chat.events import Entry, data_of, gap_data
from app.chat.lifecycle import missing
from app.chat.message import Message
from app.chat.observer import Gap, Reader
from app.chat.past import observe
from app.errors import Conflict, RateLimited, RepriseError, Unavailable
from app.web.guard import Gate
from app.web.observe import Observing, parse_cursor
from app.web.sse import Streams

DONE, AWAY = 1000, 1001
REFUSED = 4000
PING = '{"type":"ping"}'
MAX_COMMAND_BYTES = 4_096
MAX_REASON_BYTES = 123
"""What a close frame holds beside its code (RFC 6455, 5.5)."""

Socket = WebSocket[Any, Any, Any]


class _Command(msgspec.Struct):
    type: str = ""


class SocketSource(Protocol):
    """What a WebSocket tells of. ``scope_to_cancel``: what a key needs for it."""

    scope_to_cancel: str

    @property
    def over(self) -> bool: ...

    async def read(self) -> list[str]:
        """What is ready now, one text a frame; none when nothing is, or when it is over. Raises Unavailable."""

    async def wait(self) -> None:
        """Returns when there may be something to read, or after `ring`."""

    def ring(self) -> None:
        """Ends a `wait`."""

    async def cancel(self) -> None:
        """Cancels what is told of. Raises Conflict when it has ended."""

    def end(self) -> tuple[int, str]:
        """The close code and reason, once it is over."""

    def close(self) -> None: ...


class MessageSource:
    """The events of a message."""

    scope_to_cancel = "messages:write"

    def __init__(self, door: Observing, observer: Reader[list[Entry]]) -> None:
        self._door = door
        self._observer = observer

    @property
    def over(self) -> bool:
        return self._observer.over

    async def read(self) -> list[str]:
        got = await self._observer.read()
        return [] if got is None else _texts(got)

    async def wait(self) -> None:
        self._observer.watch()
        await self._observer.bell.wait()

    def ring(self) -> None:
        self._observer.bell.ring()

    async def cancel(self) -> None:
        message = self._observer.message
        await self._door.lifecycle.cancel(message.account, message.id)

    def end(self) -> tuple[int, str]:
        if self._observer.ended:
            return DONE, ""
        if self._door.fanout.draining:
            return AWAY, ""
        return refusal(missing(self._observer.message.id))  # deleted meanwhile

    def close(self) -> None:
        self._observer.close()


class SocketConnection:
    """One open WebSocket and what it tells of."""

    def __init__(self, streams: Streams, gate: Gate, socket: Socket, source: SocketSource) -> None:
        self.scope = anyio.CancelScope()
        self.sending_since = 0.0
        self.sent_at = monotonic()
        self.ping_due = False
        self._streams = streams
        self._gate = gate
        self._socket = socket
        self._source = source
        self._end: tuple[int, str] = (AWAY, "")
        self._left = False

    def ring(self) -> None:
        self._source.ring()

    async def run(self) -> None:
        """Tells to the end, or closes at once where the key has no stream left."""
        with self._streams.place(self._socket.scope) as free:
            if free:
                await self._run()
                return
            self._source.close()
            await close(self._socket, *refusal(RateLimited("this API key has too many streams open", retry_after=3)))

    async def _run(self) -> None:
        self._streams.enter(self, "websocket")
        try:
            async with anyio.create_task_group() as group:
                self.scope = group.cancel_scope
                group.start_soon(self._listen)
                await self._write()
                group.cancel_scope.cancel()
            if not self._left:
                with anyio.move_on_after(self._streams.send_timeout_s):
                    await close(self._socket, *self._end)
        finally:
            self._source.close()
            self._streams.leave(self, "websocket")

    async def _listen(self) -> None:
        while True:
            event: Any = await self._socket.receive()
            if event["type"] == "websocket.disconnect":
                self._left = True
                self.scope.cancel()
                return
            text = event.get("text") or (event.get("bytes") or b"").decode(errors="replace")
            if text and len(text) <= MAX_COMMAND_BYTES and _is_cancel(text):
                await self._cancel()

    async def _cancel(self) -> None:
        source = self._source
        try:
            await self._gate.identify(self._socket.scope, token=True, scope_needed=source.scope_to_cancel)
            await source.cancel()
        except Conflict:
            pass  # it has ended already: the end is on its way
        except RepriseError as error:
            self._end = refusal(error)
            self.scope.cancel()

    async def _write(self) -> None:
        source = self._source
        try:
            while True:
                if texts := await source.read():
                    for text in texts:
                        await self._put(text)
                elif source.over:
                    break
                elif self.ping_due:
                    self.ping_due = False
                    await self._put(PING)
                else:
                    await source.wait()
        except Unavailable as error:
            self._end = refusal(error)
            return
        self._end = source.end()

    async def _put(self, text: str) -> None:
        self.sending_since = monotonic()
        await self._socket.send_text(text)
        self.sending_since = 0.0
        self.sent_at = monotonic()


def refusal(error: RepriseError) -> tuple[int, str]:
    """The close code and reason that tell of an error."""
    reason = f"{error.code}: {error.message}".encode()[:MAX_REASON_BYTES]
    return REFUSED + error.status, reason.decode(errors="ignore")


async def close(socket: Socket, code: int, reason: str = "") -> None:
    """Closes; that the client has gone already is no error."""
    try:
        await socket.close(code, reason)
    except RuntimeError:
        return


def _is_cancel(text: str) -> bool:
    try:
        return msgspec.json.decode(text, type=_Command).type == "cancel"
    except msgspec.DecodeError:
        return False


def _texts(got: Any) -> list[str]:
    if isinstance(got, Gap):
        return [gap_data(got.requested, got.earliest, got.latest).decode()]
    return [data_of(entry).decode() for entry in got]


def socket_handlers(door: Observing, gate: Gate) -> list[WebsocketRouteHandler]:
    """The WebSocket route of one message."""

    async def admit(socket: Socket, message_id: str) -> tuple[Message, int]:
        bearer = await gate.identify(socket.scope, token=True, scope_needed="messages:read")
        text = socket.query_params.get("after")
        cursor = parse_cursor(text, "after") if text else 0
        return await door.message(bearer, message_id), cursor

    # public to the guard, which could only refuse the handshake: `admit` asks instead
    @websocket("/v1/messages/async/{message_id:str}/ws", opt={"public": True})
    async def observe_socket(socket: Socket, message_id: FromPath[str]) -> None:
        await socket.accept()
        if door.fanout.draining:
            await close(socket, AWAY)
            return
        try:
            message, cursor = await admit(socket, message_id)
            if message.final and cursor == message.last_seq:
                await close(socket, DONE)
                return
            observer = observe(door.fanout, message, cursor)
        except RepriseError as error:
            await close(socket, *refusal(error))
            return
        await SocketConnection(door.streams, gate, socket, MessageSource(door, observer)).run()

    return [observe_socket]
