"""How far brought conversations are on their way into the search, and that the account is told of it.

One statement notes a status and writes what is told of it (`outbox`): no process can die between the two.
"""

from __future__ import annotations

from collections.abc import Sequence

import asyncpg

from app import outbox
from app.database import Database
from app.memory.types import Owner

_EMBEDDED = """c.status = 'processing' AND NOT EXISTS (
    SELECT FROM turns t JOIN units u ON u.turn = t.id WHERE t.conversation = c.id AND u.embedding IS NULL)"""


def _noted(change: str) -> str:
    """A statement that makes a change of ``conversations c`` and has the account be told of what has come to an end."""
    return f"""WITH settled AS (UPDATE conversations c SET {change} RETURNING c.*)
        {outbox.INSERT} SELECT o.account, o.user_id, 'conversation.' || s.status, json_build_object(
            'conversation_id', s.id, 'user_id', o.user_id, 'platform', s.platform,
            'platform_conversation_id', s.external_id, 'title', s.title, 'status', s.status, 'reason', s.reason)
        FROM settled s JOIN owners o ON o.id = s.owner WHERE s.status <> 'processing'"""  # noqa: S608 - constants


async def settle(connection: asyncpg.Connection, owner: Owner, conversation: str, *, embeds: bool) -> None:
    """Notes whether a conversation that was just stored waits for vectors or is indexed. ``embeds``: some will come."""
    await connection.execute(
        _noted(
            """reason = NULL, status = CASE WHEN $3 AND EXISTS (
                SELECT FROM turns t JOIN units u ON u.turn = t.id
                WHERE t.owner = $1 AND t.conversation = c.id AND u.embedding IS NULL)
            THEN 'processing' ELSE 'indexed' END WHERE c.owner = $1 AND c.id = $2"""
        ),
        owner.id,
        conversation,
        embeds,
    )


async def settle_units(database: Database, units: Sequence[int]) -> None:
    """Notes which conversations these units' vectors were the last of."""
    await database.execute(
        _noted(
            f"""status = 'indexed' WHERE {_EMBEDDED} AND c.id IN (
                SELECT t.conversation FROM turns t JOIN units u ON u.turn = t.id WHERE u.id = ANY($1))"""  # noqa: S608
        ),
        units,
    )


async def settle_all(database: Database) -> None:
    """Notes which conversations have all their vectors: those too whose last ones came from two processes at once."""
    await database.execute(_noted(f"status = 'indexed' WHERE {_EMBEDDED}"))


async def give_up(connection: asyncpg.Connection, owner: Owner, conversation: str, status: str, reason: str) -> None:
    """Notes that what was sent of a conversation is not going to be stored: ``rejected`` or ``failed``, and why."""
    await connection.execute(
        _noted("status = $3, reason = $4 WHERE c.owner = $1 AND c.id = $2"), owner.id, conversation, status, reason
    )
