"""Routes of webhooks: create, list, change, rotate, test, delete; their deliveries, to look at and to send again.

Whom a webhook tells of what is bounded by its key: a bound key has its user's alone, and nobody has an event told, or
shown, that the key could not read itself.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from typing import Any

import msgspec
from litestar import Request, Response, delete, get, patch, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath

from app.accounts import Caller
from app.errors import BadRequest, Forbidden
from app.feeds import TOLD_TO_WEBHOOKS, scope_of
from app.web.answers import Success, SuccessPage
from app.web.guard import caller_of, user_filter
from app.web.parse import Errors, Query, decode, read_json, warning
from app.web.reply import envelope, json_reply, pagination
from app.web.webhook_bodies import (
    CreatedWebhook,
    DeletedWebhook,
    NewWebhook,
    RotateSecret,
    ShownDelivery,
    ShownWebhook,
    WebhookChanges,
    WholeDelivery,
    shown,
    shown_attempt,
    shown_delivery,
)
from app.webhooks.deliveries import STATUSES, TEST, Deliveries
from app.webhooks.store import Webhook, Webhooks, refusal

PATH = "/v1/webhooks"
MAX_IDEMPOTENCY_KEY = 255
OPTIONS: dict[str, Any] = {"scope": "webhooks:write"}
TAGS = ["webhooks"]
ONCE = {"Idempotency-Key": "the same key and body give the first answer again, for a day"}
EXAMPLE = {"url": "https://example.com/hook", "events": ["message.completed", "memory.created"]}
PAGED = {
    "page": {"type": "integer", "minimum": 1, "maximum": 1_000_000, "default": 1},
    "page_size": {"type": "integer", "minimum": 1, "maximum": 100, "default": 20},
}
LISTED = {
    "status": {"type": "string", "enum": ["active", "disabled"]},
    "user_id": {"type": "string", "maxLength": 256},
    **PAGED,
}
DELIVERIES = {"status": {"type": "string", "enum": list(STATUSES)}, **PAGED}

AnyRequest = Request[Any, Any, Any]


class WebhookRoutes:
    """The handlers. ``hint``: the background process is told that something is to be sent."""

    def __init__(
        self,
        webhooks: Webhooks,
        deliveries: Deliveries,
        hint: Callable[[], Awaitable[None]],
        max_body_bytes: int,
        *,
        allow_private: bool,
    ) -> None:
        self._webhooks = webhooks
        self._deliveries = deliveries
        self._hint = hint
        self._max_body_bytes = max_body_bytes
        self._allow_private = allow_private

    def handlers(self) -> list[HTTPRouteHandler]:
        """The Litestar handlers."""
        return [*self._of_webhooks(), *self._of_secrets(), *self._of_deliveries()]

    def _of_webhooks(self) -> list[HTTPRouteHandler]:
        @post(
            PATH,
            opt=OPTIONS | {"body": NewWebhook, "example": EXAMPLE, "headers": ONCE, "answer": Success[CreatedWebhook]},
            status_code=201,
            operation_id="createWebhook",
            tags=TAGS,
        )
        async def create(request: AnyRequest) -> Response[bytes]:
            """Create a webhook. The answer is the only place that shows its secret."""
            caller = caller_of(request.scope)
            raw = await read_json(request.scope, request.receive, self._max_body_bytes)
            body, unknown = decode(raw, NewWebhook, self._wrong, url="https://-", events=[])
            once = _once(request)
            events = list(dict.fromkeys(body.events))
            _must_read(caller, events)
            made, secret = await self._webhooks.create(
                caller.account,
                body.url,
                events,
                user_id=user_filter(caller, body.user_id),
                description=body.description,
                once=once,
                body=raw,
            )
            return json_reply(envelope(shown(made) | {"secret": secret}), status=201, headers=warning(unknown))

        @get(
            PATH,
            opt=OPTIONS | {"query": LISTED, "answer": SuccessPage[ShownWebhook]},
            operation_id="listWebhooks",
            tags=TAGS,
        )
        async def list_(request: AnyRequest) -> Response[bytes]:
            """List the account's webhooks, newest first."""
            caller = caller_of(request.scope)
            query = Query(request.scope)
            status = query.choice("status", ("active", "disabled"))
            user = user_filter(caller, query.text("user_id"))
            page, size = query.page()
            query.check()
            found, total = await self._webhooks.page(
                caller.account, user=user, status=status, limit=size, offset=(page - 1) * size
            )
            return json_reply(envelope([shown(one) for one in found], pagination=pagination(page, size, total)))

        @get(
            f"{PATH}/{{webhook_id:str}}",
            opt=OPTIONS | {"answer": Success[ShownWebhook]},
            operation_id="getWebhook",
            tags=TAGS,
        )
        async def read(request: AnyRequest, webhook_id: FromPath[str]) -> Response[bytes]:
            """Read one webhook."""
            return json_reply(envelope(shown(await self._found(request, webhook_id))))

        @patch(
            f"{PATH}/{{webhook_id:str}}",
            opt=OPTIONS | {"body": WebhookChanges, "example": {"status": "active"}, "answer": Success[ShownWebhook]},
            status_code=200,
            operation_id="changeWebhook",
            tags=TAGS,
        )
        async def change(request: AnyRequest, webhook_id: FromPath[str]) -> Response[bytes]:
            """Change a webhook's address, events, description or status. Active again it begins without a past."""
            caller = caller_of(request.scope)
            raw = await read_json(request.scope, request.receive, self._max_body_bytes)
            body, unknown = decode(raw, WebhookChanges, self._wrong)
            before = await self._found(request, webhook_id)
            events = None if body.events is None else list(dict.fromkeys(body.events))
            _must_read(caller, before.events if events is None else events)
            changed = await self._webhooks.edit(
                caller.account,
                webhook_id,
                user=caller.user_id,
                url=body.url,
                events=events,
                description=body.description,
                status=body.status,
            )
            return json_reply(envelope(shown(changed)), headers=warning(unknown))

        @delete(
            f"{PATH}/{{webhook_id:str}}",
            opt=OPTIONS | {"answer": Success[DeletedWebhook]},
            status_code=200,
            operation_id="deleteWebhook",
            tags=TAGS,
        )
        async def remove(request: AnyRequest, webhook_id: FromPath[str]) -> Response[bytes]:
            """Delete a webhook with the log of its deliveries."""
            caller = caller_of(request.scope)
            await self._webhooks.delete(caller.account, webhook_id, user=caller.user_id)
            return json_reply(envelope({"id": webhook_id, "deleted": True}))

        return [create, list_, read, change, remove]

    def _of_secrets(self) -> list[HTTPRouteHandler]:
        @post(
            f"{PATH}/{{webhook_id:str}}/rotate-secret",
            opt=OPTIONS
            | {
                "body": RotateSecret,
                "optional": True,
                "example": {},
                "headers": ONCE,
                "answer": Success[CreatedWebhook],
            },
            status_code=200,
            operation_id="rotateWebhookSecret",
            tags=TAGS,
        )
        async def rotate(request: AnyRequest, webhook_id: FromPath[str]) -> Response[bytes]:
            """Give a webhook a new secret. The one before signs as well until the overlap ends."""
            caller = caller_of(request.scope)
            raw = await read_json(request.scope, request.receive, self._max_body_bytes)
            body, unknown = decode(raw, RotateSecret) if raw.strip() else (RotateSecret(), [])
            made, secret = await self._webhooks.rotate(
                caller.account,
                webhook_id,
                user=caller.user_id,
                overlap_s=body.overlap_seconds,
                once=_once(request),
                body=raw,
            )
            return json_reply(envelope(shown(made) | {"secret": secret}), headers=warning(unknown))

        @post(
            f"{PATH}/{{webhook_id:str}}/test",
            opt=OPTIONS | {"headers": ONCE, "answer": Success[ShownDelivery]},
            status_code=202,
            operation_id="testWebhook",
            tags=TAGS,
        )
        async def test(request: AnyRequest, webhook_id: FromPath[str]) -> Response[bytes]:
            """Have a webhook sent an event `webhook.test`. The delivery tells what became of it."""
            made = await self._deliveries.test(await self._found(request, webhook_id), _once(request))
            await self._hint()
            return json_reply(envelope(shown_delivery(made)), status=202)

        return [rotate, test]

    def _of_deliveries(self) -> list[HTTPRouteHandler]:
        @get(
            f"{PATH}/{{webhook_id:str}}/deliveries",
            opt=OPTIONS | {"query": DELIVERIES, "answer": SuccessPage[ShownDelivery]},
            operation_id="listDeliveries",
            tags=TAGS,
        )
        async def list_(request: AnyRequest, webhook_id: FromPath[str]) -> Response[bytes]:
            """List what was sent to a webhook and what waits, newest first."""
            query = Query(request.scope)
            status = query.choice("status", STATUSES)
            page, size = query.page()
            query.check()
            found, total = await self._deliveries.page(
                await self._found(request, webhook_id), status=status, limit=size, offset=(page - 1) * size
            )
            listed = [shown_delivery(one) for one in found]
            return json_reply(envelope(listed, pagination=pagination(page, size, total)))

        @get(
            f"{PATH}/{{webhook_id:str}}/deliveries/{{delivery_id:str}}",
            opt=OPTIONS | {"answer": Success[WholeDelivery]},
            operation_id="getDelivery",
            tags=TAGS,
        )
        async def read(request: AnyRequest, webhook_id: FromPath[str], delivery_id: FromPath[str]) -> Response[bytes]:
            """Read one delivery: what is sent, and what the receiver answered to each attempt."""
            found, body, attempts = await self._deliveries.find(await self._found(request, webhook_id), delivery_id)
            _must_read(caller_of(request.scope), [found.kind])
            told = {"body": msgspec.Raw(body.encode()), "log": [shown_attempt(one) for one in attempts]}
            return json_reply(envelope(shown_delivery(found) | told))

        @post(
            f"{PATH}/{{webhook_id:str}}/deliveries/{{delivery_id:str}}/redeliver",
            opt=OPTIONS | {"answer": Success[ShownDelivery]},
            status_code=202,
            operation_id="redeliver",
            tags=TAGS,
        )
        async def redeliver(
            request: AnyRequest, webhook_id: FromPath[str], delivery_id: FromPath[str]
        ) -> Response[bytes]:
            """Send a delivery again, under the same `webhook-id` and with a full number of tries."""
            found = await self._found(request, webhook_id)
            again = await self._deliveries.redeliver(found, delivery_id)
            await self._hint()
            return json_reply(envelope(shown_delivery(again)), status=202)

        return [list_, read, redeliver]

    async def _found(self, request: AnyRequest, webhook_id: str) -> Webhook:
        caller = caller_of(request.scope)
        return await self._webhooks.find(caller.account, webhook_id, user=caller.user_id)

    def _wrong(self, body: NewWebhook | WebhookChanges) -> Errors:
        errors: Errors = []
        if body.url is not None and (reason := refusal(body.url, allow_private=self._allow_private)):
            errors.append(("url", reason))
        errors += [
            (f"events[{i}]", f"must be one of {', '.join(TOLD_TO_WEBHOOKS)}")
            for i, kind in enumerate(body.events or [])
            if kind not in TOLD_TO_WEBHOOKS
        ]
        return errors


def _must_read(caller: Caller, kinds: Collection[str]) -> None:
    """Raises Forbidden for events that tell of what the key cannot read."""
    needed = {scope_of(kind) for kind in kinds if kind != TEST}
    if lacking := sorted(needed - caller.scopes):
        raise Forbidden(f"this API key lacks the scope {', '.join(lacking)}", details={"scopes": lacking})


def _once(request: AnyRequest) -> str | None:
    once = request.headers.get("idempotency-key")
    if once is not None and not 0 < len(once) <= MAX_IDEMPOTENCY_KEY:
        raise BadRequest(f"Idempotency-Key must be 1 to {MAX_IDEMPOTENCY_KEY} characters")
    return once
