"""One reader's place in one message: a cursor, and what comes after it, whatever happens to the message meanwhile.

What a reader gets is decided here alone, for every format and connection: history from pages, then the window of the
topic, a `Gap` where the log does not hold what the cursor asks for, and the end.

=======================================  ==================================================
cursor                                   gets
=======================================  ==================================================
below the tail                           what follows, then live
at or above an unfinished tail           waits; events up to the cursor are skipped
... and the message ends at or below it  `Gap`, the whole log, the end
above a finished message's last          `Gap`, the whole log, the end
before what the log still holds          `Gap`, what there is, then live or the end
=======================================  ==================================================

A cursor at the last event of a finished message is the route's to answer (204); here it ends at once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Generic, Protocol, TypeVar

import msgspec

from app.chat import log
from app.chat.events import Entry
from app.chat.fanout import Fanout, Topic
from app.chat.message import Message
from app.chat.replay import PAGE, follows
from app.tail import Bell, Waiter

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Gap(msgspec.Struct, frozen=True):
    """History is incomplete: what follows is the whole log from its beginning, as far as it is kept."""

    requested: int
    earliest: int | None
    latest: int | None


_Part = tuple[T, int, bool]
"""Consecutive events: as the reader wants them, the number of the last, whether it is the terminal one."""


class Reader(Protocol[T_co]):
    """Whoever reads one message for a stream: an `Observer`, or the past's."""

    bell: Bell

    @property
    def cursor(self) -> int: ...

    @property
    def message(self) -> Message: ...

    @property
    def over(self) -> bool: ...

    @property
    def ended(self) -> bool: ...

    @property
    def idle(self) -> bool: ...

    async def read(self) -> T_co | Gap | None: ...

    def ready(self) -> T_co | None: ...

    def watch(self, waiter: Waiter | None = None) -> None: ...

    def unwatch(self, waiter: Waiter) -> None: ...

    def close(self) -> None: ...


