"""Observing an integration: its events, and a WebSocket with the same. PROTOCOL.md, Integrations.

What they mean for cursors, pings and ends is what they mean for messages; what is observed lies in PostgreSQL.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated, Any
from urllib.parse import quote

import msgspec
from litestar import HttpMethod, Request, WebSocket, route, websocket
from litestar.handlers import HTTPRouteHandler, WebsocketRouteHandler
from litestar.params import FromPath, QueryParameter
from litestar.types import ASGIApp, Receive, Scope, Send

from app.errors import RepriseError, Unavailable
from app.integrations import store
from app.integrations.integration import Integration
from app.integrations.store import Event
from app.integrations.watch import Gap, Hub, Watcher
from app.iso import iso
from app.web.event_source import event_source, pieces
from app.web.find import find_integration
from app.web.guard import Gate, bearer_of
from app.web.integration_bodies import Begun
from app.web.observe import cursor_text, head_only, no_content, parse_cursor
from app.web.person import USER
from app.web.sockets import AWAY, DONE, SocketConnection, close, refusal
from app.web.sse import EVENT_STREAM, RETRY, Streams, turn_away

PREFIXES = ("/v1/integrations", "/integrations")
"""Every route stands under both."""
TAGS = ["integrations"]

Hint = Callable[[str, str], Awaitable[None]]


def paths(rest: str = "") -> list[str]:
    """Where a route stands; the first is the one that is documented."""
    return [f"{prefix}{rest}" for prefix in PREFIXES]


class Watching:
    """What the routes that show integrations share. ``hint`` tells a channel about an integration."""

    def __init__(self, hub: Hub, streams: Streams, hint: Hint) -> None:
        self.hub = hub
        self.database = hub.database
        self.streams = streams
        self._hint = hint

    async def find(self, scope: Scope, integration_id: str, user: str | None = None) -> Integration:
        """`find_integration`."""
        return await find_integration(self.database, scope, integration_id, user)

    async def wake(self) -> None:
        """A worker hears that there is one to take. Its id is not said: who has it already would think it cancelled."""
        await self._hint(store.CHANNEL, "")

    async def ended(self, integration_id: str) -> None:
        """Its worker hears that it has nothing more to do, watchers of every process that there is something to see."""
        await self._hint(store.CHANNEL, integration_id)
        await self._hint(store.TOLD_CHANNEL, integration_id)

    async def cancel(self, integration: Integration) -> None:
        """Raises Conflict when it ended otherwise."""
        await store.cancel(self.database, integration)
        await self.ended(integration.id)


def begun(scope: Scope, integration: Integration) -> Begun:
    """The answer to beginning one. Its address names the user where the key alone would not find it."""
    found_by_key = integration.user == (bearer_of(scope).user_id or "default")
    query = "" if found_by_key else f"?user_id={quote(integration.user, safe='')}"
    return Begun(
        integration_id=integration.id,
        type=integration.type,
        platform=integration.platform,
        created_at=iso(integration.created_at),
        events_url=f"{PREFIXES[0]}/{integration.id}/events{query}",
    )


def data_of(found: Event | Gap) -> str:
    """What is told, as one line of JSON."""
    if isinstance(found, Gap):
        return msgspec.json.encode({"type": "gap", **msgspec.structs.asdict(found)}).decode()
    return found.data


def frame(found: Event | Gap) -> bytes:
    """What is told, as a Server-Sent Event. A gap has no id."""
    if isinstance(found, Gap):
        return f"event: gap\ndata: {data_of(found)}\n\n".encode()
    return f"id: {found.seq}\nevent: {found.type}\ndata: {found.data}\n\n".encode()


async def frames(watcher: Watcher) -> AsyncIterator[bytes]:
    """All there is to tell, to the end."""
    yield RETRY
    try:
        while found := await watcher.read():
            for piece in pieces(map(frame, found)):
                yield piece
    except Unavailable:
        return  # the client comes back with its cursor


class SocketWatcher:
    """What a WebSocket tells of an integration."""

    scope_to_cancel = "integrations:write"

    def __init__(self, watching: Watching, integration: Integration, cursor: int) -> None:
        self._watching = watching
        self._integration = integration
        self._watcher = watching.hub.watch(integration, cursor)

    @property
    def over(self) -> bool:
        return self._watcher.over

    async def read(self) -> list[str]:
        return [data_of(one) for one in await self._watcher.look()]

    async def wait(self) -> None:
        await self._watcher.wait()

    def ring(self) -> None:
        self._watcher.bell.ring()

    async def cancel(self) -> None:
        await self._watching.cancel(self._integration)

    def end(self) -> tuple[int, str]:
        if self._watcher.ended:
            return DONE, ""
        return (AWAY, "") if self._watching.hub.draining else refusal(store.missing(self._integration.id))

    def close(self) -> None:
        self._watcher.close()


def watching_handlers(watching: Watching, gate: Gate) -> list[HTTPRouteHandler | WebsocketRouteHandler]:
    """The routes that follow one integration."""
    hub = watching.hub

    @route(
        paths("/{integration_id:str}/events"),
        http_method=[HttpMethod.GET, HttpMethod.HEAD],
        media_type="text/event-stream",
        opt={
            "scope": "integrations:read",
            "token": True,
            "query": USER,
            "also": {204: ("Everything was seen already.", None)},
        },
        operation_id="observeIntegration",
        summary="Observe an integration: its progress from a cursor on, live until its end",
        tags=TAGS,
        status_code=200,
    )
    async def observe(
        request: Request[Any, Any, Any],
        integration_id: FromPath[str],
        after: Annotated[str | None, QueryParameter(description="sequence number to go on after")] = None,
    ) -> ASGIApp:
        text, field = cursor_text(request, after)
        cursor = parse_cursor(text, field) if text else 0
        if hub.draining:
            return turn_away
        try:
            integration = await watching.find(request.scope, integration_id)
        except Unavailable:
            return turn_away
        if integration.final and cursor == integration.last_seq:
            return no_content
        if request.method == HttpMethod.HEAD:
            return head_only(EVENT_STREAM)

        async def stream(scope: Scope, receive: Receive, send: Send) -> None:
            watcher = hub.watch(integration, cursor)
            await event_source(frames(watcher), watching.streams, "integration", watcher.close)(scope, receive, send)

        return stream

    # public to the guard, which could only refuse the handshake
    @websocket(paths("/{integration_id:str}/ws"), opt={"public": True})
    async def observe_socket(socket: WebSocket[Any, Any, Any], integration_id: FromPath[str]) -> None:
        await socket.accept()
        if hub.draining:
            await close(socket, AWAY)
            return
        try:
            await gate.identify(socket.scope, token=True, scope_needed="integrations:read")
            text = socket.query_params.get("after")
            cursor = parse_cursor(text, "after") if text else 0
            integration = await watching.find(socket.scope, integration_id)
        except RepriseError as error:
            await close(socket, *refusal(error))
            return
        if integration.final and cursor == integration.last_seq:
            await close(socket, DONE)
            return
        source = SocketWatcher(watching, integration, cursor)
        await SocketConnection(watching.streams, gate, socket, source).run()

    return [observe, observe_socket]
