"""A scripted model server: OpenAI's chat completions and Anthropic's messages, both streamed or whole.

Plain asyncio over raw HTTP/1.1, so that it is never what a benchmark measures. ``python -m tests.upstream --port N``
runs it alone; ``async with upstream() as up`` runs it in the test's own loop.

The *model name* chooses the behaviour: options joined by ``-``, numbers written straight after the option's name.

===============  ====================================================================================================
``t500``         500 text tokens (20 without it); ``max_tokens`` of the request cuts them with ``length``
``p50``          50 tokens a second, the first at once; ``p0`` (the default) as fast as the socket takes them
``think20``      20 reasoning tokens before the text
``tool``         a tool call in fragments after the text; ``tool2`` two of them, side by side
``same``         every token is the same
``stamp``        every token is the time it was written, ``time.monotonic_ns()`` and a space
``filter``       ends with ``content_filter``
``slowstart2``   two seconds before the response headers
``stall10``      after 10 tokens nothing more, for ever
``cut10``        the connection drops after 10 tokens
``err10``        an error object after 10 tokens
``short10``      the stream ends properly after 10 tokens but without a finish reason or ``[DONE]``
``fail429``      every request fails with that status; ``fail429x2`` the first two for the same model and messages
``after1``       its failures carry ``Retry-After: 1``
``refuse``       drops the connection unanswered; ``refusex2`` twice
``usageown``     usage on a chunk of its own without choices (the default); ``usagelast`` on the last chunk;
                 ``nousage`` never. Only where the request asks for it by ``stream_options``
``nostreamopts`` answers 400 to ``stream_options``
``nodone``       no ``[DONE]``
``emptychoices`` begins with a chunk whose choices are empty
``noroute``      404, as for every name that cannot be read
===============  ====================================================================================================

``raw`` names in the form ``raw-NAME`` play the bytes given to `Upstream.play`. ``GET /_log`` answers
``{requests, closes, finished, active}`` (``?model=``, ``?bodies=0``), ``POST /_reset`` forgets all. Times are
`time.monotonic_ns`, which processes of one Linux machine share.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec

_WORDS = (
    "The", " quick", " brön", "\n", " 狐", " 🙂", " jumps", "\n\n", ' "over"', " \\n", " the", " lazy 👩‍👩‍👧", " dog.",
    " été", "\r\n", " data: x\n\n", " Ω≈ç", " \u2028", " {}", " </b>", "\t", " नमस्ते",
)  # fmt: skip
_PROMPT_TOKENS = 11
_SLICE = 64
"""Events a fast stream writes before another stream gets its turn."""


class Request(msgspec.Struct):
    n: int
    path: str
    model: str
    at_ns: int
    headers: dict[str, str]
    body: dict[str, Any] | None


class Close(msgspec.Struct):
    """A client that went before its answer was complete. ``request`` is the request's ``n``."""

    request: int
    model: str
    at_ns: int
    sent: int
    headers_sent: bool


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


def _chunk(data: bytes) -> bytes:
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
    return _chunk(b"data: %b\n\n" % _json(head | fields, ascii_only))


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
        return Plan(head, tokens, [_chunk(b"data: %b\n\n" % _json({"error": error}))], "done")
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
        tail.append(_chunk(b"data: [DONE]\n\n"))
    return Plan(head, tokens, tail, "done")


def _anthropic_frame(kind: str, **fields: Any) -> bytes:
    return _chunk(b"event: %b\ndata: %b\n\n" % (kind.encode(), _json({"type": kind} | fields)))


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


def _whole(path: str, model: str, spec: Spec, max_tokens: int | None) -> dict[str, Any]:
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


