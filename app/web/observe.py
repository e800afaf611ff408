"""Observing one message: ``GET /v1/messages/async/{id}/stream``. Cursor in, events out (PROTOCOL.md, Observe)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Protocol

from litestar import HttpMethod, Request, route
from litestar.connection import ASGIConnection
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, QueryParameter
from litestar.types import ASGIApp, Receive, Scope, Send

from app.chat.fanout import Fanout
from app.chat.lifecycle import Lifecycle, missing
from app.chat.message import Message
from app.errors import BadRequest, Unavailable
from app.web.formats import check_format, source_for
from app.web.sse import EVENT_STREAM, HEADERS, PING, RETRY, Streams, turn_away

Connection = ASGIConnection[Any, Any, Any, Any]

TEXT = b"text/plain; charset=utf-8"


class Viewer(Protocol):
    """Who observes: the account, and the one user whose messages a bound key may see."""

    @property
    def account(self) -> str: ...

    @property
    def user_id(self) -> str | None: ...


class Identify(Protocol):
    """Finds out who asks: by a key with ``scope``, or by a stream token good for all of ``message_ids`` (or the feed).

    Raises Unauthorized, Forbidden.
    """

    async def __call__(
        self,
        connection: Connection,
        *,
        scope: str = "messages:read",
        message_ids: Sequence[str] = (),
        feed: bool = False,
    ) -> Viewer: ...


class Observing:
    """What the observe routes share."""

    def __init__(self, lifecycle: Lifecycle, fanout: Fanout, streams: Streams, identify: Identify) -> None:
        self.lifecycle = lifecycle
        self.fanout = fanout
        self.streams = streams
        self.identify = identify

    async def message(self, viewer: Viewer, message_id: str) -> Message:
        """The message as the viewer may see it. Raises NotFound, Unavailable."""
        message = await self.lifecycle.read(viewer.account, message_id)
        if message is None or not visible(message, viewer):
            raise missing(message_id)
        return message

    def drain(self) -> None:
        """Ends every open stream of this process."""
        self.fanout.drain()
        self.streams.drain()


def visible(message: Message, viewer: Viewer) -> bool:
    return viewer.user_id in {None, message.user}


def parse_cursor(text: str, field: str) -> int:
    """A sequence number, 0 or more. Raises BadRequest naming the field."""
    if not (text.isascii() and text.isdigit() and len(text) <= 20):
        reason = "must be a sequence number, 0 or more"
        raise BadRequest(f"{field}: {reason}", details={"field": field, "reason": reason})
    return int(text)


def cursor_text(connection: Connection, after: str | None) -> tuple[str, str]:
    """The cursor as it was given and where: the header wins over the query."""
    header = connection.headers.get("last-event-id")
    if header:
        return header, "Last-Event-ID"
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
        operation_id="observe_message",
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
        viewer = await door.identify(request, message_ids=[message_id])
        check_format(event_format)
        text, field = cursor_text(request, after)
        cursor = parse_cursor(text, field) if text else 0
        if door.fanout.draining:
            return turn_away
        plain = event_format == "text"
        try:
            message = await door.message(viewer, message_id)
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
