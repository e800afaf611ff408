"""Chat-completion chunks, as bytes, into deltas: the decoding half of the direct path. No input or output of its own.

1. Only the fields that matter are decoded; whatever else a provider adds is skipped by the JSON scanner.
2. Usage is read before choices are looked at, and passed on once the answer has ended (some providers repeat it on
   every chunk). Where none came none is reported: an estimate would pass for a count.
3. Tool calls are told apart by index; a provider that leaves it out or always sends 0 is told apart by id. A call
   starts when its name is known, repeats of the name or the id are ignored, and a missing id is made up.
4. An answer is complete when a finish reason or ``[DONE]`` came. Anything else that ends it is an error, so that a
   cut upstream is never stored as an answer.
"""

from __future__ import annotations

from typing import Any

import msgspec

from app import ids
from app.errors import UpstreamFailed
from app.llm import failures
from app.llm.sse import SseParser
from app.llm.types import Delta, Stop, StopReason, Text, Thinking, ToolArguments, ToolStart, Usage


class _Function(msgspec.Struct, gc=False):
    name: str | None = None
    arguments: str | dict[str, Any] | None = None


class _ToolCall(msgspec.Struct):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None


class _Delta(msgspec.Struct):
    content: str | list[Any] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: list[_ToolCall] | None = None
    function_call: _Function | None = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    message: _Delta | None = None
    finish_reason: str | None = None
    stop_reason: Any = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cost: Any = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: Any = None
    object: str | None = None


_decode = msgspec.json.Decoder(_Chunk).decode

STOP_REASONS: dict[str, StopReason] = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}


class _Slot(msgspec.Struct):
    slot: int
    id: str = ""
    started: bool = False
    waiting: str = ""


class ToolCalls:
    """Fragments of tool calls into `ToolStart` and `ToolArguments`; both paths use it."""

    def __init__(self) -> None:
        self._slots: list[_Slot] = []
        self._by_index: dict[int, _Slot] = {}

    def __bool__(self) -> bool:
        return bool(self._slots)

    def add(self, index: int | None, call_id: str | None, name: str | None, arguments: Any, out: list[Delta]) -> None:
        """One fragment; the deltas it makes go to ``out``."""
        slot = self._find(index, call_id or "", name or "")
        slot.id = slot.id or call_id or ""
        piece = arguments if isinstance(arguments, str) else "" if arguments is None else _dump(arguments)
        if not slot.started:
            if not name:
                slot.waiting += piece
                return
            slot.started = True
            slot.id = slot.id or ids.new_id("call")
            out.append(ToolStart(slot.slot, slot.id, name))
            piece, slot.waiting = slot.waiting + piece, ""
        if piece:
            out.append(ToolArguments(slot.slot, piece))

    def _find(self, index: int | None, call_id: str, name: str) -> _Slot:
        if index is not None:
            slot = self._by_index.get(index)
        else:
            known = [s for s in self._slots if s.id == call_id] if call_id else self._slots
            slot = known[-1] if known else None
            if slot is not None and not call_id and name and slot.started:
                slot = None
        if slot is None or (call_id and slot.id and call_id != slot.id and name):
            slot = _Slot(len(self._slots))
            self._slots.append(slot)
            if index is not None:
                self._by_index[index] = slot
        return slot


