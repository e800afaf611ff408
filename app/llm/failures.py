"""How an upstream's failure is told: status and body in, one `UpstreamFailed` out. Shared by both paths.

The upstream's own message is passed on because it is the only thing that lets an operator act on it, but shortened,
on one line, and without anything that looks like a key.
"""

from __future__ import annotations

import email.utils
import re
import time
from typing import Any

import msgspec

from app.errors import UpstreamFailed

MESSAGE_CHARACTERS = 300
RETRYABLE_STATUS = frozenset({408, 409, 429, 500, 502, 503, 504, 529})

_TYPES = {
    401: "authentication_error",
    403: "authentication_error",
    404: "not_found_error",
    408: "timeout_error",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_CODES = {
    "authentication_error": ("UPSTREAM_AUTHENTICATION", "The language model refused this server's credentials."),
    "invalid_request_error": ("UPSTREAM_REJECTED", "The language model did not accept the request."),
    "not_found_error": ("UPSTREAM_NOT_FOUND", "The language model is not known to its provider."),
    "overloaded_error": ("UPSTREAM_OVERLOADED", "The language model is overloaded. Try again in a moment."),
    "rate_limit_error": (
        "UPSTREAM_RATE_LIMITED",
        "The language model is receiving too many requests. Try again later.",
    ),
    "timeout_error": ("UPSTREAM_TIMEOUT", "The language model took too long to answer."),
    "api_error": ("UPSTREAM_ERROR", "The language model failed to answer."),
}
_SECRET = re.compile(r"\b(?:sk|pk|rk|key|gsk|xai|AIza|Bearer)[-_ ]?[A-Za-z0-9*._-]{12,}")


def error_type(status: int) -> str:
    """The event's error type for an HTTP status."""
    return _TYPES.get(status) or ("invalid_request_error" if 400 <= status < 500 else "api_error")


def failed(
    message: str,
    *,
    status: int = 0,
    type: str = "",  # noqa: A002 - the wire's own name for it
    retryable: bool | None = None,
    retry_after: float | None = None,
    secret: str = "",
) -> UpstreamFailed:
    """The error for an upstream that answered ``status`` (0: none) or failed in the way ``type`` names.

    ``secret`` is removed from the message wherever it stands. ``retryable`` follows from the status if not given.
    """
    kind = type or error_type(status)
    code, explanation = _CODES.get(kind, _CODES["api_error"])
    return UpstreamFailed(
        shortened(message, secret) or explanation,
        type=kind,
        code=code,
        explanation=explanation,
        retryable=status in RETRYABLE_STATUS if retryable is None else retryable,
        retry_after=retry_after,
    )


def unknown_provider(name: str) -> UpstreamFailed:
    """The model's name begins with a provider that does not exist."""
    said = f"no provider is called {shortened(name)}"
    return UpstreamFailed(
        said, type="not_found_error", code="MODEL_NOT_FOUND", explanation=f"{said[:1].upper()}{said[1:]}."
    )


def truncated() -> UpstreamFailed:
    """The answer stopped without a finish reason: a cut connection must never pass for a complete answer."""
    return UpstreamFailed(
        "the upstream's answer ended without a finish reason",
        code="UPSTREAM_TRUNCATED",
        explanation="The connection to the language model was lost before its answer was complete.",
        retryable=True,
    )


def shortened(message: str, secret: str = "") -> str:
    """One line of at most 300 characters without keys."""
    if len(secret) >= 4:
        message = message.replace(secret, "***")
    line = _SECRET.sub("***", " ".join(message[:4000].split()))
    return line if len(line) <= MESSAGE_CHARACTERS else line[: MESSAGE_CHARACTERS - 1] + "…"


def message_in(body: bytes | Any) -> tuple[str, int]:
    """The message and the status (0 if none) in an error body: OpenAI's, vLLM's, FastAPI's, or plain text."""
    if isinstance(body, bytes):
        text = body.decode("utf-8", "replace")
        try:
            body = msgspec.json.decode(body)
        except msgspec.DecodeError:
            return text, 0
    if not isinstance(body, dict):
        return str(body), 0
    error = body.get("error") or body.get("detail") or body
    if not isinstance(error, dict):
        return str(error), 0
    message = error.get("message")
    if not isinstance(message, str):
        message = msgspec.json.encode(error, enc_hook=str).decode()
    return message, _status(error)


def retry_after(value: str | None) -> float | None:
    """Seconds in a ``Retry-After`` header, given as a number or an HTTP date (RFC 9110, 10.2.3); None if unreadable."""
    if not value:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None


def _status(error: dict[str, Any]) -> int:
    for field in ("code", "status", "status_code"):
        value = error.get(field)
        if isinstance(value, str) and value.isdigit():
            value = int(value)
        if isinstance(value, int) and 400 <= value < 600:
            return value
    kind = str(error.get("type") or "")
    return next((status for word, status in _WORDS if word in kind), 0)


_WORDS = (
    ("overloaded", 529),
    ("rate_limit", 429),
    ("authentication", 401),
    ("permission", 403),
    ("not_found", 404),
    ("invalid_request", 400),
    ("timeout", 504),
    ("server_error", 500),
    ("api_error", 500),
)
