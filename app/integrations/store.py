"""Integrations as rows: received, found, listed, cancelled, retried, deleted. Owns every ``integration*`` table.

Choices:

1. Whatever changes an integration's state tells its watchers, and of its end the account, in the same transaction
   (`tell`): the events are the truth about it, whoever died in between.
2. A row is ``receiving`` until all that was sent is there: no worker takes it, nobody sees it, and one whose sender
   went away is removed (`purge`).
3. Cancelling and finishing lock the row: the first one wins, and the other finds it ended.
4. An access token is kept only while it is needed: with the end of a run it is gone.
5. What was sent is kept as long as a retry may need it. When none can be any more, it is removed (`purge`): at the end
   itself, fifty megabytes would keep whoever cancels waiting.
"""

from __future__ import annotations

from typing import Any, Literal

import asyncpg
import msgspec

from app import ids, outbox
from app.database import Database
from app.errors import Conflict, NotFound
from app.integrations.integration import (
    FINAL,
    MOST_SHOWN,
    Failure,
    Integration,
    ItemError,
    LogLine,
    StatusBody,
    percentage,
)
from app.iso import iso
from app.memory.records import to_json
from app.memory.types import Owner

CHANNEL = "integrate"
"""Where workers hear that there is one to take, or that one was cancelled: the hint is its id."""
TOLD_CHANNEL = "integrations"
"""Where watchers hear that there is something to read: the hint is the integration's id."""
PART_BYTES = 1_048_576
COLUMNS = ", ".join(
    {"account": "o.account", "user": "o.user_id AS user"}.get(field, f"i.{field}")
    for field in Integration.__struct_fields__
)
"""The columns of ``integrations i JOIN owners o`` that make an `Integration`."""
RECEIVING_KEPT, EVENTS_KEPT = "1 hour", "7 days"
LAST_SEQ = 2**63 - 1
LEARNED = 20
"""Memories shown with an integration, newest first."""

EventType = Literal["progress", "item_error", "log", "completed", "failed", "cancelled"]


class Event(msgspec.Struct, frozen=True):
    """One event; ``data`` is its JSON, on one line."""

    seq: int
    type: str
    data: str


async def tell(
    connection: asyncpg.Connection, integration_id: str, kind: EventType, extra: dict[str, Any] | None = None
) -> Integration:
    """Writes the next event, with the integration as it is now, in the caller's transaction."""
    row = await connection.fetchrow(
        f"""UPDATE integrations i SET last_seq = last_seq + 1, last_activity = clock_timestamp()
        FROM owners o WHERE o.id = i.owner AND i.id = $1 RETURNING {COLUMNS}""",  # noqa: S608 - constants
        integration_id,
    )
    if row is None:
        raise missing(integration_id)
    integration = to_integration(row)
    body = integration.body()
    if integration.failure is not None and kind == "failed":
        body.errors = [_failure(integration, integration.failure)]
    data = {"type": kind, "seq": integration.last_seq, "status": body} | (extra or {})
    await connection.execute(
        "INSERT INTO integration_events (integration, seq, type, data) VALUES ($1, $2, $3, $4)",
        integration_id,
        integration.last_seq,
        kind,
        to_json(data),
    )
    if kind in ("completed", "failed"):
        told = msgspec.to_builtins(body) | {"user_id": integration.user}
        await outbox.tell(connection, integration.account, integration.user, f"integration.{kind}", told)
    return integration


async def find(
    database: Database, integration_id: str, *, owner: Owner | None = None, account: str | None = None
) -> Integration:
    """The integration of this owner, or of anybody of this account. Raises NotFound."""
    row = await database.fetchrow(
        f"""SELECT {COLUMNS} FROM integrations i JOIN owners o ON o.id = i.owner
        WHERE i.id = $1 AND i.status <> 'receiving' AND (i.owner = $2 OR o.account = $3)""",  # noqa: S608
        integration_id,
        owner.id if owner else None,
        account,
    )
    if row is None:
        raise missing(integration_id)
    return to_integration(row)


