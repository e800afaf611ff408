"""The formats of an observed message: what a stream writes for its events. Pure translators over the log.

``anthropic`` is native: its frames are built once for all observers. The others are translated for each observer from
log entries, always from the beginning of the attempt the cursor lies in, so that a resumed stream continues exactly
what the interrupted one would have sent. A frame carries ``id:`` when it is the last of its event.

``openai``: chunks carry no ``event:``; gap, message_restart, message_cancelled and memory_recall keep their native
event and data; an error is ``data: {"error": ...}``; after a terminal event comes ``data: [DONE]``.
``text``: the text deltas alone; whatever plain text cannot say (a restart, a gap, an error, a cancel, a process that
stops) leaves the response without its end.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable
from typing import Any, Generic, Protocol, TypeVar

import msgspec
from litestar.types import Send

from app.chat.events import ATTEMPT_SPAN, Entry, frame, gap_frame, id_line
from app.chat.fanout import Fanout
from app.chat.message import Message
from app.chat.observer import EntryObserver, FrameObserver, Gap, Reader
from app.chat.past import observe
from app.errors import BadRequest
from app.web.push import Abreast, Alone, Push, abreast

FORMATS = ("anthropic", "openai", "text")

T = TypeVar("T")

_encode = msgspec.json.encode

_FINISH = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}


class Translator(Protocol):
    """Turns one event after the other into bytes."""

    def event(self, entry: Entry) -> bytes | None:
        """The event's frames, perhaps none; None when the format cannot go on past it."""

    def gap(self, gap: Gap) -> bytes | None:
        """The same for a gap; the whole log follows."""


class OpenAI:
    """Events as ``chat.completion.chunk`` objects."""

    def __init__(self, message: Message) -> None:
        self._head: dict[str, Any] = {
            "id": message.id,
            "object": "chat.completion.chunk",
            "created": message.created // 1000,
            "model": message.model,
        }
        self._tools: dict[bytes, int] = {}

    def event(self, entry: Entry) -> bytes:
        kind, index = entry.field[:1], entry.field[1:]
        if kind == b"t":
            return self._delta(entry, {"content": entry.value.decode()})
        if kind == b"h":
            return self._delta(entry, {"reasoning_content": entry.value.decode()})
        if kind == b"j":
            call = {"index": self._tools.get(index, 0), "function": {"arguments": entry.value.decode()}}
            return self._delta(entry, {"tool_calls": [call]})
        if kind == b"b":
            return self._block(entry, index)
        if kind == b"s":
            self._head["model"] = msgspec.json.decode(entry.value)["message"].get("model", self._head["model"])
            return self._delta(entry, {"role": "assistant", "content": ""})
        if kind == b"d":
            return self._end(entry)
        if kind == b"z":
            return b"id: %d\ndata: [DONE]\n\n" % entry.seq
        if kind == b"x":
            error = msgspec.json.decode(entry.value)["error"]
            return b"data: %b\n\nid: %d\ndata: [DONE]\n\n" % (_encode({"error": _openai_error(error)}), entry.seq)
        if kind == b"c":
            return frame(entry).split(b"\n", 1)[1] + b"id: %d\ndata: [DONE]\n\n" % entry.seq
        if kind == b"r":
            self._tools = {}
        return frame(entry) if kind in (b"r", b"y") else b""

    def gap(self, gap: Gap) -> bytes:
        self._tools = {}
        return gap_frame(gap.requested, gap.earliest, gap.latest)

    def _block(self, entry: Entry, index: bytes) -> bytes:
        block = msgspec.json.decode(entry.value)
        if block["type"] != "tool_use":
            return b""
        number = self._tools[index] = len(self._tools)
        function = {"name": block["name"], "arguments": ""}
        call = {"index": number, "id": block["id"], "type": "function", "function": function}
        return self._delta(entry, {"tool_calls": [call]})

    def _end(self, entry: Entry) -> bytes:
        body = msgspec.json.decode(entry.value)
        given, taken = body["usage"].get("input_tokens", 0), body["usage"].get("output_tokens", 0)
        usage = {"prompt_tokens": given, "completion_tokens": taken, "total_tokens": given + taken}
        finish = _FINISH.get(body["delta"]["stop_reason"], "stop")
        return self._delta(entry, {}, finish, {"usage": usage})

    def _delta(
        self, entry: Entry, delta: dict[str, Any], finish: str | None = None, more: dict[str, Any] | None = None
    ) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        data = _encode({**self._head, "choices": [choice], **(more or {})})
        return b"%bdata: %b\n\n" % (id_line(entry.seq), data)


