"""The error tree. Every failure a caller can see is one of these; third-party errors are translated at the door.

::

    RepriseError                code                    status  retryable
    ├── BadRequest              BAD_REQUEST             400     no
    ├── Unauthorized            UNAUTHORIZED            401     no
    ├── Forbidden               FORBIDDEN               403     no
    ├── NotFound                <WHAT>_NOT_FOUND        404     no
    ├── Conflict                CONFLICT                409     no
    ├── Gone                    GONE                    410     no
    ├── PayloadTooLarge         PAYLOAD_TOO_LARGE       413     no
    ├── UnsupportedMediaType    UNSUPPORTED_MEDIA_TYPE  415     no
    ├── ValidationFailed        VALIDATION_ERROR        422     no
    ├── RateLimited             RATE_LIMIT_EXCEEDED     429     yes, after `retry_after` seconds
    ├── Unavailable             UNAVAILABLE             503     yes, after `retry_after` seconds
    ├── ClaimLost               CLAIM_LOST              500     no: another worker owns the message now
    ├── UpstreamFailed          <given>                 502     as given: the model's side failed
    ├── RecallFailed            RECALL_FAILED           500     no: the message goes on without its memories
    ├── ExtractionFailed        EXTRACTION_FAILED       500     yes, by the background process
    ├── Unreadable              <given>                 422     no: of a file nothing can be read (`integrations/types`)
    ├── OutboundFailed          <given>                 502     as given: an address somebody named (`outbound`)
    └── StartFailed             START_FAILED            500     no: an engine or setting stops the program

Wire codes are those of PROTOCOL.md, Conventions.
"""

from __future__ import annotations

from typing import Any, ClassVar


class RepriseError(Exception):
    """Base of every error we raise on purpose.

    ``message`` is written for the person who reads it; ``details`` goes into the error body as is; ``ids``
    (for example ``message_id``) stand beside the error at the top level of the body.
    """

    code: str = "INTERNAL_ERROR"
    status: ClassVar[int] = 500
    retryable: bool = False

    def __init__(self, message: str, *, details: dict[str, Any] | None = None, **ids: str) -> None:
        super().__init__(message)
        self.message = message
        self.details: dict[str, Any] = details or {}
        self.ids = ids


class BadRequest(RepriseError):
    code = "BAD_REQUEST"
    status = 400


class Unauthorized(RepriseError):
    code = "UNAUTHORIZED"
    status = 401


class Forbidden(RepriseError):
    code = "FORBIDDEN"
    status = 403


class NotFound(RepriseError):
    """``what`` is the thing's name in the wire code: ``NotFound("message", ...)`` answers MESSAGE_NOT_FOUND."""

    status = 404

    def __init__(self, what: str, message: str, *, details: dict[str, Any] | None = None, **ids: str) -> None:
        super().__init__(message, details=details, **ids)
        self.code = f"{what.upper()}_NOT_FOUND"


class Conflict(RepriseError):
    code = "CONFLICT"
    status = 409


class Gone(RepriseError):
    code = "GONE"
    status = 410


class PayloadTooLarge(RepriseError):
    code = "PAYLOAD_TOO_LARGE"
    status = 413


class UnsupportedMediaType(RepriseError):
    code = "UNSUPPORTED_MEDIA_TYPE"
    status = 415


class ValidationFailed(RepriseError):
    """One or more fields are wrong. ``errors`` lists ``(field, reason)`` in the order of the request."""

    code = "VALIDATION_ERROR"
    status = 422

    def __init__(self, errors: list[tuple[str, str]], **ids: str) -> None:
        field, reason = errors[0]
        listed = [{"field": f, "reason": r} for f, r in errors]
        super().__init__(f"{field}: {reason}", details={"field": field, "reason": reason, "errors": listed}, **ids)


class _Later(RepriseError):
    retryable = True

    def __init__(
        self, message: str, *, retry_after: int = 1, details: dict[str, Any] | None = None, **ids: str
    ) -> None:
        super().__init__(message, details=details, **ids)
        self.retry_after = retry_after


class RateLimited(_Later):
    code = "RATE_LIMIT_EXCEEDED"
    status = 429


class Unavailable(_Later):
    """An engine (Redis or PostgreSQL) is down or does not answer in time."""

    code = "UNAVAILABLE"
    status = 503


class ClaimLost(RepriseError):
    """A worker's claim on a message is no longer its own: stop, write nothing, acknowledge nothing."""

    code = "CLAIM_LOST"


class UpstreamFailed(RepriseError):
    """The language model's side failed.

    ``type`` is the event's error type (``rate_limit_error``, ``overloaded_error``, ``api_error``,
    ``authentication_error``, ``invalid_request_error``, ``not_found_error``, ``timeout_error``), ``explanation``
    one plain sentence safe to show to an end user. ``retryable`` only ever matters before the first delta.
    """

    status = 502

    def __init__(
        self,
        message: str,
        *,
        type: str = "api_error",  # noqa: A002 - the wire's own name for it
        code: str = "UPSTREAM_ERROR",
        explanation: str = "The language model failed to answer.",
        retryable: bool = False,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.type = type
        self.code = code
        self.explanation = explanation
        self.retryable = retryable
        self.retry_after = retry_after


class RecallFailed(RepriseError):
    """Memories could not be found in time, or not at all. Told to observers, never a reason to stop a message."""

    code = "RECALL_FAILED"


class ExtractionFailed(RepriseError):
    """A model gave no memories that can be used. Never the same as an answer that holds none."""

    code = "EXTRACTION_FAILED"
    retryable = True


class OutboundFailed(RepriseError):
    """A request to an address that somebody named has failed.

    Codes: ADDRESS_REFUSED, HEADER_REFUSED, TOO_LARGE, TOO_SLOW, UNREACHABLE, HTTP_STATUS (``http_status`` tells which).
    The message names the origin, never the path, the query or a header: they may hold secrets.
    """

    status = 502

    def __init__(self, code: str, message: str, *, retryable: bool = False, http_status: int | None = None) -> None:
        super().__init__(message, details={} if http_status is None else {"status": http_status})
        self.code = code
        self.retryable = retryable
        self.http_status = http_status


class StartFailed(RepriseError):
    """The program cannot start; ``message`` is the one line shown to the person who started it."""

    code = "START_FAILED"


def ours_alone(failures: BaseExceptionGroup[BaseException]) -> RepriseError | None:
    """The first of our errors in a task group's failure, when it holds nothing else."""
    mine, others = failures.split(RepriseError)
    if mine is None or others is not None:
        return None
    first: BaseException = mine
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    assert isinstance(first, RepriseError)
    return first
