"""Conversations of an owner, wherever they come from: listed, read, counted, deleted.

Choices:

1. Deleting one takes everything along: its turns, what the search knows of them, what waits to be stored, and the
   memories that were drawn from it alone.
2. One that was brought from elsewhere can be brought again. Turns of asynchronous messages cannot: a client that sends
   its history with each message would else bring them back unasked.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import asyncpg
import msgspec

from app.database import Database
from app.memory.conversations import TURN_COLUMNS, forget_turns, to_turn
from app.memory.records import lock
from app.memory.removing import retire
from app.memory.types import Owner, Turn

OURS = "reprise"
"""The platform of asynchronous messages."""


class Chat(msgspec.Struct, frozen=True, kw_only=True):
    """A conversation as it is listed. ``external_id``: what its platform calls it."""

    id: str
    external_id: str
    import_id: str | None
    platform: str
    display_name: str | None
    title: str | None
    status: str
    reason: str | None
    messages: int
    created_at: datetime
    updated_at: datetime


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What a list is narrowed to; an empty field does not narrow. Times bound ``updated_at``."""

    platform: str | None = None
    title: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    import_id: str | None = None


_CHAT = """c.id, c.external_id, i.id AS import_id, c.platform, i.display_name, c.title, c.status, c.reason,
    (SELECT count(*) FROM turns t WHERE t.owner = $1 AND t.conversation = c.id) AS messages, c.created_at, c.updated_at
FROM conversations c LEFT JOIN imports i ON i.owner = c.owner AND i.platform = c.platform WHERE c.owner = $1"""


async def chats(database: Database, owner: Owner, wanted: Wanted, *, page: int, size: int) -> tuple[list[Chat], int]:
    """A page of conversations, those that changed last first, and how many there are in all."""
    where, values = _conditions(wanted)
    total = await database.fetchval(
        f"""SELECT count(*) FROM conversations c LEFT JOIN imports i ON i.owner = c.owner AND i.platform = c.platform
        WHERE c.owner = $1{where}""",  # noqa: S608 - constants
        owner.id,
        *values,
    )
    rows = await database.fetch(
        f"SELECT {_CHAT}{where} ORDER BY c.updated_at DESC, c.id LIMIT {int(size)} OFFSET {int((page - 1) * size)}",
        owner.id,
        *values,
    )
    return [_chat(row) for row in rows], int(total)


async def chat(database: Database, owner: Owner, conversation: str) -> Chat | None:
    """One conversation; None for one that this owner does not have."""
    row = await database.fetchrow(f"SELECT {_CHAT} AND c.id = $2", owner.id, conversation)
    return None if row is None else _chat(row)


async def said(database: Database, owner: Owner, conversation: str, *, page: int, size: int) -> list[Turn]:
    """A page of its turns, in their order."""
    rows = await database.fetch(
        f"""SELECT {TURN_COLUMNS} FROM turns t WHERE t.owner = $1 AND t.conversation = $2
        ORDER BY t.position, t.id LIMIT $3 OFFSET $4""",  # noqa: S608 - constants
        owner.id,
        conversation,
        size,
        (page - 1) * size,
    )
    return [to_turn(row).turn for row in rows]


async def counted(database: Database, owner: Owner) -> dict[str, int]:
    """How many conversations there are, by platform."""
    rows = await database.fetch(
        "SELECT platform, count(*) AS number FROM conversations WHERE owner = $1 GROUP BY platform ORDER BY platform",
        owner.id,
    )
    return {row["platform"]: row["number"] for row in rows}


async def delete(database: Database, owner: Owner, conversations: list[str]) -> list[str]:
    """Removes conversations and all that hangs on them; the ids of those that were there."""
    async with database.transaction() as connection:
        await lock(connection, owner)
        rows = await connection.fetch(
            "SELECT id, platform FROM conversations WHERE owner = $1 AND id = ANY($2)", owner.id, conversations
        )
        found = [row["id"] for row in rows]
        keys = await _keys(connection, owner, found)
        ours = [row["id"] for row in rows if row["platform"] == OURS]
        await forget_turns(connection, owner, [key for one in ours for key in keys.get(one, [])])
        await retire(connection, owner, [key for those in keys.values() for key in those])
        await connection.execute("DELETE FROM conversations WHERE owner = $1 AND id = ANY($2)", owner.id, found)
    return found


async def _keys(connection: asyncpg.Connection, owner: Owner, conversations: list[str]) -> dict[str, list[str]]:
    rows = await connection.fetch(
        "SELECT conversation, array_agg(key) AS keys FROM turns WHERE owner = $1 AND conversation = ANY($2) GROUP BY 1",
        owner.id,
        conversations,
    )
    return {row["conversation"]: row["keys"] for row in rows}


def _conditions(wanted: Wanted) -> tuple[str, list[Any]]:
    """What a conversation ``c`` must fulfil, as SQL from parameter 2 on, and the parameters."""
    given = (
        ("c.platform = {}", wanted.platform),
        ("c.title ILIKE {}", None if wanted.title is None else f"%{_literal(wanted.title)}%"),
        ("c.updated_at >= {}", wanted.since),
        ("c.updated_at <= {}", wanted.until),
        ("i.id = {}", wanted.import_id),
    )
    kept = [(part, value) for part, value in given if value is not None]
    where = "".join(f" AND {part.format(f'${number}')}" for number, (part, _) in enumerate(kept, 2))
    return where, [value for _, value in kept]


def _literal(text: str) -> str:
    """The text as a pattern that means itself."""
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


def _chat(row: Any) -> Chat:
    return Chat(**{name: row[name] for name in Chat.__struct_fields__})
