"""Owners, and conversations word for word. Owns the tables ``owners``, ``conversations`` and ``turns``.

Choices:

1. A turn's key is made of its conversation, role and text and of how many equal turns precede it among those given, so
   that a client may send its whole history with each message. White space is not looked at: clients trim.
2. A conversation is as old as its first turn and as new as its last; storing a turn again changes neither.
3. NUL and broken surrogates become U+FFFD: an answer that was given is not lost for a character.
4. A turn removed on purpose leaves its key in ``forgotten_turns``, and is passed over when it comes again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import asyncpg
import msgspec

from app import ids
from app.errors import ValidationFailed
from app.memory.index import index_turns, refresh_windows
from app.memory.records import clean, lock, to_json, wrong_metadata
from app.memory.types import Origin, Owner, StoredTurn, Turn

TURN_COLUMNS = "t.id, t.key, t.role, t.text, t.said_at, t.message_id, t.external_id, t.metadata"


class Rows(Protocol):
    """What asks one row: a connection, or the database."""

    async def fetchrow(self, statement: str, *values: Any) -> Any: ...


async def find_owner(rows: Rows, account: str, user: str) -> Owner | None:
    """The owner, or None where nothing of this user was ever stored."""
    row = await rows.fetchrow("SELECT id FROM owners WHERE account = $1 AND user_id = $2", account, user)
    return None if row is None else Owner(row["id"], account, user)


async def ensure_owner(connection: asyncpg.Connection, account: str, user: str) -> Owner:
    """The owner, made if need be. ``account`` must exist."""
    await connection.execute(
        "INSERT INTO owners (account, user_id) VALUES ($1, $2) ON CONFLICT (account, user_id) DO NOTHING",
        account,
        user,
    )
    owner = await find_owner(connection, account, user)
    assert owner is not None
    return owner


def conversation_id(owner: Owner, platform: str, external_id: str) -> str:
    """The id of the conversation that its platform calls ``external_id``."""
    return ids.derived_id("conv", owner.account, owner.user, platform, external_id)


def keyed(pairs: Iterable[tuple[str, str]], conversation: str) -> list[str]:
    """A key for each (role, text) of a conversation's turns, in their order. No two owners share a key."""
    seen: Counter[tuple[str, str]] = Counter()
    keys = []
    for role, text in pairs:
        said = (role, " ".join(clean(text).split()))
        keys.append(ids.derived_id("turn", conversation, *said, str(seen[said])))
        seen[said] += 1
    return keys


async def store_turns(
    connection: asyncpg.Connection,
    owner: Owner,
    *,
    platform: str,
    external_id: str,
    turns: Sequence[Turn],
    origin: Origin,
    title: str | None = None,
    metadata: dict[str, Any] | None = None,
    vectors: dict[str, Any] | None = None,
) -> tuple[str, list[StoredTurn]]:
    """Stores and indexes turns, each key once; the conversation's id and the turns as stored, in the order given.

    Turns that were forgotten are left out of the answer. New ones are appended to the conversation. To be called in
    the caller's transaction. Raises ValidationFailed for metadata that cannot be stored.
    """
    _check(metadata, turns)
    await lock(connection, owner)
    conversation = conversation_id(owner, platform, external_id)
    given = {turn.key: msgspec.structs.replace(turn, text=clean(turn.text)) for turn in reversed(turns)}
    given = dict(reversed(given.items()))
    await _store_conversation(connection, owner, conversation, platform, external_id, origin, title, metadata)
    gone = await forgotten(connection, owner, list(given))
    wanted = [turn for key, turn in given.items() if key not in gone]
    new = await _insert(connection, owner, conversation, wanted)
    rows = await connection.fetch(
        f"SELECT {TURN_COLUMNS} FROM turns t WHERE t.owner = $1 AND t.key = ANY($2)",  # noqa: S608 - constants
        owner.id,
        [turn.key for turn in wanted],
    )
    stored = {row["key"]: to_turn(row, new=row["id"] in new) for row in rows}
    result = [stored[turn.key] for turn in wanted]
    if new:
        await index_turns(connection, owner, [turn for turn in result if turn.new], vectors)
    return conversation, result


def _check(metadata: dict[str, Any] | None, turns: Sequence[Turn]) -> None:
    errors = [
        (field, reason)
        for field, value in [
            ("metadata", metadata or {}),
            *((f"turns[{n}].metadata", t.metadata) for n, t in enumerate(turns)),
        ]
        if (reason := wrong_metadata(value))
    ]
    if errors:
        raise ValidationFailed(errors)


async def _store_conversation(
    connection: asyncpg.Connection,
    owner: Owner,
    conversation: str,
    platform: str,
    external_id: str,
    origin: Origin,
    title: str | None,
    metadata: dict[str, Any] | None,
) -> None:
    await connection.execute(
        """INSERT INTO conversations AS c
            (id, owner, platform, external_id, title, agent_id, thread_id, source, metadata)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
        ON CONFLICT (id) DO UPDATE SET
            title = coalesce(excluded.title, c.title), agent_id = coalesce(excluded.agent_id, c.agent_id),
            thread_id = coalesce(excluded.thread_id, c.thread_id), source = coalesce(excluded.source, c.source),
            metadata = c.metadata || excluded.metadata
        WHERE c.owner = $2""",
        conversation,
        owner.id,
        platform,
        external_id,
        title and clean(title),
        origin.agent_id,
        origin.thread_id,
        origin.source,
        to_json(metadata or {}),
    )


