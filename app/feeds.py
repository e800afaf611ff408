"""An account's feed: what happens to its messages and memories, kept for a day, followed live by any number of readers.

Events of messages are written by the Lua scripts that make them true (``queue_*.lua``), those of what PostgreSQL holds
by `workers.notify` from the outbox (``feed_post.lua``). This module reads them: one `Feed` per account and process
while somebody follows it, over the process's tail readers.

A cursor is opaque to clients. It is an entry's id, or ``n`` and an id: "nothing seen before this moment", given to a
reader that begins with an empty feed. An entry's id is covered while the entry is kept; an ``n`` cursor for a day.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from typing import Any

import msgspec

from app.redis_door import Redis, redis_door
from app.redis_keys import Keys
from app.tail import Bell, RawEntry, Tail

KEPT_MS = 86_400_000
"""How long events are kept at least (`queue_prelude.lua` trims by it)."""

WINDOW_BYTES = 256_000
"""Newest events a feed holds in memory while it is followed."""

BATCH = 500
ENTRY_BYTES = 300

Id = tuple[int, int]

_CURSOR = re.compile(r"(n?)(\d{1,19})-(\d{1,19})\Z", re.ASCII)


TOLD_TO_WEBHOOKS = (
    "message.completed",
    "message.cancelled",
    "message.error",
    "memory.created",
    "memory.updated",
    "memory.deleted",
    "conversation.indexed",
    "conversation.rejected",
    "conversation.failed",
    "integration.completed",
    "integration.failed",
    "profile.updated",
)
"""The kinds of events that webhooks can have."""
KINDS = ("message.created", "message.processing", *TOLD_TO_WEBHOOKS)
"""Every kind of event there is."""
_SCOPES = {
    "message": "messages:read",
    "memory": "memories:read",
    "conversation": "history:read",
    "integration": "integrations:read",
    "profile": "profile:read",
}


def scope_of(kind: str) -> str:
    """The scope that lets a key have events of this kind: the one it needs to read what they tell of."""
    return _SCOPES[kind.partition(".")[0]]


class FeedEvent(msgspec.Struct, frozen=True, gc=False):
    """One event: ``data`` is the JSON of a webhook's body."""

    id: Id
    kind: str
    user: str
    data: bytes

    def frame(self) -> bytes:
        """The event as a Server-Sent Event."""
        return b"id: %d-%d\nevent: %b\ndata: %b\n\n" % (*self.id, self.kind.encode(), self.data)


class FeedCursor(msgspec.Struct, frozen=True):
    """Where a reader stands. ``fresh``: no event was ever given to it."""

    id: Id
    fresh: bool = False

    def __str__(self) -> str:
        return f"{'n' if self.fresh else ''}{self.id[0]}-{self.id[1]}"


class FeedGap(msgspec.Struct, frozen=True):
    """Events after the cursor may be missing: what follows is all that is kept."""

    requested: str
    earliest: str | None
    latest: str | None


def parse_cursor(text: str) -> FeedCursor | None:
    """A cursor as it was given out, or None when it is none of ours."""
    match = _CURSOR.match(text)
    return FeedCursor((int(match[2]), int(match[3])), bool(match[1])) if match else None


class Feed:
    """The newest events of one account, as long as somebody follows it. Follows the stream from ``floor`` on."""

    def __init__(self, base: str, key: str, floor: Id) -> None:
        self.base = base
        self.key = key
        self.floor = floor
        self.position = f"{floor[0]}-{floor[1]}"
        self.waiting: set[Bell] = set()
        self.readers = 0
        self._ids: list[Id] = []
        self._events: list[FeedEvent] = []
        self._bytes = 0

    @property
    def head(self) -> Id:
        return self._ids[-1] if self._ids else self.floor

    def deliver(self, entries: list[RawEntry]) -> None:
        for raw in entries:
            event = _decode(raw)
            self._ids.append(event.id)
            self._events.append(event)
            self._bytes += len(event.data) + ENTRY_BYTES
        self.position = entries[-1][0].decode()
        drop = 0
        while self._bytes > WINDOW_BYTES and drop < len(self._ids) - 1:
            self._bytes -= len(self._events[drop].data) + ENTRY_BYTES
            drop += 1
        if drop:
            self.floor = self._ids[drop - 1]
            del self._ids[:drop], self._events[:drop]
        self.wake()

    def after(self, cursor: Id) -> list[FeedEvent]:
        start = bisect_right(self._ids, cursor)
        return self._events[start : start + BATCH]

    def wake(self) -> None:
        self.waiting = {bell for bell in self.waiting if bell.ring()}


