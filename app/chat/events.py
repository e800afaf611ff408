"""The events of a message: how they stand in the log, how they look on the wire, how deltas become them. Pure.

A log entry is one field and its value. The field's first letter is the kind of event, digits after it the index of
the content block; the value is the bare text of a delta or the JSON of the event's own members. ``seq`` is the entry's
id. The wire form (type, seq, framing) is made on reading, once for all observers: stored as wire frames a 500-token
answer would take Redis several times the memory.

=======  =====================  ===================================================
field    event                  value
=======  =====================  ===================================================
``s``    message_start          ``{"message": {...}}``
``b0``   content_block_start    the content block as JSON
``t0``   content_block_delta    text of a text_delta
``h0``   content_block_delta    text of a thinking_delta
``g0``   content_block_delta    a signature_delta
``j0``   content_block_delta    partial JSON of an input_json_delta
``e0``   content_block_stop     empty
``d``    message_delta          ``{"delta": {...}, "usage": {...}}``
``z``    message_stop           empty
``y``    memory_recall          ``{"memories": [...]}``
``r``    message_restart        ``{"attempt": k, "reason": "..."}``
``c``    message_cancelled      ``{"reason": "..."}``
``x``    error                  ``{"error": {...}, "request_id": "..."}``
=======  =====================  ===================================================
"""

from __future__ import annotations

from typing import Any

import msgspec

from app.llm.types import Delta, Signature, Stop, Text, Thinking, ToolArguments, ToolStart, Usage

ATTEMPT_SPAN = 1_000_000
"""Sequence numbers per attempt: event n of attempt k is (k - 1) * ATTEMPT_SPAN + n."""

TERMINAL = frozenset({b"z", b"c", b"x"})
"""Fields of the events that end a message."""

_encode = msgspec.json.encode

# first letter of the field -> (event type, delta type, the delta's text member)
_DELTAS = {
    ord("t"): (b"text_delta", b"text"),
    ord("h"): (b"thinking_delta", b"thinking"),
    ord("g"): (b"signature_delta", b"signature"),
    ord("j"): (b"input_json_delta", b"partial_json"),
}
_TYPES = {
    ord("s"): b"message_start",
    ord("b"): b"content_block_start",
    ord("e"): b"content_block_stop",
    ord("d"): b"message_delta",
    ord("z"): b"message_stop",
    ord("y"): b"memory_recall",
    ord("r"): b"message_restart",
    ord("c"): b"message_cancelled",
    ord("x"): b"error",
}


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One event as the log holds it. ``seq`` is 0 where its number is not known any more (`past`)."""

    seq: int
    field: bytes
    value: bytes

    @property
    def terminal(self) -> bool:
        return self.field in TERMINAL

    @property
    def type(self) -> str:
        """The event's type on the wire."""
        if self.field[0] in _DELTAS:
            return "content_block_delta"
        return _TYPES[self.field[0]].decode()


def data_of(entry: Entry, extra: bytes = b"") -> bytes:
    """The event's JSON, one line, with ``type`` and ``seq``; ``extra`` (``"k":v,``) is put in after them."""
    kind = entry.field[0]
    seq = b'"seq":%d,' % entry.seq if entry.seq else b""
    delta = _DELTAS.get(kind)
    if delta is not None:
        # decode and encode again: the value is raw text, and JSON escapes it
        return b'{"type":"content_block_delta",%b%b"index":%b,"delta":{"type":"%b","%b":%b}}' % (
            seq,
            extra,
            entry.field[1:],
            delta[0],
            delta[1],
            _encode(entry.value.decode()),
        )
    head = b'{"type":"%b"' % _TYPES[kind]
    if seq or extra:
        head += b"," + (seq + extra)[:-1]
    if kind == ord("b"):
        return head + b',"index":%b,"content_block":%b}' % (entry.field[1:], entry.value)
    if kind == ord("e"):
        return head + b',"index":%b}' % entry.field[1:]
    body = entry.value[1:-1]
    return head + (b"," + body if body else b"") + b"}"


def frame(entry: Entry) -> bytes:
    """The Server-Sent Event of an entry: ``id``, ``event``, ``data`` and the blank line."""
    kind = entry.field[0]
    name = b"content_block_delta" if kind in _DELTAS else _TYPES[kind]
    return b"%bevent: %b\ndata: %b\n\n" % (id_line(entry.seq), name, data_of(entry))


def id_line(seq: int) -> bytes:
    """The line that carries an event's number, if it has one."""
    return b"id: %d\n" % seq if seq else b""


def gap_data(requested: int, earliest: int | None, latest: int | None) -> bytes:
    """The JSON of a ``gap`` event: the history asked for is not all there; what follows is the whole log."""
    return _encode({"type": "gap", "requested": requested, "earliest": earliest, "latest": latest})


def gap_frame(requested: int, earliest: int | None, latest: int | None) -> bytes:
    """A ``gap`` event carries no id: it is not part of the message."""
    return b"event: gap\ndata: %b\n\n" % gap_data(requested, earliest, latest)


def error_value(kind: str, message: str, code: str, explanation: str) -> bytes:
    """The value of an error entry without its ``request_id``."""
    error = {"type": kind, "message": message, "detail": {"code": code, "explanation": explanation}}
    return _encode({"error": error})


