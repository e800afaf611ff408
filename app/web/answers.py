"""The shapes of JSON answers: the OpenAPI document is made from them, and tests hold what is served to it."""

from __future__ import annotations

from typing import Annotated, Any, Generic, Literal, TypeVar

import msgspec
from msgspec import Meta

from app.chat.message import Status

T = TypeVar("T")

When = Annotated[str, Meta(description="ISO 8601, UTC, with Z", extra_json_schema={"format": "date-time"})]


class Initiated(msgspec.Struct, kw_only=True):
    """A message that has been queued, and where to go from here."""

    message_id: str
    status: Literal["pending"] = "pending"
    message: str = "Request initiated successfully"
    stream_url: str
    status_url: str
    cancel_url: str
    stream_token: Annotated[str, Meta(description="lets a browser observe and cancel this message: ?token=")]
    created_at: When


class StatusObject(msgspec.Struct, kw_only=True):
    """State, times and figures of a message. ``metadata`` holds the caller's own keys besides the fixed ones."""

    message_id: str
    status: Status
    created_at: When
    updated_at: When
    completed_at: When | None
    error_message: str | None
    stream_type: str
    metadata: dict[str, Any]


class StatusPage(msgspec.Struct, kw_only=True):
    """A page of the caller's messages, newest first."""

    messages: list[StatusObject]
    next_cursor: str | None


class UsageObject(msgspec.Struct):
    input_tokens: int
    output_tokens: int


class MessageObject(msgspec.Struct, kw_only=True):
    """The message so far: the content blocks of its last attempt."""

    id: str
    message_id: str
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
    model: str
    content: list[dict[str, Any]]
    stop_reason: str | None
    stop_sequence: str | None
    usage: UsageObject
    status: Status


class Cancelled(msgspec.Struct, kw_only=True):
    message: str = "Stream cancelled successfully"
    message_id: str
    status: Literal["cancelled"] = "cancelled"


class TokenAnswer(msgspec.Struct):
    token: str
    expires_at: When


class Pagination(msgspec.Struct):
    page: int
    page_size: int
    total_items: int
    total_pages: int
    has_next: bool
    has_previous: bool


class ShownKey(msgspec.Struct, kw_only=True):
    """An API key without the key itself."""

    id: str
    name: str
    prefix: str
    scopes: list[str]
    user_id: str | None
    status: Literal["active", "expired", "revoked"]
    created_at: str
    expires_at: str | None
    revoked_at: str | None
    last_used: str | None
    rotated_at: str | None
    previous_expires_at: Annotated[str | None, Meta(description="until when the key before the last rotation is good")]


class CreatedKey(ShownKey, kw_only=True):
    """The answer of a creation or rotation: the one that holds the key."""

    key: str


class Success(msgspec.Struct, Generic[T], kw_only=True):
    data: T
    status: Literal["success"]
    timestamp: str


class SuccessPage(msgspec.Struct, Generic[T], kw_only=True):
    data: list[T]
    status: Literal["success"]
    timestamp: str
    pagination: Pagination


class Live(msgspec.Struct):
    status: Literal["live"]
    timestamp: str


class Ready(msgspec.Struct):
    """``reasons`` says in words what is missing."""

    status: Literal["ready", "not_ready"]
    reasons: list[str]
    checks: dict[str, dict[str, Any]]
    workers: dict[str, int]
    timestamp: str