class Upstream:
    """The server's state: what was asked, what was cut off. Times are `time.monotonic_ns`."""

    def __init__(self) -> None:
        self.base_url = ""
        self.requests: list[Request] = []
        self.closes: list[Close] = []
        self.finished: list[int] = []
        self.connections: set[Connection] = set()
        self._failures: Counter[str] = Counter()
        self._played: dict[str, tuple[int, dict[str, str], Plan]] = {}
        self._count = 0

    text = staticmethod(text)
    thinking = staticmethod(thinking)

    @property
    def root_url(self) -> str:
        """The address without ``/v1``, for clients that add it (Anthropic's)."""
        return self.base_url.removesuffix("/v1")

    @property
    def active(self) -> int:
        """Requests being answered now."""
        return sum(1 for c in self.connections if c.request is not None)

    def reset(self) -> None:
        self.requests.clear()
        self.closes.clear()
        self.finished.clear()
        self._failures.clear()

    def play(
        self,
        name: str,
        pieces: Sequence[bytes],
        *,
        status: int = 200,
        headers: dict[str, str] | None = None,
        end: str = "done",
    ) -> str:
        """Let model ``raw-NAME`` answer with exactly these bytes, an HTTP chunk each; gives the model's name."""
        model = f"raw-{name}"
        self._played[model] = (status, headers or {}, Plan([_chunk(p) for p in pieces], [], [], end))
        return model

    def played(self, model: str) -> tuple[int, dict[str, str], Plan] | None:
        return self._played.get(model.rsplit("/", 1)[-1])

    def fails(self, spec: Spec, model: str, body: dict[str, Any]) -> bool:
        if not spec.fail:
            return False
        if spec.fails is None:
            return True
        key = model + json.dumps(body.get("messages"), sort_keys=True)
        self._failures[key] += 1
        return self._failures[key] <= spec.fails

    def record(self, path: str, headers: dict[str, str], body: dict[str, Any]) -> Request:
        self._count += 1
        request = Request(self._count, path, str(body.get("model", "")), time.monotonic_ns(), headers, body)
        self.requests.append(request)
        return request

    async def wait(self, fact: Callable[[], Any], seconds: float = 5.0) -> Any:
        """Until ``fact()`` is true, looking every millisecond; gives what it gave, fails after ``seconds``."""
        limit = time.monotonic() + seconds
        while not (found := fact()):
            assert time.monotonic() < limit, "the fact waited for did not come about"
            await asyncio.sleep(0.001)
        return found

    async def wait_request(self, count: int = 1) -> Request:
        """Until ``count`` requests have arrived in all; gives that one."""
        await self.wait(lambda: len(self.requests) >= count)
        return self.requests[count - 1]

    async def wait_close(self, count: int = 1) -> Close:
        """Until ``count`` clients in all have gone early; gives that close."""
        await self.wait(lambda: len(self.closes) >= count)
        return self.closes[count - 1]

    def log(self, query: dict[str, list[str]]) -> dict[str, Any]:
        model, bodies = query.get("model", [None])[0], query.get("bodies", ["1"])[0] != "0"
        requests = [r for r in self.requests if model in (None, r.model)]
        if not bodies:
            requests = [msgspec.structs.replace(r, body=None, headers={}) for r in requests]
        closes = [c for c in self.closes if model in (None, c.model)]
        return {"requests": requests, "closes": closes, "finished": self.finished, "active": self.active}


