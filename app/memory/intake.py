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
from typing import Any, Literal

import asyncpg
import msgspec

from app import ids
from app.database import Database
from app.errors import Conflict, ExtractionFailed, NotFound, UpstreamFailed
from app.memory import rules
from app.memory.categories import categorise
from app.memory.conversations import NewTurns, conversation_id, ensure_owner, find_owner, keyed, store_turns
from app.memory.drawing import draw
from app.memory.embedding import Embedder
from app.memory.extract import Extractor
from app.memory.index import Vectors, vectors_for
from app.memory.memories import Memories
from app.memory.recall import without_recalled
from app.memory.records import lock
from app.memory.rules import Statement
from app.memory.search import Search
from app.memory.types import Draft, Memory, Origin, Owner, StoredTurn, Turn

PLATFORM = "memories"
"""Of the conversations stored here: an asynchronous message's own turns stay apart from what was posted again."""
KEPT = "24 hours"
CLEARED = 100
"""Notes that are older, removed with each new one."""
CONTEXT = 12
"""Existing memories that a model is shown, nearest first."""
QUERY_CHARACTERS = 2_000

ExtractorName = Literal["model", "rules", "verbatim"]


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


class _Material(msgspec.Struct, kw_only=True):
    """What memories are made of: drafts, or statements that the storing transaction draws from."""

    extractor: ExtractorName
    drafts: list[Draft] = []
    said: list[Statement] = []
    categories: list[list[str]] = []

    @property
    def texts(self) -> list[str]:
        return [draft.text.strip() for draft in self.drafts] + [one.text for one in self.said]


class Intake:
    """Makes memories on request. Without an ``extractor`` the rules draw them."""

    def __init__(
        self,
        database: Database,
        memories: Memories,
        search: Search,
        embedder: Embedder | None,
        extractor: Extractor | None = None,
    ) -> None:
        self._db = database
        self._memories = memories
        self._search = search
        self._embedder = embedder
        self._extractor = extractor

    async def take(self, given: Given) -> Taken:
        """Stores and remembers. Raises Conflict for a used key with another body, UpstreamFailed, Unavailable."""
        if given.once is not None and (record := await self._noted(self._db, given, given.once)):
            return await self._again(given, record)
        source = _source(given)
        name = given.origin.thread_id or source
        turns = _turns(given, conversation_id(Owner(0, given.account, given.user), PLATFORM, name))
        source_of = self._draw if given.infer else self._verbatim
        material = await source_of(given, turns)
        vectors = await vectors_for(self._embedder, material.texts)
        async with self._db.transaction() as connection:
            if given.once is not None and not await _claim(connection, given, given.once):
                record = await self._noted(connection, given, given.once)
            else:
                record = None
                taken = await self._store(connection, given, name, source, turns, material, vectors)
        return await self._again(given, record) if record is not None else taken

    async def _draw(self, given: Given, turns: list[Turn]) -> _Material:
        """What is new in these turns, read by a model or left for the rules."""
        owner = await find_owner(self._db, given.account, given.user)
        fresh = await self._fresh(owner, turns)
        if self._extractor is None:
            said = rules.statements(fresh)
            categories = await categorise([one.text for one in said], self._embedder)
            return _Material(extractor="rules", said=said, categories=categories)
        existing = await self._existing(owner, fresh)
        try:
            stored = [StoredTurn(id=0, turn=turn, new=True) for turn in fresh]
            return _Material(extractor="model", drafts=await self._extractor.extract(stored, existing))
        except ExtractionFailed as error:
            raise UpstreamFailed(
                f"no memories could be drawn, and nothing was stored: {error}", code="EXTRACTION_FAILED"
            ) from error

    async def _verbatim(self, given: Given, _: list[Turn]) -> _Material:
        """Each text as it came."""
        texts = [text for _, text in given.said]
        named = await categorise(texts, self._embedder)
        drafts = [
            Draft(text=text, categories=categories, valid_from=given.said_at)
            for text, categories in zip(texts, named, strict=True)
        ]
        return _Material(extractor="verbatim", drafts=drafts)

    async def _existing(self, owner: Owner | None, fresh: list[Turn]) -> list[Memory]:
        """Memories near to what was said, which a draft may repeat or supersede."""
        said = "\n".join(turn.text for turn in fresh if turn.role == "user")[-QUERY_CHARACTERS:]
        if owner is None or not said:
            return []
        found = await self._search.search(owner, said, limit=CONTEXT, kinds=frozenset({"memory"}))
        return [hit.memory for hit in found.hits if hit.memory is not None]

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
        material: _Material,
        vectors: Vectors,
    ) -> Taken:
        owner = await ensure_owner(connection, given.account, given.user)
        await lock(connection, owner)
        conversation, origin, drafts, extractor = None, given.origin, material.drafts, material.extractor
        if material.said:
            drafts = await draw(connection, owner, material.said, material.categories)
        if given.infer:
            said = NewTurns(owner=owner, platform=PLATFORM, external_id=name, turns=turns, origin=origin)
            conversation, [stored] = said.conversation, await store_turns(connection, [said])
            new = {one.turn.key for one in stored if one.new}
            drafts = _of(drafts, new)
            origin = msgspec.structs.replace(origin, conversation=conversation)
        if given.metadata:
            drafts = [msgspec.structs.replace(d, metadata=given.metadata | d.metadata) for d in drafts]
        memories = await self._memories.add(
            connection,
            owner,
            drafts,
            origin=origin,
            extractor=extractor,
            source_key=conversation or source,
            vectors=vectors,
        )
        if given.once is not None:
            record = Record([memory.id for memory in memories], extractor, conversation)
            await connection.execute(
                "UPDATE memory_creations SET record = $3 WHERE account = $1 AND key_hash = $2",
                given.account,
                given.once.key_hash,
                msgspec.json.encode(record).decode(),
            )
        return Taken(memories=memories, extractor=extractor, conversation=conversation)

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


def _of(drafts: list[Draft], new: set[str]) -> list[Draft]:
    """The drafts of new turns; all of them, but for a twin of this request that was quicker."""
    kept = [draft for draft in drafts if not draft.turn_keys or new.intersection(draft.turn_keys)]
    return kept if len(kept) == len(drafts) else [msgspec.structs.replace(d, supersedes_draft=None) for d in kept]


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
