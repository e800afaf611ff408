"""One message, any number of observers: each event is read from Redis once a process, framed once, and shared.

A `Topic` stands for a message while somebody observes it here. It holds a bounded window of the newest events; an
observer (see `observer`) holds nothing but a cursor, takes what is ready from the window, and reads pages of the log
(see `replay`) while it is behind it. A slow observer so costs its cursor and the one write under way.

Choices:

1. A topic begins at the start of the page that the message had reached when it was opened, and lets the tail reader
   fetch that part: history comes from pages that can be shared, the rest from the window, and no read of one's own
   joins the two.
2. Observers at the same cursor get the same joined bytes: a thousand of them cost one join.
3. A topic that stays silent is looked up: a message that was deleted, or ended without its end being seen (Redis lost
   its data), ends its observers instead of leaving them to wait.
4. Shutting down, every observer ends at once and new ones are refused (`draining`): clients resume elsewhere.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from time import monotonic
from typing import cast

import anyio
import structlog
from anyio.abc import TaskStatus

from app.chat import log
from app.chat.events import Entry, frame
from app.chat.lifecycle import Lifecycle
from app.chat.message import FINAL, Message
from app.chat.replay import CHUNK_BYTES, PAGE, Pages, follows
from app.errors import Unavailable
from app.redis_door import redis_door
from app.tail import RawEntry, Tail, Waiter

WINDOW_BYTES = 1_000_000
"""Most a topic's window holds; with many topics less, down to `WINDOW_LEAST_BYTES`."""

WINDOW_LEAST_BYTES = 16_384
WINDOWS_BYTES = 64_000_000
"""What the windows of a process share."""

ENTRY_BYTES = 400
"""What an event costs besides its text."""

JOINS = 16
"""Joined pieces a topic remembers until its next event."""

LOOK_S = 5.0
"""Silence after which a topic's message is looked up."""

logger = structlog.get_logger(__name__)


class Topic:
    """The newest events of one message. Everything after ``floor`` that the log holds is here, up to ``head``."""

    def __init__(self, message: Message, base: str, key: str, limit: int) -> None:
        self.message = message
        self.base = base
        self.key = key
        self.floor = message.last_seq - message.last_seq % PAGE
        self.head = self.floor
        self.position = f"{self.floor}-0"
        self.end: int | None = None
        self.gone = False
        self.waiting: set[Waiter] = set()
        self.abreast: Waiter | None = None
        """Who writes to the native streams at the head, where somebody does; kept here for the next that comes."""
        self.observers = 0
        self.limit = limit
        self.heard_at = monotonic()
        self.doubted = False
        self._seqs: list[int] = []
        self._frames: list[bytes] = []
        self._entries: list[Entry] = []
        self._joins: dict[int, tuple[bytes, int]] = {}
        self._bytes = 0

    def deliver(self, entries: list[RawEntry]) -> None:
        for raw in entries:
            entry = log.decode(raw)
            if entry.seq > self.head:
                if not follows(self.head, entry.seq):
                    self._clear(entry.seq - 1)  # a hole: who stands before it is told by the pages
                self._add(entry)
        self.position = entries[-1][0].decode()
        self.heard_at = monotonic()
        self.doubted = False
        self._trim()
        self.wake()

    def frames_after(self, cursor: int) -> tuple[bytes, int]:
        """Joined frames after ``cursor`` (``floor <= cursor < head``), bounded, and the number of the last."""
        found = self._joins.get(cursor)
        if found is None:
            start = bisect_right(self._seqs, cursor)
            stop, size = start, 0
            while stop < len(self._frames) and (stop == start or size + len(self._frames[stop]) <= CHUNK_BYTES):
                size += len(self._frames[stop])
                stop += 1
            found = b"".join(self._frames[start:stop]), self._seqs[stop - 1]
            if len(self._joins) >= JOINS:
                self._joins.clear()
            self._joins[cursor] = found
        return found

    def entries_after(self, cursor: int) -> list[Entry]:
        """Entries after ``cursor`` (``floor <= cursor < head``), one page at most."""
        start = bisect_right(self._seqs, cursor)
        return self._entries[start : start + PAGE]

    def wake(self) -> None:
        self.waiting = {waiter for waiter in self.waiting if waiter.ring()}

    def lose(self, end: int | None) -> None:
        """What the message is known to have had after ``head`` is not in the log. ``end``: and it has ended there."""
        last = end if end is not None else self.message.last_seq
        self._clear(max(self.head, last))
        self.end = self.head if end is not None else None
        self.wake()

    def leave(self) -> None:
        """The message is gone: observers end."""
        self.gone = True
        self.wake()

    def _add(self, entry: Entry) -> None:
        one = frame(entry)
        self._seqs.append(entry.seq)
        self._frames.append(one)
        self._entries.append(entry)
        self._bytes += len(one) + len(entry.value) + ENTRY_BYTES
        self.head = entry.seq
        if entry.terminal:
            self.end = entry.seq

    def _clear(self, floor: int) -> None:
        self.floor = self.head = floor
        self._seqs, self._frames, self._entries, self._joins = [], [], [], {}
        self._bytes = 0

    def _trim(self) -> None:
        self._joins.clear()
        if self._bytes <= self.limit:
            return
        drop = 0
        while drop < len(self._seqs) - 1 and self._bytes > self.limit * 3 // 4:
            self._bytes -= len(self._frames[drop]) + len(self._entries[drop].value) + ENTRY_BYTES
            drop += 1
        self.floor = self._seqs[drop - 1] if drop else self.floor
        del self._seqs[:drop], self._frames[:drop], self._entries[:drop]


