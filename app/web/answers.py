"""The shapes of JSON answers, for the OpenAPI document. Handlers build plain dicts; a test holds the two together."""

from __future__ import annotations

from typing import Any, Generic, Literal, TypeVar

import msgspec

T = TypeVar("T")

StatusName = Literal["pending", "processing", "completed", "cancelled", "error"]


class Initiated(msgspec.Struct):
    """A message was accepted."""

    message_id: str
    status: Literal["pending"]
    message: str
    stream_url: str
    status_url: str
    cancel_url: str
    stream_token: str
    created_at: str


class MessageStatus(msgspec.Struct):
    """A message's state. ``metadata`` holds the caller's own keys beside the measured ones."""

    message_id: str
    status: StatusName
    created_at: str
    updated_at: str
    completed_at: str | None
    error_message: str | None
    stream_type: str
    metadata: dict[str, Any]


class MessagePage(msgspec.Struct):
    messages: list[MessageStatus]
    next_cursor: str | None


class Usage(msgspec.Struct):
    input_tokens: int
    output_tokens: int


class MessageSoFar(msgspec.Struct):
    """What has been written of an answer."""

    id: str
    message_id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[dict[str, Any]]
    stop_reason: str | None
    stop_sequence: str | None
    usage: Usage
    status: StatusName


class Cancelled(msgspec.Struct):
    message: str
    message_id: str
    status: Literal["cancelled"]


class StreamToken(msgspec.Struct):
    token: str
    expires_at: str


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


class CreatedKey(ShownKey, kw_only=True):
    """The one answer that holds the key."""

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
