"""Which messages were remembered, which were deleted: the tables ``remembered`` and ``tombstones``, and who wins.

A message's row in ``remembered`` is the done mark of the bridge, committed with what was stored, and what status and
replay answer from once the message is past its retention.

Choices:

1. Whoever stores or deletes for an owner locks it first (`records.lock`), so that storing a message and deleting it
   happen one after the other: the second sees what the first did, and delete wins both ways.
2. A tombstone names the creation of the message it stands for: an id may come again after its retention, for another.
3. Record and content are bytes: JSON columns cannot hold the NUL character, which a model may write.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Literal, NamedTuple

import msgspec

from app.database import Database
from app.memory.conversations import ensure_owner
from app.memory.memories import Memories
from app.memory.records import lock
from app.memory.types import Owner

TOMBSTONES_KEPT = timedelta(days=90)
"""Longer than any message can wait to be remembered: a retention and the thirty days of a dead letter."""

LOOK_S = 2.0


class Outcome(msgspec.Struct, kw_only=True):
    """What became of one message: ``status`` failed while a model could not extract from it, with its reason."""

    message_id: str
    created_ms: int
    status: Literal["stored", "skipped", "failed"]
    reason: str | None
    memory_ids: list[str]


class Kept(msgspec.Struct, kw_only=True):
    """A remembered message as it was: its record and its content blocks."""

    outcome: Outcome
    record: dict[str, Any]
    content: list[dict[str, Any]]


class Name(NamedTuple):
    """One message: an id may come again after its retention, for a message created later."""

    account: str
    message_id: str
    created_ms: int


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """The done mark of one message, with its record and its content blocks."""

    owner: Owner
    message_id: str
    created_ms: int
    conversation: str
    record: bytes
    content: list[dict[str, Any]]


async def decided(connection: Any, names: Sequence[Name]) -> dict[Name, Outcome | None]:
    """Those of the messages that were remembered, with what became of them, or deleted: None. Their owners locked."""
    rows = await connection.fetch(
        f"""SELECT g.account, g.id, g.created, t.message_id IS NOT NULL AS deleted, r.message_id, r.created_ms,
            r.status, r.reason, r.memory_ids
        FROM unnest($1::text[], $2::text[], $3::bigint[]) AS g (account, id, created)
        LEFT JOIN tombstones t ON t.account = g.account AND t.message_id = g.id AND t.created_ms >= g.created
        LEFT JOIN LATERAL (
            {_OUTCOMES} WHERE r.account = g.account AND r.message_id = g.id AND r.created_ms = g.created) r ON true
        WHERE t.message_id IS NOT NULL OR r.message_id IS NOT NULL""",  # noqa: S608 - constants
        [name.account for name in names],
        [name.message_id for name in names],
        [name.created_ms for name in names],
    )
    return {Name(row["account"], row["id"], row["created"]): None if row["deleted"] else _outcome(row) for row in rows}


async def still_there(connection: Any, owner: Owner, message_ids: Sequence[str]) -> set[str]:
    """Those of the remembered messages that have not been deleted since. To be asked with the owner locked."""
    statement = "SELECT message_id FROM remembered WHERE owner = $1 AND message_id = ANY($2::text[])"
    return {row["message_id"] for row in await connection.fetch(statement, owner.id, list(message_ids))}


async def mark(connection: Any, marks: Sequence[Mark]) -> None:
    """Writes done marks. One takes the place of an older message's that had the same id."""
    await connection.execute(
        """INSERT INTO remembered (account, message_id, created_ms, owner, conversation, status, record, content)
           SELECT account, message_id, created_ms, owner, conversation, 'stored', record, content
           FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::text[], $6::bytea[], $7::bytea[])
               AS g (account, message_id, created_ms, owner, conversation, record, content)
           ON CONFLICT (account, message_id) DO UPDATE SET
               created_ms = excluded.created_ms, owner = excluded.owner, conversation = excluded.conversation,
               status = excluded.status, reason = NULL, record = excluded.record, content = excluded.content,
               noted = true, at = now()
           WHERE remembered.created_ms < excluded.created_ms""",
        [one.owner.account for one in marks],
        [one.message_id for one in marks],
        [one.created_ms for one in marks],
        [one.owner.id for one in marks],
        [one.conversation for one in marks],
        [one.record for one in marks],
        [msgspec.json.encode(one.content) for one in marks],
    )


