"""The vocabulary of integrations: what a reader makes of bytes from outside.

Choices:

1. A reader gives what it can read and a `Problem` for each item it cannot. Only when nothing at all can be read does
   it raise `Unreadable`.
2. Ids are the same when the same thing is exported again: storing an export twice stores nothing twice.
"""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar, Literal

import msgspec

from app.errors import RepriseError


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """One message. ``id`` is the platform's own, else derived from position and content; unique in its conversation.
    ``role`` is "assistant" for an AI or a bot, "user" for every human. ``text`` has attachments as lines such as
    ``[image: name.png]``. ``said_at`` is aware, in UTC. ``name`` says who, where the platform has names. ``mine``: said
    by the person whose account this is; only then are facts drawn from it."""

    id: str
    role: Literal["user", "assistant"]
    text: str
    said_at: datetime | None
    name: str | None = None
    mine: bool = True


class Conversation(msgspec.Struct, frozen=True, kw_only=True):
    """One conversation, its messages in the order they were said. Times are aware, in UTC."""

    id: str
    title: str | None
    created_at: datetime | None
    updated_at: datetime | None
    messages: list[Message]


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """One item that could not be read; the rest goes on."""

    item_id: str
    code: str
    message: str


class Unreadable(RepriseError):
    """Nothing of the input can be read: wrong format, empty, damaged, encrypted, too large once unpacked."""

    status: ClassVar[int] = 422

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
