"""An owner's memories in pages and as a stream.

Choices:

1. Equal times are told apart by id, so that pages neither repeat nor skip.
2. An export reads page after page, each from where the last one ended, instead of keeping a cursor open: whoever
   downloads slowly would hold one of the pool's few connections.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from app.database import Database
from app.errors import ValidationFailed
from app.memory.records import COLUMNS, to_memory
from app.memory.types import Filters, Memory, Owner

EXPORT_PAGE = 500
SORTS = {
    "-created_at": "m.created_at DESC, m.id DESC",
    "created_at": "m.created_at, m.id",
    "-updated_at": "m.updated_at DESC, m.id DESC",
    "updated_at": "m.updated_at, m.id",
    "-importance": "m.importance DESC, m.created_at DESC, m.id DESC",
    "importance": "m.importance, m.created_at, m.id",
}


async def page(
    database: Database, owner: Owner, filters: Filters, *, q: str | None, sort: str, page: int, page_size: int
) -> tuple[list[Memory], int]:
    """`Memories.page`."""
    if sort not in SORTS:
        raise ValidationFailed([("sort", f"must be one of {', '.join(SORTS)}")])
    values: list[Any] = [owner.id]
    where = _where(filters, q, values)
    async with database.connection() as connection:
        total = await connection.fetchval(f"SELECT count(*) FROM memories m WHERE {where}", *values)  # noqa: S608
        offset = (page - 1) * page_size
        if offset >= total:
            return [], total
        rows = await connection.fetch(
            f"SELECT {COLUMNS} FROM memories m WHERE {where} ORDER BY {SORTS[sort]} "  # noqa: S608 - of constants
            f"LIMIT ${len(values) + 1} OFFSET ${len(values) + 2}",
            *values,
            page_size,
            offset,
        )
    return [to_memory(row) for row in rows], total


def _where(filters: Filters, q: str | None, values: list[Any]) -> str:
    """The condition, of constants and numbered parameters; appends their values."""
    parts = ["m.owner = $1", "m.deleted_at IS NULL"]
    for condition, value in (
        ("m.categories && ${}::text[]", filters.categories or None),
        ("m.type = ANY(${}::text[])", filters.types or None),
        ("m.agent_id = ${}", filters.agent_id),
        ("m.thread_id = ${}", filters.thread_id),
        ("m.source = ${}", filters.source),
        ("m.created_at >= ${}", filters.since),
        ("m.created_at <= ${}", filters.until),
        ("strpos(lower(m.text), lower(${})) > 0", q or None),
    ):
        if value is not None:
            values.append(value)
            parts.append(condition.format(len(values)))
    if filters.latest_only:
        parts.append("m.valid_to IS NULL")
    return " AND ".join(parts)


async def export(database: Database, owner: Owner) -> AsyncIterator[Memory]:
    """`Memories.export`."""
    after: Memory | None = None
    while True:
        rows = await database.fetch(
            f"""SELECT {COLUMNS} FROM memories m WHERE m.owner = $1 AND m.deleted_at IS NULL
            AND ($2::timestamptz IS NULL OR (m.created_at, m.id) > ($2, $3::text))
            ORDER BY m.created_at, m.id LIMIT $4""",  # noqa: S608 - constants
            owner.id,
            after and after.created_at,
            after and after.id,
            EXPORT_PAGE,
        )
        for row in rows:
            after = to_memory(row)
            yield after
        if len(rows) < EXPORT_PAGE:
            return
