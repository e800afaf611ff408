"""What the scripted upstream says: model names read, texts made, and the exact chunks that go over the wire."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import msgspec

_WORDS = (
    "The", " quick", " brön", "\n", " 狐", " 🙂", " jumps", "\n\n", ' "over"', " \\n", " the", " lazy 👩‍👩‍👧", " dog.",
    " été", "\r\n", " data: x\n\n", " Ω≈ç", " \u2028", " {}", " </b>", "\t", " नमस्ते",
)  # fmt: skip
_PROMPT_TOKENS = 11


class Spec(msgspec.Struct, frozen=True):
    """A model name, read."""

    tokens: int = 20
    pace: float = 0.0
    think: int = 0
    tools: int = 0
    slow: float = 0.0
    stop_at: int | None = None
    end: str = "done"
    fail: int = 0
    fails: int | None = None
    after: str = ""
    flags: frozenset[str] = frozenset()


_FLAGS = {"same", "stamp", "filter", "usageown", "usagelast", "nousage", "nostreamopts", "nodone", "emptychoices"}


@lru_cache(maxsize=1024)
def read_name(model: str) -> Spec | None:
    """The behaviour behind a model name; None for a name that means nothing."""
    values: dict[str, Any] = {}
    flags = set()
    for part in model.rsplit("/", 1)[-1].split("-"):
        match = re.fullmatch(r"([a-z]+?)([\d.]*)(?:x(\d+))?", part)
        if match is None:
            return None
        name, number, times = match[1], match[2], match[3]
        if name in _FLAGS and not number:
            flags.add(name)
        elif name in ("t", "think") and number:
            values["tokens" if name == "t" else "think"] = int(number)
        elif name == "p" and number:
            values["pace"] = float(number)
        elif name == "tool":
            values["tools"] = int(number or 1)
        elif name == "slowstart" and number:
            values["slow"] = float(number)
        elif name in ("stall", "cut", "err", "short") and number:
            values["end"], values["stop_at"] = name, int(number)
        elif name in ("fail", "refuse", "noroute"):
            values["fail"] = {"refuse": -1, "noroute": 404}.get(name) or int(number)
            values["fails"] = int(times) if times else None
        elif name == "after" and number:
            values["after"] = number
        else:
            return None
    return Spec(flags=frozenset(flags), **values)


def token(index: int, spec: Spec) -> str:
    """Text token ``index`` (from 0): words of every width, each with its number now and then."""
    if "same" in spec.flags:
        return " same"
    word = _WORDS[index % len(_WORDS)]
    return f"{word}{index}" if index % 5 == 4 else word


def text(model: str, max_tokens: int | None = None) -> str:
    """The exact text a model's complete answer has (up to where it is cut, stalls or fails)."""
    spec = read_name(model)
    assert spec is not None, model
    assert "stamp" not in spec.flags, "a stamped answer differs each time"
    return "".join(token(i, spec) for i in range(_text_tokens(spec, max_tokens)))


def thinking(model: str) -> str:
    spec = read_name(model)
    assert spec is not None, model
    return "".join(f" thought{i}…" for i in range(_think_tokens(spec)))


def _think_tokens(spec: Spec) -> int:
    return spec.think if spec.stop_at is None else min(spec.think, spec.stop_at)


def _text_tokens(spec: Spec, max_tokens: int | None) -> int:
    count = spec.tokens if max_tokens is None else min(spec.tokens, max_tokens)
    return count if spec.stop_at is None else min(count, max(0, spec.stop_at - spec.think))


def http_chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


Frame = bytes | Callable[[], bytes]


class Plan(msgspec.Struct, frozen=True):
    """What goes over the wire: HTTP chunks before the tokens, one or more for each token, and after them."""

    head: list[bytes]
    tokens: list[Frame]
    tail: list[bytes]
    end: str
    """done: end the response; stall: leave it open; cut: drop the connection."""


def _json(value: Any, ascii_only: bool = False) -> bytes:
    if ascii_only:
        return json.dumps(value, separators=(",", ":")).encode()
    return msgspec.json.encode(value)


def _openai_frame(model: str, delta: dict[str, Any], finish: str | None = None, ascii_only: bool = False) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    return _openai_chunk(model, ascii_only, choices=[choice])


