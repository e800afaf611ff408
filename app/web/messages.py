"""Routes of asynchronous messages: initiate, list, read, status, cancel, delete. PROTOCOL.md section 1.

Observing has modules of its own (`observe`, `several`, `sockets`). Nothing here keeps state: every answer is read from
or decided by the message's own record, so any web process can serve any message.
"""

from __future__ import annotations

import time
from typing import Any

import msgspec
from litestar import Request, Response, delete, get, post
from litestar.handlers import HTTPRouteHandler

from app import ids
from app.accounts import Accounts
from app.chat import log
from app.chat.events import content_of
from app.chat.lifecycle import Lifecycle, NewMessage, missing
from app.chat.listing import Filter, MessageList
from app.chat.message import STATUSES, Message, iso
from app.errors import BadRequest, Forbidden, ValidationFailed
from app.keyring import Caller
from app.llm.models import Models
from app.settings import Settings
from app.web.guard import caller_of
from app.web.initiate import Initiate, check_message_id, digest_of, problems
from app.web.parse import query_int, query_one_of, read_body, warning_header

TOKEN_GRACE_S = 3_600
"""How much longer than the message's deadline its stream token lives, so that a browser can come back."""

MAX_IDEMPOTENCY_KEY = 255
MAX_TOKEN_IDS = 100
FEED_TOKEN_S = 86_400
PATH = "/v1/messages/async"

AnyRequest = Request[Any, Any, Any]


class MessageRoutes:
    """The handlers and what they share."""

    def __init__(self, lifecycle: Lifecycle, models: Models, accounts: Accounts, settings: Settings) -> None:
        self.lifecycle = lifecycle
        self.list = MessageList(lifecycle)
        self.models = models
        self.accounts = accounts
        self.settings = settings

    async def visible(self, caller: Caller, message_id: str) -> Message:
        """The message if this caller may know of it. Raises NotFound, the same for all that it may not."""
        message = await self.lifecycle.read(caller.account, message_id)
        if message is None or caller.user_id not in (None, message.user):
            raise missing(message_id)
        return message

    def new_message(self, caller: Caller, body: Initiate, request: AnyRequest, raw: bytes) -> NewMessage:
        """What initiate asks for, completed with defaults. Raises ValidationFailed, Forbidden, BadRequest."""
        if found := problems(body, self.settings):
            raise ValidationFailed(found)
        self.models.check(body.model)
        settings = self.settings
        message_id, digest = _identity(caller, request, raw)
        return NewMessage(
            id=message_id,
            account=caller.account,
            user=_owner(caller, body),
            key_id=caller.key_id,
            request_id=request.scope["state"]["request_id"],
            model=body.model,
            message_count=len(body.messages),
            request=body.request(self.models.ceiling(body.model, settings.max_output_tokens)),
            metadata=body.metadata,
            thread=body.name("thread_id"),
            stream_type=body.stream_type,
            deadline_s=body.deadline_seconds or min(settings.deadline_s, settings.max_deadline_s),
            idle_s=body.idle_seconds or settings.idle_s,
            retention_s=body.retention_seconds or settings.retention_s,
            unseen_s=body.cancel_after_unobserved or 0,
            on_worker_loss=body.on_worker_loss,
            digest=digest,
            max_running=caller.max_running or settings.max_running,
            max_queued=caller.max_queued or settings.max_queued,
        )

    def initiated(self, caller: Caller, new: NewMessage, created: int) -> dict[str, Any]:
        """The answer of initiate, with a fresh stream token."""
        expires = created / 1000 + new.deadline_s + TOKEN_GRACE_S
        return {
            "message_id": new.id,
            "status": "pending",
            "message": "Request initiated successfully",
            "stream_url": f"{PATH}/{new.id}/stream",
            "status_url": f"{PATH}/{new.id}/status",
            "cancel_url": f"{PATH}/{new.id}/cancel",
            "stream_token": self.accounts.issue_token(caller, message_ids=[new.id], expires_at=expires),
            "created_at": iso(created),
        }

    def handlers(self) -> list[HTTPRouteHandler]:
        """The Litestar handlers."""
        routes = self

        @post(PATH, opt={"scope": "messages:write"}, status_code=200, operation_id="initiate", tags=["messages"])
        async def initiate(request: AnyRequest) -> Response[dict[str, Any]]:
            """Start a message: it is queued at once, generated in the background, and observed whenever you like."""
            caller = caller_of(request)
            body, unknown, raw = await read_body(request, Initiate)
            new = routes.new_message(caller, body, request, raw)
            created = await routes.lifecycle.create(new)
            return Response(routes.initiated(caller, new, created), headers=warning_header(unknown))

        @get(PATH, opt={"scope": "messages:read"}, operation_id="listMessages", tags=["messages"])
        async def list_messages(request: AnyRequest) -> dict[str, Any]:
            """The caller's messages, newest first."""
            caller = caller_of(request)
            query = request.query_params
            wanted = Filter(
                status=query_one_of(query, "status", STATUSES) or "",
                user=_listed_user(caller, query.get("user_id")),
                thread=query.get("thread_id") or "",
                stream_type=query.get("stream_type") or "",
            )
            limit = query_int(query, "limit", 20, least=1, most=100)
            page, following = await routes.list.page(caller.account, wanted, limit, query.get("cursor") or "")
            return {"messages": [message.status_object() for message in page], "next_cursor": following}

        @get(f"{PATH}/{{message_id:str}}", opt={"scope": "messages:read"}, operation_id="getMessage", tags=["messages"])
        async def read_message(request: AnyRequest, message_id: str) -> dict[str, Any]:
            """The message so far: what has been written of its answer, whatever its state."""
            message = await routes.visible(caller_of(request), message_id)
            key = routes.lifecycle.keys.log(message.account, message_id)
            entries = await log.read_attempt(routes.lifecycle.redis, key, message.attempt)
            return _message_object(message, content_of(entries))

        @get(f"{PATH}/{{message_id:str}}/status", opt={"scope": "messages:read"}, operation_id="status", tags=["messages"])
        async def status(request: AnyRequest, message_id: str) -> dict[str, Any]:
            """State, times and figures of a message, without observing it."""
            return (await routes.visible(caller_of(request), message_id)).status_object()

        @post(
            f"{PATH}/{{message_id:str}}/cancel",
            opt={"scope": "messages:write", "token": "message"},
            status_code=200,
            operation_id="cancel",
            tags=["messages"],
        )
        async def cancel(request: AnyRequest, message_id: str) -> dict[str, str]:
            """Stop a pending or processing message for good; what was written of it stays readable."""
            message = await routes.visible(caller_of(request), message_id)
            await routes.lifecycle.cancel(message.account, message_id)
            return {"message": "Stream cancelled successfully", "message_id": message_id, "status": "cancelled"}

        async def remove(request: AnyRequest, message_id: str) -> None:
            """Delete a message, cancelling it first when it is active."""
            message = await routes.visible(caller_of(request), message_id)
            await routes.lifecycle.delete(message.account, message_id)

        paths = [f"{PATH}/{{message_id:str}}", f"{PATH}/{{message_id:str}}/delete"]
        removal = delete(paths, opt={"scope": "messages:write"}, operation_id="delete", tags=["messages"])(remove)

        @post("/v1/stream-tokens", opt={"scope": "messages:read"}, status_code=200, operation_id="createStreamToken", tags=["messages"])
        async def stream_token(request: AnyRequest) -> dict[str, str]:
            """A signed token for browsers: to observe and cancel these messages, or to follow the account's feed."""
            return await routes.make_token(request)

        return [initiate, list_messages, read_message, status, cancel, removal, stream_token]

    async def make_token(self, request: AnyRequest) -> dict[str, str]:
        """A token for a list of the caller's messages or for its feed."""
        caller = caller_of(request)
        body, _, _ = await read_body(request, TokenRequest)
        if body.feed == bool(body.message_ids):
            raise ValidationFailed([("message_ids", "give either message_ids or feed: true")])
        if body.feed:
            expires = time.time() + FEED_TOKEN_S
            token = self.accounts.issue_token(caller, feed=True, expires_at=expires)
        else:
            messages = [await self.visible(caller, message_id) for message_id in dict.fromkeys(body.message_ids)]
            expires = max(max(m.deadline / 1000 for m in messages), time.time()) + TOKEN_GRACE_S
            token = self.accounts.issue_token(caller, message_ids=[m.id for m in messages], expires_at=expires)
        return {"token": token, "expires_at": iso(round(expires * 1000))}