class ChatStream:
    """``feed`` takes what was read, ``finish`` what is left when the connection has ended; both give deltas.

    ``done`` is true once ``[DONE]`` came: nothing follows. Raises UpstreamFailed for an error object in the stream,
    for what cannot be read, and from ``finish`` when the answer is not complete.
    """

    def __init__(self, stop_sequences: list[str], secret: str = "") -> None:
        self.done = False
        self._sse = SseParser()
        self._tools = ToolCalls()
        self._stop_sequences = stop_sequences
        self._secret = secret
        self._stopped = False
        self._usage: Usage | None = None

    @property
    def complete(self) -> bool:
        """Whether the provider has said that the answer is whole."""
        return self._stopped or self.done

    def feed(self, data: bytes) -> list[Delta]:
        out: list[Delta] = []
        for event in self._sse.feed(data):
            self._event(event, out)
        if self._stopped:
            self._give_usage(out)
        return out

    def whole(self, body: bytes) -> list[Delta]:
        """The deltas of an answer that came as one JSON body although a stream was asked for."""
        out: list[Delta] = []
        self._event(body.strip(), out)
        return out + self.finish()

    def finish(self) -> list[Delta]:
        out: list[Delta] = []
        if not self.complete:
            for event in self._sse.finish():
                self._event(event, out)
        if not self.complete:
            raise failures.truncated()
        if not self._stopped:
            self._stop("stop", None, out)
        self._give_usage(out)
        return out

    def _event(self, event: bytes, out: list[Delta]) -> None:
        if event[:1] != b"{":
            if event.strip() == b"[DONE]":
                self.done = True
            elif event:
                raise self._unreadable(event)
            return
        try:
            chunk = _decode(event)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise self._unreadable(event) from None
        if chunk.usage is not None:
            self._keep_usage(chunk.usage)
        if chunk.error:
            raise self._failed(event)
        if chunk.choices:
            choice = chunk.choices[0]
            delta = choice.delta or choice.message
            if delta is not None:
                if type(delta.content) is str and delta.content and not self._stopped and delta.tool_calls is None:
                    if delta.reasoning_content or delta.reasoning:
                        out.append(Thinking(delta.reasoning_content or delta.reasoning or ""))
                    out.append(Text(delta.content))
                else:
                    self._delta(delta, out)
            if choice.finish_reason is not None and not self._stopped:
                self._stop(choice.finish_reason, choice.stop_reason, out)
        elif chunk.object == "error":
            raise self._failed(event)

    def _delta(self, delta: _Delta, out: list[Delta]) -> None:
        thought = delta.reasoning_content or delta.reasoning
        if thought:
            out.append(Thinking(thought))
        if isinstance(delta.content, list):
            _parts(delta.content, out)
        elif delta.content or delta.refusal:
            out.append(Text(delta.content or delta.refusal or ""))
        for call in delta.tool_calls or ():
            function = call.function or _Function()
            self._tools.add(call.index, call.id, function.name, function.arguments, out)
        if delta.function_call is not None:
            self._tools.add(0, None, delta.function_call.name, delta.function_call.arguments, out)

    def _stop(self, finish: str, matched: Any, out: list[Delta]) -> None:
        if not finish:
            return
        if finish == "error":
            raise failures.failed("the upstream ended its answer with an error", status=500, secret=self._secret)
        self._stopped = True
        reason = STOP_REASONS.get(finish, "end_turn")
        if reason == "end_turn" and self._tools:
            reason = "tool_use"
        if reason == "end_turn" and isinstance(matched, str) and matched in self._stop_sequences:
            out.append(Stop("stop_sequence", matched))
        else:
            out.append(Stop(reason))

    def _keep_usage(self, usage: _Usage) -> None:
        if usage.prompt_tokens is None and usage.completion_tokens is None:
            return
        cost = usage.cost if isinstance(usage.cost, (int, float)) else None
        self._usage = Usage(usage.prompt_tokens or 0, usage.completion_tokens or 0, cost)

    def _give_usage(self, out: list[Delta]) -> None:
        if self._usage is not None:
            out.append(self._usage)
            self._usage = None

    def _failed(self, event: bytes) -> UpstreamFailed:
        message, status = failures.message_in(event)
        return failures.failed(message, status=status or 500, secret=self._secret)

    def _unreadable(self, event: bytes) -> UpstreamFailed:
        start = event[:80].decode("utf-8", "replace")
        return failures.failed(f"the upstream sent what is no completion chunk: {start}", secret=self._secret)


def _parts(parts: list[Any], out: list[Delta]) -> None:
    """Content given as a list of parts, as some providers stream it."""
    for part in parts:
        if not isinstance(part, dict):
            continue
        if isinstance(part.get("text"), str) and part["text"]:
            out.append(Text(part["text"]))
        thought = part.get("thinking")
        if isinstance(thought, list):
            thought = "".join(str(p.get("text", "")) for p in thought if isinstance(p, dict))
        if thought:
            out.append(Thinking(str(thought)))


def _dump(value: Any) -> str:
    return msgspec.json.encode(value).decode()