async def extracted(connection: Any, owner: Owner, message_ids: Sequence[str], reason: str | None) -> list[Outcome]:
    """An extraction read these messages, or failed for a reason: their outcomes now, to be told to their statuses."""
    await connection.execute(
        """UPDATE remembered SET status = CASE WHEN $3::text IS NULL THEN 'stored' ELSE 'failed' END,
               reason = $3, noted = false, at = now()
           WHERE owner = $1 AND message_id = ANY($2::text[])""",
        owner.id,
        list(message_ids),
        reason,
    )
    rows = await connection.fetch(f"{_OUTCOME} AND r.owner = $3", owner.account, list(message_ids), owner.id)
    return [_outcome(row) for row in rows]


class Remembered:
    """Remembered messages, read and deleted. Every method raises `Unavailable` when PostgreSQL does not answer."""

    def __init__(self, database: Database, memories: Memories) -> None:
        self._database = database
        self._memories = memories

    async def find(self, account: str, message_ids: list[str]) -> dict[str, Kept]:
        """Those of the account's messages that are remembered, by id."""
        rows = await self._database.fetch(_OUTCOME, account, message_ids, timeout=LOOK_S)
        return {
            row["message_id"]: Kept(
                outcome=_outcome(row),
                record=msgspec.json.decode(row["record"]),
                content=msgspec.json.decode(row["content"]),
            )
            for row in rows
        }

    async def delete(self, account: str, user: str, message_id: str, created_ms: int, *, memories: bool) -> None:
        """Whatever comes later, this message is not remembered; ``memories``: nor is anything that was made from it."""
        async with self._database.transaction() as connection:
            owner = await ensure_owner(connection, account, user)
            await lock(connection, owner)
            await connection.execute(
                """INSERT INTO tombstones (account, message_id, created_ms) VALUES ($1, $2, $3)
                   ON CONFLICT (account, message_id)
                   DO UPDATE SET created_ms = greatest(tombstones.created_ms, excluded.created_ms), at = now()""",
                account,
                message_id,
                created_ms,
            )
            await connection.execute(
                "DELETE FROM remembered WHERE account = $1 AND message_id = $2 AND created_ms <= $3",
                account,
                message_id,
                created_ms,
            )
            if memories:
                await self._memories.remove_message(connection, owner, message_id)

    async def unnoted(self, most: int = 100) -> list[tuple[str, Outcome]]:
        """Outcomes of extractions whose worker died before the statuses told of them, with their accounts."""
        rows = await self._database.fetch(f"{_OUTCOMES} WHERE NOT noted AND r.at < now() - interval '5 s' LIMIT {most}")
        return [(row["account"], _outcome(row)) for row in rows]

    async def noted(self, account: str, outcomes: list[Outcome]) -> None:
        """The statuses of these messages tell of them now."""
        await self._database.execute(
            """UPDATE remembered SET noted = true FROM unnest($2::text[], $3::bigint[]) AS told (id, created_ms)
               WHERE account = $1 AND message_id = told.id AND remembered.created_ms = told.created_ms""",
            account,
            [one.message_id for one in outcomes],
            [one.created_ms for one in outcomes],
        )

    async def purge(self) -> None:
        """Drops the tombstones that nothing can come back for any more."""
        await self._database.execute("DELETE FROM tombstones WHERE at < now() - $1::interval", TOMBSTONES_KEPT)


_OUTCOMES = """SELECT r.account, r.message_id, r.created_ms, r.status, r.reason, r.record, r.content, ARRAY(
        SELECT id FROM memories m WHERE m.owner = r.owner AND m.message_id = r.message_id AND m.deleted_at IS NULL
        ORDER BY m.created_at, m.id
    ) AS memory_ids
    FROM remembered r"""
_OUTCOME = f"{_OUTCOMES} WHERE r.account = $1 AND r.message_id = ANY($2::text[])"


def _outcome(row: Any) -> Outcome:
    return Outcome(
        message_id=row["message_id"],
        created_ms=row["created_ms"],
        status=row["status"],
        reason=row["reason"],
        memory_ids=list(row["memory_ids"]),
    )