class Observer(ABC, Generic[T]):
    """Reads one message from ``cursor`` on. Call `close` when done with it.

    ``over`` says that nothing will follow; ``ended`` that the terminal event was reached: an observer that is over
    without it was let go (drain, deletion, loss) and may come back. The constructor and `read` raise Unavailable.
    """

    __slots__ = ("_any", "_beyond", "_fanout", "_key", "_topic", "_whole", "bell", "cursor", "ended", "message", "over")

    def __init__(self, fanout: Fanout, message: Message, cursor: int, bell: Bell | None = None) -> None:
        self.cursor = cursor
        self.bell = bell or Bell()
        self.over = False
        self.ended = False
        self._fanout = fanout
        self._key = fanout.lifecycle.keys.log(message.account, message.id)
        self._topic: Topic | None = None if message.final else fanout.join(message)
        self.message = self._topic.message if self._topic else message  # one record for all observers of a topic
        self._beyond = message.final and cursor > message.last_seq
        self._whole = False  # a gap was told: holes are stepped over from here on
        self._any = False

    def close(self) -> None:
        self.over = True
        if self._topic is not None:
            self._topic.waiting.discard(self.bell)
            self._fanout.part(self._topic)
            self._topic = None

    def watch(self, waiter: Waiter | None = None) -> None:
        """Has the bell, or who is named, rung by the next event: call it when a read gave None, then wait."""
        if self._topic is not None:
            self._topic.waiting.add(waiter or self.bell)

    def unwatch(self, waiter: Waiter) -> None:
        """Undoes a `watch` of somebody other than the bell."""
        if self._topic is not None:
            self._topic.waiting.discard(waiter)

    def ready(self) -> T | None:
        """The next events as far as the topic has them; None when `read` is to be asked."""
        topic = self._topic
        if (
            topic is None
            or self.over
            or self._beyond
            or self._fanout.draining
            or not topic.floor <= self.cursor < topic.head
        ):
            return None
        return self._take(self._window(topic))

    @property
    def idle(self) -> bool:
        """Whether a `read` after a `ready` that gave something would find nothing yet."""
        topic = self._topic
        return topic is not None and self.cursor == topic.head and topic.end is None and not topic.gone

    async def read(self) -> T | Gap | None:
        """The next events, or None when there is nothing now (then `watch`) or ever (`over`)."""
        while not self.over:
            found = self.ready()
            if found is not None:
                return found
            topic = self._topic
            if self._fanout.draining:
                self.over = True
            elif self._beyond:
                self._beyond = False
                return await self._gap()
            elif topic is None or self.cursor < topic.floor:
                stored = await self._from_log()
                if stored is not None:
                    return stored
            elif topic.end is not None:
                if not self._whole:
                    return await self._gap()
                self.over = self.ended = True
            elif topic.gone:
                self.over = True
            else:
                return None
        return None

    @abstractmethod
    def _window(self, topic: Topic) -> _Part[T]:
        """What the topic holds after the cursor: there is something."""

    @abstractmethod
    async def _stored(self) -> tuple[_Part[T] | None, int | None]:
        """What the log holds after the cursor, and the number of the first event after it that is known."""

    def _take(self, part: _Part[T]) -> T:
        events, self.cursor, self.ended = part
        self._any, self.over = True, self.ended
        return events

    async def _from_log(self) -> T | Gap | None:
        part, first = await self._stored()
        if first is None:
            return await self._exhausted()
        if not self._whole and not follows(self.cursor, first):
            return await self._gap()
        if part is not None:
            return self._take(part)
        self.cursor = first - 1
        return None

    async def _exhausted(self) -> Gap | None:
        """The log ends before the window begins, or before the message's terminal event."""
        topic = self._topic
        if topic is not None and not topic.gone:
            if not self._whole:
                return await self._gap()
            self.cursor = max(self.cursor, topic.floor)
            return None
        if not self._whole and topic is None and self.cursor < self.message.last_seq:
            gap = await self._gap()
            if gap.latest is not None or not self._any:  # a log that vanishes under its reader was deleted: just end
                return gap
        self.over = True
        return None

    async def _gap(self) -> Gap:
        bounds = await log.bounds(self._fanout.lifecycle.redis, self._key)
        earliest, latest = bounds or (None, None)
        gap = Gap(self.cursor, earliest, latest)
        self.cursor, self._whole = 0, True
        return gap


class FrameObserver(Observer[bytes]):
    """Reads native Server-Sent Event frames, joined; their bytes are shared by all observers."""

    __slots__ = ()

    @property
    def abreast(self) -> Topic | None:
        """The topic, while the observer stands at its head and will be given what comes next."""
        return self._topic if self.idle else None

    def moved(self, cursor: int) -> None:
        """It was given what there is up to ``cursor`` by somebody else."""
        topic = self._topic
        if topic is not None and cursor != self.cursor:
            self._take((b"", cursor, cursor == topic.end))

    def _window(self, topic: Topic) -> _Part[bytes]:
        data, last = topic.frames_after(self.cursor)
        return data, last, last == topic.end

    async def _stored(self) -> tuple[_Part[bytes] | None, int | None]:
        page = await self._fanout.pages.get(self._key, self.message.created, self.cursor)
        first = page.next_after(self.cursor)
        if first is None or first > page.last:
            return None, first
        data, last = page.after(self.cursor)
        return (data, last, page.terminal and last == page.last), first


class EntryObserver(Observer[list[Entry]]):
    """Reads log entries, for translators into other formats."""

    __slots__ = ()

    def _window(self, topic: Topic) -> _Part[list[Entry]]:
        batch = topic.entries_after(self.cursor)
        return batch, batch[-1].seq, batch[-1].terminal

    async def _stored(self) -> tuple[_Part[list[Entry]] | None, int | None]:
        batch = await log.read(self._fanout.lifecycle.redis, self._key, after=self.cursor, count=PAGE)
        if not batch:
            return None, None
        run = 1
        while run < len(batch) and (self._whole or follows(batch[run - 1].seq, batch[run].seq)):
            run += 1
        last = batch[run - 1]
        return (batch[:run], last.seq, last.terminal), batch[0].seq
