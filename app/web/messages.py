"""Routes of asynchronous messages: initiate, list, read, status, cancel, delete. PROTOCOL.md, Messages.

Observing has modules of its own (`observe`, `several`, `sockets`). Nothing here keeps state: every answer is read from
or decided by the message's own record, so any web process can serve any message.
"""

from __future__ import annotations

from typing import Any

from litestar import Request, Response, delete, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath

from app import ids
from app.accounts import Accounts, Caller
from app.chat import log
from app.chat.events import content_of
from app.chat.lifecycle import Lifecycle, NewMessage, ended_already
from app.chat.listing import Filter, MessageList
from app.chat.message import STATUSES, Message, iso
from app.errors import BadRequest
from app.llm.models import Models
from app.llm.types import Turn
from app.memory.remembered import Remembered
from app.settings import Settings
from app.web.answers import Cancelled, Initiated, MessageObject, StatusObject, StatusPage, UsageObject
from app.web.find import Finder
from app.web.guard import Bearer, admitted, bearer_of, caller_of, user_filter, user_of
from app.web.initiate import MESSAGE_ID, Initiate, check_message_id, digest_of, problems
from app.web.parse import Query, decode, read_json, warning
from app.web.problem import request_id
from app.web.reply import json_reply

TOKEN_GRACE_S = 3_600
"""How much longer than the message's deadline its stream token lives, so that a browser can come back."""

MAX_IDEMPOTENCY_KEY = 255


PATH = "/v1/messages/async"
ONE = f"{PATH}/{{message_id:str}}"
TAGS = ["messages"]
READ: dict[str, Any] = {"scope": "messages:read"}
WRITE: dict[str, Any] = {"scope": "messages:write"}
CANCEL = WRITE | {"token": True, "answer": Cancelled}
_TEXT = {"type": "string", "maxLength": 256}
INITIATE = WRITE | {
    "rate": "messages",
    "body": Initiate,
    "example": {"model": "default", "messages": [{"role": "user", "content": "hello"}]},
    "answer": Initiated,
    "query": {"message_id": {"type": "string", "pattern": MESSAGE_ID.pattern.replace("\\Z", "$")}},
    "headers": {"Idempotency-Key": "the same key and body give the first answer again, for 24 hours"},
}
DELETE = WRITE | {"query": {"memories": {"type": "boolean", "default": False}}}
LIST = READ | {
    "answer": StatusPage,
    "query": {
        "status": {"enum": list(STATUSES)},
        "thread_id": _TEXT,
        "user_id": _TEXT,
        "stream_type": _TEXT,
        "limit": {"type": "integer", "minimum": 1, "maximum": 100, "default": 20},
        "cursor": {"type": "string"},
    },
}

AnyRequest = Request[Any, Any, Any]