class TokenRequest(msgspec.Struct, kw_only=True):
    """Either a list of messages or the feed."""

    message_ids: list[str] = []
    feed: bool = False


def _identity(caller: Caller, request: AnyRequest, raw: bytes) -> tuple[str, str]:
    """The message's id and, under an Idempotency-Key, the digest that tells a repeat from another request."""
    chosen = request.query_params.get("message_id")
    key = request.headers.get("idempotency-key")
    if chosen is not None:
        check_message_id(chosen)
    if key is None:
        return chosen or ids.new_id("msg"), ""
    if not 0 < len(key) <= MAX_IDEMPOTENCY_KEY:
        reason = f"must be 1 to {MAX_IDEMPOTENCY_KEY} characters"
        raise BadRequest(f"Idempotency-Key {reason}", details={"field": "Idempotency-Key", "reason": reason})
    derived = ids.derived_id("msg", caller.account, "initiate", key)
    return chosen or derived, digest_of(raw, chosen or "")


def _owner(caller: Caller, body: Initiate) -> str:
    """The end user a message belongs to."""
    asked = body.name("user_id")
    if caller.user_id is not None and asked not in ("", caller.user_id):
        raise Forbidden("this API key is bound to another user", details={"field": "metadata.user_id"})
    return caller.user_id or asked or "default"


def _listed_user(caller: Caller, asked: str | None) -> str:
    if caller.user_id is not None and asked not in (None, caller.user_id):
        raise Forbidden("this API key is bound to another user", details={"field": "user_id"})
    return caller.user_id or asked or ""


def _message_object(message: Message, content: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "id": message.id,
        "message_id": message.id,
        "type": "message",
        "role": "assistant",
        "model": message.model,
        "content": content,
        "stop_reason": message.stop_reason,
        "stop_sequence": message.stop_sequence,
        "usage": {"input_tokens": message.input_tokens or 0, "output_tokens": message.output_tokens or message.tokens},
        "status": message.status,
    }
