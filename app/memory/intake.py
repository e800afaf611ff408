"""Memories made on request: what was said is stored, memories are drawn from it, all before the answer.

Choices:

1. A model reads, and texts are embedded, before the transaction, from the turns that are not stored yet; in it, only
   drafts of turns that it did store are added. No wait for either holds a database connection; a client that sends its
   whole history each time does not bring back what was forgotten; and what fails leaves nothing stored, so that
   sending it again is right.
2. Under an Idempotency-Key the conversation's and the memories' ids derive from the key, and what was made is noted in
   the same transaction. A twin that comes at the same time waits for that note and answers from it.
3. The note holds ids, never texts: what was deleted since is missing from a repeated answer.
4. Without ``infer`` each text is a memory word for word; no conversation is stored, it would say everything twice.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import asyncpg
import msgspec

from app import ids
from app.database import Database
from app.errors import Conflict, ExtractionFailed, NotFound, UpstreamFailed
from app.memory.conversations import NewTurns, conversation_id, ensure_owner, find_owner, keyed, store_turns
from app.memory.drawing import Drawer, ExtractorName, Material
from app.memory.memories import Memories
from app.memory.recall import without_recalled
from app.memory.records import lock
from app.memory.types import Memory, Origin, Owner, Turn

PLATFORM = "memories"
"""Of the conversations stored here: an asynchronous message's own turns stay apart from what was posted again."""
KEPT = "24 hours"
CLEARED = 100
"""Notes that are older, removed with each new one."""


class Once(msgspec.Struct, frozen=True):
    """An Idempotency-Key, the user it counts for, and the body it came with."""

    key: str
    user: str
    body: bytes

    @property
    def key_hash(self) -> bytes:
        return hashlib.sha256(f"{self.user}\x00{self.key}".encode()).digest()

    @property
    def body_hash(self) -> bytes:
        return hashlib.sha256(self.body).digest()


