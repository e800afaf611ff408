"""Several messages on one connection: ``GET /v1/messages/async/stream?ids=a,b``. Seven tabs, one of six connections.

Every frame's ``id:`` is the whole cursor vector, so that a resumed connection goes on exactly in each of them.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from litestar import HttpMethod, Request, route
from litestar.handlers import HTTPRouteHandler
from litestar.params import QueryParameter
from litestar.types import ASGIApp, Send

from app.chat.events import Entry, data_of, gap_data
from app.chat.fanout import Fanout
from app.chat.lifecycle import missing
from app.chat.message import Message
from app.chat.observer import Gap, Reader
from app.chat.past import observe
from app.chat.replay import CHUNK_BYTES
from app.errors import BadRequest, NotFound, Unavailable
from app.tail import Bell
from app.web.guard import bearer_of
from app.web.initiate import MESSAGE_ID
from app.web.observe import Observing, cursor_text, head_only, no_content, parse_cursor
from app.web.sse import EVENT_STREAM, turn_away

MAX_IDS = 100

_encode = msgspec.json.encode


class _Line:
    """One of the messages: its observer, and its place in the vector."""

    def __init__(self, observer: Reader[list[Entry]], message_id: str, cursor: int) -> None:
        self.observer = observer
        self.cursor = cursor
        self.name = message_id.encode()
        self.extra = b'"message_id":%b,' % _encode(message_id)


class SeveralSource:
    """The events of several messages as one stream; over when all of them are."""

    cut = False
    pushed_at = 0.0

    def __init__(self, fanout: Fanout, messages: list[Message], cursors: dict[str, int], unreadable: list[str]) -> None:
        self._bell = Bell()
        self._lines: list[_Line] = []
        self._first = b"".join(
            b"event: not_found\ndata: %b\n\n" % _encode({"type": "not_found", "message_id": name})
            for name in unreadable
        )
        try:
            for message in messages:
                cursor = cursors.get(message.id, 0)
                self._lines.append(_Line(observe(fanout, message, cursor, self._bell), message.id, cursor))
        except Unavailable:
            self.close()
            raise

    @property
    def over(self) -> bool:
        return not self._first and all(line.observer.over for line in self._lines)

    async def read(self) -> bytes:
        parts, self._first = [self._first], b""
        size = 0
        for line in self._lines:
            got = await line.observer.read()
            if got is not None:
                data = self._frames(line, got)
                parts.append(data)
                size += len(data)
            if size >= CHUNK_BYTES:
                # who was served goes last: a long replay must not keep the others waiting
                place = self._lines.index(line) + 1
                self._lines = self._lines[place:] + self._lines[:place]
                break
        return b"".join(parts)

    async def wait(self) -> None:
        for line in self._lines:
            line.observer.watch()
        await self._bell.wait()

    def ring(self) -> None:
        self._bell.ring()

    def push_to(self, send: Send) -> None:
        """Not done: what a push saves shows with hundreds of observers of one message."""

    def close(self) -> None:
        for line in self._lines:
            line.observer.close()

    def _frames(self, line: _Line, got: list[Entry] | Gap) -> bytes:
        if isinstance(got, Gap):
            line.cursor = 0
            return b"event: gap\ndata: {%b%b\n\n" % (
                line.extra,
                gap_data(got.requested, got.earliest, got.latest)[1:],
            )
        others = b"".join(b",%b:%d" % (other.name, other.cursor) for other in self._lines if other is not line)
        line.cursor = got[-1].seq
        return b"".join(
            b"%bevent: %b\ndata: %b\n\n"
            % (
                b"id: %b:%d%b\n" % (line.name, entry.seq, others) if entry.seq else b"",
                entry.type.encode(),
                data_of(entry, line.extra),
            )
            for entry in got
        )


def parse_vector(text: str, field: str) -> dict[str, int]:
    """``a:12,b:3`` as a dict. Raises BadRequest naming the field."""
    cursors: dict[str, int] = {}
    for item in filter(None, text.split(",")):
        name, colon, number = item.rpartition(":")
        if not (colon and MESSAGE_ID.match(name)):
            reason = "must be message ids and sequence numbers, as in a:12,b:3"
            raise BadRequest(f"{field}: {reason}", details={"field": field, "reason": reason})
        cursors[name] = parse_cursor(number, field)
    return cursors


def parse_ids(text: str | None) -> list[str]:
    """The ids asked for, each once. Raises BadRequest."""
    found = list(dict.fromkeys(filter(None, (text or "").split(","))))
    if not 0 < len(found) <= MAX_IDS:
        reason = f"must be 1 to {MAX_IDS} message ids, separated by commas"
        raise BadRequest(f"ids: {reason}", details={"field": "ids", "reason": reason})
    return found


def several_handlers(door: Observing) -> list[HTTPRouteHandler]:
    """The route of several messages' stream."""

    @route(
        "/v1/messages/async/stream",
        http_method=[HttpMethod.GET, HttpMethod.HEAD],
        media_type="text/event-stream",
        opt={"scope": "messages:read", "token": True, "also": {204: ("Everything was seen already.", None)}},
        operation_id="observeMessages",
        summary="Observe several messages on one connection",
        tags=["messages"],
        status_code=200,
    )
    async def observe_several(
        request: Request[Any, Any, Any],
        ids: Annotated[str | None, QueryParameter(description="message ids, separated by commas, 100 at most")] = None,
        after: Annotated[str | None, QueryParameter(description="cursor vector to go on after: a:12,b:3")] = None,
    ) -> ASGIApp:
        names = parse_ids(ids)
        bearer = bearer_of(request.scope)
        cursors = parse_vector(*cursor_text(request, after))
        if door.fanout.draining:
            return turn_away
        try:
            messages = await door.finder.visible_many(bearer, names)
        except Unavailable:
            return turn_away
        if not messages:
            raise missing(names[0]) if len(names) == 1 else NotFound("message", "none of these messages is there")
        if all(message.final and cursors.get(message.id) == message.last_seq for message in messages):
            return no_content
        if request.method == HttpMethod.HEAD:
            return head_only(EVENT_STREAM)
        readable = {message.id for message in messages}
        unreadable = [name for name in names if name not in readable]
        return door.streams.response(lambda: SeveralSource(door.fanout, messages, cursors, unreadable), kind="streams")

    return [observe_several]
