"""Turns that were stored to be drawn from later. Owns ``undrawn_turns``.

Choices:

1. The mark is the turn's, not that of the integration which stored it: one that is cancelled, deleted or given up in
   between leaves turns that are no news to whoever is sent them again, and that would never be drawn from.
2. Who draws takes the marks in the transaction that stores the memories: of two with the same turns the second finds
   none left. Marks follow a turn that is edited, and go with one that is removed.
"""

from __future__ import annotations

from collections.abc import Collection

import asyncpg

from app.memory.types import Owner


async def mark(connection: asyncpg.Connection, owner: Owner, keys: Collection[str]) -> None:
    """These turns, which are stored, are to be drawn from."""
    await connection.execute(
        "INSERT INTO undrawn_turns (owner, key) SELECT $1, unnest($2::text[]) ON CONFLICT DO NOTHING",
        owner.id,
        list(keys),
    )


async def marked(connection: asyncpg.Connection, owner: Owner, keys: Collection[str]) -> set[str]:
    """Those of the keys whose turns are still to be drawn from."""
    rows = await connection.fetch(
        "SELECT key FROM undrawn_turns WHERE owner = $1 AND key = ANY($2)", owner.id, list(keys)
    )
    return {row["key"] for row in rows}


async def take(connection: asyncpg.Connection, owner: Owner, keys: Collection[str]) -> set[str]:
    """Takes the marks of these turns; the keys of those that had one."""
    rows = await connection.fetch(
        "DELETE FROM undrawn_turns WHERE owner = $1 AND key = ANY($2) RETURNING key", owner.id, list(keys)
    )
    return {row["key"] for row in rows}