class Given(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be remembered. ``said``: ``(role, text)`` of each turn, in order."""

    account: str
    user: str
    said: list[tuple[str, str]]
    said_at: datetime | None
    infer: bool
    metadata: dict[str, Any]
    origin: Origin
    once: Once | None


class Taken(msgspec.Struct, kw_only=True):
    """What was made of it."""

    memories: list[Memory]
    extractor: ExtractorName
    conversation: str | None


class Record(msgspec.Struct):
    """What is noted of a creation."""

    ids: list[str]
    extractor: ExtractorName
    conversation: str | None


class Intake:
    """Makes memories on request."""

    def __init__(self, database: Database, memories: Memories, drawer: Drawer) -> None:
        self._db = database
        self._memories = memories
        self._drawer = drawer

    async def take(self, given: Given) -> Taken:
        """Stores and remembers. Raises Conflict for a used key with another body, UpstreamFailed, Unavailable."""
        if given.once is not None and (record := await self._noted(self._db, given, given.once)):
            return await self._again(given, record)
        source = _source(given)
        name = given.origin.thread_id or source
        turns = _turns(given, conversation_id(Owner(0, given.account, given.user), PLATFORM, name))
        material = await self._draw(given, turns)
        async with self._db.transaction() as connection:
            if given.once is not None and not await _claim(connection, given, given.once):
                record = await self._noted(connection, given, given.once)
            else:
                record = None
                taken = await self._store(connection, given, name, source, turns, material)
        return await self._again(given, record) if record is not None else taken

    async def _draw(self, given: Given, turns: list[Turn]) -> Material:
        """What is new in these turns, or each text as it came."""
        if not given.infer:
            return await self._drawer.verbatim([text for _, text in given.said], given.said_at)
        owner = await find_owner(self._db, given.account, given.user)
        try:
            return await self._drawer.read(given.account, given.user, await self._fresh(owner, turns))
        except ExtractionFailed as error:
            raise UpstreamFailed(
                f"no memories could be drawn, and nothing was stored: {error}", code="EXTRACTION_FAILED"
            ) from error

    async def _fresh(self, owner: Owner | None, turns: list[Turn]) -> list[Turn]:
        """Those neither stored nor forgotten."""
        if owner is None:
            return turns
        rows = await self._db.fetch(
            """SELECT key FROM turns WHERE owner = $1 AND key = ANY($2)
            UNION ALL SELECT key FROM forgotten_turns WHERE owner = $1 AND key = ANY($2)""",
            owner.id,
            [turn.key for turn in turns],
        )
        known = {row["key"] for row in rows}
        return [turn for turn in turns if turn.key not in known]

    async def _store(
        self,
        connection: asyncpg.Connection,
        given: Given,
        name: str,
        source: str,
        turns: list[Turn],
        material: Material,
    ) -> Taken:
        owner = await ensure_owner(connection, given.account, given.user)
        await lock(connection, owner)
        conversation, origin = None, given.origin
        if given.infer:
            said = NewTurns(owner=owner, platform=PLATFORM, external_id=name, turns=turns, origin=origin)
            conversation, [stored] = said.conversation, await store_turns(connection, [said])
            material = material.only({one.turn.key for one in stored if one.new})
            origin = msgspec.structs.replace(origin, conversation=conversation)
        added = await self._drawer.add(
            connection, owner, material, origin=origin, source_key=conversation or source, metadata=given.metadata
        )
        if given.once is not None:
            record = Record([memory.id for memory in added.memories], material.extractor, conversation)
            await connection.execute(
                "UPDATE memory_creations SET record = $3 WHERE account = $1 AND key_hash = $2",
                given.account,
                given.once.key_hash,
                msgspec.json.encode(record).decode(),
            )
        return Taken(memories=added.memories, extractor=material.extractor, conversation=conversation)

    async def _noted(self, where: Database | asyncpg.Connection, given: Given, once: Once) -> Record | None:
        """What was made under this key within the day. Raises Conflict when that was with another body."""
        row = await where.fetchrow(
            f"""SELECT body_hash, record FROM memory_creations
            WHERE account = $1 AND key_hash = $2 AND created_at > now() - interval '{KEPT}'""",  # noqa: S608
            given.account,
            once.key_hash,
        )
        if row is None:
            return None
        if row["body_hash"] != once.body_hash:
            raise Conflict("this Idempotency-Key was used with another body")
        return msgspec.json.decode(row["record"], type=Record)

    async def _again(self, given: Given, record: Record) -> Taken:
        owner = await find_owner(self._db, given.account, given.user)
        memories = []
        if owner is not None:
            for memory_id in record.ids:
                with suppress(NotFound):
                    memories.append(await self._memories.get(owner, memory_id))
        return Taken(memories=memories, extractor=record.extractor, conversation=record.conversation)


async def _claim(connection: asyncpg.Connection, given: Given, once: Once) -> bool:
    """Notes the key; False when somebody else has within the day. Waits for one who is about to."""
    await connection.execute(
        f"""DELETE FROM memory_creations WHERE (account, key_hash) IN (
            SELECT account, key_hash FROM memory_creations WHERE created_at <= now() - interval '{KEPT}'
            ORDER BY created_at LIMIT {CLEARED} FOR UPDATE SKIP LOCKED)"""  # noqa: S608
    )
    made = await connection.fetchval(
        f"""INSERT INTO memory_creations AS c (account, key_hash, body_hash, record) VALUES ($1, $2, $3, '{{}}')
        ON CONFLICT (account, key_hash) DO UPDATE SET body_hash = $3, record = '{{}}', created_at = now()
            WHERE c.created_at <= now() - interval '{KEPT}'
        RETURNING true""",  # noqa: S608
        given.account,
        once.key_hash,
        once.body_hash,
    )
    return bool(made)


def _source(given: Given) -> str:
    """Names this creation: the same for the same Idempotency-Key."""
    return ids.derived_id("add", given.account, given.user, given.once.key) if given.once else ids.new_id("add")


def _turns(given: Given, conversation: str) -> list[Turn]:
    """The turns with their keys; blocks of recalled memories are nobody's words, and are left out."""
    at = given.said_at or datetime.now(UTC)
    said = [(role, without_recalled(text).strip()) for role, text in given.said]
    said = [(role, text) for role, text in said if text]
    return [
        Turn(key=key, role=role, text=text, said_at=at)  # type: ignore[arg-type]  # checked by the route
        for key, (role, text) in zip(keyed(said, conversation), said, strict=True)
    ]
