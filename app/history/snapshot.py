"""A conversation as its platform has it at one time: what is sent, and what waits in the queue.

Choices:

1. A snapshot of 50 MB may hold half a million messages. They are decoded one by one, so that who only looks at them
   holds the body and little more.
2. Times without a zone are taken as UTC.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

_NO_NUL = r"^[^\x00]*$"
Id = Annotated[str, Meta(min_length=1, max_length=256, pattern=_NO_NUL)]
Title = Annotated[str, Meta(max_length=1_000)]


class Said(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One message. ``name``: who said it, where the platform knows. ``mine``: it is the user's own word."""

    id: Id
    role: Literal["human", "assistant", "user"]
    content: str
    created_at: datetime | None = None
    name: Annotated[str, Meta(max_length=200, pattern=_NO_NUL)] | None = None
    mine: bool = True


class Head(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A conversation without what was said in it."""

    id: Id
    title: Title | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None


class _Body(Head, frozen=True, kw_only=True, rename="camel"):
    messages: list[msgspec.Raw]


_body = msgspec.json.Decoder(_Body)
_said = msgspec.json.Decoder(Said)


def said(raw: msgspec.Raw) -> Said:
    """One message. Raises msgspec.ValidationError."""
    return _said.decode(raw)


class Snapshot:
    """A conversation's JSON. Raises msgspec.ValidationError for what is none; ``raw`` has its messages, one by one."""

    def __init__(self, raw: bytes | memoryview | msgspec.Raw) -> None:
        body = _body.decode(raw)
        self.head: Head = body
        self.raw = body.messages

    def __iter__(self) -> Iterator[Said]:
        """The messages. Raises msgspec.ValidationError at one that is none."""
        return map(said, self.raw)


def at(when: datetime) -> datetime:
    """The time in UTC (choice 2)."""
    return when.astimezone(UTC) if when.tzinfo else when.replace(tzinfo=UTC)