async def _insert(connection: asyncpg.Connection, owner: Owner, conversation: str, turns: list[Turn]) -> set[int]:
    """The ids of the rows that were not there before. Positions have no holes: the owner is locked."""
    keys = [turn.key for turn in turns]
    known = await connection.fetch("SELECT key FROM turns WHERE owner = $1 AND key = ANY($2)", owner.id, keys)
    there = {row["key"] for row in known}
    turns = [turn for turn in turns if turn.key not in there]
    rows = await connection.fetch(
        """INSERT INTO turns
            (conversation, owner, key, position, role, text, said_at, message_id, external_id, metadata)
        SELECT $1, $2, g.key,
            g.n + (SELECT coalesce(max(position), -1) FROM turns WHERE owner = $2 AND conversation = $1),
            g.role, g.text, g.said_at, g.message_id, g.external_id, g.metadata
        FROM unnest($3::text[], $4::text[], $5::text[], $6::timestamptz[], $7::text[], $8::text[], $9::jsonb[])
            WITH ORDINALITY AS g (key, role, text, said_at, message_id, external_id, metadata, n)
        ORDER BY g.n RETURNING id""",
        conversation,
        owner.id,
        [turn.key for turn in turns],
        [turn.role for turn in turns],
        [turn.text for turn in turns],
        [turn.said_at for turn in turns],
        [turn.message_id for turn in turns],
        [turn.external_id for turn in turns],
        [to_json(turn.metadata) for turn in turns],
    )
    new = {row["id"] for row in rows}
    if new:
        await connection.execute(
            """UPDATE conversations SET created_at = said.first, updated_at = said.last
            FROM (SELECT min(said_at) AS first, max(said_at) AS last FROM turns
                  WHERE owner = $1 AND conversation = $2) said
            WHERE owner = $1 AND id = $2""",
            owner.id,
            conversation,
        )
    return new


async def forget_turns(connection: asyncpg.Connection, owner: Owner, keys: list[str]) -> list[dict[str, Any]]:
    """Removes turns from the tables and the search for good; the rows, for `bring_back_turns`. The owner is locked."""
    rows = await connection.fetch(
        """DELETE FROM turns WHERE owner = $1 AND key = ANY($2)
        RETURNING to_jsonb(turns) - 'owner' AS row, conversation, key""",
        owner.id,
        keys,
    )
    await connection.execute(
        "INSERT INTO forgotten_turns (owner, key) SELECT $1, unnest($2::text[]) ON CONFLICT DO NOTHING",
        owner.id,
        [row["key"] for row in rows],
    )
    for conversation in {row["conversation"] for row in rows}:
        await refresh_windows(connection, owner, conversation)  # beside them their words were counted too
    return [msgspec.json.decode(row["row"]) for row in rows]


async def bring_back_turns(connection: asyncpg.Connection, owner: Owner, removed: list[dict[str, Any]]) -> None:
    """Puts turns that `forget_turns` removed back where they stood, if their conversation is still there."""
    rows = await connection.fetch(
        f"""INSERT INTO turns AS t (id, conversation, owner, key, position, role, text, said_at, message_id,
            external_id, metadata) OVERRIDING SYSTEM VALUE
        SELECT g.id, g.conversation, $1, g.key, g.position, g.role, g.text, g.said_at, g.message_id, g.external_id,
            g.metadata
        FROM jsonb_populate_recordset(NULL::turns, $2) g
        JOIN conversations c ON c.id = g.conversation AND c.owner = $1
        ON CONFLICT (owner, key) DO NOTHING RETURNING {TURN_COLUMNS}""",  # noqa: S608 - constants
        owner.id,
        to_json(removed),
    )
    await connection.execute(
        "DELETE FROM forgotten_turns WHERE owner = $1 AND key = ANY($2)", owner.id, [turn["key"] for turn in removed]
    )
    if rows:
        await index_turns(connection, owner, [to_turn(row, new=True) for row in rows])


async def drop_empty(connection: asyncpg.Connection, owner: Owner, conversations: Iterable[str]) -> None:
    """Removes those conversations in which no turn is left, nor any in a backup."""
    await connection.execute(
        """DELETE FROM conversations c WHERE c.owner = $1 AND c.id = ANY($2)
        AND NOT EXISTS (SELECT FROM turns t WHERE t.owner = $1 AND t.conversation = c.id)
        AND NOT EXISTS (SELECT FROM memory_backups b WHERE b.owner = $1
                        AND b.turns @> jsonb_build_array(jsonb_build_object('conversation', c.id)))""",
        owner.id,
        list(conversations),
    )


async def forgotten(connection: asyncpg.Connection, owner: Owner, keys: list[str]) -> set[str]:
    """Those of the keys whose turns were removed on purpose."""
    rows = await connection.fetch("SELECT key FROM forgotten_turns WHERE owner = $1 AND key = ANY($2)", owner.id, keys)
    return {row["key"] for row in rows}


async def turns_of(
    connection: asyncpg.Connection, owner: Owner, conversation: str, *, after: int = 0, limit: int | None = None
) -> list[StoredTurn]:
    """A conversation's turns in their order, those with a row id above ``after``, the first ``limit`` of them."""
    rows = await connection.fetch(
        f"""SELECT {TURN_COLUMNS} FROM turns t WHERE t.owner = $1 AND t.conversation = $2 AND t.id > $3
        ORDER BY t.position, t.id LIMIT $4""",  # noqa: S608 - constants
        owner.id,
        conversation,
        after,
        limit,
    )
    return [to_turn(row) for row in rows]


def to_turn(row: asyncpg.Record, *, new: bool = False) -> StoredTurn:
    """A row of `TURN_COLUMNS`."""
    turn = Turn(
        key=row["key"],
        role=row["role"],
        text=row["text"],
        said_at=row["said_at"],
        message_id=row["message_id"],
        external_id=row["external_id"],
        metadata=msgspec.json.decode(row["metadata"]),
    )
    return StoredTurn(id=row["id"], turn=turn, new=new)
