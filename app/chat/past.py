"""A message past its retention, replayed from what was stored of it.

Its log is gone, and with it the numbers of its events. What comes is the answer once more, each block in one piece, as
events without a number; only the terminal event has one, the message's last, so that who has seen that is told that
there is nothing left, and who stands elsewhere is told that history is incomplete.
"""

from __future__ import annotations

from typing import Any

import msgspec

from app.chat.events import Assembler, Draft, Entry
from app.chat.fanout import Fanout
from app.chat.message import Message
from app.chat.observer import EntryObserver, Gap, Reader
from app.tail import Bell, Waiter

_encode = msgspec.json.encode


class PastObserver:
    """Reads such a message the way `EntryObserver` reads one that has its log."""

    __slots__ = ("_requested", "bell", "cursor", "ended", "message", "over")

    idle = False

    def __init__(self, message: Message, cursor: int, bell: Bell | None = None) -> None:
        self.message = message
        self.cursor = cursor
        self.bell = bell or Bell()
        self.over = self.ended = cursor == message.last_seq
        self._requested = cursor

    async def read(self) -> list[Entry] | Gap | None:
        """A gap for a cursor that cannot be continued, then everything, then None."""
        if self.over:
            return None
        if self._requested:
            requested, self._requested = self._requested, 0
            return Gap(requested, self.message.last_seq, self.message.last_seq)
        self.over = self.ended = True
        self.cursor = self.message.last_seq
        return entries_of(self.message)

    def ready(self) -> None:
        return None

    def watch(self, waiter: Waiter | None = None) -> None:
        self.bell.ring()

    def unwatch(self, waiter: Waiter) -> None:
        return

    def close(self) -> None:
        self.over = True


def observe(fanout: Fanout, message: Message, cursor: int, bell: Bell | None = None) -> Reader[list[Entry]]:
    """Reads a message's entries from its log, or from what is stored of it. Raises Unavailable."""
    if message.stored is not None:
        return PastObserver(message, cursor, bell)
    return EntryObserver(fanout, message, cursor, bell)


def entries_of(message: Message) -> list[Entry]:
    """The events of a stored message: number 0 stands for none."""
    drafts = Assembler(message.id, message.model).start()
    for number, block in enumerate(message.stored or []):
        drafts += _block(str(number).encode(), block)
    *others, last = [*drafts, *_end(message)]
    return [*(Entry(0, field, value) for field, value in others), Entry(message.last_seq, *last)]


def _block(index: bytes, block: dict[str, Any]) -> list[Draft]:
    kind = block["type"]
    if kind == "tool_use":
        empty: dict[str, Any] = block | {"input": {}}
        deltas = [(b"j" + index, _encode(block["input"]))]
    elif kind == "thinking":
        empty = block | {"thinking": "", "signature": ""}
        deltas = [(b"h" + index, block["thinking"].encode())]
        if block.get("signature"):
            deltas.append((b"g" + index, block["signature"].encode()))
    else:
        empty = block | {"text": ""}
        deltas = [(b"t" + index, block["text"].encode())]
    return [(b"b" + index, _encode(empty)), *deltas, (b"e" + index, b"")]


def _end(message: Message) -> list[Draft]:
    if message.status == "cancelled":
        return [(b"c", _encode({"reason": message.cancelled_why}))]
    if message.status == "error":
        return [(b"x", _encode(message.error))]
    delta = {"stop_reason": message.stop_reason or "end_turn", "stop_sequence": message.stop_sequence}
    given, taken = message.input_tokens or 0, message.output_tokens
    usage = {"input_tokens": given, "output_tokens": message.tokens if taken is None else taken}
    return [(b"d", _encode({"delta": delta, "usage": usage})), (b"z", b"")]
