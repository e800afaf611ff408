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

``raw`` names in the form ``raw-NAME`` play the bytes given to `Upstream.play`, ``say-NAME`` the texts given to
`Upstream.say` (chat completions, streamed). ``GET /_log`` answers
``{requests, closes, finished, active}`` (``?model=``, ``?bodies=0``), ``POST /_reset`` forgets all. Times are
`time.monotonic_ns`, which processes of one Linux machine share.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec

from tests.upstream_plans import (
    Plan,
    Spec,
    anthropic_plan,
    http_chunk,
    openai_plan,
    openai_said,
    read_name,
    text,
    thinking,
    whole_answer,
)

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
        self._said: dict[str, Callable[[dict[str, Any]], tuple[str, str] | None]] = {}
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
        self._played[model] = (status, headers or {}, Plan([http_chunk(p) for p in pieces], [], [], end))
        return model

    def say(
        self,
        name: str,
        *answers: str,
        finish: str = "stop",
        takes_format: bool = True,
        reply: Callable[[dict[str, Any]], str] | None = None,
    ) -> str:
        """Let model ``say-NAME`` answer with these texts, one a request, the last one for ever; gives the model's name.

        ``reply`` makes the text from the request's body instead. Without ``takes_format`` it answers 400 to
        ``response_format``.
        """
        left = list(answers)

        def said(body: dict[str, Any]) -> tuple[str, str] | None:
            if not takes_format and "response_format" in body:
                return None
            return (reply(body) if reply else left.pop(0) if len(left) > 1 else left[0]), finish

        self._said[f"say-{name}"] = said
        return f"say-{name}"

    def said(self, model: str) -> Callable[[dict[str, Any]], tuple[str, str] | None] | None:
        return self._said.get(model.rsplit("/", 1)[-1])

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
        elif method == "POST" and url.path.endswith("/embeddings"):
            self._embed(msgspec.json.decode(raw))
        elif method == "POST" and url.path.endswith(("/chat/completions", "/messages")):
            self._generate(url.path, headers, raw)
        else:
            self._reply(404, {"error": {"message": f"no route {method} {url.path}", "type": "not_found_error"}})

    def _embed(self, body: dict[str, Any]) -> None:
        """Vectors of eight numbers that count each text's letters: the same for the same text, near for near ones."""
        texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
        if body["model"].startswith("fail"):
            self._fail(503, "Scripted failure 503")
            return
        vectors = [[1.0 + sum(ord(c) % 8 == i for c in text.lower()) for i in range(8)] for text in texts]
        data = [{"object": "embedding", "index": i, "embedding": vector} for i, vector in enumerate(vectors)]
        usage = {"prompt_tokens": len(texts), "total_tokens": len(texts)}
        self._reply(200, {"object": "list", "model": body["model"], "data": data, "usage": usage})

    def _generate(self, path: str, headers: dict[str, str], raw: bytes) -> None:
        body = msgspec.json.decode(raw)
        model = str(body.get("model", ""))
        self.request = self.up.record(path, headers, body)
        played = self.up.played(model)
        if played is not None:
            self._play(played)
            return
        said = self.up.said(model)
        if said is not None:
            answer = said(body)
            if answer is None:
                self._fail(400, "Unrecognized request argument supplied: response_format")
            else:
                self._stream(openai_said(model, *answer), 0.0)
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
            self._reply(200, whole_answer(path, model, spec, limit))
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
