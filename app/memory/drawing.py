"""Memories drawn from turns, by a model where there is one, else by rules: the one way for all who store turns.

Choices:

1. All that takes time is done before any transaction: a model reads, texts get their categories and vectors. What comes
   of it, the material, is added in the transaction that stores the turns, or that notes that they were read.
2. Rules look at what is known already in that transaction, with its owner locked: of two who speak at once the second
   knows what the first one said, and supersedes it where it has to.
3. Statements are drawn in portions, each knowing what the one before made: a history of thousands is searched for as
   thoroughly as one sentence is.
4. What another remembered of the same turns meanwhile is left out by `Material.only`, or by the memories' ids.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence, Set
from datetime import datetime
from functools import partial
from types import MappingProxyType
from typing import Any, Literal, TypeVar

import anyio.to_thread
import asyncpg
import msgspec

from app.database import Database
from app.memory import rules
from app.memory.categories import categorise
from app.memory.conversations import find_owner
from app.memory.embedding import Embedder
from app.memory.extract import Extractor
from app.memory.index import Vectors, vectors_for
from app.memory.memories import Memories
from app.memory.records import lock
from app.memory.rules import Statement
from app.memory.search import Search
from app.memory.types import Draft, Memory, Origin, Owner, StoredTurn, Turn
from app.memory.words import normal

MOST_PROBES, PROBED = 20, 12
PORTION = 20
"""Statements drawn at once; few of them have more than one probe."""
CONTEXT = 12
"""Existing memories that a model is shown, nearest first."""
QUERY_CHARACTERS = 2_000

ExtractorName = Literal["model", "rules", "verbatim"]
T = TypeVar("T", Draft, Statement)


class Material(msgspec.Struct, frozen=True, kw_only=True):
    """What memories are made of: drafts, or statements with their categories, that rules draw from when it is added."""

    extractor: ExtractorName
    drafts: list[Draft] = []
    said: list[Statement] = []
    categories: list[list[str]] = []
    vectors: Vectors = {}

    def only(self, keys: Set[str]) -> Material:
        """What these turns bear out, as drawn from them alone, and what no turn does."""
        drafts = [_of(draft, keys) for draft in self.drafts if not draft.turn_keys or _of(draft, keys).turn_keys]
        if len(drafts) < len(self.drafts):
            drafts = [msgspec.structs.replace(draft, supersedes_draft=None) for draft in drafts]
        named = zip((_of(one, keys) for one in self.said), self.categories, strict=True)
        kept = [(one, categories) for one, categories in named if one.turn_keys]
        return msgspec.structs.replace(
            self,
            drafts=drafts,
            said=[one for one, _ in kept],
            categories=[categories for _, categories in kept],
        )


def _of(one: T, keys: Set[str]) -> T:
    return msgspec.structs.replace(one, turn_keys=[key for key in one.turn_keys if key in keys])


class Added(msgspec.Struct, kw_only=True):
    """What adding made: the memories of this source, in their order, and the ids of those that were not there before.

    What was merged into a memory of another source, or was deleted, is in neither.
    """

    memories: list[Memory]
    new: list[str]


class Drawer:
    """Draws memories from turns. Without an ``extractor`` by rules."""

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

    @property
    def embeds(self) -> bool:
        """Whether there is anything that makes vectors."""
        return self._embedder is not None

    async def read(
        self,
        account: str,
        user: str,
        turns: Sequence[Turn],
        before: Mapping[str, Collection[str]] = MappingProxyType({}),
    ) -> Material:
        """What these turns tell of their user. Outside of any transaction. Raises ExtractionFailed, Unavailable.

        ``before``: what edited turns said before, which rules pass over; a model reads them as a whole.
        """
        if self._extractor is None:
            said = await anyio.to_thread.run_sync(partial(rules.statements, list(turns)))
            return await self.of_statements(not_said_before(said, before))
        existing = await self._existing(account, user, turns)
        stored = [StoredTurn(id=0, turn=turn, new=True) for turn in turns]
        drafts = await self._extractor.extract(stored, existing)
        return Material(extractor="model", drafts=drafts, vectors=await self._vectors([one.text for one in drafts]))

    async def of_statements(self, said: list[Statement]) -> Material:
        """Material of what was said, by rules."""
        texts = [one.text for one in said]
        categories = await categorise(texts, self._embedder)
        return Material(extractor="rules", said=said, categories=categories, vectors=await self._vectors(texts))

    async def verbatim(self, texts: list[str], said_at: datetime | None) -> Material:
        """Each text as it came, to be a memory word for word."""
        named = await categorise(texts, self._embedder)
        drafts = [
            Draft(text=text, categories=categories, valid_from=said_at)
            for text, categories in zip(texts, named, strict=True)
        ]
        return Material(extractor="verbatim", drafts=drafts, vectors=await self._vectors(texts))

    async def add(
        self,
        connection: asyncpg.Connection,
        owner: Owner,
        material: Material,
        *,
        origin: Origin,
        source_key: str,
        metadata: dict[str, Any] = {},  # noqa: B006 - never changed
    ) -> Added:
        """Stores and indexes memories of the material in the caller's transaction; locks the owner until it ends.

        The same call again answers the same, but for ``new``, and changes nothing: see `Memories.add`. ``metadata`` is
        every memory's. Raises ValidationFailed for a draft that no memory can be.
        """
        await lock(connection, owner)
        added = Added(memories=[], new=[])

        async def store(drafts: list[Draft]) -> None:
            if metadata:
                drafts = [msgspec.structs.replace(one, metadata=metadata | one.metadata) for one in drafts]
            memories, new = await self._memories.make(
                connection,
                owner,
                drafts,
                origin=origin,
                extractor=material.extractor,
                source_key=source_key,
                vectors=material.vectors,
            )
            added.memories += memories
            added.new += new

        await store(material.drafts)
        for start in range(0, len(material.said), PORTION):
            portion = slice(start, start + PORTION)
            await store(await draw(connection, owner, material.said[portion], material.categories[portion]))
        return added

    async def _existing(self, account: str, user: str, turns: Sequence[Turn]) -> list[Memory]:
        """Memories near to what was said, which a draft may repeat or supersede."""
        said = "\n".join(turn.text for turn in turns if turn.own)[-QUERY_CHARACTERS:]
        owner = await find_owner(self._db, account, user) if said else None
        if owner is None:
            return []
        found = await self._search.search(owner, said, limit=CONTEXT, kinds=frozenset({"memory"}))
        return [hit.memory for hit in found.hits if hit.memory is not None]

    async def _vectors(self, texts: list[str]) -> Vectors:
        return await vectors_for(self._embedder, [text.strip() for text in texts])


def not_said_before(said: list[Statement], before: Mapping[str, Collection[str]]) -> list[Statement]:
    """The statements less those that their turns said before they were edited. ``before``: normalised, by turn key."""
    news = [
        msgspec.structs.replace(
            one, turn_keys=[key for key in one.turn_keys if normal(one.text) not in before.get(key, ())]
        )
        for one in said
    ]
    return [one for one in news if one.turn_keys]


async def draw(connection: Any, owner: Owner, said: list[Statement], categories: list[list[str]]) -> list[Draft]:
    """Drafts of what an owner said, by rules. To be called with the owner locked."""
    search = Search(connection, None)  # by keywords alone: so probes are meant
    existing: dict[str, Memory] = {}
    for probe in rules.probes(said)[:MOST_PROBES]:
        found = await search.search(owner, probe, limit=PROBED, kinds=frozenset({"memory"}))
        existing |= {hit.memory.id: hit.memory for hit in found.hits if hit.memory is not None}
    return rules.draft(said, categories, list(existing.values()))
