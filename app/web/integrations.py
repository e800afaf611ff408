"""Routes of integrations: list, read, cancel, retry, delete. PROTOCOL.md, Integrations.

`integration_intake` begins them, `integration_events` shows live how far they are.
"""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any

from litestar import Response, delete, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath

from app.errors import BadRequest, Conflict, ValidationFailed
from app.history import chats
from app.integrations import store
from app.integrations.integration import STATUSES, STEPS, TYPES, Integration, StatusBody
from app.memory.memories import Memories
from app.memory.types import Owner
from app.web.integration_bodies import (
    Begun,
    CancelledIntegration,
    Learned,
    Listed,
    Page,
    Retry,
    Shown,
    header_problems,
)
from app.web.integration_events import TAGS, Watching, begun, paths
from app.web.parse import Query, decode, must_be_json, read_body, warning
from app.web.person import USER, AnyRequest, PersonRoutes
from app.web.reply import json_reply

AT_ONCE = 200
"""Conversations or memories deleted in one transaction."""
CURSOR = re.compile(r"int_[0-9a-z]{26}\Z")
READ: dict[str, Any] = {"scope": "integrations:read"}
WRITE: dict[str, Any] = {"scope": "integrations:write"}
ONE = "/{integration_id:str}"
_TEXT = {"type": "string", "maxLength": 256}
LISTED = {
    "status": {"type": "string", "enum": list(STATUSES)},
    "type": {"type": "string", "enum": list(TYPES)},
    "platform": _TEXT,
    "limit": {"type": "integer", "minimum": 1, "maximum": 100, "default": 20},
    "cursor": {"type": "string", "description": "`next_cursor` of the page before"},
} | USER
DETAIL = {
    "include_logs": {"type": "boolean", "default": False},
    "include_errors": {"type": "boolean", "default": True},
} | USER