async def page(
    database: Database,
    owner: Owner,
    *,
    status: str | None = None,
    kind: str | None = None,
    platform: str | None = None,
    before: str | None = None,
    limit: int = 20,
) -> list[Integration]:
    """The owner's integrations, newest first, those older than ``before``."""
    rows = await database.fetch(
        f"""SELECT {COLUMNS} FROM integrations i JOIN owners o ON o.id = i.owner
        WHERE i.owner = $1 AND i.status <> 'receiving' AND ($2::text IS NULL OR i.status = $2)
        AND ($3::text IS NULL OR i.type = $3) AND ($4::text IS NULL OR i.platform = $4)
        AND ($5::text IS NULL OR i.id < $5) ORDER BY i.id DESC LIMIT $6""",  # noqa: S608 - constants
        owner.id,
        status,
        kind,
        platform,
        before,
        limit,
    )
    return [to_integration(row) for row in rows]


async def status_of(
    database: Database, integration: Integration, *, errors: bool = True, logs: bool = False
) -> StatusBody:
    """The whole status, with the first `MOST_SHOWN` errors and the newest log lines where they are wanted."""
    body = integration.body()
    if errors:
        rows = await database.fetch(
            """SELECT position, item_id, code, message, failed_at FROM integration_items
            WHERE integration = $1 AND state = 'failed' ORDER BY position LIMIT $2""",
            integration.id,
            MOST_SHOWN,
        )
        whole = [] if integration.failure is None else [_failure(integration, integration.failure)]
        body.errors = whole + [item_error(integration.id, row) for row in rows]
    if logs:
        rows = await database.fetch(
            """SELECT data->>'log' AS line FROM integration_events WHERE integration = $1 AND type = 'log'
            ORDER BY seq DESC LIMIT $2""",
            integration.id,
            MOST_SHOWN,
        )
        body.logs = [msgspec.json.decode(row["line"], type=LogLine) for row in reversed(rows)]
    return body


async def learned(database: Database, integration: Integration) -> list[tuple[str, str]]:
    """The newest memories it made that are still there: ids and texts."""
    rows = await database.fetch(
        """SELECT m.id, m.text FROM (
            SELECT unnest(memory_ids) AS id FROM integration_items WHERE integration = $1) made
        JOIN memories m ON m.id = made.id AND m.owner = $2 AND m.deleted_at IS NULL
        ORDER BY m.created_at DESC, m.id LIMIT $3""",
        integration.id,
        integration.owner,
        LEARNED,
    )
    return [(row["id"], row["text"]) for row in rows]


async def events(database: Database, integration_id: str, after: int, limit: int) -> list[Event]:
    """The events after this one, in their order."""
    rows = await database.fetch(
        """SELECT seq, type, data::text AS data FROM integration_events WHERE integration = $1 AND seq > $2
        ORDER BY seq LIMIT $3""",
        integration_id,
        min(after, LAST_SEQ),
        limit,
    )
    return [Event(row["seq"], row["type"], row["data"]) for row in rows]


async def newest(database: Database, integration_ids: list[str]) -> dict[str, int]:
    """The number of the last event of each of these that is still there."""
    rows = await database.fetch("SELECT id, last_seq FROM integrations WHERE id = ANY($1)", integration_ids)
    return {row["id"]: row["last_seq"] for row in rows}


async def cancel(database: Database, integration: Integration) -> Integration:
    """Ends it; what was brought stays. From the answer on nothing more is. Raises Conflict when it ended otherwise."""
    async with database.transaction() as connection:
        ended = await connection.execute(
            """UPDATE integrations SET status = 'cancelled', claim = NULL, claimed_until = NULL, secret = NULL,
            estimated_at = NULL, completed_at = now() WHERE id = $1 AND status IN ('pending', 'processing')""",
            integration.id,
        )
        if ended == "UPDATE 1":
            return await tell(connection, integration.id, "cancelled")
    found = await find(database, integration.id, account=integration.account)
    if found.status != "cancelled":
        raise Conflict(
            f"the integration is {found.status}: only a pending or processing one can be cancelled",
            details={"status": found.status},
            integration_id=found.id,
        )
    return found


