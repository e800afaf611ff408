"""Owners, and conversations word for word. Owns the tables ``owners``, ``conversations`` and ``turns``.

Choices:

1. A turn's key is made of its conversation, role and text and of how many equal turns precede it among those given, so
   that a client may send its whole history with each message. White space is not looked at: clients trim.
2. A conversation is as old as its first turn and as new as its last; storing a turn again changes neither.
3. NUL and broken surrogates become U+FFFD: an answer that was given is not lost for a character.
4. Messages of a thread may be delivered in another order than they were asked in, after a crash for one. New turns are
   appended; if the conversation was newer already, all of it is put in order.
5. A turn removed on purpose leaves its key in ``forgotten_turns``, and is passed over when it comes again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Protocol

import asyncpg
import msgspec

from app import ids
from app.errors import ValidationFailed
from app.memory.index import Appended, Vectors, index_appended, index_turns, refresh_windows
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
    return (await ensure_owners(connection, {(account, user)}))[account, user]


async def ensure_owners(
    connection: asyncpg.Connection, names: Collection[tuple[str, str]]
) -> dict[tuple[str, str], Owner]:
    """The owners by (account, user), made if need be. The accounts must exist."""
    found = await _owners(connection, names)
    # in one order: of two that make the same owners one waits for the other, and never both
    if missing := sorted(set(names) - found.keys()):
        await connection.execute(
            """INSERT INTO owners (account, user_id) SELECT * FROM unnest($1::text[], $2::text[])
            ON CONFLICT (account, user_id) DO NOTHING""",
            [account for account, _ in missing],
            [user for _, user in missing],
        )
        found |= await _owners(connection, missing)
    return found


async def _owners(connection: asyncpg.Connection, names: Collection[tuple[str, str]]) -> dict[tuple[str, str], Owner]:
    rows = await connection.fetch(
        """SELECT o.id, o.account, o.user_id FROM owners o
        JOIN unnest($1::text[], $2::text[]) AS g (account, user_id) USING (account, user_id)""",
        [account for account, _ in names],
        [user for _, user in names],
    )
    return {(row["account"], row["user_id"]): Owner(row["id"], row["account"], row["user_id"]) for row in rows}


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


class NewTurns(msgspec.Struct, frozen=True, kw_only=True):
    """Turns to be stored as one conversation, which ``platform`` calls ``external_id``."""

    owner: Owner
    platform: str
    external_id: str
    turns: Sequence[Turn]
    origin: Origin = Origin()
    title: str | None = None
    metadata: dict[str, Any] = {}

    @property
    def conversation(self) -> str:
        return conversation_id(self.owner, self.platform, self.external_id)


async def store_turns(
    connection: asyncpg.Connection, batch: Sequence[NewTurns], vectors: Vectors | None = None
) -> list[list[StoredTurn]]:
    """Stores and indexes turns, each key once; for each conversation the turns as stored, in the order given.

    Turns that were forgotten are left out of the answer. New ones stand where they were said. A conversation
    may be in the batch once. To be called in the caller's transaction. Raises ValidationFailed for metadata that
    cannot be stored.
    """
    for given in batch:
        _check(given)
    await lock(connection, *(given.owner for given in batch))
    await _store_conversations(connection, batch)
    wanted = [{turn.key: msgspec.structs.replace(turn, text=clean(turn.text)) for turn in _first(g)} for g in batch]
    there = await _there(connection, [(g.owner, key) for g, turns in zip(batch, wanted, strict=True) for key in turns])
    new = [
        (given, [turn for key, turn in turns.items() if key not in there])
        for given, turns in zip(batch, wanted, strict=True)
    ]
    appended = await _append(connection, [(given, turns) for given, turns in new if turns])
    await index_appended(connection, appended, vectors)
    for late in await _grown(connection, appended):
        await _put_in_order(connection, late.owner, late.conversation)
    stored = there | {one.turn.key: one for more in appended for one in more.turns}
    return [[one for key in turns if (one := stored[key]) is not None] for turns in wanted]


def _first(given: NewTurns) -> list[Turn]:
    """The turns, each key as it came first."""
    return list({turn.key: turn for turn in reversed(given.turns)}.values())[::-1]


def _check(given: NewTurns) -> None:
    fields = [("metadata", given.metadata), *((f"turns[{n}].metadata", t.metadata) for n, t in enumerate(given.turns))]
    errors = [(field, reason) for field, value in fields if (reason := wrong_metadata(value))]
    if errors:
        raise ValidationFailed(errors)


async def _store_conversations(connection: asyncpg.Connection, batch: Sequence[NewTurns]) -> None:
    await connection.execute(
        """INSERT INTO conversations AS c
            (id, owner, platform, external_id, title, agent_id, thread_id, source, metadata)
        SELECT * FROM unnest($1::text[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[],
            $8::text[], $9::jsonb[])
        ON CONFLICT (id) DO UPDATE SET
            title = coalesce(excluded.title, c.title), agent_id = coalesce(excluded.agent_id, c.agent_id),
            thread_id = coalesce(excluded.thread_id, c.thread_id), source = coalesce(excluded.source, c.source),
            metadata = c.metadata || excluded.metadata
        WHERE c.owner = excluded.owner""",
        [given.conversation for given in batch],
        [given.owner.id for given in batch],
        [given.platform for given in batch],
        [given.external_id for given in batch],
        [given.title and clean(given.title) for given in batch],
        [given.origin.agent_id for given in batch],
        [given.origin.thread_id for given in batch],
        [given.origin.source for given in batch],
        [to_json(given.metadata) for given in batch],
    )


async def _there(connection: asyncpg.Connection, keys: Sequence[tuple[Owner, str]]) -> dict[str, StoredTurn | None]:
    """By key, the turns that are stored already; None for one that was forgotten."""
    rows = await connection.fetch(
        f"""SELECT g.key AS given, t.id IS NULL AS forgotten, {TURN_COLUMNS}
        FROM unnest($1::bigint[], $2::text[]) AS g (owner, key)
        LEFT JOIN turns t ON t.owner = g.owner AND t.key = g.key
        LEFT JOIN forgotten_turns f ON f.owner = g.owner AND f.key = g.key
        WHERE t.id IS NOT NULL OR f.key IS NOT NULL""",  # noqa: S608 - constants
        [owner.id for owner, _ in keys],
        [key for _, key in keys],
    )
    return {row["given"]: None if row["forgotten"] else to_turn(row) for row in rows}


async def _append(connection: asyncpg.Connection, new: Sequence[tuple[NewTurns, list[Turn]]]) -> list[Appended]:
    """Writes turns that are not there. Positions have no holes: the owners are locked."""
    if not new:
        return []
    flat = [(given, place, turn) for given, turns in new for place, turn in enumerate(turns)]
    rows = await connection.fetch(
        """INSERT INTO turns
            (conversation, owner, key, position, role, text, said_at, message_id, external_id, metadata)
        SELECT g.conversation, g.owner, g.key,
            g.place + 1 + (SELECT coalesce(max(t.position), -1) FROM turns t WHERE t.conversation = g.conversation),
            g.role, g.text, g.said_at, g.message_id, g.external_id, g.metadata
        FROM unnest($1::text[], $2::bigint[], $3::text[], $4::int[], $5::text[], $6::text[], $7::timestamptz[],
                $8::text[], $9::text[], $10::jsonb[]) WITH ORDINALITY
            AS g (conversation, owner, key, place, role, text, said_at, message_id, external_id, metadata, n)
        ORDER BY g.n RETURNING id, key, position""",
        [given.conversation for given, _, _ in flat],
        [given.owner.id for given, _, _ in flat],
        [turn.key for _, _, turn in flat],
        [place for _, place, _ in flat],
        [turn.role for _, _, turn in flat],
        [turn.text for _, _, turn in flat],
        [turn.said_at for _, _, turn in flat],
        [turn.message_id for _, _, turn in flat],
        [turn.external_id for _, _, turn in flat],
        [to_json(turn.metadata) for _, _, turn in flat],
    )
    written = {row["key"]: row for row in rows}
    return [
        Appended(
            given.owner,
            given.conversation,
            written[turns[0].key]["position"],
            [StoredTurn(id=written[turn.key]["id"], turn=turn, new=True) for turn in turns],
        )
        for given, turns in new
    ]


async def _grown(connection: asyncpg.Connection, appended: Sequence[Appended]) -> list[Appended]:
    """The conversations are as old as their first turn and as new as their last. Those that were newer already."""
    if not appended:
        return []
    rows = await connection.fetch(
        """UPDATE conversations c SET
            created_at = CASE WHEN g.position = 0 THEN g.first ELSE least(c.created_at, g.first) END,
            updated_at = CASE WHEN g.position = 0 THEN g.last ELSE greatest(c.updated_at, g.last) END
        FROM unnest($1::text[], $2::int[], $3::timestamptz[], $4::timestamptz[]) AS g (id, position, first, last)
        JOIN conversations before USING (id)
        WHERE c.id = g.id RETURNING c.id, g.position > 0 AND before.updated_at > g.first AS late""",
        [more.conversation for more in appended],
        [more.position for more in appended],
        [min(one.turn.said_at for one in more.turns) for more in appended],
        [max(one.turn.said_at for one in more.turns) for more in appended],
    )
    late = {row["id"] for row in rows if row["late"]}
    return [more for more in appended if more.conversation in late]


async def _put_in_order(connection: asyncpg.Connection, owner: Owner, conversation: str) -> None:
    """Turns stand in the order in which they were said, those of one message together, as it was asked."""
    moved = await connection.execute(
        """UPDATE turns t SET position = g.place FROM (
            SELECT id, row_number() OVER (ORDER BY asked, position, id) - 1 AS place FROM (
                SELECT id, position, min(said_at) OVER (PARTITION BY coalesce(message_id, key)) AS asked
                FROM turns WHERE owner = $1 AND conversation = $2) said) g
        WHERE t.owner = $1 AND t.id = g.id AND t.position <> g.place""",
        owner.id,
        conversation,
    )
    if moved != "UPDATE 0":
        await refresh_windows(connection, owner, conversation)


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
        for conversation in {turn["conversation"] for turn in removed}:
            await _put_in_order(connection, owner, conversation)
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


async def said_still(connection: asyncpg.Connection, owner: Owner, keys: list[str]) -> set[str]:
    """Those of the keys whose turns are there: neither removed nor edited, and not found to be somebody else's."""
    rows = await connection.fetch(
        "SELECT key FROM turns WHERE owner = $1 AND key = ANY($2) AND metadata->>'mine' IS DISTINCT FROM 'false'",
        owner.id,
        keys,
    )
    return {row["key"] for row in rows}


async def turns_of(
    connection: asyncpg.Connection,
    owner: Owner,
    conversation: str,
    *,
    after: int = 0,
    keys: list[str] | None = None,
    limit: int | None = None,
) -> list[StoredTurn]:
    """A conversation's turns in their order: those with a row id above ``after`` and, where given, one of the ``keys``;
    the first ``limit`` of them."""
    rows = await connection.fetch(
        f"""SELECT {TURN_COLUMNS} FROM turns t WHERE t.owner = $1 AND t.conversation = $2 AND t.id > $3
        AND ($5::text[] IS NULL OR t.key = ANY($5)) ORDER BY t.position, t.id LIMIT $4""",  # noqa: S608 - constants
        owner.id,
        conversation,
        after,
        limit,
        keys,
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