class Native:
    """Events as they are, for a message that has no frames to share any more."""

    def event(self, entry: Entry) -> bytes:
        return frame(entry)

    def gap(self, gap: Gap) -> bytes:
        return gap_frame(gap.requested, gap.earliest, gap.latest)


class PlainText:
    """The text of the answer, nothing else. ``start`` is the number before the attempt it begins with."""

    def __init__(self, start: int) -> None:
        self._begins = start + 1

    def event(self, entry: Entry) -> bytes | None:
        kind = entry.field[:1]
        if kind == b"t":
            return entry.value
        if kind in (b"x", b"c") or (kind == b"r" and entry.seq != self._begins):
            return None
        return b""

    def gap(self, gap: Gap) -> None:
        return None


class _MessageSource(ABC, Generic[T]):
    """What both kinds of stream share: an observer, and how they wait for it."""

    __slots__ = ("_observer", "_parted", "_push", "_pushed_at", "_send")

    def __init__(self, observer: Reader[T]) -> None:
        self._observer = observer
        self._push: Push | None = None
        self._pushed_at = 0.0
        self._send: Send | None = None
        self._parted: Awaitable[Any] | Exception | None = None

    @property
    def over(self) -> bool:
        return self._observer.over

    @property
    def cut(self) -> bool:
        return False

    async def read(self) -> bytes:
        while True:
            got = await self._observer.read()
            if got is None:
                return b""
            data = self._written(got)
            if data or self.over:
                return data

    async def wait(self) -> Awaitable[Any] | None:
        observer = self._observer
        if self._send is not None and (push := self._open_push()) is not None:
            push.join(self, self._send)
            self._push = push
        observer.watch(self._push)
        try:
            await observer.bell.wait()
        finally:
            if self._push is not None:
                self._leave(self._push)
        why, self._parted = self._parted, None
        if isinstance(why, Exception):
            raise why
        return why

    def ring(self) -> None:
        self._observer.bell.ring()

    def push_to(self, send: Send) -> None:
        self._send = send

    @property
    def pushed_at(self) -> float:
        return self._push.sent_at if self._push is not None else self._pushed_at

    def part(self, why: Awaitable[Any] | Exception | None) -> None:
        assert self._push is not None
        self._parted = why
        self._off(self._push)
        self._observer.bell.ring()

    def close(self) -> None:
        self._observer.close()

    def _leave(self, push: Push) -> None:
        push.leave(self)
        if not push:
            self._observer.unwatch(push)
        self._off(push)

    def _off(self, push: Push) -> None:
        """It is not pushed to any more."""
        self._push, self._pushed_at = None, push.sent_at

    @abstractmethod
    def _open_push(self) -> Push | None:
        """Where it can stand while it waits; None where its task must look itself."""

    @abstractmethod
    def _written(self, got: T | Gap) -> bytes:
        """What is written for it, perhaps nothing."""


