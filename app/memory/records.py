"""Memories as rows: reading them, what is checked before one is written, and the events of their history.

Choices:

1. Whoever changes anything of an owner locks that owner's row first (`lock`). Two transactions of one owner therefore
   never interleave: the second sees all the first did. ``FOR NO KEY UPDATE`` lets rows that refer to the owner pass.
2. An event keeps only the fields that changed; the first one keeps all, so that the text at any time can be rebuilt.
3. Whoever writes history has the account be told in the same step: no change can be made that nobody hears of. What is
   restored is told as created: who keeps a copy ends with what is there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal

import asyncpg
import msgspec

from app import outbox
from app.errors import NotFound, ValidationFailed
from app.memory.types import CATEGORIES, TYPES, Memory, Owner

MEMORY_CHARS = 32_768
METADATA_BYTES = 65_536
METADATA_DEPTH = 32
"""What can be written can then be read back wherever the reader stands in its own stack."""
COLUMNS = ", ".join(f"m.{field}" for field in Memory.__struct_fields__)
"""The columns of ``memories m`` that make a `Memory`."""

EventName = Literal["created", "updated", "superseded", "deleted", "restored"]
_TOLD: dict[EventName, str] = {
    "created": "memory.created",
    "restored": "memory.created",
    "updated": "memory.updated",
    "superseded": "memory.updated",
}
_KEPT = ("text", "type", "categories", "importance", "metadata", "valid_from", "valid_to", "superseded_by")


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One change of one memory: the fields it had before and has after, as far as they changed."""

    memory_id: str
    at: datetime
    event: EventName
    before: dict[str, Any] | None
    after: dict[str, Any] | None


async def lock(connection: asyncpg.Connection, *owners: Owner) -> None:
    """Waits until no other transaction writes for these owners, and lets none until ours ends. Raises NotFound.

    Whoever needs several locks them in one call: in one order, two never wait for each other.
    """
    wanted = {owner.id for owner in owners}
    rows = await connection.fetch(
        "SELECT id FROM owners WHERE id = ANY($1) ORDER BY id FOR NO KEY UPDATE", sorted(wanted)
    )
    if len(rows) < len(wanted):
        raise NotFound("user", "nothing is remembered of this user")


async def touch(connection: asyncpg.Connection, owner: Owner) -> None:
    """Notes that the owner's memories changed: what is composed from them is out of date."""
    await connection.execute("UPDATE owners SET changed_at = now() WHERE id = $1", owner.id)


def to_memory(row: asyncpg.Record) -> Memory:
    """A row of `COLUMNS`."""
    values = {field: row[field] for field in Memory.__struct_fields__}
    values["metadata"] = msgspec.json.decode(values["metadata"])
    return Memory(**values)


def to_event(row: asyncpg.Record) -> Event:
    """A row of ``memory_history``, its memory's id named ``memory_id``."""
    before, after = (None if row[name] is None else msgspec.json.decode(row[name]) for name in ("before", "after"))
    return Event(memory_id=row["memory_id"], at=row["at"], event=row["event"], before=before, after=after)


def to_json(value: Any) -> str:
    """What a jsonb parameter takes."""
    return msgspec.json.encode(value).decode()


async def linked(connection: asyncpg.Connection, owner: Owner, start: list[str]) -> list[str]:
    """The ids of all that these memories supersede and are superseded by, themselves and deleted ones included."""
    rows = await connection.fetch(
        """WITH RECURSIVE linked AS (
            SELECT id FROM memories WHERE owner = $1 AND id = ANY($2)
            UNION
            SELECT next.id FROM linked l CROSS JOIN LATERAL (
                SELECT n.id FROM memories n WHERE n.owner = $1 AND n.superseded_by = l.id
                UNION ALL
                SELECT n.superseded_by FROM memories n
                WHERE n.owner = $1 AND n.id = l.id AND n.superseded_by IS NOT NULL) next)
        SELECT id FROM linked""",
        owner.id,
        start,
    )
    return [row["id"] for row in rows]


async def write_events(
    connection: asyncpg.Connection,
    owner: Owner,
    event: EventName,
    changes: Sequence[tuple[Memory | None, Memory | None]],
) -> None:
    """Adds to memories' histories what changed from ``before`` to ``after``, and has the account be told of it."""
    rows = [_history(before, after) for before, after in changes]
    await connection.execute(
        """INSERT INTO memory_history (memory, event, before, after, at)
        SELECT memory, $2, before, after, clock_timestamp()
        FROM unnest($1::text[], $3::jsonb[], $4::jsonb[]) AS g (memory, before, after)""",
        [memory_id for memory_id, _, _ in rows],
        event,
        [before for _, before, _ in rows],
        [after for _, _, after in rows],
    )
    if event == "deleted":
        await tell_deleted(connection, owner, [memory_id for memory_id, _, _ in rows])
    else:
        await outbox.write(connection, [_told(owner, _TOLD[event], after) for _, after in changes if after])


