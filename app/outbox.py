"""The outbox: what PostgreSQL makes true and the account is to be told of. Owns the table ``outbox``.

An event is a row written by the transaction that makes it true: what is rolled back is never told, what is committed is
never lost. `workers.notify` takes rows in their order, tells the account's feed and its webhooks, and removes them.

Choices:

1. Rows carry an id of their event, made once: whoever is told of it twice can know it.
2. What is written for one owner is written under that owner's lock, so its rows have the order of its commits. Between
   owners there is no order to keep.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import asyncpg
import msgspec

from app.iso import iso

INSERT = "INSERT INTO outbox (account, user_id, kind, data)"
"""How a statement that makes many things true has them told of with it."""


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened to one user of an account. ``data``: what its body says of it, as JSON."""

    account: str
    user: str
    kind: str
    data: bytes


class Telling(msgspec.Struct, frozen=True, kw_only=True):
    """An event that is to be told: ``body`` is what it is told by, the same to everybody."""

    event_id: str
    account: str
    user: str
    kind: str
    body: bytes


async def write(connection: asyncpg.Connection, events: Sequence[Event]) -> None:
    """Has events be told once the caller's transaction commits: one statement, however many there are."""
    if not events:
        return
    await connection.execute(
        f"{INSERT} SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::json[])",  # noqa: S608 - a constant
        [event.account for event in events],
        [event.user for event in events],
        [event.kind for event in events],
        [event.data.decode() for event in events],
    )


async def tell(connection: asyncpg.Connection, account: str, user: str, kind: str, data: dict[str, Any]) -> None:
    """`write` of one event."""
    await write(connection, [Event(account=account, user=user, kind=kind, data=msgspec.json.encode(data))])


async def take(connection: asyncpg.Connection, most: int) -> list[Telling]:
    """The oldest events, in their order; none while another transaction has them."""
    if not await connection.fetchval("SELECT pg_try_advisory_xact_lock('outbox'::regclass::oid::bigint)"):
        return []
    rows = await connection.fetch(
        "SELECT event_id, account, user_id, kind, data, at FROM outbox ORDER BY id LIMIT $1", most
    )
    return [
        Telling(
            event_id=row["event_id"],
            account=row["account"],
            user=row["user_id"],
            kind=row["kind"],
            body=event_body(row["kind"], msgspec.Raw(row["data"].encode()), row["at"]),
        )
        for row in rows
    ]


async def remove(connection: asyncpg.Connection, told: Sequence[Telling]) -> None:
    """They are told."""
    await connection.execute("DELETE FROM outbox WHERE event_id = ANY($1)", [event.event_id for event in told])


def event_body(kind: str, data: Any, at: datetime) -> bytes:
    """The one shape of an event, on the feed and in a webhook's request."""
    return msgspec.json.encode({"event": kind, "data": data, "timestamp": shown(at)})


def shown(when: datetime | None) -> str | None:
    """A time of PostgreSQL's, which is in UTC, as the wire has it."""
    return None if when is None else iso(when)