def with_request_id(value: bytes, request_id: str) -> bytes:
    """An error value with the request that started the message."""
    return value[:-1] + b',"request_id":' + _encode(request_id) + b"}"


Draft = tuple[bytes, bytes]
"""An event that has no number yet: field and value."""


class Assembler:
    """Turns a model's deltas into content-block events. One per attempt; the only place where blocks are opened."""

    def __init__(self, message_id: str, model: str) -> None:
        self.message_id = message_id
        self.model = model
        self.usage: Usage | None = None
        self.stop: Stop | None = None
        self.tools: list[str] = []
        self.output_bytes = 0
        self.deltas = 0
        self._next = 0
        self._open: tuple[bytes, bytes] | None = None  # letter and index of the open text or thinking block
        self._tools: dict[int, bytes] = {}  # slot -> index; tool blocks stay open, their fragments may interleave

    def start(self) -> list[Draft]:
        message: dict[str, Any] = {
            "id": self.message_id,
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {"input_tokens": 0, "output_tokens": 0},
        }
        return [(b"s", _encode({"message": message}))]

    def feed(self, deltas: list[Delta]) -> list[Draft]:
        """The events of one read of the upstream."""
        out: list[Draft] = []
        for delta in deltas:
            if type(delta) is Text:
                self._text(out, b"t", delta.text)
            elif type(delta) is Thinking:
                self._text(out, b"h", delta.text)
            elif type(delta) is ToolArguments:
                self._arguments(out, delta)
            elif type(delta) is ToolStart:
                self._tool(out, delta)
            elif type(delta) is Usage:
                self.usage = delta
            elif type(delta) is Stop:
                self.stop = delta
            elif type(delta) is Signature and self._open and self._open[0] == b"h":
                out.append((b"g" + self._open[1], delta.signature.encode()))
        return out

    def close_blocks(self) -> list[Draft]:
        """Stops for every block still open, in the order of their index."""
        open_blocks = [self._open[1]] if self._open else []
        open_blocks += self._tools.values()
        self._open, self._tools = None, {}
        return [(b"e" + index, b"") for index in sorted(open_blocks, key=int)]

    def end(self) -> list[Draft]:
        """Block stops, ``message_delta`` with stop reason and usage, and ``message_stop``."""
        stop = self.stop or Stop("end_turn")
        usage = {
            "input_tokens": self.usage.input_tokens if self.usage else 0,
            "output_tokens": self.usage.output_tokens if self.usage else self.deltas,
        }
        delta = {"stop_reason": stop.reason, "stop_sequence": stop.sequence}
        return [*self.close_blocks(), (b"d", _encode({"delta": delta, "usage": usage})), (b"z", b"")]

    def _text(self, out: list[Draft], letter: bytes, text: str) -> None:
        if not text:
            return
        if self._open is None or self._open[0] != letter:
            self._close_open(out)
            index = self._take_index()
            self._open = (letter, index)
            out.append((b"b" + index, _TEXT_START if letter == b"t" else _THINKING_START))
        value = text.encode()
        self.deltas += 1
        self.output_bytes += len(value)
        out.append((letter + self._open[1], value))

    def _tool(self, out: list[Draft], delta: ToolStart) -> None:
        self._close_open(out)
        index = self._tools[delta.slot] = self._take_index()
        self.tools.append(delta.name)
        out.append((b"b" + index, _encode({"type": "tool_use", "id": delta.id, "name": delta.name, "input": {}})))

    def _arguments(self, out: list[Draft], delta: ToolArguments) -> None:
        if delta.json and delta.slot in self._tools:
            value = delta.json.encode()
            self.deltas += 1
            self.output_bytes += len(value)
            out.append((b"j" + self._tools[delta.slot], value))

    def _close_open(self, out: list[Draft]) -> None:
        if self._open is not None:
            out.append((b"e" + self._open[1], b""))
            self._open = None

    def _take_index(self) -> bytes:
        self._next += 1
        return str(self._next - 1).encode()


_TEXT_START = b'{"type":"text","text":""}'
_THINKING_START = b'{"type":"thinking","thinking":"","signature":""}'


def is_content(field: bytes) -> bool:
    """Whether an entry carries something of the answer itself (a delta)."""
    return field[0] in _DELTAS


def content_of(entries: list[Entry]) -> list[dict[str, Any]]:
    """The content blocks of the last attempt in ``entries``, as far as they were written."""
    blocks: dict[bytes, dict[str, Any]] = {}
    texts: dict[tuple[bytes, str], list[str]] = {}
    for entry in entries:
        kind, index = entry.field[:1], entry.field[1:]
        if kind in (b"r", b"s"):
            blocks, texts = {}, {}
        elif kind == b"b":
            blocks[index] = msgspec.json.decode(entry.value)
        elif entry.field[0] in _DELTAS:
            member = _DELTAS[entry.field[0]][1].decode()
            texts.setdefault((index, member), []).append(entry.value.decode())
    for (index, member), parts in texts.items():
        text = "".join(parts)
        if member == "partial_json":
            blocks[index]["input"] = _tool_input(text)
        else:
            blocks[index][member] = text
    return [blocks[index] for index in sorted(blocks, key=int)]


def _tool_input(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return {}  # cut off in the middle: the fragments themselves stay in the log
