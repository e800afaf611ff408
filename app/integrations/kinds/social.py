"""Social platforms: the archive that one gives to its members, or an account read through its API.

What a person states of themselves is remembered as it is. What they wrote is a conversation for each kind of thing
(posts, comments, the messages of a correspondence), and is drawn from.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import anyio
import msgspec

from app.integrations.job import Item, Job, New
from app.integrations.kinds.storing import Store, Text, snapshot_of
from app.integrations.social.api.open import open_api
from app.integrations.social.api.types import Pauses, SocialApi
from app.integrations.social.read import CALLED, read_archive
from app.integrations.social.types import Item as Said
from app.integrations.social.types import ItemKind
from app.integrations.types import Conversation, Message, Problem, Unreadable
from app.outbound import Outbound

PROCESS = 3
LAST = "-"
"""The place after the last page."""
LONG_WAIT_S = 2.0
AT_ONCE = 200
_STATED: dict[ItemKind, tuple[str, list[str]]] = {
    "profile": ("Profile", ["identity"]),
    "position": ("Position", ["career"]),
    "education": ("Education", ["learning"]),
    "skills": ("", ["career"]),
}
"""What stands before the text, and the categories, of what somebody states of themselves."""


class Social:
    """The steps of ``social``. ``bases``: by platform, the address of its API."""

    def __init__(
        self, store: Store, outbound: Outbound, bases: Mapping[str, str], pauses: Pauses | None = None
    ) -> None:
        self._store = store
        self._outbound = outbound
        self._bases = bases
        self._pauses = pauses
        self.steps = (self.authentication, self.discovery, self.extraction, self.processing)

    async def authentication(self, job: Job) -> None:
        """Whether it is what it is said to be, or who the account is. Raises Unreadable, OutboundFailed."""
        if _by_token(job):
            await job.log(f"Signed in to {CALLED[job.platform]} as {await self._api(job).authenticate()}.")
        else:
            read_archive(job.platform, await job.read(0))
            await job.log(f"An archive of {CALLED[job.platform]}.")

    async def discovery(self, job: Job) -> None:
        """What there is."""
        if _by_token(job):
            counts = {one.kind: one.total for one in await self._api(job).discover()}
        else:
            found = await anyio.to_thread.run_sync(_read, job.platform, await job.read(0))
            counts = dict(Counter(one.kind for one in found if isinstance(one, Said)))
        told = ", ".join(kind if number is None else f"{number:,} × {kind}" for kind, number in counts.items())
        await job.log(f"Found: {told or 'nothing'}.")

    async def extraction(self, job: Job) -> None:
        """Everything that is found becomes an item: of an archive oldest first, of an account page by page."""
        if _by_token(job):
            await self._pages(job)
            return
        await job.forget_items()
        found = await anyio.to_thread.run_sync(_read, job.platform, await job.read(0))
        for start in range(0, len(found), AT_ONCE):
            await job.found([_item(one) for one in found[start : start + AT_ONCE]], step=PROCESS)
            job.came((start + AT_ONCE) / len(found))
        await job.forget_files()

    async def _pages(self, job: Job) -> None:
        """A page and where the next one begins are noted in one commit: whoever goes on begins there."""
        if job.place == LAST:
            return
        async for page in self._api(job).pages(job.place):
            found = [*map(_item, page.items), *page.problems]
            await job.found(found, step=PROCESS, place=page.cursor or LAST)

    def _api(self, job: Job) -> SocialApi:
        token = job.secret.get("auth_token")
        if not token:
            raise Unreadable("UNAUTHORIZED", "The access token is forgotten when an integration ends: send it again.")

        async def waiting(seconds: float) -> None:
            if seconds >= LONG_WAIT_S:
                await job.log(f"{CALLED[job.platform]} asks to wait {seconds:.0f} s.", "warning")

        return open_api(
            job.platform, token, self._bases[job.platform], self._outbound, pauses=self._pauses, waiting=waiting
        )

    async def processing(self, job: Job) -> None:
        """Items become memories and turns."""
        await job.each(self._process)

    async def _process(self, job: Job, item: Item) -> None:
        if item.turns is not None:
            await self._store.draw(job, item)
            return
        said = msgspec.json.decode(item.payload, type=Said)
        if said.kind in _STATED:
            label, categories = _STATED[said.kind]
            text = f"{label}: {said.text}" if label else said.text
            await self._store.text(job, item, Text(text=text, said_at=said.said_at, categories=categories))
            return
        then = PROCESS if job.request.get("memories", True) else None  # it comes again, to be drawn from
        raw = snapshot_of(_conversation(job.platform, said))
        await self._store.conversation(job, item, raw, CALLED[job.platform], then=then)


def _by_token(job: Job) -> bool:
    return job.request.get("by") == "token"


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
