"""What a profile is made from: counts, the strongest memories, changes. Reads only, always within one owner.

``excluded`` categories are left out in the statements themselves; a memory that has one of them is not counted.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Any

import msgspec

from app.database import Database
from app.memory.records import COLUMNS, to_memory
from app.memory.types import CATEGORIES, Memory, Owner

SHOWN_PER_CATEGORY = 5
PER_CATEGORY = 25
"""Memories of a category that are looked at, the strongest."""
MOST_CHANGES = 20
_SHOWN = "m.owner = $1 AND m.deleted_at IS NULL AND NOT (m.categories && $2::text[])"
_CURRENT = f"{_SHOWN} AND m.valid_to IS NULL"


class Stats(msgspec.Struct, kw_only=True):
    """Of memories that the profile may show: current ones, but for ``superseded``. All of the conversations."""

    memories: int
    semantic: int
    episodic: int
    superseded: int
    conversations: int
    turns: int
    first_memory_at: datetime | None
    last_memory_at: datetime | None


class CategoryView(msgspec.Struct, kw_only=True):
    """A category in a profile: how many memories it has, and the strongest of them."""

    category: str
    count: int
    memories: list[dict[str, Any]]


def view(name: str, count: int, shown: list[Memory]) -> CategoryView:
    """A category of which ``shown`` are memories, the strongest first."""
    strongest = [memory for memory in shown if name in memory.categories][:SHOWN_PER_CATEGORY]
    return CategoryView(
        category=name,
        count=count,
        memories=[{"id": m.id, "memory": m.text, "importance": round(m.importance, 3)} for m in strongest],
    )


async def counts(database: Database, owner: Owner, excluded: Collection[str]) -> dict[str, int]:
    """Current memories by category, the fullest first; empty categories are missing."""
    rows = await database.fetch(
        f"""SELECT name, count(*) AS count FROM memories m, unnest(m.categories) AS name
        WHERE {_CURRENT} GROUP BY name ORDER BY count DESC, name""",  # noqa: S608 - constants
        owner.id,
        list(excluded),
    )
    return {row["name"]: row["count"] for row in rows if row["name"] in CATEGORIES}


async def strongest(
    database: Database, owner: Owner, excluded: Collection[str], categories: Collection[str]
) -> list[Memory]:
    """The most important current memories of each category, newest first among equals, each once."""
    rows = await database.fetch(
        f"""SELECT DISTINCT ON (m.importance, m.valid_from, m.id) {COLUMNS} FROM unnest($3::text[]) AS wanted (name)
        CROSS JOIN LATERAL (
            SELECT * FROM memories m WHERE {_CURRENT} AND wanted.name = ANY (m.categories)
            ORDER BY m.importance DESC, m.valid_from DESC, m.id LIMIT $4) m
        ORDER BY m.importance DESC, m.valid_from DESC, m.id""",  # noqa: S608 - constants
        owner.id,
        list(excluded),
        list(categories),
        PER_CATEGORY,
    )
    return [to_memory(row) for row in rows]


async def changes(database: Database, owner: Owner, excluded: Collection[str]) -> list[tuple[Memory, Memory]]:
    """Memories that gave way to others, and those, the latest change first."""
    rows = await database.fetch(
        f"""SELECT {COLUMNS} FROM memories m WHERE {_SHOWN} AND m.superseded_by IS NOT NULL
        ORDER BY m.valid_to DESC NULLS LAST, m.id LIMIT $3""",  # noqa: S608 - constants
        owner.id,
        list(excluded),
        MOST_CHANGES,
    )
    old = [to_memory(row) for row in rows]
    rows = await database.fetch(
        f"SELECT {COLUMNS} FROM memories m WHERE {_SHOWN} AND m.id = ANY ($3)",  # noqa: S608 - constants
        owner.id,
        list(excluded),
        [memory.superseded_by for memory in old],
    )
    new = {memory.id: memory for memory in map(to_memory, rows)}
    return [(memory, new[memory.superseded_by]) for memory in old if memory.superseded_by in new]


async def stats(database: Database, owner: Owner, excluded: Collection[str]) -> Stats:
    row = await database.fetchrow(
        f"""SELECT
            count(*) FILTER (WHERE m.valid_to IS NULL) AS memories,
            count(*) FILTER (WHERE m.valid_to IS NULL AND m.type = 'semantic') AS semantic,
            count(*) FILTER (WHERE m.valid_to IS NULL AND m.type = 'episodic') AS episodic,
            count(*) FILTER (WHERE m.valid_to IS NOT NULL) AS superseded,
            (SELECT count(*) FROM conversations c WHERE c.owner = $1) AS conversations,
            (SELECT count(*) FROM turns t WHERE t.owner = $1) AS turns,
            min(m.created_at) FILTER (WHERE m.valid_to IS NULL) AS first_memory_at,
            max(m.created_at) FILTER (WHERE m.valid_to IS NULL) AS last_memory_at
        FROM memories m WHERE {_SHOWN}""",  # noqa: S608 - constants
        owner.id,
        list(excluded),
    )
    return Stats(**dict(row))


async def texts(database: Database, owner: Owner, ids: Collection[str]) -> dict[str, str]:
    """The texts of those of these memories that are still current."""
    rows = await database.fetch(
        """SELECT id, text FROM memories
        WHERE owner = $1 AND id = ANY($2) AND deleted_at IS NULL AND valid_to IS NULL""",
        owner.id,
        list(ids),
    )
    return {row["id"]: row["text"] for row in rows}
