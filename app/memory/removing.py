"""Forgetting and bringing back.

Choices:

1. Deleting with a backup hides a memory for ``KEEP_DAYS`` and takes it out of the search at once; then, or without a
   backup at once, it is gone for good, its history with it. Either way nothing finds it from that moment.
2. Cascading removes the whole chain a memory stands in, and the turns they were drawn from: word for word they would
   say the same. Their keys stay in ``forgotten_turns``.
3. Restoring never overrules what is newer: a memory said again meanwhile stays as it is, its old twin deleted.
4. Removing what superseded a memory does not make that memory true again: who forgets Porto has not said Lyon.
"""

from __future__ import annotations

from typing import Any, Literal

import asyncpg
import msgspec

from app import ids
from app.database import Database
from app.errors import NotFound
from app.memory.conversations import TURN_COLUMNS, bring_back_turns, drop_empty, forget_turns, to_turn
from app.memory.index import index_memories, index_turns, unindex_memories, unindex_turns
from app.memory.records import COLUMNS, linked, lock, tell_deleted, to_json, to_memory, touch, write_events
from app.memory.types import Memory, Owner
from app.memory.words import normal

KEEP_DAYS = 30

Deletion = Literal["deleted", "cascaded", "not_found"]
Restoration = Literal["restored", "replaced", "gone"]


async def delete(
    database: Database, owner: Owner, wanted: list[str], *, cascade: bool, backup: bool
) -> tuple[str | None, dict[str, Deletion]]:
    """`Memories.delete`."""
    async with database.transaction() as connection:
        await lock(connection, owner)
        found = await _live(connection, owner, wanted)
        outcome: dict[str, Deletion] = {key: "deleted" if key in found else "not_found" for key in wanted}
        if not found:
            return None, outcome
        turns: list[dict[str, Any]] = []
        if not cascade:
            await unindex_turns(connection, owner, [key for memory in found.values() for key in memory.turn_keys])
        else:
            found |= await _live(connection, owner, await linked(connection, owner, list(found)))
            outcome |= {key: "cascaded" for key in found if key not in outcome}
            keys = {key for memory in found.values() for key in memory.turn_keys}
            turns = await forget_turns(connection, owner, sorted(keys))
        backup_id = await _hide(connection, owner, list(found.values()), turns) if backup else None
        if not backup:
            await _destroy(connection, owner, list(found))
            await drop_empty(connection, owner, {turn["conversation"] for turn in turns})
        await touch(connection, owner)
    return backup_id, outcome


async def _live(connection: asyncpg.Connection, owner: Owner, wanted: list[str]) -> dict[str, Memory]:
    rows = await connection.fetch(
        f"SELECT {COLUMNS} FROM memories m WHERE m.owner = $1 AND m.id = ANY($2) AND m.deleted_at IS NULL",  # noqa: S608
        owner.id,
        wanted,
    )
    return {row["id"]: to_memory(row) for row in rows}


async def _hide(
    connection: asyncpg.Connection, owner: Owner, memories: list[Memory], turns: list[dict[str, Any]]
) -> str:
    backup_id = ids.new_id("bak")
    keys = [memory.id for memory in memories]
    await connection.execute(
        "INSERT INTO memory_backups (id, owner, memory_ids, turns) VALUES ($1, $2, $3, $4)",
        backup_id,
        owner.id,
        keys,
        to_json(turns),
    )
    await connection.execute(
        "UPDATE memories SET deleted_at = now(), backup = $3 WHERE owner = $1 AND id = ANY($2)",
        owner.id,
        keys,
        backup_id,
    )
    await write_events(connection, owner, "deleted", [(memory, None) for memory in memories])
    await unindex_memories(connection, owner, keys)
    return backup_id


async def _destroy(connection: asyncpg.Connection, owner: Owner, keys: list[str]) -> None:
    """Removes rows, history and index entries for good, and closes the gaps they leave in chains."""
    await unindex_memories(connection, owner, keys)
    tag = ""
    while tag != "UPDATE 0":
        tag = await connection.execute(
            """UPDATE memories m SET superseded_by = gone.superseded_by FROM memories gone
            WHERE m.owner = $1 AND gone.owner = $1 AND m.superseded_by = gone.id AND gone.id = ANY($2)
            AND NOT m.id = ANY($2)""",
            owner.id,
            keys,
        )
    gone = await connection.fetch(
        "DELETE FROM memories WHERE owner = $1 AND id = ANY($2) RETURNING id, deleted_at", owner.id, keys
    )
    await tell_deleted(connection, owner, [row["id"] for row in gone if row["deleted_at"] is None])