class NativeSource(_MessageSource[bytes]):
    """A stream of native frames."""

    __slots__ = ("_fanout",)
    _observer: FrameObserver

    def __init__(self, fanout: Fanout, message: Message, cursor: int) -> None:
        super().__init__(FrameObserver(fanout, message, cursor))
        self._fanout = fanout

    def _open_push(self) -> Push | None:
        topic = self._observer.abreast
        return abreast(self._fanout, topic) if topic is not None else None

    def _off(self, push: Push) -> None:
        super()._off(push)
        if isinstance(push, Abreast):
            self._observer.moved(push.cursor)

    def _written(self, got: bytes | Gap) -> bytes:
        return gap_frame(got.requested, got.earliest, got.latest) if isinstance(got, Gap) else got


class TranslatedSource(_MessageSource[list[Entry]]):
    """A stream in another format: entries from the beginning of the cursor's attempt, silent up to the cursor."""

    def __init__(self, fanout: Fanout, message: Message, cursor: int, translator: Translator, start: int) -> None:
        beyond = message.final and (cursor > message.last_seq or message.stored is not None)
        super().__init__(observe(fanout, message, cursor if beyond else start))
        self._fanout = fanout
        self._translator = translator
        self._silent_to = cursor
        self._refused = False

    @property
    def over(self) -> bool:
        return self._refused or self._observer.over

    @property
    def cut(self) -> bool:
        return isinstance(self._translator, PlainText) and (self._refused or not self._observer.ended)

    def _open_push(self) -> Push | None:
        # below the cursor an end starts over with another observer, and a push must not change who waits
        return Alone(self._next) if self._observer.cursor >= self._silent_to else None

    def _next(self) -> tuple[bytes, bool]:
        got = self._observer.ready()
        return (b"", False) if got is None else (self._written(got), self._observer.idle and not self._refused)

    def _written(self, got: list[Entry] | Gap) -> bytes:
        if isinstance(got, Gap):
            return self._gap(got)
        if self._observer.ended and got[-1].seq <= self._silent_to:
            # the message ended at or below the cursor: told as a gap, and given whole
            message, bell = self._observer.message, self._observer.bell
            gap = Gap(self._silent_to, 1, got[-1].seq)
            self._observer.close()
            self._observer = EntryObserver(self._fanout, message, 0, bell)
            return self._gap(gap)
        return self._translate(got)

    def _translate(self, entries: list[Entry]) -> bytes:
        parts: list[bytes] = []
        for entry in entries:
            data = self._translator.event(entry)
            if data is None:
                self._refused = True
                break
            if entry.seq > self._silent_to or not entry.seq:
                parts.append(data)
        return b"".join(parts)

    def _gap(self, gap: Gap) -> bytes:
        requested = self._silent_to or gap.requested
        self._silent_to = 0
        data = self._translator.gap(Gap(requested, gap.earliest, gap.latest))
        self._refused = data is None
        return data or b""


def attempt_start(cursor: int) -> int:
    """The number before the first event of the attempt the cursor lies in."""
    return max(0, cursor - 1) // ATTEMPT_SPAN * ATTEMPT_SPAN


def check_format(name: str) -> None:
    """Raises BadRequest naming the formats there are."""
    if name not in FORMATS:
        reason = f"must be one of {', '.join(FORMATS)}"
        raise BadRequest(f"format: {reason}", details={"field": "format", "reason": reason})


def source_for(name: str, fanout: Fanout, message: Message, cursor: int) -> NativeSource | TranslatedSource:
    """The stream of a message in a format, from a cursor on. Raises Unavailable."""
    if name == "openai":
        return TranslatedSource(fanout, message, cursor, OpenAI(message), attempt_start(cursor))
    if name == "text":
        # text without a cursor begins with the attempt that is under way: what it replaced is not part of the answer
        start = attempt_start(cursor or message.last_seq)
        return TranslatedSource(fanout, message, cursor, PlainText(start), start)
    if message.stored is not None:
        return TranslatedSource(fanout, message, cursor, Native(), 0)
    return NativeSource(fanout, message, cursor)


def _openai_error(error: dict[str, Any]) -> dict[str, Any]:
    detail = error.get("detail") or {}
    return {"message": error.get("message"), "type": error.get("type"), "param": None, "code": detail.get("code")}
