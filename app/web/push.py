"""Writing to many streams from where their events are read, without waking their tasks.

A stream that has nothing to read may stand in a `Push`: what comes is then handed to its server at once, and its task
sleeps on. Granian takes what there is room for immediately and gives a future otherwise; that stream, and only that,
parts from the push, and its task awaits the room. Waking two hundred tasks for every token, each through the eleven
coroutines it stands in, would cost several times what the writes do.

Native streams of one message that are up to date all want the same bytes next: they stand in one `Abreast` and have
one place between them. An event then costs each of them its write and nothing else.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from asyncio import isfuture
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any, Protocol

from litestar.types import Send

from app.chat.fanout import Fanout, Topic


class Member(Protocol):
    """A waiting stream."""

    def part(self, why: Awaitable[Any] | Exception | None) -> None:
        """It is no member any more and must go on by itself, after the write it is given, or with this failure."""


class Push(ABC):
    """Streams that are written the same bytes. Stands among a topic's ``waiting``, as a bell does."""

    __slots__ = ("_members", "sent_at")

    def __init__(self) -> None:
        self.sent_at = 0.0
        """When they were last written to, ``time.monotonic()``."""
        self._members: dict[Member, Send] = {}

    def __len__(self) -> int:
        return len(self._members)

    def join(self, member: Member, send: Send) -> None:
        """``send`` is the member's server's own."""
        self._members[member] = send

    def leave(self, member: Member) -> None:
        """The member goes by itself; it is not told."""
        self._members.pop(member, None)

    def ring(self) -> bool:
        """Something came, or changed. Whether anybody waits on here."""
        try:
            data, stay = self.next()
        except Exception as error:  # noqa: BLE001  # it ends these streams, not the delivery to the others
            self._part(error)
            return False
        if data:
            self._write({"type": "http.response.body", "body": data, "more_body": True})
        if not stay:
            self._part(None)
        return bool(self._members)

    @abstractmethod
    def next(self) -> tuple[bytes, bool]:
        """What is written now, perhaps nothing, and whether there will be more to push after it."""

    def _write(self, message: Any) -> None:
        slow: list[tuple[Member, Awaitable[Any] | Exception]] = []
        for member, send in self._members.items():
            try:
                sending = send(message)
            except Exception as error:  # noqa: BLE001  # a broken connection ends its own stream only
                slow.append((member, error))
            else:
                if isfuture(sending):
                    slow.append((member, sending))
        self.sent_at = monotonic()
        for member, why in slow:
            del self._members[member]
            member.part(why)

    def _part(self, why: Exception | None) -> None:
        parting, self._members = self._members, {}
        for member in parting:
            member.part(why)


class Alone(Push):
    """One stream with bytes of its own: ``take`` gives what `Push.next` does."""

    __slots__ = ("_take",)

    def __init__(self, take: Callable[[], tuple[bytes, bool]]) -> None:
        super().__init__()
        self._take = take

    def next(self) -> tuple[bytes, bool]:
        return self._take()


class Abreast(Push):
    """The native streams that stand at the head of a topic. ``cursor`` is the place of all of them."""

    __slots__ = ("_fanout", "_topic", "cursor")

    def __init__(self, fanout: Fanout, topic: Topic) -> None:
        super().__init__()
        self.cursor = topic.head
        self._fanout = fanout
        self._topic = topic

    def next(self) -> tuple[bytes, bool]:
        topic = self._topic
        if self._fanout.draining or topic.gone or not topic.floor <= self.cursor <= topic.head:
            return b"", False  # what an observer is told then is its own to find out
        data = b""
        if self.cursor < topic.head:
            data, self.cursor = topic.frames_after(self.cursor)
        return data, self.cursor == topic.head and topic.end is None


def abreast(fanout: Fanout, topic: Topic) -> Abreast:
    """The push of those who stand at the topic's head now."""
    push = topic.abreast
    if not isinstance(push, Abreast) or not push or push.cursor != topic.head:
        push = topic.abreast = Abreast(fanout, topic)
    return push
