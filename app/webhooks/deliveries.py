"""Deliveries: events on their way to webhooks, and what became of each attempt. Owns ``deliveries`` and their attempts.

Choices:

1. A webhook has an event once (`make`), however often the event's source tells of it: its id decides. That id is the
   ``webhook-id`` of every attempt, redeliveries included, so that a receiver can tell what it has had.
2. The body is kept as the bytes that are signed: every attempt sends the same.
3. Of what a receiver answers the beginning is kept, for who looks for a mistake.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Literal

import asyncpg
import msgspec

from app import ids
from app.database import Database
from app.errors import Conflict, NotFound
from app.outbox import Telling, event_body
from app.webhooks.store import Webhook

CHANNEL = "webhooks"
"""Where the background process hears that something is to be sent."""
TEST = "webhook.test"
DELIVERED_KEPT, DEAD_KEPT = "7 days", "30 days"
Status = Literal["pending", "delivered", "dead"]
STATUSES: tuple[Status, ...] = ("pending", "delivered", "dead")


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """An event on its way to one webhook. ``next_at``: when it is tried next, or tried again should its sender die."""

    id: str
    webhook: str
    event_id: str
    kind: str
    status: Status
    attempts: int
    next_at: datetime
    created_at: datetime
    ended_at: datetime | None


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one attempt: the receiver's status and the beginning of its answer, or why there is none."""

    number: int
    at: datetime
    ms: int
    status: int | None
    error: str | None
    response: str


_COLUMNS = ", ".join(Delivery.__struct_fields__)


async def wanted(connection: Any, accounts: Sequence[str]) -> list[Any]:
    """The active webhooks of these accounts, kept from being deleted until the transaction ends."""
    return list(
        await connection.fetch(
            """SELECT id, account, user_id, events FROM webhooks WHERE account = ANY($1) AND status = 'active'
            FOR KEY SHARE""",
            list(set(accounts)),
        )
    )


async def make(connection: Any, webhooks: Sequence[Any], events: Sequence[Telling]) -> int:
    """Has those of the webhooks (of `wanted`) that want them sent these events; how many deliveries there are now."""
    pairs = [
        (webhook["id"], event)
        for event in events
        for webhook in webhooks
        if webhook["account"] == event.account
        and event.kind in webhook["events"]
        and webhook["user_id"] in (None, event.user)
    ]
    if not pairs:
        return 0
    tag = await connection.execute(
        """INSERT INTO deliveries (id, webhook, event_id, kind, body)
        SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[])
        ON CONFLICT (webhook, event_id) DO NOTHING""",
        [ids.new_id("dlv") for _ in pairs],
        [webhook for webhook, _ in pairs],
        [event.event_id for _, event in pairs],
        [event.kind for _, event in pairs],
        [event.body.decode() for _, event in pairs],
    )
    return int(tag.rpartition(" ")[2])


class Deliveries:
    """The deliveries of one database, as a webhook's owner sees them. The webhook is to be theirs."""

    def __init__(self, database: Database) -> None:
        self._db = database

    async def page(
        self, webhook: Webhook, *, status: str | None, limit: int, offset: int
    ) -> tuple[list[Delivery], int]:
        """A page of its deliveries, newest first, and how many there are."""
        rows = await self._db.fetch(
            f"""SELECT {_COLUMNS} FROM deliveries WHERE webhook = $1 AND ($2::text IS NULL OR status = $2)
            ORDER BY id DESC LIMIT $3 OFFSET $4""",  # noqa: S608 - constants
            webhook.id,
            status,
            limit,
            offset,
        )
        total = await self._db.fetchval(
            "SELECT count(*) FROM deliveries WHERE webhook = $1 AND ($2::text IS NULL OR status = $2)",
            webhook.id,
            status,
        )
        return [_delivery(row) for row in rows], total

    async def find(self, webhook: Webhook, delivery_id: str) -> tuple[Delivery, str, list[Attempt]]:
        """One delivery, its body, and its attempts in their order. Raises NotFound."""
        row = await self._db.fetchrow(
            f"SELECT {_COLUMNS}, body FROM deliveries WHERE webhook = $1 AND id = $2",  # noqa: S608 - constants
            webhook.id,
            delivery_id,
        )
        if row is None:
            raise _missing(delivery_id)
        attempts = await self._db.fetch(
            """SELECT number, at, ms, status, error, response FROM delivery_attempts WHERE delivery = $1
            ORDER BY number""",
            delivery_id,
        )
        return _delivery(row), row["body"], [Attempt(**dict(one)) for one in attempts]

    async def redeliver(self, webhook: Webhook, delivery_id: str) -> Delivery:
        """Sends it again, under the same id and with a full number of tries. One that is on its way goes on so.

        Raises NotFound, and Conflict while the webhook is disabled.
        """
        _must_be_active(webhook)
        row = await self._db.fetchrow(
            f"""UPDATE deliveries SET status = 'pending', tries = 0, ended_at = NULL,
            next_at = CASE WHEN claim IS NULL THEN now() ELSE next_at END
            WHERE webhook = $1 AND id = $2 RETURNING {_COLUMNS}""",  # noqa: S608 - constants
            webhook.id,
            delivery_id,
        )
        if row is None:
            raise _missing(delivery_id)
        return _delivery(row)

    async def test(self, webhook: Webhook, once: str | None = None) -> Delivery:
        """Sends it an event that says nothing. ``once``: an Idempotency-Key. Raises Conflict while it is disabled."""
        _must_be_active(webhook)
        event_id = ids.derived_id("evt", webhook.id, "test", once) if once else ids.new_id("evt")
        body = event_body(TEST, {"webhook_id": webhook.id}, datetime.now(UTC))
        row = await self._db.fetchrow(
            f"""INSERT INTO deliveries (id, webhook, event_id, kind, body) VALUES ($1, $2, $3, $4, $5)
            ON CONFLICT (webhook, event_id) DO UPDATE SET kind = excluded.kind RETURNING {_COLUMNS}""",  # noqa: S608
            ids.new_id("dlv"),
            webhook.id,
            event_id,
            TEST,
            body.decode(),
        )
        return _delivery(row)


async def purge(database: Database) -> None:
    """Removes what was delivered, or given up, long ago."""
    for status, kept in (("delivered", DELIVERED_KEPT), ("dead", DEAD_KEPT)):
        await database.execute(
            f"DELETE FROM deliveries WHERE status = $1 AND ended_at < now() - interval '{kept}'",  # noqa: S608
            status,
        )


def _must_be_active(webhook: Webhook) -> None:
    if webhook.status != "active":
        raise Conflict("the webhook is disabled: make it active first", webhook_id=webhook.id)


def _missing(delivery_id: str) -> NotFound:
    return NotFound("delivery", "there is no such delivery", delivery_id=delivery_id)


def _delivery(row: asyncpg.Record) -> Delivery:
    return Delivery(**{name: row[name] for name in Delivery.__struct_fields__})
