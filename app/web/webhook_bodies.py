"""Webhooks on the wire: the bodies of their requests and the shapes of their answers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from app.feeds import TOLD_TO_WEBHOOKS
from app.iso import iso
from app.webhooks.deliveries import Attempt, Delivery, Status
from app.webhooks.store import Webhook

LONGEST_URL = 4_096
LONGEST_OVERLAP_S = 30 * 86_400

Name = Annotated[str, Meta(min_length=1, max_length=256, pattern=r"^[^\x00]*$")]
Url = Annotated[str, Meta(min_length=1, max_length=LONGEST_URL, pattern=r"^[^\x00]*$")]
Events = Annotated[
    list[str], Meta(min_length=1, max_length=64, description=f"of {', '.join(TOLD_TO_WEBHOOKS)}; each once")
]
Description = Annotated[str, Meta(max_length=1_000, pattern=r"^[^\x00]*$")]


class NewWebhook(msgspec.Struct, kw_only=True):
    """The body of a creation. ``user_id``: only this user's events; absent, everybody's (a bound key's user's)."""

    url: Url
    events: Events
    user_id: Name | None = None
    description: Description = ""


class WebhookChanges(msgspec.Struct, kw_only=True):
    """The body of a change: what is given is changed."""

    url: Url | None = None
    events: Events | None = None
    description: Description | None = None
    status: Literal["active", "disabled"] | None = None


class RotateSecret(msgspec.Struct, kw_only=True):
    """The body of a rotation: for how long the secret as it was signs as well."""

    overlap_seconds: Annotated[int, Meta(ge=0, le=LONGEST_OVERLAP_S)] = 86_400


class ShownWebhook(msgspec.Struct, kw_only=True):
    """A webhook without its secret. ``reason``: why it is disabled. ``failing_since``: since when nothing arrives."""

    id: str
    url: str
    events: list[str]
    user_id: str | None
    description: str
    status: Literal["active", "disabled"]
    reason: str | None
    failing_since: str | None
    created_at: str
    updated_at: str
    rotated_at: str | None
    previous_expires_at: Annotated[
        str | None, Meta(description="until when the secret before the last rotation signs as well")
    ]


class CreatedWebhook(ShownWebhook, kw_only=True):
    """The answer of a creation or rotation: the one that holds the secret."""

    secret: str


class DeletedWebhook(msgspec.Struct, kw_only=True):
    id: str
    deleted: bool


class ShownDelivery(msgspec.Struct, kw_only=True):
    """An event on its way to a webhook. ``event_id`` is the ``webhook-id`` of all its attempts."""

    id: str
    webhook_id: str
    event_id: str
    event: str
    status: Status
    attempts: int
    next_attempt_at: str | None
    created_at: str
    ended_at: str | None


class ShownAttempt(msgspec.Struct, kw_only=True):
    """One attempt: the receiver's status and the beginning of its answer, or why there is none."""

    number: int
    at: str
    milliseconds: int
    status: int | None
    error: str | None
    response: str


class WholeDelivery(ShownDelivery, kw_only=True):
    """A delivery with what is sent and what became of each attempt."""

    body: dict[str, Any]
    log: list[ShownAttempt]


def shown(webhook: Webhook) -> dict[str, Any]:
    """A webhook as the wire shows it."""
    return {
        "id": webhook.id,
        "url": webhook.url,
        "events": webhook.events,
        "user_id": webhook.user_id,
        "description": webhook.description,
        "status": webhook.status,
        "reason": webhook.reason,
        "failing_since": iso(webhook.failing_since) if webhook.failing_since else None,
        "created_at": iso(webhook.created_at),
        "updated_at": iso(webhook.updated_at),
        "rotated_at": iso(webhook.rotated_at) if webhook.rotated_at else None,
        "previous_expires_at": iso(webhook.previous_until) if webhook.previous_until else None,
    }


def shown_delivery(delivery: Delivery) -> dict[str, Any]:
    """A delivery as the wire shows it."""
    waits = delivery.status == "pending"
    return {
        "id": delivery.id,
        "webhook_id": delivery.webhook,
        "event_id": delivery.event_id,
        "event": delivery.kind,
        "status": delivery.status,
        "attempts": delivery.attempts,
        "next_attempt_at": iso(delivery.next_at) if waits else None,
        "created_at": iso(delivery.created_at),
        "ended_at": iso(delivery.ended_at) if delivery.ended_at else None,
    }


def shown_attempt(attempt: Attempt) -> dict[str, Any]:
    """An attempt as the wire shows it."""
    return {
        "number": attempt.number,
        "at": iso(attempt.at),
        "milliseconds": attempt.ms,
        "status": attempt.status,
        "error": attempt.error,
        "response": attempt.response,
    }
