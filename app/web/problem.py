"""Errors on their way out: one JSON shape, however an error leaves the server. PROTOCOL.md, Conventions.

::

    {"error": {"code", "message", "details"}, "status": "error", "timestamp", "code", "detail", <the id concerned>}

`problem` makes it for a Litestar handler, `send_problem` for a bare ASGI one; `handlers` is what the application
is given. An error nobody raised on purpose is logged with the request id and answered without its internals.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import structlog
from litestar import Request, Response
from litestar.exceptions import HTTPException
from litestar.types import Scope, Send

from app.errors import RateLimited, RepriseError, Unavailable
from app.telemetry import Metrics
from app.web.reply import now

JSON = b"application/json"
UNEXPECTED = "Something went wrong on our side. The request id finds it in the log."

log = structlog.get_logger(__name__)

_BY_STATUS: dict[int, tuple[str, str]] = {
    400: ("BAD_REQUEST", "the request cannot be read"),
    401: ("UNAUTHORIZED", "an API key is needed"),
    403: ("FORBIDDEN", "this is not allowed"),
    404: ("NOT_FOUND", "there is nothing at this address"),
    405: ("METHOD_NOT_ALLOWED", "this address does not take this method"),
    409: ("CONFLICT", "the request conflicts with what is there"),
    413: ("PAYLOAD_TOO_LARGE", "the body is too large"),
    415: ("UNSUPPORTED_MEDIA_TYPE", "the body must be JSON"),
    422: ("VALIDATION_ERROR", "the request is not valid"),
    429: ("RATE_LIMIT_EXCEEDED", "too many requests"),
    503: ("UNAVAILABLE", "the service is unavailable"),
}


class Problem(msgspec.Struct, frozen=True):
    """An answer ready to leave: body in JSON, extra headers."""

    status: int
    body: bytes
    headers: dict[str, str]

    @property
    def asgi_headers(self) -> list[tuple[bytes, bytes]]:
        extra = [(name.lower().encode(), value.encode()) for name, value in self.headers.items()]
        return [(b"content-type", JSON), (b"content-length", str(len(self.body)).encode()), *extra]


def problem(error: Exception) -> Problem:
    """The answer to any error. Pure: logging and counting are `note`'s."""
    if isinstance(error, RepriseError) and error.status != 500:
        headers = {"Retry-After": str(error.retry_after)} if isinstance(error, RateLimited | Unavailable) else {}
        return Problem(error.status, body(error.code, error.message, error.details, error.ids), headers)
    if isinstance(error, HTTPException) and error.status_code != 500:
        code, message = _BY_STATUS.get(error.status_code, ("BAD_REQUEST", "the request is not valid"))
        allow = (error.headers or {}).get("allow")
        taken = frozenset(allow.split(", ")) if allow else frozenset()
        headers = {"Allow": allow_header(taken)} if taken else {}
        if taken:
            message += f": it takes {', '.join(sorted(taken - {'OPTIONS'}))}"
        return Problem(error.status_code, body(code, message, {}, {}), headers)
    return Problem(500, body("INTERNAL_ERROR", UNEXPECTED, {}, {}), {})


def allow_header(methods: frozenset[str]) -> str:
    """`Allow` for a path with handlers for ``methods``: the shell answers OPTIONS, and HEAD wherever GET is."""
    return ", ".join(sorted(methods | {"OPTIONS"} | ({"HEAD"} if "GET" in methods else set())))


def body(code: str, message: str, details: dict[str, Any], ids: dict[str, str]) -> bytes:
    """The error shape as JSON."""
    return msgspec.json.encode(
        {
            "error": {"code": code, "message": message, "details": details},
            "status": "error",
            "timestamp": now(),
            "code": code,
            "detail": message,
            **ids,
        }
    )


def note(error: Exception, scope: Scope, metrics: Metrics) -> None:
    """Counts an engine's failure and logs what nobody expected, with the request id."""
    if isinstance(error, Unavailable):
        metrics.unavailable(error)
        log.warning("request.unavailable", request_id=request_id(scope), reason=error.message)
    elif problem(error).status == 500:
        log.error("request.failed", request_id=request_id(scope), exc_info=error)


async def send_problem(error: Exception, scope: Scope, send: Send, metrics: Metrics) -> None:
    """Answers a bare ASGI request with the error. Only before a response was started."""
    note(error, scope, metrics)
    answer = problem(error)
    await send({"type": "http.response.start", "status": answer.status, "headers": answer.asgi_headers})
    await send({"type": "http.response.body", "body": answer.body, "more_body": False})


def request_id(scope: Scope) -> str:
    """The id that the shell gave this request."""
    return str(scope.get("state", {}).get("request_id", ""))


def handlers(metrics: Metrics) -> dict[int | type[Exception], Callable[[Request[Any, Any, Any], Any], Response[bytes]]]:
    """The exception handlers of the application."""

    def handle(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
        note(error, request.scope, metrics)
        answer = problem(error)
        return Response(answer.body, status_code=answer.status, headers=answer.headers, media_type="application/json")

    return {Exception: handle, HTTPException: handle, RepriseError: handle}
