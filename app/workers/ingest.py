"""Brought conversations become part of what can be searched: one snapshot of the queue after the other.

What one does: count its tokens, store and index its turns by their words and take it out of the queue in one
transaction. Its vectors follow (`upkeep.keep_embedded`), and with the last of them the conversation is ``indexed``. A
worker that dies in between has changed nothing; another claims the snapshot when the lease is over.

Choices:

1. Memories are drawn where the person wants them, from what they say themselves in the turns that a snapshot adds or
   edits, and of an edited one from the sentences it did not say before: what was drawn once and deleted stays so.
2. By rules that is done in the storing transaction: whatever dies, they are drawn once. What takes time, categories and
   vectors, is done before it, of the turns that are going to be new; nobody else stores any of this conversation.
3. A memory model reads later, by the queue of `extraction`: a conversation is found within seconds, not after the dozen
   calls that a long one takes, and a model that fails does not keep it from being stored.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import anyio
import msgspec
import structlog

from app.database import Database
from app.errors import RepriseError, Unavailable
from app.history import undrawn, uploads
from app.history.chats import OURS
from app.history.snapshot import Snapshot
from app.history.store import Applied, Changes, apply, changes, said_before
from app.history.tokens import MOST, of_snapshot
from app.history.uploads import LEASE_S, Upload
from app.memory import rules
from app.memory.drawing import Drawer, Material, not_said_before
from app.memory.memories import Memories
from app.memory.records import lock
from app.memory.rules import Statement
from app.memory.search import Search
from app.memory.settling import settle
from app.memory.types import Origin
from app.workers import extraction
from app.workers.upkeep import Signal

POLL_S = 5.0
RETRY_S = 1.0

logger = structlog.get_logger(__name__)


class Ingest:
    """Stores what waits. ``arrived`` is set when something may; ``stored`` is told when there are turns to embed.

    ``embeds``: there is an embedder; without one a conversation is indexed as soon as its words are. ``drawer``: draws
    memories by rules, by default without vectors. ``debounce_s``: how long a model waits for more turns; None without
    a model.
    """

    def __init__(
        self,
        database: Database,
        *,
        stored: Signal,
        embeds: bool,
        drawer: Drawer | None = None,
        debounce_s: float | None = None,
    ) -> None:
        self.arrived = Signal()
        self._database = database
        self._stored = stored
        self._embeds = embeds
        self._drawer = drawer or Drawer(database, Memories(database, None), Search(database, None), None)
        self._debounce_s = debounce_s

    async def run(self) -> None:
        """For ever."""
        while True:
            try:
                while (upload := await uploads.claim(self._database)) is not None:
                    await self.store(upload)
            except Unavailable:
                await anyio.sleep(RETRY_S)
                continue
            await self.arrived.wait(POLL_S)

    async def store(self, upload: Upload) -> None:
        """Stores a claimed snapshot, or notes why that cannot be. Raises Unavailable."""
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._keep, upload)
                snapshot = await uploads.read(self._database, upload)
                await self._apply(upload, snapshot)
                group.cancel_scope.cancel()
        except* Unavailable as group_of:
            raise group_of.exceptions[0] from None
        except* (RepriseError, msgspec.MsgspecError) as failed:
            await self._failed(upload, failed.exceptions[0])
        except* Exception as failed:  # one snapshot must not stop the others
            logger.exception("history.broken", conversation=upload.conversation, tries=upload.tries)
            await self._failed(upload, failed.exceptions[0])

    async def _apply(self, upload: Upload, snapshot: Snapshot) -> None:
        tokens = await anyio.to_thread.run_sync(partial(of_snapshot, snapshot))
        if tokens > MOST:
            reason = f"it has more than {MOST:,} tokens: send it as several conversations"
            await uploads.end(self._database, upload, "rejected", reason)
            logger.info("history.rejected", conversation=upload.conversation, tokens=tokens)
            return
        by_rules = upload.memories and self._debounce_s is None
        material = await self._read(upload, snapshot) if by_rules else None
        async with self._database.transaction() as connection:
            await lock(connection, upload.owner)
            if not await uploads.drop(connection, upload):
                return  # another has it, or its conversation is deleted
            applied = await apply(connection, upload.owner, upload.conversation, snapshot, upload.revised_at)
            if material is not None:
                await self._add(connection, upload, applied, material)
            elif upload.memories and self._debounce_s is not None:
                await _schedule(connection, upload, applied, self._debounce_s)
            await settle(connection, upload.owner, upload.conversation, embeds=self._embeds)
        if applied.turns:
            self._stored.set()
        logger.info("history.stored", conversation=upload.conversation, turns=len(applied.turns), edited=applied.edited)

    async def _read(self, upload: Upload, snapshot: Snapshot) -> Material:
        """What the person says in the turns that are going to be new."""
        async with self._database.connection() as connection:
            found = await changes(connection, upload.owner, upload.conversation, snapshot, upload.revised_at)
        return await self._drawer.of_statements(await anyio.to_thread.run_sync(partial(_said, found)))

    async def _add(self, connection: Any, upload: Upload, applied: Applied, material: Material) -> None:
        """Draws memories from the turns that were stored."""
        await undrawn.take(connection, upload.owner, [turn.key for turn in applied.said])
        material = material.only({turn.key for turn in applied.said})
        if not material.said:
            return
        await self._drawer.add(
            connection,
            upload.owner,
            material,
            origin=Origin(source=applied.platform, conversation=upload.conversation),
            source_key=f"{upload.conversation} {applied.said[0].key}",
        )

    async def _keep(self, upload: Upload) -> None:
        while True:
            await anyio.sleep(LEASE_S / 3)
            await uploads.renew(self._database, upload)

    async def _failed(self, upload: Upload, error: BaseException) -> None:
        reason = error.message if isinstance(error, RepriseError) else "it could not be stored"
        await uploads.fail(self._database, upload, reason)


async def _schedule(connection: Any, upload: Upload, applied: Applied, debounce_s: float) -> None:
    """Has a model read the turns that were stored, those of others as well: they explain what the person's refer to."""
    await undrawn.take(connection, upload.owner, [turn.key for turn in applied.said])
    if not any(turn.own for turn in applied.said):
        return
    if applied.platform == OURS:  # with messages in it, whose turns are read as they follow each other
        await extraction.schedule(connection, [(upload.owner, upload.conversation)], debounce_s)
    else:
        keys = [turn.key for turn in applied.said]
        await extraction.choose(connection, upload.owner, upload.conversation, keys, debounce_s)


def _said(found: Changes) -> list[Statement]:
    """What the person says of themselves in new turns, and in edited ones did not say before."""
    before = said_before(found)
    keys = {turn.key for turn in found.new} | set(before)
    heard = [turn for turn in found.turns if turn.key in keys or turn.role == "assistant"]
    said = not_said_before(rules.statements(heard), before)
    return [one for one in said if keys.intersection(one.turn_keys)]