class IntegrationRoutes(PersonRoutes):
    """The handlers and what they share."""

    def __init__(self, watching: Watching, memories: Memories, max_body_bytes: int) -> None:
        super().__init__(watching.database, max_body_bytes)
        self.watching = watching
        self.memories = memories

    def handlers(self) -> list[HTTPRouteHandler]:
        """The Litestar handlers."""
        return [*self._reading(), *self._changing()]

    def _reading(self) -> list[HTTPRouteHandler]:
        routes, watching = self, self.watching

        @get(paths(), opt=READ | {"query": LISTED, "answer": Page}, operation_id="listIntegrations", tags=TAGS)
        async def listed(request: AnyRequest) -> Response[bytes]:
            """List integrations, newest first."""
            query = Query(request.scope)
            limit = query.integer("limit", 20, least=1, most=100)
            status, kind = query.choice("status", STATUSES), query.choice("type", TYPES)
            platform, cursor = query.text("platform"), query.text("cursor")
            query.check()
            if cursor is not None and not CURSOR.match(cursor):
                reason = "not a cursor of this list"
                raise BadRequest(f"cursor: {reason}", details={"field": "cursor", "reason": reason})
            owner = await routes.owner(request)
            found: list[Integration] = []
            if owner is not None:
                found = await store.page(
                    routes.database,
                    owner,
                    status=status,
                    kind=kind,
                    platform=platform,
                    before=cursor,
                    limit=limit + 1,
                )
            page = found[:limit]
            following = page[-1].id if len(found) > limit else None
            shown_ones = [Listed(name=one.name, **_fields(one.body())) for one in page]
            return json_reply(Page(shown_ones, following))

        @get(paths(ONE), opt=READ | {"query": USER, "answer": Shown}, operation_id="readIntegration", tags=TAGS)
        async def one(request: AnyRequest, integration_id: FromPath[str]) -> Response[bytes]:
            """Read an integration: its status, what was asked for, and the newest memories it made."""
            found = await watching.find(request.scope, integration_id)
            body = await store.status_of(routes.database, found)
            learned = [Learned(key, text) for key, text in await store.learned(routes.database, found)]
            return json_reply(Shown(name=found.name, request=found.request, memories=learned, **_fields(body)))

        @get(
            paths(f"{ONE}/status"),
            opt=READ | {"token": True, "query": DETAIL, "answer": StatusBody},
            operation_id="readIntegrationStatus",
            tags=TAGS,
        )
        async def status(request: AnyRequest, integration_id: FromPath[str]) -> Response[bytes]:
            """How far an integration is: progress, figures, what went wrong."""
            query = Query(request.scope)
            logs, errors = query.flag("include_logs"), query.flag("include_errors", True)
            query.check()
            found = await watching.find(request.scope, integration_id)
            return json_reply(await store.status_of(routes.database, found, errors=errors, logs=logs))

        return [listed, one, status]

    def _changing(self) -> list[HTTPRouteHandler]:
        routes, watching = self, self.watching

        @post(
            paths(f"{ONE}/cancel"),
            opt=WRITE | {"token": True, "query": USER, "answer": CancelledIntegration},
            status_code=200,
            operation_id="cancelIntegration",
            tags=TAGS,
        )
        async def cancel(request: AnyRequest, integration_id: FromPath[str]) -> Response[bytes]:
            """Cancel a pending or processing integration: nothing more is brought; what was brought stays."""
            await watching.cancel(await watching.find(request.scope, integration_id))
            return json_reply(CancelledIntegration(integration_id=integration_id))

        @post(
            paths(f"{ONE}/retry"),
            opt=WRITE | {"query": USER, "body": Retry, "optional": True, "example": {}, "answer": Begun},
            status_code=202,
            operation_id="retryIntegration",
            tags=TAGS,
        )
        async def retry(request: AnyRequest, integration_id: FromPath[str]) -> Response[bytes]:
            """Try what failed again: single items, or what a failed integration had not come to."""
            must_be_json(request.scope)
            raw = await read_body(request.scope, request.receive, routes.max_body_bytes)
            body, unknown = decode(raw, Retry, header_problems) if raw.strip() else (Retry(), [])
            found = await watching.find(request.scope, integration_id)
            if problems := _retry_problems(found, body):
                raise ValidationFailed(problems, integration_id=found.id)
            again = await store.retry(routes.database, found, body.secret())
            await watching.wake()
            return json_reply(begun(request.scope, again), status=202, headers=warning(unknown))

        @delete(
            paths(ONE),
            opt=WRITE | {"query": {"memories": {"type": "boolean", "default": False}} | USER},
            operation_id="deleteIntegration",
            tags=TAGS,
        )
        async def removed(request: AnyRequest, integration_id: FromPath[str]) -> None:
            """Delete an integration, cancelling it first when it is active; ``memories=true``: and what it brought."""
            query = Query(request.scope)
            memories = query.flag("memories")
            query.check()
            await routes.remove(await watching.find(request.scope, integration_id), memories=memories)

        return [cancel, retry, removed]

    async def remove(self, integration: Integration, *, memories: bool) -> None:
        """Ends it, removes what it brought (with ``memories``) and then itself: broken off, it is begun again."""
        if not integration.final:
            with suppress(Conflict):  # it ended by itself meanwhile
                await self.watching.cancel(integration)
        if memories:
            owner = Owner(integration.owner, integration.account, integration.user)
            made, conversations = await store.brought(self.database, integration)
            for start in range(0, len(made), AT_ONCE):
                await self.memories.delete(owner, made[start : start + AT_ONCE], backup=False)
            for start in range(0, len(conversations), AT_ONCE):
                await chats.delete(self.database, owner, conversations[start : start + AT_ONCE])
        await store.delete(self.database, integration)
        await self.watching.ended(integration.id)


def _retry_problems(integration: Integration, body: Retry) -> list[tuple[str, str]]:
    """What a retry needs of a source's secrets, which are not kept."""
    by_token = integration.request.get("by") == "token"
    reads_source = integration.failure is not None and integration.step < len(STEPS[integration.type]) - 1
    if body.auth_token and not by_token:
        return [("auth_token", "is for integrations by access token")]
    if body.headers and not integration.request.get("url"):
        return [("headers", "are for integrations that pull from a url")]
    if by_token and reads_source and not body.auth_token:
        return [("auth_token", "is required: the one it was begun with is not kept")]
    return []


def _fields(body: StatusBody) -> dict[str, Any]:
    return {name: getattr(body, name) for name in StatusBody.__struct_fields__}
