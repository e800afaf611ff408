"""The account's feed: ``GET /v1/events``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Container
from typing import Annotated, Any

import msgspec
from litestar import HttpMethod, Request, route
from litestar.handlers import HTTPRouteHandler
from litestar.params import QueryParameter
from litestar.types import ASGIApp, Receive, Scope, Send

from app.accounts import TokenGrant
from app.errors import BadRequest, Forbidden, Unavailable
from app.feeds import KINDS, FeedEvent, FeedReader, Feeds, parse_cursor, scope_of
from app.web.event_source import event_source, pieces
from app.web.guard import bearer_of
from app.web.observe import Observing, cursor_text, head_only
from app.web.sse import EVENT_STREAM, RETRY, turn_away


class Wanted(msgspec.Struct, frozen=True):
    """Which events a reader is given: of these kinds, of this user (all when None)."""

    kinds: frozenset[str]
    user: str | None

    def __contains__(self, event: FeedEvent) -> bool:
        return event.kind in self.kinds and self.user in {None, event.user}


async def frames(reader: FeedReader, wanted: Wanted) -> AsyncIterator[bytes]:
    """The feed as Server-Sent Events. The first frame has no data: it gives a reader without events its cursor."""
    if reader.gap is None:
        yield RETRY + b"id: %b\n\n" % str(reader.cursor).encode()
    else:
        gap = {"type": "gap", **msgspec.structs.asdict(reader.gap)}
        yield RETRY + b"event: gap\ndata: %b\n\n" % msgspec.json.encode(gap)
    try:
        while events := await reader.read():
            for piece in pieces(event.frame() for event in events if event in wanted):
                yield piece
    except Unavailable:
        return  # the client comes back with its cursor


def wanted_kinds(text: str, scopes: Container[str]) -> frozenset[str]:
    """The kinds in a list separated by commas; of an empty one all that these scopes open.

    Raises BadRequest for one that does not exist: it would never come. Raises Forbidden for one that lacks its scope.
    """
    kinds = frozenset(filter(None, text.split(",")))
    if not kinds.issubset(KINDS):
        reason = f"must be among {', '.join(KINDS)}"
        raise BadRequest(f"kinds: {reason}", details={"field": "kinds", "reason": reason})
    if lacking := sorted({scope_of(kind) for kind in kinds if scope_of(kind) not in scopes}):
        raise Forbidden(f"this API key lacks the scope {', '.join(lacking)}", details={"scopes": lacking})
    return kinds or frozenset(kind for kind in KINDS if scope_of(kind) in scopes)


def feed_handlers(door: Observing, feeds: Feeds) -> list[HTTPRouteHandler]:
    """The route of the account's feed."""

    @route(
        "/v1/events",
        http_method=[HttpMethod.GET, HttpMethod.HEAD],
        media_type="text/event-stream",
        opt={"scope": "messages:read", "token": True},
        operation_id="followFeed",
        summary="Follow the account's feed: what happens to its messages, memories and more, from a cursor or now on",
        tags=["messages"],
        status_code=200,
    )
    async def follow(
        request: Request[Any, Any, Any],
        kinds: Annotated[
            str | None, QueryParameter(description=f"only these, separated by commas: {', '.join(KINDS)}")
        ] = None,
        after: Annotated[str | None, QueryParameter(description="the `id` of the last event received")] = None,
    ) -> ASGIApp:
        bearer = bearer_of(request.scope)
        if isinstance(bearer, TokenGrant) and not bearer.feed:
            raise Forbidden("this stream token is not for the feed")
        caller = bearer.caller if isinstance(bearer, TokenGrant) else bearer
        wanted = Wanted(wanted_kinds(kinds or "", caller.scopes | {"messages:read"}), bearer.user_id)
        text, field = cursor_text(request, after)
        cursor = parse_cursor(text) if text else None
        if text and cursor is None:
            reason = "must be the id of an event of this feed"
            raise BadRequest(f"{field}: {reason}", details={"field": field, "reason": reason})
        if request.method == HttpMethod.HEAD:
            return head_only(EVENT_STREAM)
        if feeds.draining:
            return turn_away

        async def stream(scope: Scope, receive: Receive, send: Send) -> None:
            try:
                reader = await feeds.open(bearer.account, cursor)
            except Unavailable:
                await turn_away(scope, receive, send)
                return
            await event_source(frames(reader, wanted), door.streams, "feed", reader.close)(scope, receive, send)

        return stream

    return [follow]