class Fanout:
    """All topics of a process."""

    def __init__(self, lifecycle: Lifecycle, tail: Tail, pages: Pages) -> None:
        self.lifecycle = lifecycle
        self.pages = pages
        self.draining = False
        self._tail = tail
        self._topics: dict[str, Topic] = {}

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Looks after the topics until cancelled."""
        async with anyio.create_task_group() as group:
            group.start_soon(self._look_for_ever)
            group.start_soon(self._watch_for_ever)
            task_status.started()

    def drain(self) -> None:
        """Ends every observer of this process and refuses new ones."""
        self.draining = True
        for topic in self._topics.values():
            topic.wake()

    def __len__(self) -> int:
        return len(self._topics)

    @property
    def observers(self) -> int:
        """Observers of all topics."""
        return sum(topic.observers for topic in self._topics.values())

    def join(self, message: Message) -> Topic:
        """The topic of an unfinished message, for one more observer. Raises Unavailable while starting or stopping."""
        keys = self.lifecycle.keys
        key = keys.log(message.account, message.id)
        topic = self._topics.get(key)
        if topic is not None and (topic.gone or topic.message.created != message.created):
            self._drop(topic)
            topic.leave()
            topic = None
        if topic is None:
            limit = max(WINDOW_LEAST_BYTES, min(WINDOW_BYTES, WINDOWS_BYTES // (len(self._topics) + 1)))
            topic = Topic(message, keys.message_base(message.account, message.id), key, limit)
            self._tail.add(topic)
            self._topics[key] = topic
        topic.observers += 1
        return topic

    def part(self, topic: Topic) -> None:
        """One observer less; the last one closes the topic."""
        topic.observers -= 1
        if topic.observers == 0:
            self._drop(topic)

    def _drop(self, topic: Topic) -> None:
        self._tail.remove(topic)
        topic.abreast = None  # they hold each other: a window of a megabyte would wait for the collector
        if self._topics.get(topic.key) is topic:
            del self._topics[topic.key]

    async def _watch_for_ever(self) -> None:
        """Renews the observed-leases of messages that are cancelled when nobody watches them."""
        due = 0.0
        while True:
            await anyio.sleep(0.25)
            watched = [t.message for t in self._topics.values() if t.message.unseen_s and t.end is None]
            now = monotonic()
            if not watched or now < due:
                continue
            try:
                await self.lifecycle.seen(watched)
                due = now + min(5.0, min(message.unseen_s for message in watched) / 3)
            except Unavailable:
                pass  # tried again with the next round

    async def _look_for_ever(self) -> None:
        while True:
            await anyio.sleep(LOOK_S / 5)
            now = monotonic()
            silent = [t for t in self._topics.values() if t.end is None and now - t.heard_at > LOOK_S]
            for start in range(0, len(silent), 200):
                try:
                    await self._look(silent[start : start + 200])
                except Unavailable:
                    break
            limit = max(WINDOW_LEAST_BYTES, min(WINDOW_BYTES, WINDOWS_BYTES // (len(self._topics) + 1)))
            for topic in self._topics.values():
                topic.limit = limit

    async def _look(self, topics: list[Topic]) -> None:
        """Compares silent topics with their messages' records: created, status, last number."""
        with redis_door():
            async with self.lifecycle.redis.pipeline(transaction=False) as pipe:
                for topic in topics:
                    pipe.hmget(self.lifecycle.keys.message(topic.message.account, topic.message.id), ["c", "s", "n"])
                rows = cast(list[list[bytes | None]], await pipe.execute())
        for topic, (created, status, last) in zip(topics, rows, strict=True):
            if monotonic() - topic.heard_at <= LOOK_S:
                continue
            if created is None or int(created) != topic.message.created:
                # its last event may still be on the way to us: the log outlives the record by some seconds
                self._doubt(topic, topic.leave)
                continue
            final, n = (status or b"").decode() in FINAL, int(last or 0)
            if n > topic.head or final:
                topic.message.last_seq = n
                self._doubt(topic, lambda t=topic, end=n if final else None: t.lose(end))  # type: ignore[misc]
            else:
                topic.heard_at = monotonic()  # nothing new: look again after as long a silence
                topic.doubted = False

    @staticmethod
    def _doubt(topic: Topic, act: Callable[[], None]) -> None:
        """Acts only when it looks the same a second time: the tail may be about to deliver."""
        if topic.doubted:
            act()
            topic.doubted = False
        else:
            topic.doubted = True
