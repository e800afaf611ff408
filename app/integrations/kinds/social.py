"""Social platforms: the archive that one gives to its members, or an account read through its API.

What a person states of themselves is remembered as it is. What they wrote is a conversation for each kind of thing
(posts, comments, the messages of a correspondence), and is drawn from.
"""

from __future__ import annotations

from collections import Counter

import anyio
import msgspec

from app.integrations.job import Item, Job, New
from app.integrations.kinds.storing import Store, Text, snapshot_of
from app.integrations.social.read import CALLED, read_archive
from app.integrations.social.types import Item as Said
from app.integrations.social.types import ItemKind
from app.integrations.types import Conversation, Message, Problem

PROCESS = 3
AT_ONCE = 200
_STATED: dict[ItemKind, tuple[str, list[str]]] = {
    "profile": ("Profile", ["identity"]),
    "position": ("Position", ["career"]),
    "education": ("Education", ["learning"]),
    "skills": ("", ["career"]),
}
"""What stands before the text, and the categories, of what somebody states of themselves."""


class Social:
    """The steps of ``social``."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.steps = (self.authentication, self.discovery, self.extraction, self.processing)

    async def authentication(self, job: Job) -> None:
        """Whether it is what it is said to be. Raises Unreadable."""
        read_archive(job.platform, await job.read(0))
        await job.log(f"An archive of {CALLED[job.platform]}.")

    async def discovery(self, job: Job) -> None:
        """What there is."""
        found = await anyio.to_thread.run_sync(_read, job.platform, await job.read(0))
        counts = Counter(one.kind for one in found if isinstance(one, Said))
        told = ", ".join(f"{number:,} × {kind}" for kind, number in counts.items())
        await job.log(f"Found: {told or 'nothing'}.")

    async def extraction(self, job: Job) -> None:
        """Everything that is found becomes an item, oldest first."""
        await job.forget_items()
        found = await anyio.to_thread.run_sync(_read, job.platform, await job.read(0))
        for start in range(0, len(found), AT_ONCE):
            await job.found([_item(one) for one in found[start : start + AT_ONCE]], step=PROCESS)
            job.came((start + AT_ONCE) / len(found))
        await job.forget_files()

    async def processing(self, job: Job) -> None:
        """Items become memories and turns."""
        await job.each(self._process)

    async def _process(self, job: Job, item: Item) -> None:
        said = msgspec.json.decode(item.payload, type=Said)
        if said.kind in _STATED:
            label, categories = _STATED[said.kind]
            text = f"{label}: {said.text}" if label else said.text
            await self._store.text(job, item, Text(text=text, said_at=said.said_at, categories=categories))
            return
        if item.turns is None:
            then = PROCESS if job.request.get("memories", True) else None
            raw = snapshot_of(_conversation(job.platform, said))
            await self._store.conversation(job, item, raw, CALLED[job.platform], then=then)
            return  # it comes again, to be drawn from
        await self._store.draw(job, item)


def _read(platform: str, data: bytes) -> list[Said | Problem]:
    found = list(read_archive(platform, data))
    said = [one for one in found if isinstance(one, Said)]
    said.sort(key=lambda one: one.said_at.timestamp() if one.said_at else 0.0)
    return said + [one for one in found if isinstance(one, Problem)]


def _item(one: Said | Problem) -> New | Problem:
    return one if isinstance(one, Problem) else New(item_id=one.id, payload=msgspec.json.encode(one))


def _conversation(platform: str, said: Said) -> Conversation:
    """The part of a conversation that one thing is."""
    message = Message(id=said.id, role="user", text=said.text, said_at=said.said_at, mine=said.mine)
    title = said.title if said.kind == "message" and said.title else f"{CALLED[platform]}: {said.kind}s"
    name = f"{said.kind}s {said.title}" if said.kind == "message" and said.title else f"{said.kind}s"
    return Conversation(id=name, title=title, created_at=None, updated_at=said.said_at, messages=[message])
