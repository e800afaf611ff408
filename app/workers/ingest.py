"""Brought conversations become part of what can be searched: one snapshot of the queue after the other.

What one does: count its tokens, store and index its turns by their words and take it out of the queue in one
transaction. Its vectors follow (`upkeep.keep_embedded`), and with the last of them the conversation is ``indexed``. A
worker that dies in between has changed nothing; another claims the snapshot when the lease is over.
"""

from __future__ import annotations

from functools import partial

import anyio
import msgspec
import structlog

from app.database import Database
from app.errors import RepriseError, Unavailable
from app.history import uploads
from app.history.snapshot import Snapshot
from app.history.store import apply
from app.history.tokens import MOST, of_snapshot
from app.history.uploads import LEASE_S, Upload
from app.memory.index import settle
from app.memory.records import lock
from app.workers.upkeep import Signal

POLL_S = 5.0
RETRY_S = 1.0

logger = structlog.get_logger(__name__)


class Ingest:
    """Stores what waits. ``arrived`` is set when something may; ``stored`` is told when there are turns to embed.

    ``embeds``: there is an embedder; without one a conversation is indexed as soon as its words are.
    """

    def __init__(self, database: Database, *, stored: Signal, embeds: bool) -> None:
        self.arrived = Signal()
        self._database = database
        self._stored = stored
        self._embeds = embeds

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
        async with self._database.transaction() as connection:
            await lock(connection, upload.owner)
            if not await uploads.drop(connection, upload):
                return  # another has it, or its conversation is deleted
            applied = await apply(connection, upload.owner, upload.conversation, snapshot, upload.revised_at)
            await settle(connection, upload.owner, upload.conversation, embeds=self._embeds)
        if applied.turns:
            self._stored.set()
        logger.info("history.stored", conversation=upload.conversation, turns=len(applied.turns), edited=applied.edited)

    async def _keep(self, upload: Upload) -> None:
        while True:
            await anyio.sleep(LEASE_S / 3)
            await uploads.renew(self._database, upload)

    async def _failed(self, upload: Upload, error: BaseException) -> None:
        reason = error.message if isinstance(error, RepriseError) else "it could not be stored"
        await uploads.fail(self._database, upload, reason)