async def retry(database: Database, integration: Integration, secret: dict[str, Any] | None = None) -> Integration:
    """Has failed items tried again, and what a failed integration had not come to. Raises Conflict for nothing to do.

    Items that could not be read have nothing left to be tried with, and stay as they are.
    """
    async with database.transaction() as connection:
        row = await connection.fetchrow(
            f"""SELECT {COLUMNS} FROM integrations i JOIN owners o ON o.id = i.owner
            WHERE i.id = $1 FOR UPDATE OF i""",  # noqa: S608 - constants
            integration.id,
        )
        if row is None:
            raise missing(integration.id)
        found = to_integration(row)
        again = await connection.fetch(
            """UPDATE integration_items SET state = 'waiting', code = NULL, message = NULL, failed_at = NULL,
            counted = false WHERE integration = $1 AND state = 'failed' AND payload IS NOT NULL RETURNING step""",
            integration.id,
        )
        if found.status not in ("completed", "failed") or not (again or found.failure):
            raise Conflict(
                f"the integration is {found.status}"
                + (": nothing in it can be tried again" if found.status in FINAL else "")
                + (", bring it anew" if found.status == "cancelled" else ""),
                details={"status": found.status},
                integration_id=found.id,
            )
        whole = found.failure is not None
        step = min([one["step"] for one in again] + ([found.step] if whole else []))
        left = len(again) / max(1, found.items_total)
        await connection.execute(
            """UPDATE integrations SET status = 'pending', failure = NULL, completed_at = NULL, tries = 0, step = $2,
            due_at = now(), percentage = $3, items_processed = items_processed - $4, errors_count = errors_count - $5,
            secret = coalesce($6, secret) WHERE id = $1""",
            integration.id,
            step,
            percentage(found.type, step, 0.0 if whole else 1 - left),
            len(again),
            len(again) + whole,
            to_json(secret) if secret else None,
        )
        return await tell(connection, integration.id, "progress")


async def delete(database: Database, integration: Integration) -> None:
    """Removes it and all that was not brought yet. What was brought stays."""
    await database.execute("DELETE FROM integrations WHERE id = $1", integration.id)


async def brought(database: Database, integration: Integration) -> tuple[list[str], list[str]]:
    """The ids of the memories it made, and of the conversations that were not there before."""
    rows = await database.fetch(
        """SELECT memory_ids, conversation, made FROM integration_items
        WHERE integration = $1 AND (made OR memory_ids <> '{}')""",
        integration.id,
    )
    memories = [one for row in rows for one in row["memory_ids"]]
    return memories, list(dict.fromkeys(row["conversation"] for row in rows if row["made"]))


async def purge(database: Database) -> None:
    """Removes what nobody sends any more, what nothing can be done with, and the progress of what ended long ago."""
    await database.execute(
        f"DELETE FROM integrations WHERE status = 'receiving' AND created_at < now() - interval '{RECEIVING_KEPT}'"  # noqa: S608
    )
    await database.execute(
        f"""DELETE FROM integration_events e USING integrations i WHERE e.integration = i.id AND e.type = 'progress'
        AND i.completed_at < now() - interval '{EVENTS_KEPT}' AND e.seq < i.last_seq"""  # noqa: S608
    )
    await database.execute(
        """DELETE FROM integration_files f USING integrations i WHERE f.integration = i.id AND (i.status = 'cancelled'
        OR i.status = 'completed' AND NOT EXISTS (SELECT FROM integration_items t
            WHERE t.integration = i.id AND t.state = 'failed' AND t.payload IS NOT NULL))"""
    )
    await database.execute(
        """UPDATE integration_items t SET payload = NULL, turns = NULL FROM integrations i
        WHERE t.integration = i.id AND i.status = 'cancelled' AND t.state = 'waiting' AND t.payload IS NOT NULL"""
    )


def missing(integration_id: str) -> NotFound:
    return NotFound("integration", "there is no such integration", integration_id=integration_id)


def to_integration(row: Any) -> Integration:
    """A row of `COLUMNS`."""
    values = {field: row[field] for field in Integration.__struct_fields__}
    values["request"] = msgspec.json.decode(values["request"])
    if values["failure"] is not None:
        values["failure"] = msgspec.json.decode(values["failure"], type=Failure)
    return Integration(**values)


def item_error(integration_id: str, row: Any) -> ItemError:
    """A failed item as its integration's status tells it."""
    return ItemError(
        error_id=ids.derived_id("err", integration_id, str(row["position"])),
        message=row["message"],
        code=row["code"],
        timestamp=iso(row["failed_at"]),
        item_id=row["item_id"],
    )


def _failure(integration: Integration, failure: Failure) -> ItemError:
    return ItemError(
        error_id=ids.derived_id("err", integration.id, failure.at),
        message=failure.message,
        code=failure.code,
        timestamp=failure.at,
        item_id=None,
    )
