"""What has been written is read from here: pages of a message's log as finished bytes, shared by all who replay it.

A page holds the events of one aligned range of `PAGE` sequence numbers. A page that can never change (it is full, or
something follows it, or it holds the terminal event) is kept, bounded by bytes, and two hundred clients that replay
the same answer cost one read of Redis. Whatever is not certain to be final is read anew for whoever asks.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict

import anyio

from app.chat import log
from app.chat.events import ATTEMPT_SPAN, Entry, frame
from app.redis_door import Redis

PAGE = 500
"""Sequence numbers per page; divides `ATTEMPT_SPAN`, so that every attempt begins a page."""

CACHE_BYTES = 64_000_000
CHUNK_BYTES = 65_536
"""Bytes handed to a client in one write, one event at least: what a reader that never reads can hold of ours."""

PageKey = tuple[str, int, int]
"""Log key, the message's time of creation (an id may come back after its retention), number of the page."""


def follows(cursor: int, seq: int) -> bool:
    """Whether ``seq`` may come right after ``cursor``: the next number, or the first of a later attempt."""
    return seq == cursor + 1 or seq % ATTEMPT_SPAN == 1


class Page:
    """Consecutive events as bytes. ``following`` is the first event after them when it was seen."""

    __slots__ = ("data", "ends", "first", "following", "last", "terminal")

    def __init__(self, entries: list[Entry], following: int | None) -> None:
        frames = [frame(entry) for entry in entries]
        self.first = entries[0].seq if entries else 0
        self.last = entries[-1].seq if entries else -1
        self.ends = array("I")
        total = 0
        for one in frames:
            total += len(one)
            self.ends.append(total)
        self.data = b"".join(frames)
        self.following = following
        self.terminal = bool(entries) and entries[-1].terminal

    @property
    def size(self) -> int:
        return len(self.data) + 4 * len(self.ends) + 400

    def next_after(self, cursor: int) -> int | None:
        """The number of the first event after ``cursor`` that this page knows of."""
        if cursor < self.last:
            return max(cursor + 1, self.first)
        return self.following

    def after(self, cursor: int) -> tuple[bytes, int]:
        """Frames after ``cursor``, about `CHUNK_BYTES` at most, and the number of the last. There must be one."""
        start = max(0, cursor + 1 - self.first)
        stop = len(self.ends)
        offset = self.ends[start - 1] if start else 0
        if len(self.data) - offset > CHUNK_BYTES:
            stop = start + 1
            while stop < len(self.ends) and self.ends[stop] - offset <= CHUNK_BYTES:
                stop += 1
        return self.data[offset : self.ends[stop - 1]], self.first + stop - 1


class Pages:
    """The pages of this process. Raises `Unavailable` where Redis must be asked and does not answer."""

    def __init__(self, redis: Redis, cache_bytes: int = CACHE_BYTES) -> None:
        self._redis = redis
        self._limit = cache_bytes
        self._kept: OrderedDict[PageKey, Page] = OrderedDict()
        self._loading: dict[PageKey, anyio.Event] = {}
        self.bytes = 0
        self.loads = 0

    async def get(self, key: str, created: int, cursor: int) -> Page:
        """A page with the events after ``cursor``, or one that knows what follows; empty at the log's end."""
        name = (key, created, cursor // PAGE)
        kept = self._find(name)
        if kept is not None:
            return kept
        loading = self._loading.get(name)
        if loading is not None:
            await loading.wait()
            kept = self._find(name)
            if kept is not None:
                return kept
            return await self._load(name, cursor)  # it was no page to keep: read on one's own
        self._loading[name] = anyio.Event()
        try:
            return await self._load(name, cursor)
        finally:
            self._loading.pop(name).set()

    def _find(self, name: PageKey) -> Page | None:
        kept = self._kept.get(name)
        if kept is not None:
            self._kept.move_to_end(name)
        return kept

    async def _load(self, name: PageKey, cursor: int) -> Page:
        self.loads += 1
        start = name[2] * PAGE
        entries = await log.read(self._redis, name[0], after=start, count=PAGE + 1)
        within = [entry for entry in entries if entry.seq <= start + PAGE]
        beyond = entries[len(within)].seq if len(within) < len(entries) else None
        run = _dense(within)
        if run == len(within) and within and within[0].seq == start + 1 and (beyond or within[-1].terminal):
            page = Page(within, beyond)
            self._keep(name, page)
            return page
        # incomplete, or with a hole: only what is wanted, as far as it is dense
        wanted = [entry for entry in within if entry.seq > cursor]
        run = _dense(wanted)
        return Page(wanted[:run], wanted[run].seq if run < len(wanted) else beyond)

    def _keep(self, name: PageKey, page: Page) -> None:
        if name in self._kept or page.size > self._limit // 8:
            return
        self._kept[name] = page
        self.bytes += page.size
        while self.bytes > self._limit:
            _, dropped = self._kept.popitem(last=False)
            self.bytes -= dropped.size


def _dense(entries: list[Entry]) -> int:
    """How many of the entries, from the first, have consecutive numbers."""
    for index in range(1, len(entries)):
        if entries[index].seq != entries[index - 1].seq + 1:
            return index
    return len(entries)