class Connection(asyncio.Protocol):
    """One client connection: reads requests one after the other and plays each answer's plan."""

    def __init__(self, up: Upstream) -> None:
        self.up = up
        self.request: Request | None = None
        self.sent = 0
        self._headers_sent = False
        self._input = b""
        self._paused = False
        self._timer: asyncio.Handle | None = None
        self._step: Callable[[], None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.loop = asyncio.get_running_loop()
        self.up.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._gone()
        self.up.connections.discard(self)

    def eof_received(self) -> None:
        self._gone()

    def _gone(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._step = None
        if self.request is not None:
            request, self.request = self.request, None
            close = Close(request.n, request.model, time.monotonic_ns(), self.sent, self._headers_sent)
            self.up.closes.append(close)

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        if self._step is not None:
            self._step()

    def data_received(self, data: bytes) -> None:
        self._input += data
        if self.request is None:
            self._next_request()

    def _next_request(self) -> None:
        end = self._input.find(b"\r\n\r\n")
        if end < 0:
            return
        first, *lines = self._input[:end].decode("latin-1").split("\r\n")
        headers = {k.strip().lower(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
        size = int(headers.get("content-length", "0"))
        if len(self._input) < end + 4 + size:
            return
        raw = self._input[end + 4 : end + 4 + size]
        self._input = self._input[end + 4 + size :]
        method, target, _ = first.split(" ", 2)
        url = urlsplit(target)
        self.sent, self._headers_sent = 0, False
        if method == "GET" and url.path == "/_log":
            self._reply(200, self.up.log(parse_qs(url.query)))
        elif method == "POST" and url.path == "/_reset":
            self.up.reset()
            self._reply(200, {})
        elif method == "GET" and url.path.endswith("/models"):
            self._reply(200, {"object": "list", "data": [{"id": "t20", "object": "model", "owned_by": "scripted"}]})
        elif method == "POST" and url.path.endswith(("/chat/completions", "/messages")):
            self._generate(url.path, headers, raw)
        else:
            self._reply(404, {"error": {"message": f"no route {method} {url.path}", "type": "not_found_error"}})

    def _generate(self, path: str, headers: dict[str, str], raw: bytes) -> None:
        body = msgspec.json.decode(raw)
        model = str(body.get("model", ""))
        self.request = self.up.record(path, headers, body)
        played = self.up.played(model)
        if played is not None:
            self._play(played)
            return
        spec = read_name(model)
        if spec is None:
            self._fail(404, f"The model `{model}` does not exist")
        elif self.up.fails(spec, model, body):
            if spec.fail < 0:
                self.request = None
                self.transport.abort()
            else:
                self._fail(spec.fail, f"Scripted failure {spec.fail}", spec.after)
        elif "nostreamopts" in spec.flags and "stream_options" in body:
            self._fail(400, "Unrecognized request argument supplied: stream_options")
        elif spec.slow:
            self._timer = self.loop.call_later(spec.slow, self._answer, path, model, spec, body)
        else:
            self._answer(path, model, spec, body)

    def _answer(self, path: str, model: str, spec: Spec, body: dict[str, Any]) -> None:
        limit = body.get("max_tokens") or body.get("max_completion_tokens")
        if not body.get("stream"):
            self._reply(200, _whole(path, model, spec, limit))
            return
        with_usage = bool((body.get("stream_options") or {}).get("include_usage"))
        make = anthropic_plan if path.endswith("/messages") else openai_plan
        self._stream(make(model, spec, limit, with_usage), spec.pace)

    def _fail(self, status: int, message: str, after: str = "") -> None:
        kind = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}.get(status, "api_error")
        error = {"message": message, "type": kind, "param": None, "code": None}
        self._reply(status, {"error": error} | {"type": "error"}, {"retry-after": after} if after else {})

    def _reply(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        data = msgspec.json.encode(body)
        fields = {"content-type": "application/json", "content-length": str(len(data))} | (headers or {})
        self.transport.write(_head(status, fields) + data)
        self._done()

    def _play(self, played: tuple[int, dict[str, str], Plan]) -> None:
        status, headers, plan = played
        kind = "text/event-stream" if status == 200 else "application/json"
        self._stream(plan, 0.0, status, {"content-type": kind} | headers)

    def _stream(self, plan: Plan, pace: float, status: int = 200, headers: dict[str, str] | None = None) -> None:
        fields = headers or {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}
        self.transport.write(b"".join([_head(status, fields | {"transfer-encoding": "chunked"}), *plan.head]))
        self._headers_sent = True
        self._step = (lambda: self._unpaced(plan)) if not pace else self._paced(plan, pace)
        self._step()

    def _unpaced(self, plan: Plan) -> None:
        if self._paused or self._step is None:
            return
        batch = plan.tokens[self.sent : self.sent + _SLICE]
        if batch:
            self.sent += len(batch)
            self.transport.write(b"".join([f if isinstance(f, bytes) else f() for f in batch]))
        if self.sent < len(plan.tokens):
            self._timer = self.loop.call_soon(self._unpaced, plan)
        else:
            self._finish(plan)

    def _paced(self, plan: Plan, pace: float) -> Callable[[], None]:
        start = self.loop.time()

        def step() -> None:
            if self._paused or self._step is None:
                return
            if self._timer is not None:
                self._timer.cancel()
            due = min(len(plan.tokens), int((self.loop.time() - start) * pace + 1e-6) + 1)
            batch = plan.tokens[self.sent : due]
            self.sent = max(due, self.sent)
            if batch:
                self.transport.write(b"".join([f if isinstance(f, bytes) else f() for f in batch]))
            if self.sent < len(plan.tokens):
                self._timer = self.loop.call_at(start + self.sent / pace, step)
            else:
                self._finish(plan)

        return step

    def _finish(self, plan: Plan) -> None:
        self._step = None
        if plan.end == "stall":
            return
        if plan.end == "cut":
            self.request = None
            self.transport.close()
            return
        self.transport.write(b"".join([*plan.tail, b"0\r\n\r\n"]))
        self._done()

    def _done(self) -> None:
        if self.request is not None:
            self.up.finished.append(self.request.n)
        self.request = None
        self._timer = None
        if self._input:
            self.loop.call_soon(self._next_request)


def _head(status: int, headers: dict[str, str]) -> bytes:
    lines = "".join(f"{k}: {v}\r\n" for k, v in headers.items())
    return f"HTTP/1.1 {status} Scripted\r\n{lines}\r\n".encode()


@asynccontextmanager
async def upstream(port: int = 0, host: str = "127.0.0.1") -> AsyncIterator[Upstream]:
    """A running server on a free port, its state in hand."""
    up = Upstream()
    server = await asyncio.get_running_loop().create_server(lambda: Connection(up), host, port, backlog=1024)
    up.base_url = f"http://{host}:{server.sockets[0].getsockname()[1]}/v1"
    try:
        yield up
    finally:
        server.close()
        for connection in list(up.connections):
            connection.transport.abort()
        await up.wait(lambda: not up.connections)
        await server.wait_closed()


async def _serve(port: int, host: str) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with upstream(port, host) as up:
        print(up.base_url, flush=True)
        await stop.wait()


if __name__ == "__main__":
    options = argparse.ArgumentParser(description="The scripted model server; its address is the first line printed.")
    options.add_argument("--port", type=int, default=0)
    options.add_argument("--host", default="127.0.0.1")
    given = options.parse_args()
    asyncio.run(_serve(given.port, given.host))
