"""``POST /v1/stream-tokens``: signed tokens for browsers, whose EventSource sends no headers."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
from litestar import Request, Response, post
from litestar.handlers import HTTPRouteHandler
from msgspec import Meta

from app.accounts import Accounts
from app.database import Database
from app.iso import iso
from app.web.answers import TokenAnswer
from app.web.find import Finder, find_integration
from app.web.guard import caller_of, must_have
from app.web.memory_bodies import Name
from app.web.messages import TOKEN_GRACE_S
from app.web.parse import decode, read_json
from app.web.reply import json_reply

DAY_S = 86_400
"""How long a token lives that no deadline bounds."""


class TokenRequest(msgspec.Struct, kw_only=True):
    """A list of messages, an integration (of ``user_id``), or the feed."""

    message_ids: Annotated[list[str], Meta(max_length=100)] = []
    integration_id: Annotated[str, Meta(max_length=128, pattern=r"^[^\x00]*$")] | None = None
    feed: bool = False
    user_id: Name | None = None

    @property
    def scope(self) -> str:
        return "messages:read" if self.integration_id is None else "integrations:read"


def token_handlers(
    accounts: Accounts, finder: Finder, database: Database, max_body_bytes: int
) -> list[HTTPRouteHandler]:
    """The Litestar handlers."""

    @post(
        "/v1/stream-tokens",
        opt={"body": TokenRequest, "example": {"feed": True}, "answer": TokenAnswer},
        status_code=200,
        operation_id="create_stream_token",
        tags=["messages"],
    )
    async def create_stream_token(request: Request[Any, Any, Any]) -> Response[bytes]:
        """A signed token for browsers: to observe and cancel these messages or this integration, or to follow the feed.

        Needs the scope `messages:read`, for an integration `integrations:read`.
        """
        caller = caller_of(request.scope)
        raw = await read_json(request.scope, request.receive, max_body_bytes)
        body, _ = decode(raw, TokenRequest, _problems)
        must_have(caller, body.scope)
        expires = time.time()
        if body.integration_id is not None:
            expires += DAY_S
            found = await find_integration(database, request.scope, body.integration_id, body.user_id)
            token = accounts.issue_token(caller, integration_id=found.id, expires_at=expires)
        elif body.feed:
            expires += DAY_S
            token = accounts.issue_token(caller, feed=True, expires_at=expires)
        else:
            messages = [await finder.visible(caller, message_id) for message_id in dict.fromkeys(body.message_ids)]
            expires = max(expires, *(m.deadline / 1000 for m in messages)) + TOKEN_GRACE_S
            token = accounts.issue_token(caller, message_ids=[m.id for m in messages], expires_at=expires)
        return json_reply(TokenAnswer(token, iso(datetime.fromtimestamp(expires, UTC))))

    return [create_stream_token]


def _problems(body: TokenRequest) -> list[tuple[str, str]]:
    if [bool(body.message_ids), body.integration_id is not None, body.feed].count(True) != 1:
        return [("message_ids", "give either message_ids, integration_id or feed: true")]
    return []