async def restore(database: Database, owner: Owner, backup_id: str) -> dict[str, Restoration]:
    """`Memories.restore`."""
    async with database.transaction() as connection:
        await lock(connection, owner)
        kept = await connection.fetchrow(
            """SELECT memory_ids, turns, restored_at FROM memory_backups
            WHERE owner = $1 AND id = $2 AND created_at > now() - make_interval(days => $3)""",
            owner.id,
            backup_id,
            KEEP_DAYS,
        )
        if kept is None:
            raise NotFound("backup", f"there is no such backup, or it is older than {KEEP_DAYS} days")
        back = await _restore(connection, owner, backup_id)
        if kept["restored_at"] is None:
            await bring_back_turns(connection, owner, msgspec.json.decode(kept["turns"]))
            await connection.execute(
                "UPDATE memory_backups SET restored_at = now(), turns = '[]' WHERE owner = $1 AND id = $2",
                owner.id,
                backup_id,
            )
        if back:
            await touch(connection, owner)
        return await _restored(connection, owner, backup_id, kept["memory_ids"])


async def _restore(connection: asyncpg.Connection, owner: Owner, backup_id: str) -> list[Memory]:
    rows = await connection.fetch(
        f"""UPDATE memories m SET deleted_at = NULL, backup = NULL WHERE m.owner = $1 AND m.backup = $2
        AND (m.valid_to IS NOT NULL OR NOT EXISTS (
            SELECT FROM memories twin WHERE twin.owner = $1 AND twin.normal = m.normal
            AND twin.deleted_at IS NULL AND twin.valid_to IS NULL))
        RETURNING {COLUMNS}""",  # noqa: S608 - constants
        owner.id,
        backup_id,
    )
    back = [to_memory(row) for row in rows]
    if back:
        await write_events(connection, owner, "restored", [(None, memory) for memory in back])
        await index_memories(connection, owner, back)
        await _index_turns_of(connection, owner, back)
    return back


async def _index_turns_of(connection: asyncpg.Connection, owner: Owner, memories: list[Memory]) -> None:
    """Has search find the turns of these memories again, but for those that another deleted memory was drawn from."""
    rows = await connection.fetch(
        f"""SELECT {TURN_COLUMNS} FROM turns t WHERE t.owner = $1 AND t.key = ANY($2)
        AND NOT EXISTS (SELECT FROM memories m
            WHERE m.owner = $1 AND m.deleted_at IS NOT NULL AND t.key = ANY(m.turn_keys))""",  # noqa: S608 - constants
        owner.id,
        [key for memory in memories for key in memory.turn_keys],
    )
    await index_turns(connection, owner, [to_turn(row) for row in rows])


async def _restored(
    connection: asyncpg.Connection, owner: Owner, backup_id: str, keys: list[str]
) -> dict[str, Restoration]:
    rows = await connection.fetch(
        "SELECT id, deleted_at, backup FROM memories WHERE owner = $1 AND id = ANY($2)", owner.id, keys
    )
    outcome: dict[str, Restoration] = dict.fromkeys(keys, "gone")
    for row in rows:
        if row["deleted_at"] is None:
            outcome[row["id"]] = "restored"
        elif row["backup"] == backup_id:
            outcome[row["id"]] = "replaced"
    return outcome


async def purge(database: Database) -> int:
    """`Memories.purge`. Finding whose time has come is the one statement that looks at all owners."""
    owners = await database.fetch(
        """SELECT o.id, o.account, o.user_id FROM owners o WHERE id IN (
            SELECT owner FROM memories WHERE deleted_at <= now() - make_interval(days => $1)
            UNION SELECT owner FROM memory_backups WHERE created_at <= now() - make_interval(days => $1))""",
        KEEP_DAYS,
    )
    purged = 0
    for row in owners:
        owner = Owner(row["id"], row["account"], row["user_id"])
        async with database.transaction() as connection:
            await lock(connection, owner)
            purged += await _purge(connection, owner)
    return purged