class MessageRoutes:
    """The handlers and what they share."""

    def __init__(
        self, lifecycle: Lifecycle, remembered: Remembered, models: Models, accounts: Accounts, settings: Settings
    ) -> None:
        self.lifecycle = lifecycle
        self.remembered = remembered
        self.finder = Finder(lifecycle, remembered)
        self.list = MessageList(lifecycle)
        self.models = models
        self.accounts = accounts
        self.settings = settings

    async def visible(self, bearer: Bearer, message_id: str) -> Message:
        """The message if its bearer may know of it. Raises NotFound, the same for all that it may not."""
        return await self.finder.visible(bearer, message_id)

    async def body(self, request: AnyRequest) -> bytes:
        """The request's JSON, as it came."""
        return await read_json(request.scope, request.receive, self.settings.max_body_bytes)

    def problems(self, body: Initiate) -> list[tuple[str, str]]:
        """What is wrong with a body whose types and bounds are right."""
        found = problems(body, self.settings)
        if unknown := self.models.unknown(body.model):
            found.append(("model", unknown))
        return found

    def new_message(self, caller: Caller, body: Initiate, request: AnyRequest, raw: bytes) -> NewMessage:
        """What initiate asks for, completed with defaults. Raises ValidationFailed, Forbidden, BadRequest."""
        settings = self.settings
        message_id, digest = _identity(caller, request, raw)
        return NewMessage(
            id=message_id,
            account=caller.account,
            user=user_of(caller, body.name("user_id")),
            key_id=caller.key_id,
            request_id=request_id(request.scope),
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
            store=body.memory.storing,
            recall=body.memory.limit if body.memory.recall else 0,
            digest=digest,
            max_running=caller.max_running or settings.max_running,
            max_queued=caller.max_queued or settings.max_queued,
        )

    def initiated(self, caller: Caller, new: NewMessage, created: int) -> Initiated:
        """The answer of initiate, with a fresh stream token."""
        expires = created / 1000 + new.deadline_s + TOKEN_GRACE_S
        return Initiated(
            message_id=new.id,
            stream_url=f"{PATH}/{new.id}/stream",
            status_url=f"{PATH}/{new.id}/status",
            cancel_url=f"{PATH}/{new.id}/cancel",
            stream_token=self.accounts.issue_token(caller, message_ids=[new.id], expires_at=expires),
            created_at=iso(created),
        )

    def handlers(self) -> list[HTTPRouteHandler]:
        """The Litestar handlers."""
        routes = self

        @post(PATH, opt=INITIATE, status_code=200, operation_id="initiate", tags=TAGS)
        async def initiate(request: AnyRequest) -> Response[bytes]:
            """Start a message: it is queued at once, generated in the background, and observed whenever you like."""
            caller = caller_of(request.scope)
            raw = await routes.body(request)
            body, unknown = decode(raw, Initiate, routes.problems, messages=[Turn("user", "-")])
            new = routes.new_message(caller, body, request, raw)
            await admitted(request.scope, new.user)
            created = await routes.lifecycle.create(new)
            return json_reply(routes.initiated(caller, new, created), headers=warning(unknown))

        @get(PATH, opt=LIST, operation_id="list_messages", tags=TAGS)
        async def list_messages(request: AnyRequest) -> Response[bytes]:
            """The caller's messages, newest first."""
            caller, query = caller_of(request.scope), Query(request.scope)
            limit = query.integer("limit", 20, least=1, most=100)
            wanted = Filter(
                status=query.choice("status", STATUSES) or "",
                user=user_filter(caller, query.text("user_id")) or "",
                thread=query.text("thread_id") or "",
                stream_type=query.text("stream_type") or "",
            )
            cursor = query.text("cursor", longest=512) or ""
            query.check()
            page, following = await routes.list.page(caller.account, wanted, limit, cursor)
            return json_reply({"messages": [message.status_object() for message in page], "next_cursor": following})

        @get(ONE, opt=READ | {"answer": MessageObject}, operation_id="get_message", tags=TAGS)
        async def get_message(request: AnyRequest, message_id: FromPath[str]) -> Response[bytes]:
            """The message so far: what has been written of its answer, whatever its state."""
            message = await routes.visible(caller_of(request.scope), message_id)
            return json_reply(_message_object(message, await routes.content(message)))

        @get(f"{ONE}/status", opt=READ | {"answer": StatusObject}, operation_id="get_status", tags=TAGS)
        async def get_status(request: AnyRequest, message_id: FromPath[str]) -> Response[bytes]:
            """State, times and figures of a message, without observing it."""
            return json_reply((await routes.visible(caller_of(request.scope), message_id)).status_object())

        @post(f"{ONE}/cancel", opt=CANCEL, status_code=200, operation_id="cancel_message", tags=TAGS)
        async def cancel_message(request: AnyRequest, message_id: FromPath[str]) -> Response[bytes]:
            """Stop a pending or processing message for good; what was written of it stays readable."""
            message = await routes.visible(bearer_of(request.scope), message_id)
            if message.stored is None:
                await routes.lifecycle.cancel(message.account, message_id)
            elif message.status != "cancelled":
                raise ended_already(message)
            return json_reply(Cancelled(message_id=message_id))

        @delete(ONE, opt=DELETE, operation_id="delete_message", tags=TAGS)
        async def delete_message(request: AnyRequest, message_id: FromPath[str]) -> None:
            """Delete a message, cancelling it first when it is active; ``memories=true``: and what was made of it."""
            await routes.remove(request, message_id)

        @delete(f"{ONE}/delete", opt=DELETE, operation_id="delete_message_alias", tags=TAGS)
        async def delete_message_alias(request: AnyRequest, message_id: FromPath[str]) -> None:
            """The same under the address older clients use."""
            await routes.remove(request, message_id)

        return [
            initiate,
            list_messages,
            get_message,
            get_status,
            cancel_message,
            delete_message,
            delete_message_alias,
        ]

    async def content(self, message: Message) -> list[dict[str, Any]]:
        """The content blocks of the message's last attempt."""
        if message.stored is not None:
            return message.stored
        key = self.lifecycle.keys.log(message.account, message.id)
        return content_of(await log.read_attempt(self.lifecycle.redis, key, message.attempt))

    async def remove(self, request: AnyRequest, message_id: str) -> None:
        """Deletes one of the caller's messages. Raises NotFound.

        The tombstone comes first: without PostgreSQL nothing is deleted, and what is being stored of the message at
        this moment is deleted or never stored.
        """
        query = Query(request.scope)
        memories = query.flag("memories")
        query.check()
        message = await self.visible(caller_of(request.scope), message_id)
        await self.remembered.delete(message.account, message.user, message_id, message.created, memories=memories)
        if message.stored is None:
            await self.lifecycle.delete(message.account, message_id)


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


def _message_object(message: Message, content: list[dict[str, Any]]) -> MessageObject:
    return MessageObject(
        id=message.id,
        message_id=message.id,
        model=message.model,
        content=content,
        stop_reason=message.stop_reason,
        stop_sequence=message.stop_sequence,
        usage=UsageObject(message.input_tokens or 0, message.output_tokens or message.tokens),
        status=message.status,
    )