class Feeds:
    """The feeds followed in this process."""

    def __init__(self, redis: Redis, keys: Keys, tail: Tail) -> None:
        self.redis = redis
        self.draining = False
        self._keys = keys
        self._tail = tail
        self._feeds: dict[str, Feed] = {}

    def __len__(self) -> int:
        return len(self._feeds)

    def drain(self) -> None:
        """Ends every reader of this process."""
        self.draining = True
        for feed in self._feeds.values():
            feed.wake()

    async def open(self, account: str, cursor: FeedCursor | None) -> FeedReader:
        """A reader from ``cursor`` on; without one from now on. Raises Unavailable."""
        key = self._keys.feed(account)
        with redis_door():
            async with self.redis.pipeline(transaction=False) as pipe:
                pipe.xrange(key, count=1)
                pipe.xrevrange(key, count=1)
                pipe.xrange(key, min=_text(cursor.id), max=_text(cursor.id)) if cursor else pipe.exists(key)
                first, last, same = await pipe.execute()
            now = int((await self.redis.time())[0]) * 1000 if not last or (cursor and cursor.fresh) else 0
        earliest, latest = (_id(first[0]), _id(last[0])) if last else (None, None)
        # an entry written within this very millisecond must still lie after the moment
        end = latest or (now - 1000, 0)
        gap = None
        if cursor is None:
            cursor = FeedCursor(end, fresh=latest is None)
        elif not (cursor.id[0] >= now - KEPT_MS if cursor.fresh else same):
            gap = FeedGap(str(cursor), _text(earliest), _text(latest))
            cursor = FeedCursor((0, 0))
        feed = self._feeds.get(key)
        if feed is None:
            feed = Feed(self._keys.account_base(account), key, end)
            self._tail.add(feed)
            self._feeds[key] = feed
        feed.readers += 1
        return FeedReader(self, feed, cursor, gap)

    def part(self, feed: Feed) -> None:
        feed.readers -= 1
        if feed.readers == 0:
            self._tail.remove(feed)
            del self._feeds[feed.key]


class FeedReader:
    """One reader's place in a feed. ``gap`` is to be told first. Call `close` when done."""

    def __init__(self, feeds: Feeds, feed: Feed, cursor: FeedCursor, gap: FeedGap | None) -> None:
        self.cursor = cursor
        self.gap = gap
        self._feeds = feeds
        self._feed: Feed | None = feed
        self._bell = Bell()

    async def read(self) -> list[FeedEvent]:
        """The next events, waiting for one; empty when the process is stopping. Raises Unavailable."""
        while self._feed is not None and not self._feeds.draining:
            at = self.cursor.id
            if at < self._feed.floor:
                found = await self._stored(at)
                if not found:
                    self.cursor = FeedCursor(self._feed.floor)
                    continue
            elif at < self._feed.head:
                found = self._feed.after(at)
            else:
                self._feed.waiting.add(self._bell)
                await self._bell.wait()
                continue
            self.cursor = FeedCursor(found[-1].id)
            return found
        return []

    def close(self) -> None:
        if self._feed is not None:
            self._feed.waiting.discard(self._bell)
            self._feeds.part(self._feed)
            self._feed = None

    async def _stored(self, at: Id) -> list[FeedEvent]:
        assert self._feed is not None
        with redis_door():
            raw = await self._feeds.redis.xrange(self._feed.key, min=f"({_text(at)}", count=BATCH)
        return [_decode(entry) for entry in raw or []]


def _text(entry_id: Id | None) -> Any:
    return f"{entry_id[0]}-{entry_id[1]}" if entry_id else None


def _id(raw: Any) -> Id:
    ms, _, number = raw[0].partition(b"-")
    return int(ms), int(number)


def _decode(raw: Any) -> FeedEvent:
    fields = raw[1]
    return FeedEvent(_id(raw), fields[b"k"].decode(), fields[b"u"].decode(), fields[b"d"])
