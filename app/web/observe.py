"""Observing one message: ``GET /v1/messages/async/{id}/stream``. Cursor in, events out (PROTOCOL.md, Observe)."""

from __future__ import annotations

from typing import Annotated, Any

from litestar import HttpMethod, Request, route
from litestar.connection import ASGIConnection
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, QueryParameter
from litestar.types import ASGIApp, Receive, Scope, Send

from app.chat.fanout import Fanout
from app.chat.lifecycle import Lifecycle
from app.chat.message import Message
from app.errors import BadRequest, Unavailable
from app.memory.remembered import Remembered
from app.web.find import Finder
from app.web.formats import check_format, source_for
from app.web.guard import Bearer, bearer_of
from app.web.sse import EVENT_STREAM, HEADERS, PING, RETRY, Streams, turn_away

Connection = ASGIConnection[Any, Any, Any, Any]

TEXT = b"text/plain; charset=utf-8"


class Observing:
    """What the observe routes share."""

    def __init__(
        self, lifecycle: Lifecycle, fanout: Fanout, streams: Streams, remembered: Remembered | None = None
    ) -> None:
        self.lifecycle = lifecycle
        self.finder = Finder(lifecycle, remembered)
        self.fanout = fanout
        self.streams = streams

    async def message(self, bearer: Bearer, message_id: str) -> Message:
        """The message as its bearer may see it. Raises NotFound, Unavailable."""
        return await self.finder.visible(bearer, message_id)

    def drain(self) -> None:
        """Ends every open stream of this process."""
        self.fanout.drain()
        self.streams.drain()


def parse_cursor(text: str, field: str) -> int:
    """A sequence number, 0 or more. Raises BadRequest naming the field."""
    if not (text.isascii() and text.isdigit() and len(text) <= 20):
        reason = "must be a sequence number, 0 or more"
        raise BadRequest(f"{field}: {reason}", details={"field": field, "reason": reason})
    return int(text)


def cursor_text(connection: Connection, after: str | None) -> tuple[str, str]:
    """The cursor as it was given and where: the header wins over the query."""
    # not `connection.headers`: the request keeps that object, a kilobyte for as long as the stream is open
    for name, value in connection.scope["headers"]:
        if name == b"last-event-id" and value:
            return value.decode("latin-1"), "Last-Event-ID"
    return after or "", "after"


async def no_content(scope: Scope, receive: Receive, send: Send) -> None:
    """204: nothing is left to be said; EventSource stops."""
    await send({"type": "http.response.start", "status": 204, "headers": [(b"cache-control", b"no-store")]})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def head_only(content_type: bytes) -> ASGIApp:
    """The answer to HEAD: a stream's headers, no stream."""

    async def head(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", content_type), *HEADERS]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    return head


def observe_handlers(door: Observing) -> list[HTTPRouteHandler]:
    """The route of one message's stream."""

    @route(
        "/v1/messages/async/{message_id:str}/stream",
        http_method=[HttpMethod.GET, HttpMethod.HEAD],
        media_type="text/event-stream",
        opt={"scope": "messages:read", "token": True, "also": {204: ("Everything was seen already.", None)}},
        operation_id="observeMessage",
        summary="Observe a message: its events from a cursor on, live until its end",
        tags=["messages"],
        status_code=200,
    )
    async def observe(
        request: Request[Any, Any, Any],
        message_id: FromPath[str],
        after: Annotated[str | None, QueryParameter(description="sequence number to go on after")] = None,
        event_format: Annotated[
            str, QueryParameter(name="format", description="anthropic (default), openai or text")
        ] = "anthropic",
    ) -> ASGIApp:
        check_format(event_format)
        text, field = cursor_text(request, after)
        cursor = parse_cursor(text, field) if text else 0
        if door.fanout.draining:
            return turn_away
        plain = event_format == "text"
        try:
            message = await door.message(bearer_of(request.scope), message_id)
            if message.final and cursor == message.last_seq:
                return no_content
            if request.method == HttpMethod.HEAD:
                return head_only(TEXT if plain else EVENT_STREAM)
        except Unavailable:
            return turn_away
        return door.streams.response(
            lambda: source_for(event_format, door.fanout, message, cursor),
            content_type=TEXT if plain else EVENT_STREAM,
            first=b"" if plain else RETRY,
            ping=b"" if plain else PING,
        )

    return [observe]
