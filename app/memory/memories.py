"""Memories: added, read, corrected, forgotten and brought back. Owns ``memories``, their history and their backups.

The steps are in `adding`, `listing` and `removing`; what they share is in `records`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import msgspec

from app.database import Database
from app.errors import NotFound
from app.memory import adding, listing, removing
from app.memory.embedding import Embedder
from app.memory.index import Vectors, index_memories, vectors_for
from app.memory.records import COLUMNS, Event, check, linked, lock, to_event, to_json, to_memory, touch, write_event
from app.memory.types import Draft, Filters, Memory, Origin, Owner


class History(msgspec.Struct, frozen=True, kw_only=True):
    """A memory's past: what it superseded and what superseded it, oldest first, and all that happened to them."""

    chain: list[Memory]
    events: list[Event]


class Memories:
    """The memories of one database. All but `add` and `make` raise `Unavailable` when the server does not serve."""

    def __init__(self, database: Database, embedder: Embedder | None) -> None:
        self._db = database
        self._embedder = embedder

    async def add(
        self,
        connection: asyncpg.Connection,
        owner: Owner,
        drafts: list[Draft],
        *,
        origin: Origin,
        extractor: str,
        source_key: str,
        vectors: Vectors | None = None,
    ) -> list[Memory]:
        """Stores and indexes drafts in the caller's transaction; the memories this source made, in their order.

        ``vectors``: of their texts, as far as there are any; None: they are embedded here.

        The same call again answers the same and changes nothing: ``source_key`` names what the drafts were drawn from
        (a message, a request). A draft that says what is remembered already is merged into that memory and left out of
        the answer, as are deleted ones. Raises ValidationFailed for a draft that no memory can be.
        """
        memories, _ = await self.make(
            connection, owner, drafts, origin=origin, extractor=extractor, source_key=source_key, vectors=vectors
        )
        return memories

    async def make(
        self,
        connection: asyncpg.Connection,
        owner: Owner,
        drafts: list[Draft],
        *,
        origin: Origin,
        extractor: str,
        source_key: str,
        vectors: Vectors | None = None,
    ) -> tuple[list[Memory], list[str]]:
        """`add`, with the ids of those that this call made."""
        wanted = adding.distinct(owner, drafts, source_key)
        if not wanted:
            return [], []
        if vectors is None:
            new = await adding.unknown(connection, owner, wanted)
            vectors = await self._vectors([wanted[key].text for key in new])
        return await adding.add(connection, owner, wanted, vectors, origin=origin, extractor=extractor)

    async def _vectors(self, texts: list[str]) -> Vectors:
        return await vectors_for(self._embedder, texts)

    async def get(self, owner: Owner, memory_id: str) -> Memory:
        """Raises NotFound."""
        async with self._db.connection() as connection:
            return await self._get(connection, owner, memory_id)

    async def _get(self, connection: asyncpg.Connection, owner: Owner, memory_id: str) -> Memory:
        row = await connection.fetchrow(
            f"SELECT {COLUMNS} FROM memories m WHERE m.owner = $1 AND m.id = $2 AND m.deleted_at IS NULL",  # noqa: S608
            owner.id,
            memory_id,
        )
        if row is None:
            raise NotFound("memory", "there is no such memory", memory_id=memory_id)
        return to_memory(row)

    async def page(
        self,
        owner: Owner,
        filters: Filters,
        *,
        q: str | None = None,
        category: str | None = None,
        type: str | None = None,  # noqa: A002 - the query parameter's name
        sort: str = "-created_at",
        page: int = 1,
        page_size: int = 20,
    ) -> tuple[list[Memory], int]:
        """A page (from 1) and how many memories there are in all.

        ``q`` is a part of the text, in any case; ``category`` and ``type`` narrow ``filters`` further; ``sort`` is one
        of `listing.SORTS`, else ValidationFailed.
        """
        filters = msgspec.structs.replace(
            filters,
            categories=[category] if category else filters.categories,
            types=[type] if type else filters.types,
        )
        return await listing.page(self._db, owner, filters, q=q, sort=sort, page=page, page_size=page_size)

    def export(self, owner: Owner) -> AsyncIterator[Memory]:
        """All memories, superseded ones too, oldest first. Holds a few hundred of them at a time."""
        return listing.export(self._db, owner)

    async def sources(self, owner: Owner, memories: list[Memory]) -> dict[str, list[str]]:
        """By memory id, the ids of the messages whose turns said it, oldest first."""
        rows = await self._db.fetch(
            """SELECT key, message_id FROM turns
            WHERE owner = $1 AND key = ANY($2) AND message_id IS NOT NULL ORDER BY said_at, id""",
            owner.id,
            [key for memory in memories for key in memory.turn_keys],
        )
        found = {}
        for memory in memories:
            said = [row["message_id"] for row in rows if row["key"] in memory.turn_keys]
            found[memory.id] = list(dict.fromkeys(([memory.message_id] if memory.message_id else []) + said))
        return found

    async def history(self, owner: Owner, memory_id: str) -> History:
        """What was true before and after, and every change. Raises NotFound."""
        await self.get(owner, memory_id)
        async with self._db.connection() as connection:
            keys = await linked(connection, owner, [memory_id])
            chain = await connection.fetch(
                f"""SELECT {COLUMNS} FROM memories m WHERE m.owner = $1 AND m.id = ANY($2) AND m.deleted_at IS NULL
                ORDER BY m.valid_from, m.valid_to NULLS LAST, m.created_at, m.id""",  # noqa: S608 - constants
                owner.id,
                keys,
            )
            events = await connection.fetch(
                """SELECT h.memory AS memory_id, h.at, h.event, h.before, h.after FROM memory_history h
                JOIN memories m ON m.id = h.memory
                WHERE m.owner = $1 AND m.id = ANY($2) AND m.deleted_at IS NULL ORDER BY h.id""",
                owner.id,
                keys,
            )
        return History(chain=[to_memory(row) for row in chain], events=[to_event(row) for row in events])

    async def edit(
        self,
        owner: Owner,
        memory_id: str,
        *,
        text: str | None = None,
        categories: list[str] | None = None,
        type: str | None = None,  # noqa: A002 - the field's name
        importance: float | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> Memory:
        """Corrects what is given; the memory as it is then. A new text is indexed anew.

        ``metadata`` is merged: a null takes its key away. Raises NotFound and ValidationFailed.
        """
        check(text=text, type=type, categories=categories, importance=importance, metadata=metadata)
        text = text and text.strip()
        vectors = await self._vectors([text] if text else [])
        async with self._db.transaction() as connection:
            await lock(connection, owner)
            old = await self._get(connection, owner, memory_id)
            new = msgspec.structs.replace(
                old,
                text=text or old.text,
                categories=old.categories if categories is None else list(dict.fromkeys(categories)),
                type=type or old.type,
                importance=old.importance if importance is None else float(importance),
                metadata=_merged(old.metadata, metadata or {}),
            )
            if new == old:
                return old
            check(metadata=new.metadata)
            new = await self._save(connection, owner, new)
            await write_event(connection, owner, "updated", old, new)
            if new.text != old.text:
                await index_memories(connection, owner, [new], vectors)
            await touch(connection, owner)
        return new

    async def _save(self, connection: asyncpg.Connection, owner: Owner, memory: Memory) -> Memory:
        row = await connection.fetchrow(
            f"""UPDATE memories m SET text = $3, normal = $4, categories = $5, type = $6, importance = $7,
                metadata = $8, told = $9, updated_at = clock_timestamp()
            WHERE m.owner = $1 AND m.id = $2 RETURNING {COLUMNS}""",  # noqa: S608 - constants
            owner.id,
            memory.id,
            memory.text,
            adding.fingerprint(memory.text),
            memory.categories,
            memory.type,
            memory.importance,
            to_json(memory.metadata),
            adding.told(memory.text),
        )
        return to_memory(row)

    async def delete(
        self, owner: Owner, ids: list[str], *, cascade: bool = False, backup: bool = True
    ) -> tuple[str | None, dict[str, removing.Deletion]]:
        """Forgets memories; the backup's id (None where nothing was kept) and what became of each id.

        ``cascade`` also removes what superseded them and what they superseded (``cascaded``), and the turns all of
        them came from. ``backup`` keeps everything for `restore`; without it, it is gone at once.
        """
        return await removing.delete(self._db, owner, ids, cascade=cascade, backup=backup)

    async def restore(self, owner: Owner, backup_id: str) -> dict[str, removing.Restoration]:
        """Brings back what `delete` kept, within 30 days; what became of each memory. Raises NotFound.

        ``replaced``: it was remembered anew meanwhile. ``gone``: it was deleted again, or for good.
        """
        return await removing.restore(self._db, owner, backup_id)

    async def purge(self) -> int:
        """Removes for good, of all owners, what was deleted 30 days ago; how many memories."""
        return await removing.purge(self._db)

    async def remove_message(self, connection: asyncpg.Connection, owner: Owner, message_id: str) -> int:
        """Removes a message's turns and the memories made from it alone, for good, in the caller's transaction."""
        return await removing.remove_message(connection, owner, message_id)


def _merged(old: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    taken = {key for key, value in changes.items() if value is None}
    return {key: value for key, value in {**old, **changes}.items() if key not in taken}