async def write_event(
    connection: asyncpg.Connection, owner: Owner, event: EventName, before: Memory | None, after: Memory | None
) -> None:
    """`write_events` for one."""
    await write_events(connection, owner, event, [(before, after)])


async def tell_deleted(connection: asyncpg.Connection, owner: Owner, memory_ids: Sequence[str]) -> None:
    """Has the account be told that memories are gone; of what they said, nothing."""
    await outbox.write(
        connection,
        [
            outbox.Event(
                account=owner.account,
                user=owner.user,
                kind="memory.deleted",
                data=msgspec.json.encode({"memory_id": memory_id, "user_id": owner.user}),
            )
            for memory_id in memory_ids
        ],
    )


def _history(before: Memory | None, after: Memory | None) -> tuple[str, str | None, str | None]:
    """A memory's id, and of the fields that changed what they were and are."""
    known = before or after
    assert known is not None
    old, new = _fields(before), _fields(after)
    if old is not None and new is not None:
        changed = [name for name in _KEPT if old[name] != new[name]]
        old, new = {name: old[name] for name in changed}, {name: new[name] for name in changed}
    return known.id, None if old is None else to_json(old), None if new is None else to_json(new)


def _told(owner: Owner, kind: str, memory: Memory) -> outbox.Event:
    data = {
        "memory_id": memory.id,
        "user_id": owner.user,
        "memory": memory.text,
        "type": memory.type,
        "categories": memory.categories,
        "importance": memory.importance,
        "source": memory.source,
        "agent_id": memory.agent_id,
        "thread_id": memory.thread_id,
        "message_id": memory.message_id,
        "conversation_id": memory.conversation,
        "valid_from": outbox.shown(memory.valid_from),
        "valid_to": outbox.shown(memory.valid_to),
        "superseded_by": memory.superseded_by,
        "created_at": outbox.shown(memory.created_at),
        "updated_at": outbox.shown(memory.updated_at),
    }
    return outbox.Event(account=owner.account, user=owner.user, kind=kind, data=msgspec.json.encode(data))


def _fields(memory: Memory | None) -> dict[str, Any] | None:
    return None if memory is None else {name: getattr(memory, name) for name in _KEPT}


def clean(text: str) -> str:
    """The text without what PostgreSQL cannot hold: NUL and halves of surrogate pairs become U+FFFD."""
    return text.replace("\x00", "\ufffd").encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def check(
    *,
    text: str | None = None,
    type: str | None = None,  # noqa: A002 - the field's name
    categories: list[str] | None = None,
    importance: float | None = None,
    metadata: dict[str, Any] | None = None,
) -> None:
    """Raises ValidationFailed, naming every field that no memory can have. None is not looked at."""
    errors: list[tuple[str, str]] = []
    if text is not None and (reason := _wrong_text(text)):
        errors.append(("text", reason))
    if type is not None and type not in TYPES:
        errors.append(("type", f"must be one of {', '.join(TYPES)}"))
    if categories is not None and not set(categories) <= set(CATEGORIES):
        errors.append(("categories", f"must be of {', '.join(CATEGORIES)}"))
    if importance is not None and not (math.isfinite(importance) and 0 <= importance <= 1):
        errors.append(("importance", "must be a number from 0 to 1"))
    if metadata is not None and (reason := wrong_metadata(metadata)):
        errors.append(("metadata", reason))
    if errors:
        raise ValidationFailed(errors)


def _wrong_text(text: str) -> str | None:
    if not text.strip():
        return "must not be empty"
    if len(text) > MEMORY_CHARS:
        return f"may have at most {MEMORY_CHARS} characters"
    return "may not contain NUL or half a surrogate pair" if clean(text) != text else None


def wrong_metadata(metadata: dict[str, Any]) -> str | None:
    """Why this metadata cannot be stored, or None."""
    if _deeper(metadata, METADATA_DEPTH):
        return f"may be nested at most {METADATA_DEPTH} deep"
    try:
        encoded = msgspec.json.encode(metadata)
    except (UnicodeEncodeError, RecursionError, TypeError, msgspec.MsgspecError):
        return "must be JSON"
    if len(encoded) > METADATA_BYTES:
        return f"may have at most {METADATA_BYTES} bytes"
    return "may not contain NUL" if b"\\u0000" in encoded.replace(b"\\\\", b"") else None


def _deeper(value: Any, most: int) -> bool:
    if isinstance(value, dict):
        value = list(value.values())
    if not isinstance(value, list | tuple):
        return False
    return most == 0 or any(_deeper(item, most - 1) for item in value)