def _openai_chunk(model: str, ascii_only: bool = False, **fields: Any) -> bytes:
    head = {"id": "chatcmpl-scripted", "object": "chat.completion.chunk", "created": 1_750_000_000, "model": model}
    return http_chunk(b"data: %b\n\n" % _json(head | fields, ascii_only))


_MARK = 1_234_567_890_123_456_789


def _stamped(template: bytes) -> Callable[[], bytes]:
    """A frame whose text is the time of writing; ``template`` holds the mark where it goes."""
    body = template.split(b"\r\n", 1)[1][:-2]
    before, after = body.split(str(_MARK).encode())
    size = len(before) + len(after)

    def make() -> bytes:
        stamp = b"%d" % time.monotonic_ns()
        return b"%x\r\n%b%b%b\r\n" % (size + len(stamp), before, stamp, after)

    return make


def tool_calls(count: int) -> list[dict[str, Any]]:
    """The tool calls that ``tool`` (1) and ``tool2`` (2) make."""
    return [
        {
            "id": f"call_{i}",
            "name": f"look_up_{i}",
            "input": {"city": "Zürich 🙂", "days": i + 1, "nested": {"a": [1, 2]}},
        }
        for i in range(count)
    ]


def _pieces(value: str, size: int = 7) -> list[str]:
    return [value[i : i + size] for i in range(0, len(value), size)]


@lru_cache(maxsize=64)
def openai_plan(model: str, spec: Spec, max_tokens: int | None, with_usage: bool) -> Plan:
    head = [_openai_chunk(model, choices=[], prompt_filter_results=[])] if "emptychoices" in spec.flags else []
    head.append(_openai_frame(model, {"role": "assistant", "content": ""}))
    tokens: list[Frame] = [
        _openai_frame(model, {"content": None, "reasoning_content": f" thought{i}…"})
        for i in range(_think_tokens(spec))
    ]
    count = _text_tokens(spec, max_tokens)
    if "stamp" in spec.flags:
        tokens += [_stamped(_openai_frame(model, {"content": f"{_MARK} "}))] * count
    else:
        tokens += [_openai_frame(model, {"content": token(i, spec)}, None, i % 7 == 5) for i in range(count)]
    if spec.end in ("stall", "cut", "short"):
        return Plan(head, tokens, [], "done" if spec.end == "short" else spec.end)
    if spec.end == "err":
        error = {"message": "The scripted server fell over", "type": "server_error", "code": 500}
        return Plan(head, tokens, [http_chunk(b"data: %b\n\n" % _json({"error": error}))], "done")
    tail = []
    for i, call in enumerate(tool_calls(spec.tools)):
        start = {"index": i, "id": call["id"], "type": "function", "function": {"name": call["name"], "arguments": ""}}
        tail.append(_openai_frame(model, {"tool_calls": [start]}))
    arguments = [_pieces(_json(call["input"]).decode()) for call in tool_calls(spec.tools)]
    for k in range(max((len(a) for a in arguments), default=0)):
        for i, pieces in enumerate(arguments):
            if k < len(pieces):
                part = {"index": i, "function": {"arguments": pieces[k]}}
                tail.append(_openai_frame(model, {"tool_calls": [part]}))
    cut_short = max_tokens is not None and max_tokens < spec.tokens
    finish = "length" if cut_short else "tool_calls" if spec.tools else "stop"
    finish = "content_filter" if "filter" in spec.flags else finish
    counted = count + _think_tokens(spec)
    usage = {"prompt_tokens": _PROMPT_TOKENS, "completion_tokens": counted, "total_tokens": _PROMPT_TOKENS + counted}
    last = {"index": 0, "delta": {}, "logprobs": None, "finish_reason": finish}
    if with_usage and "usagelast" in spec.flags:
        tail.append(_openai_chunk(model, choices=[last], usage=usage))
    else:
        tail.append(_openai_chunk(model, choices=[last]))
        if with_usage and "nousage" not in spec.flags:
            tail.append(_openai_chunk(model, choices=[], usage=usage))
    if "nodone" not in spec.flags:
        tail.append(http_chunk(b"data: [DONE]\n\n"))
    return Plan(head, tokens, tail, "done")