async def _purge(connection: asyncpg.Connection, owner: Owner) -> int:
    due = await connection.fetch(
        "SELECT id FROM memories WHERE owner = $1 AND deleted_at <= now() - make_interval(days => $2)",
        owner.id,
        KEEP_DAYS,
    )
    await _destroy(connection, owner, [row["id"] for row in due])
    backups = await connection.fetch(
        """DELETE FROM memory_backups WHERE owner = $1 AND created_at <= now() - make_interval(days => $2)
        RETURNING turns""",
        owner.id,
        KEEP_DAYS,
    )
    turns = [turn for backup in backups for turn in msgspec.json.decode(backup["turns"])]
    await drop_empty(connection, owner, {turn["conversation"] for turn in turns})
    return len(due)


async def remove_message(connection: asyncpg.Connection, owner: Owner, message_id: str) -> int:
    """`Memories.remove_message`."""
    await lock(connection, owner)
    rows = await connection.fetch("SELECT key FROM turns WHERE owner = $1 AND message_id = $2", owner.id, message_id)
    keys = [row["key"] for row in rows]
    turns = await forget_turns(connection, owner, keys)
    gone = await retire(connection, owner, keys, message_id)
    await connection.execute(
        """UPDATE memory_backups SET turns = (
            SELECT coalesce(jsonb_agg(t), '[]') FROM jsonb_array_elements(turns) t
            WHERE t->>'message_id' IS DISTINCT FROM $2)
        WHERE owner = $1 AND turns @> jsonb_build_array(jsonb_build_object('message_id', $2::text))""",
        owner.id,
        message_id,
    )
    await drop_empty(connection, owner, {turn["conversation"] for turn in turns})
    return gone


async def carry_over(connection: asyncpg.Connection, owner: Owner, moved: dict[str, tuple[str, set[str]]]) -> None:
    """Lets memories stand whose sentence an edited turn still says, deleted ones too: they come from its new key.

    ``moved``: by a turn's old key its new one, and what it says as before, normalised. The owner is locked.
    """
    rows = await connection.fetch(
        "SELECT id, text, turn_keys FROM memories WHERE owner = $1 AND turn_keys && $2", owner.id, list(moved)
    )
    for row in rows:
        now = {old: new for old, (new, still) in moved.items() if normal(row["text"]) in still}
        keys = [now.get(key, key) for key in row["turn_keys"]]
        if keys != row["turn_keys"]:
            await connection.execute(
                "UPDATE memories SET turn_keys = $3 WHERE owner = $1 AND id = $2", owner.id, row["id"], keys
            )


async def hidden(connection: asyncpg.Connection, owner: Owner, keys: list[str]) -> set[str]:
    """Those of the keys of whose turns a deleted memory was drawn: search does not find them."""
    rows = await connection.fetch(
        "SELECT turn_keys FROM memories WHERE owner = $1 AND deleted_at IS NOT NULL AND turn_keys && $2",
        owner.id,
        keys,
    )
    return {key for row in rows for key in row["turn_keys"]} & set(keys)


async def retire(connection: asyncpg.Connection, owner: Owner, keys: list[str], message_id: str | None = None) -> int:
    """Removes for good what was drawn from these turns alone, or from a message; how many memories.

    What others bear out as well stays. The owner is locked.
    """
    gone = await connection.fetch(
        """SELECT id FROM memories WHERE owner = $1
        AND (message_id = $2 OR (turn_keys && $3::text[] AND turn_keys <@ $3::text[]))""",
        owner.id,
        message_id,
        keys,
    )
    await _destroy(connection, owner, [row["id"] for row in gone])
    await connection.execute(
        """UPDATE memories SET turn_keys = ARRAY(SELECT k FROM unnest(turn_keys) k WHERE NOT k = ANY($2::text[]))
        WHERE owner = $1 AND turn_keys && $2::text[]""",
        owner.id,
        keys,
    )
    if gone:
        await touch(connection, owner)
    return len(gone)
