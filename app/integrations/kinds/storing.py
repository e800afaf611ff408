"""What comes of an item: turns of a conversation and what is drawn from them, or one memory.

Storing turns and drawing from them are two transactions: a model may take long, and what is stored can be found
meanwhile. The item remembers which turns were stored, so that drawing goes on where it was.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

import anyio
import asyncpg
import msgspec

from app.database import Database
from app.history import undrawn
from app.history.snapshot import Head, Snapshot, at
from app.history.store import Changes, apply, said_before
from app.history.tokens import MOST, of_snapshot
from app.history.uploads import enter
from app.ids import derived_id
from app.integrations.job import Item, Job
from app.integrations.types import Conversation, Message, Unreadable
from app.memory.categories import categorise
from app.memory.conversations import said_still, turns_of
from app.memory.drawing import Drawer, Material
from app.memory.records import lock
from app.memory.settling import settle
from app.memory.types import Draft, Origin, Owner, Turn

LONGEST_ID, LONGEST_TITLE, LONGEST_NAME = 256, 1_000, 200


class Text(msgspec.Struct, frozen=True, kw_only=True):
    """A text that is remembered as it is. ``said_at``: since when it is true, where that is known."""

    text: str
    said_at: datetime | None = None
    categories: list[str] = []
    metadata: dict[str, Any] = {}
    source: str | None = None


class Store:
    """Where things go. ``stored`` is called when there is something to embed; ``embeds``: somebody will."""

    def __init__(self, database: Database, drawer: Drawer, stored: Callable[[], None], *, embeds: bool) -> None:
        self.database = database
        self._drawer = drawer
        self._stored = stored
        self._embeds = embeds

    async def conversation(self, job: Job, item: Item, raw: bytes, display_name: str, *, then: int | None) -> None:
        """Stores a snapshot's turns, to be drawn from in step ``then``; None: nothing is. Raises Unreadable."""
        snapshot = Snapshot(raw)
        if await anyio.to_thread.run_sync(partial(of_snapshot, snapshot)) > MOST:
            raise Unreadable("TOO_LONG", f"The conversation has more than {MOST:,} tokens.")
        head = snapshot.head
        revised = at(head.updated_at) if head.updated_at else datetime.now(UTC)
        async with job.transaction() as connection:
            await lock(connection, job.owner)
            entered = await enter(connection, job.owner, job.platform, head, display_name, revised)
            applied = await apply(connection, job.owner, entered.conversation, snapshot, revised)
            await settle(connection, job.owner, entered.conversation, embeds=self._embeds)
            turns = [turn.key for turn in applied.said]
            if then is not None:
                await undrawn.mark(connection, job.owner, turns)
                turns += await _left(connection, job.owner, applied.found, turns)
            await job.stored(
                connection,
                item,
                turns,
                entered.conversation,
                made=entered.made,
                payload=msgspec.json.encode(said_before(applied.found)),
                step=then or job.step,
            )
            if then is None:
                await job.done(connection, item)
        if applied.turns:
            self._stored()

    async def draw(self, job: Job, item: Item) -> None:
        """Draws memories from the turns that were stored of an item. Raises ExtractionFailed."""
        assert item.conversation is not None
        keys = item.turns or []
        async with self.database.connection() as connection:
            rows = await turns_of(connection, job.owner, item.conversation, keys=keys)
        before = msgspec.json.decode(item.payload, type=dict[str, list[str]])
        turns = [row.turn for row in rows]
        material = await self._drawer.read(job.owner.account, job.owner.user, turns, before)
        async with job.transaction() as connection:
            await lock(connection, job.owner)
            left = await undrawn.take(connection, job.owner, keys)
            material = material.only(left & await said_still(connection, job.owner, keys))
            added = await self._drawer.add(
                connection,
                job.owner,
                material,
                origin=Origin(source=job.platform, conversation=item.conversation),
                source_key=" ".join([item.conversation, *keys[:1]]),
                metadata={"integration_id": job.id},
            )
            await job.done(connection, item, added.new)
        self._stored()

    async def text(self, job: Job, item: Item, given: Text) -> None:
        """Remembers a text as it is. Its vector is made with all others that lack one."""
        categories = given.categories or (await categorise([given.text], None))[0]
        draft = Draft(text=given.text, categories=categories, valid_from=given.said_at)
        await self._remember(job, item, given, Material(extractor="verbatim", drafts=[draft]))

    async def facts(self, job: Job, item: Item, given: Text) -> None:
        """Remembers what is drawn from a text, and not the text itself. Raises ExtractionFailed."""
        said_at = given.said_at or datetime.now(UTC)
        key = derived_id("turn", job.id, str(item.position))
        turn = Turn(key=key, role="user", text=given.text, said_at=said_at)
        await self._remember(job, item, given, await self._drawer.read(job.owner.account, job.owner.user, [turn]))

    async def _remember(self, job: Job, item: Item, given: Text, material: Material) -> None:
        async with job.transaction() as connection:
            added = await self._drawer.add(
                connection,
                job.owner,
                material,
                origin=Origin(source=given.source or job.platform),
                source_key=f"{job.id} {item.position}",
                metadata=given.metadata | {"integration_id": job.id},
            )
            await job.done(connection, item, added.new)
        self._stored()


async def _left(connection: asyncpg.Connection, owner: Owner, found: Changes, but: list[str]) -> list[str]:
    """Keys of turns that another integration stored and, cancelled or slower, has not drawn from."""
    there = {turn.key for turn in found.turns}.difference(but)
    return sorted(await undrawn.marked(connection, owner, there)) if there else []


def snapshot_of(conversation: Conversation) -> bytes:
    """A conversation as the history takes it: what does not fit is shortened."""
    head = Head(
        id=_short(conversation.id),
        title=conversation.title and conversation.title[:LONGEST_TITLE],
        created_at=conversation.created_at,
        updated_at=conversation.updated_at,
    )
    body: dict[str, Any] = msgspec.to_builtins(head, builtin_types=(str,))
    return msgspec.json.encode(body | {"messages": [_message(one) for one in conversation.messages]})


def _message(one: Message) -> dict[str, Any]:
    return {
        "id": _short(one.id),
        "role": "assistant" if one.role == "assistant" else "human",
        "content": one.text,
        "createdAt": one.said_at,
        "name": None if one.name is None else one.name.replace("\x00", "\ufffd")[:LONGEST_NAME],
        "mine": one.mine,
    }


def _short(name: str) -> str:
    """An id that fits: one too long keeps its beginning and gets a hash of the whole."""
    name = name.replace("\x00", "\ufffd") or "-"
    if len(name) <= LONGEST_ID:
        return name
    return f"{name[: LONGEST_ID - 33]}-{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}"
