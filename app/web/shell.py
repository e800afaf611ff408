"""The outermost layer of a web process: request ids, OPTIONS, HEAD, CORS, one log line and two metrics a request.

Bare ASGI and as little of it as possible: it runs for every request, and the status route answers thousands a second.

Choices:

1. A log line has the path but never the query: tokens travel there.
2. OPTIONS is answered here, so that a browser's preflight never meets a guard.
3. HEAD goes to a route that takes it, else to GET without its body. An answer of unknown length is a stream: it is left
   as soon as its headers are out.
4. Metrics carry the route's template, and nothing for addresses that lead nowhere: a scanner must not make series.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any, cast

import anyio
import structlog
from litestar.enums import HttpMethod, ScopeType
from litestar.types import ASGIApp, HTTPResponseStartEvent, HTTPScope, Message, Receive, Scope, Send

from app import ids
from app.settings import Settings
from app.telemetry import Metrics
from app.web.guard import EXTRA
from app.web.problem import allow_header, send_problem

REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}\Z")
QUIET = ("/health/", "/metrics", "/page/", "/client.js")
"""Addresses that machines ask every few seconds, and the files of the page, twenty a visit: logged at debug."""
EXPOSED = "X-Request-Id, X-RateLimit-Limit, X-RateLimit-Remaining, X-RateLimit-Reset, Retry-After, Warning"
METHODS = "GET, HEAD, POST, PATCH, DELETE, OPTIONS"
PREFLIGHT_S = 7_200
NOWHERE = "(none)"
WIRE = "wire"
"""In a request's state: the server's own send, for the bodies of streams once the response has started."""

Headers = list[tuple[bytes, bytes]]

log = structlog.get_logger("http")


class Shell:
    """Wraps the application. ``methods_of`` tells which methods a path takes, nothing when it leads nowhere."""

    def __init__(
        self, app: ASGIApp, settings: Settings, metrics: Metrics, methods_of: Callable[[str], frozenset[str]]
    ) -> None:
        self._app = app
        self._metrics = metrics
        self.open = 0
        """Requests and WebSockets being answered now."""
        self._idle: anyio.Event | None = None
        self._methods_of = methods_of
        self._log = log.bind()
        self._origins = frozenset(origin.encode() for origin in settings.cors_origins)
        self._any_origin = b"*" in self._origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id, origin = self._identify(scope)
        scope.setdefault("state", {})["request_id"] = request_id.decode()
        self.open += 1
        try:
            if scope["type"] == ScopeType.HTTP:
                extra = scope["state"][EXTRA] = [(b"x-request-id", request_id), *self._cors(origin)]
                await self._http(scope, receive, Exchange(send, extra))
            else:
                await self._socket(scope, receive, send)
        finally:
            self.open -= 1
            if self._idle is not None:
                self._idle.set()

    async def until_idle(self) -> None:
        """Returns when nothing is being answered."""
        while self.open:
            self._idle = anyio.Event()
            await self._idle.wait()

    async def _http(self, scope: HTTPScope, receive: Receive, exchange: Exchange) -> None:
        method, path = scope["method"], scope["path"]
        try:
            if method == "OPTIONS" and await self._options(scope, exchange):
                return
            if method == "HEAD" and "HEAD" not in self._methods_of(path):
                await self._head(scope, receive, exchange)
            else:
                scope["state"][WIRE] = exchange.wire
                await self._app(scope, receive, exchange.send)
        except Exception as error:
            if exchange.status:
                self._log.error("request.broken", request_id=scope["state"]["request_id"], path=path, exc_info=error)
                raise
            await send_problem(error, scope, exchange.send, self._metrics)
        finally:
            self._note(scope, exchange, method, path)

    def _identify(self, scope: Scope) -> tuple[bytes, bytes]:
        """The request's id, taken over or made, and its Origin."""
        request_id = origin = b""
        for name, value in scope["headers"]:
            if name == b"x-request-id" and REQUEST_ID.match(value):
                request_id = value
            elif name == b"origin":
                origin = value
        return request_id or ids.new_id("req").encode(), origin

    def _cors(self, origin: bytes) -> Headers:
        if not self._origins:
            return []
        if self._any_origin:
            return [(b"access-control-allow-origin", b"*"), (b"access-control-expose-headers", EXPOSED.encode())]
        if origin not in self._origins:
            return [(b"vary", b"Origin")]
        return [
            (b"access-control-allow-origin", origin),
            (b"access-control-expose-headers", EXPOSED.encode()),
            (b"vary", b"Origin"),
        ]

    async def _options(self, scope: HTTPScope, exchange: Exchange) -> bool:
        """Answers a preflight for any address and OPTIONS for one that leads somewhere; True when it did."""
        methods = self._methods_of(scope["path"])
        asked = dict(scope["headers"])
        preflight = bool(self._origins) and b"access-control-request-method" in asked
        if not methods and not preflight:
            return False
        headers: Headers = [(b"allow", allow_header(methods).encode())] if methods else []
        if preflight:
            headers += [
                (b"access-control-allow-methods", METHODS.encode()),
                (b"access-control-allow-headers", asked.get(b"access-control-request-headers", b"content-type")),
                (b"access-control-max-age", str(PREFLIGHT_S).encode()),
            ]
        await exchange.send({"type": "http.response.start", "status": 204, "headers": headers})
        await exchange.send({"type": "http.response.body", "body": b"", "more_body": False})
        return True

    async def _head(self, scope: HTTPScope, receive: Receive, exchange: Exchange) -> None:
        scope["method"] = HttpMethod.GET
        with anyio.CancelScope() as leave:
            exchange.answer_head(leave)
            await self._app(scope, receive, exchange.send)

    async def _socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.perf_counter()
        path = scope["path"]
        code: int | None = None

        async def noting_receive() -> Any:
            nonlocal code
            message = await receive()
            if message["type"] == "websocket.disconnect":
                code = message.get("code") if code is None else code
            return message

        async def noting_send(message: Message) -> None:
            nonlocal code
            if message["type"] == "websocket.close":
                code = message["code"]
            await send(message)

        try:
            await self._app(scope, noting_receive, noting_send)
        finally:
            self._log.info(
                "websocket.closed",
                request_id=scope["state"]["request_id"],
                path=path,
                code=code,
                ms=round((time.perf_counter() - began) * 1000, 1),
            )

    def _note(self, scope: HTTPScope, exchange: Exchange, method: str, path: str) -> None:
        status = exchange.status or 499  # the client went away before there was an answer
        route = cast(dict[str, Any], scope).get("path_template") or NOWHERE
        answered = exchange.started or time.perf_counter()
        self._metrics.answered(method if route != NOWHERE else "-", route, status, answered - exchange.began)
        say = self._log.debug if path.startswith(QUIET) else self._log.info
        say(
            "request",
            request_id=scope["state"]["request_id"],
            method=method,
            path=path,
            status=status,
            ms=round((time.perf_counter() - exchange.began) * 1000, 1),
        )


class Exchange:
    """One answer on its way out: our headers are added, its status and time noted."""

    __slots__ = ("_extra", "_leave", "_send", "began", "started", "status")

    def __init__(self, send: Send, extra: Headers) -> None:
        self._send = send
        self._extra = extra
        self._leave: anyio.CancelScope | None = None
        self.began = time.perf_counter()
        self.started = 0.0
        self.status = 0

    @property
    def wire(self) -> Send:
        """The server's own send."""
        return self._send

    def answer_head(self, leave: anyio.CancelScope) -> None:
        """Lets no body out; ``leave`` is cancelled once the headers of a stream have gone."""
        self._leave = leave

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            await self._start(message)
        elif self._leave is None:
            await self._send(message)

    async def _start(self, message: HTTPResponseStartEvent) -> None:
        self.status = message["status"]
        self.started = time.perf_counter()
        headers = [*message["headers"], *self._extra]
        await self._send({"type": "http.response.start", "status": self.status, "headers": headers})
        if self._leave is not None:
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})
            if not any(name == b"content-length" for name, _ in headers):
                self._leave.cancel()