def openai_said(model: str, text: str, finish: str) -> Plan:
    """An answer of this text, in pieces."""
    tokens: list[Frame] = [_openai_frame(model, {"content": piece}) for piece in _pieces(text, 40)]
    tail = [_openai_frame(model, {}, finish), http_chunk(b"data: [DONE]\n\n")]
    return Plan([_openai_frame(model, {"role": "assistant", "content": ""})], tokens, tail, "done")


def _anthropic_frame(kind: str, **fields: Any) -> bytes:
    return http_chunk(b"event: %b\ndata: %b\n\n" % (kind.encode(), _json({"type": kind} | fields)))


@lru_cache(maxsize=64)
def anthropic_plan(model: str, spec: Spec, max_tokens: int | None, _with_usage: bool = True) -> Plan:
    usage = {"input_tokens": _PROMPT_TOKENS, "output_tokens": 1}
    start = {
        "id": "msg_scripted",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [],
        "usage": usage,
    }
    head = [_anthropic_frame("message_start", message=start | {"stop_reason": None, "stop_sequence": None})]
    head.append(_anthropic_frame("ping"))
    tokens: list[Frame] = []
    index = 0

    def block(content: dict[str, Any], deltas: list[dict[str, Any]], target: list[Any]) -> None:
        nonlocal index
        frames = [_anthropic_frame("content_block_delta", index=index, delta=delta) for delta in deltas]
        opening = _anthropic_frame("content_block_start", index=index, content_block=content)
        closing = _anthropic_frame("content_block_stop", index=index)
        if frames:
            frames[0], frames[-1] = opening + frames[0], frames[-1]
            frames[-1] += closing
            target += frames
        else:
            target.append(opening + closing)
        index += 1

    thoughts = [{"type": "thinking_delta", "thinking": f" thought{i}…"} for i in range(_think_tokens(spec))]
    if thoughts:
        thoughts.append({"type": "signature_delta", "signature": "c2lnbmVk"})
        block({"type": "thinking", "thinking": "", "signature": ""}, thoughts, tokens)
    count = _text_tokens(spec, max_tokens)
    if count:
        texts = [{"type": "text_delta", "text": token(i, spec)} for i in range(count)]
        block({"type": "text", "text": ""}, texts, tokens)
    if spec.end in ("stall", "cut", "short"):
        return Plan(head, tokens, [], "done" if spec.end == "short" else spec.end)
    if spec.end == "err":
        error = {"type": "overloaded_error", "message": "The scripted server fell over"}
        return Plan(head, tokens, [_anthropic_frame("error", error=error)], "done")
    tail: list[bytes] = []
    for call in tool_calls(spec.tools):
        parts = _pieces(_json(call["input"]).decode())
        content = {"type": "tool_use", "id": call["id"], "name": call["name"], "input": {}}
        block(content, [{"type": "input_json_delta", "partial_json": part} for part in parts], tail)
    cut_short = max_tokens is not None and max_tokens < spec.tokens
    reason = "max_tokens" if cut_short else "tool_use" if spec.tools else "end_turn"
    reason = "refusal" if "filter" in spec.flags else reason
    counted = {"output_tokens": count + _think_tokens(spec)}
    delta = {"stop_reason": reason, "stop_sequence": None}
    tail.append(_anthropic_frame("message_delta", delta=delta, usage=counted))
    tail.append(_anthropic_frame("message_stop"))
    return Plan(head, tokens, tail, "done")


def whole_answer(path: str, model: str, spec: Spec, max_tokens: int | None) -> dict[str, Any]:
    """The answer to a request that did not ask for a stream."""
    count = _text_tokens(spec, max_tokens)
    content = "".join(token(i, spec) for i in range(count))
    if path.endswith("/messages"):
        usage = {"input_tokens": _PROMPT_TOKENS, "output_tokens": count}
        fields = {"content": [{"type": "text", "text": content}], "stop_reason": "end_turn", "usage": usage}
        return {"id": "msg_scripted", "type": "message", "role": "assistant", "model": model} | fields
    usage = {"prompt_tokens": _PROMPT_TOKENS, "completion_tokens": count, "total_tokens": _PROMPT_TOKENS + count}
    message = {"role": "assistant", "content": content}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    head = {"id": "chatcmpl-scripted", "object": "chat.completion", "created": 1_750_000_000, "model": model}
    return head | {"choices": choices, "usage": usage}
