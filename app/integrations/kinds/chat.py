"""Chats: an export of a chat platform, or conversations sent inline.

Each conversation is an item. All of them are stored, and can be found by their words, before the first memory is drawn.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, tzinfo
from functools import partial
from itertools import islice
from zoneinfo import ZoneInfo

import anyio

from app.integrations.exports import chat_data
from app.integrations.exports.reader import NAMES, PLATFORMS, detect, read_export
from app.integrations.exports.source import Item as Read
from app.integrations.exports.source import Person, Source
from app.integrations.job import Item, Job, New
from app.integrations.kinds.storing import Store, snapshot_of
from app.integrations.types import Problem, Unreadable

AT_ONCE = 50
"""Conversations read before they are noted."""
STORE, DRAW = 2, 3


class Chat:
    """The steps of ``chat``."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.steps = (self.validation, self.conversation_detection, self.content_extraction, self.memory_creation)

    async def validation(self, job: Job) -> None:
        """Whose export it is. Raises Unreadable when that cannot be told."""
        if job.request.get("form") == "chat_data":
            return
        data, (name, *_) = await job.read(0), await job.files()
        if not data:
            raise Unreadable("EMPTY", "The file is empty.")
        if job.platform not in PLATFORMS:
            found = await anyio.to_thread.run_sync(detect, data, name)
            if found is None:
                known = ", ".join(NAMES.values())
                raise Unreadable(
                    "UNKNOWN_FORMAT", f"It is not told from the file whose export it is: name the platform ({known})."
                )
            await job.is_of(found)
        await job.log(f"An export of {NAMES[job.platform]}, {len(data):,} bytes.")

    async def conversation_detection(self, job: Job) -> None:
        """Every conversation becomes an item."""
        await job.forget_items()
        data, (name, *_) = await job.read(0), await job.files()
        found = _read(job, data, name)
        while batch := await anyio.to_thread.run_sync(partial(_batch, found)):
            await job.found(batch, step=STORE)
        await job.log(f"{job.items_total:,} conversations found.")
        await job.forget_files()

    async def content_extraction(self, job: Job) -> None:
        """What was said is stored."""
        await job.each(self._keep)

    async def memory_creation(self, job: Job) -> None:
        """What was said is drawn from."""
        await job.each(self._store.draw)

    async def _keep(self, job: Job, item: Item) -> None:
        name = NAMES.get(job.platform, job.platform)
        then = DRAW if job.request.get("memories", True) else None
        await self._store.conversation(job, item, item.payload, name, then=then)


def _read(job: Job, data: bytes, name: str) -> Iterator[Read]:
    zone: tzinfo = ZoneInfo(job.request["zone"]) if job.request.get("zone") else UTC
    me = job.request.get("me")
    if job.request.get("form") == "chat_data":
        return chat_data.read(Source(data, name, Person(me), zone))
    return read_export(job.platform, data, name=name, me=me, zone=zone)


def _batch(found: Iterator[Read]) -> list[New | Problem]:
    return [
        one if isinstance(one, Problem) else New(item_id=one.id, payload=snapshot_of(one))
        for one in islice(found, AT_ONCE)
    ]
