"""Snapshots on their way into the store: a queue in PostgreSQL. Owns ``imports``, ``uploads`` and ``upload_parts``.

Choices:

1. What was answered "queued" is committed. A body is written in parts, so that one of 50 MB is never copied whole.
2. A claim is a lease: whoever dies with it loses it, and another goes on. One conversation is worked on by one at a
   time, its snapshots in the order in which they came.
3. A snapshot that cannot be stored is tried ``TRIES`` times, with growing pauses; then its conversation says ``failed``
   and why, and the snapshot is dropped: its sender can send it again.
"""

from __future__ import annotations

from datetime import UTC, datetime

import asyncpg
import msgspec

from app import ids
from app.database import Database
from app.history.snapshot import Head, Snapshot, at
from app.memory.conversations import conversation_id, ensure_owner
from app.memory.records import clean, lock
from app.memory.settling import give_up
from app.memory.types import Owner

CHANNEL = "uploads"
"""Where a worker hears that something waits."""
PART_BYTES = 1_048_576
LEASE_S = 60.0
TRIES = 5
PAUSE_S = 2.0
"""Before the second try; doubled with each."""


class Queued(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a conversation that was sent. ``updated_at``: the newest that is known of it."""

    import_id: str
    conversation: str
    external_id: str
    title: str | None
    updated_at: datetime


class Upload(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot that is claimed. ``memories``: they are to be drawn from it."""

    id: int
    owner: Owner
    conversation: str
    revised_at: datetime
    tries: int
    memories: bool


async def queue(
    database: Database,
    account: str,
    user: str,
    platform: str,
    head: Head,
    body: bytes | memoryview,
    display_name: str | None = None,
    *,
    memories: bool | None = None,
) -> Queued:
    """Commits a conversation's JSON for a worker to store. Raises Unavailable.

    ``memories``: whether they are to be drawn from it; None: as the user's privacy settings say when it is stored.
    """
    now = datetime.now(UTC)
    revised = at(head.updated_at) if head.updated_at else now
    async with database.transaction() as connection:
        owner = await ensure_owner(connection, account, user)
        await lock(connection, owner)
        entered = await enter(connection, owner, platform, head, display_name, revised)
        upload = await connection.fetchval(
            "INSERT INTO uploads (owner, conversation, revised_at, memories) VALUES ($1, $2, $3, $4) RETURNING id",
            owner.id,
            entered.conversation,
            revised,
            memories,
        )
        view = memoryview(body)
        for part, start in enumerate(range(0, len(view), PART_BYTES)):
            await connection.execute(
                "INSERT INTO upload_parts (upload, part, data) VALUES ($1, $2, $3)",
                upload,
                part,
                bytes(view[start : start + PART_BYTES]),
            )
    return Queued(
        import_id=entered.import_id,
        conversation=entered.conversation,
        external_id=head.id,
        title=head.title if entered.updated_at <= revised and head.title else entered.title,
        updated_at=max(entered.updated_at, revised),
    )


class Entered(msgspec.Struct, frozen=True, kw_only=True):
    """A conversation that something is to be stored in, as it is known. ``made``: nothing was known of it."""

    import_id: str
    conversation: str
    title: str | None
    updated_at: datetime
    made: bool


async def enter(
    connection: asyncpg.Connection,
    owner: Owner,
    platform: str,
    head: Head,
    display_name: str | None,
    revised_at: datetime,
) -> Entered:
    """Makes a conversation queued, in the caller's transaction, its owner locked."""
    import_id = await _import(connection, owner, platform, display_name)
    conversation = conversation_id(owner, platform, head.id)
    row = await connection.fetchrow(
        """INSERT INTO conversations AS c
            (id, owner, platform, external_id, title, source, created_at, updated_at, status)
        VALUES ($1, $2, $3, $4, $5, $3, $6, $7, 'queued')
        ON CONFLICT (id) DO UPDATE SET status = 'queued', reason = NULL
        RETURNING c.title, c.updated_at, xmax = 0 AS made""",
        conversation,
        owner.id,
        platform,
        head.id,
        head.title and clean(head.title),
        at(head.created_at) if head.created_at else revised_at,
        revised_at,
    )
    return Entered(
        import_id=import_id,
        conversation=conversation,
        title=row["title"],
        updated_at=row["updated_at"],
        made=row["made"],
    )


async def _import(connection: asyncpg.Connection, owner: Owner, platform: str, display_name: str | None) -> str:
    return str(
        await connection.fetchval(
            """INSERT INTO imports AS i (id, owner, platform, display_name) VALUES ($1, $2, $3, $4)
            ON CONFLICT (owner, platform) DO UPDATE SET display_name = coalesce(excluded.display_name, i.display_name)
            RETURNING id""",
            ids.derived_id("imp", owner.account, owner.user, platform),
            owner.id,
            platform,
            display_name and clean(display_name),
        )
    )


async def claim(database: Database) -> Upload | None:
    """The next snapshot to be stored, for ``LEASE_S``; None when nothing waits."""
    row = await database.fetchrow(
        """UPDATE uploads u SET claimed_until = now() + make_interval(secs => $1), tries = tries + 1
        FROM owners o WHERE o.id = u.owner AND u.id = (
            SELECT id FROM uploads next WHERE due_at <= now() AND (claimed_until IS NULL OR claimed_until < now())
            AND NOT EXISTS (SELECT FROM uploads b WHERE b.conversation = next.conversation AND b.id < next.id)
            ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED)
        RETURNING u.id, u.owner, o.account, o.user_id, u.conversation, u.revised_at, u.tries,
            coalesce(u.memories, (o.privacy->>'memories_from_history')::boolean, false) AS memories""",
        LEASE_S,
    )
    if row is None:
        return None
    owner = Owner(row["owner"], row["account"], row["user_id"])
    return Upload(
        id=row["id"],
        owner=owner,
        conversation=row["conversation"],
        revised_at=row["revised_at"],
        tries=row["tries"],
        memories=row["memories"],
    )


async def read(database: Database, upload: Upload) -> Snapshot:
    """The snapshot itself. Raises msgspec.ValidationError for one that cannot be read."""
    rows = await database.fetch("SELECT data FROM upload_parts WHERE upload = $1 ORDER BY part", upload.id)
    return Snapshot(b"".join(row["data"] for row in rows))


async def renew(database: Database, upload: Upload) -> None:
    """Keeps the claim for another ``LEASE_S``. Never waits: whose transaction holds the row needs no lease."""
    await database.execute(
        """UPDATE uploads SET claimed_until = now() + make_interval(secs => $2)
        WHERE id = (SELECT id FROM uploads WHERE id = $1 AND tries = $3 FOR UPDATE SKIP LOCKED)""",
        upload.id,
        LEASE_S,
        upload.tries,
    )


async def drop(connection: asyncpg.Connection, upload: Upload) -> bool:
    """Takes a snapshot out of the queue; False when it was taken over, or is gone with its conversation.

    To be called in the transaction that does what the snapshot asked for, its owner locked.
    """
    gone = await connection.execute("DELETE FROM uploads WHERE id = $1 AND tries = $2", upload.id, upload.tries)
    return bool(gone == "DELETE 1")


async def fail(database: Database, upload: Upload, reason: str) -> None:
    """The snapshot could not be stored: it is tried again later, or given up."""
    if upload.tries >= TRIES:
        await end(database, upload, "failed", reason)
        return
    await database.execute(
        """UPDATE uploads SET claimed_until = NULL, due_at = now() + make_interval(secs => $3)
        WHERE id = $1 AND tries = $2""",
        upload.id,
        upload.tries,
        PAUSE_S * 2 ** (upload.tries - 1),
    )


async def end(database: Database, upload: Upload, status: str, reason: str) -> None:
    """The snapshot is not going to be stored: its conversation says why."""
    async with database.transaction() as connection:
        await lock(connection, upload.owner)
        if await drop(connection, upload):
            await give_up(connection, upload.owner, upload.conversation, status, clean(reason))
