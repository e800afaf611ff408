"""Chats: an export of a chat platform, or conversations sent inline.

Choices:

1. Each conversation is an item. All of them are stored, and can be found by their words, before the first memory is
   drawn.
2. A chat of many years has more tokens than a conversation may: it becomes several, cut where the first would have too
   many, and so on. Exported again later, its beginning is cut at the same places, and only the last one grows.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, tzinfo
from functools import partial
from itertools import islice, pairwise
from zoneinfo import ZoneInfo

import anyio
import msgspec

from app.history.tokens import count
from app.integrations.exports import chat_data
from app.integrations.exports.reader import NAMES, PLATFORMS, detect, read_export
from app.integrations.exports.source import Item as Read
from app.integrations.exports.source import Person, Source
from app.integrations.job import Item, Job, New
from app.integrations.kinds.storing import Store, snapshot_of
from app.integrations.types import Conversation, Problem, Unreadable

AT_ONCE = 50
"""Conversations read before they are noted."""
STORE, DRAW = 2, 3
PART_TOKENS = 90_000
"""Of one conversation: fewer than a conversation may have, for what is edited later."""


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
    batch: list[New | Problem] = []
    for one in islice(found, AT_ONCE):
        if isinstance(one, Problem):
            batch.append(one)
        else:
            batch += [New(item_id=part.id, payload=snapshot_of(part)) for part in parts(one)]
    return batch


def parts(whole: Conversation) -> Iterator[Conversation]:
    """The conversation, or where it has too many tokens several, from its beginning on (choice 2)."""
    if sum(len(message.text) for message in whole.messages) <= PART_TOKENS:  # no text has more tokens than characters
        yield whole
        return
    begins, tokens = [0], 0
    for place, message in enumerate(whole.messages):
        of_this = count(message.text)
        if tokens + of_this > PART_TOKENS and place > begins[-1]:
            begins.append(place)
            tokens = 0
        tokens += of_this
    for number, (begin, end) in enumerate(pairwise([*begins, len(whole.messages)]), 1):
        if number == 1:
            yield msgspec.structs.replace(whole, messages=whole.messages[:end])
            continue
        said = whole.messages[begin:end]
        yield Conversation(
            id=f"{whole.id} #{number}",
            title=f"{whole.title or 'A conversation'} ({number})",
            created_at=said[0].said_at,
            updated_at=whole.updated_at,
            messages=said,
        )
