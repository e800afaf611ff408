"""An account's messages, newest first: pages over the list that `queue` keeps, read from the messages' own records.

Choices:

1. A cursor is a position (time of creation and id), not an offset: what arrives or goes meanwhile shifts nothing.
2. Filters are applied to the records as they are now. One page looks at ``MAX_SCANNED`` of them at most; a page that
   ends early for that reason still has its ``next_cursor``.
3. A record past its retention leaves the list when it is met.
"""

from __future__ import annotations

import binascii
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import cast

import msgspec

from app.chat.lifecycle import Lifecycle
from app.chat.message import Message
from app.chat.scripts import redis_door
from app.errors import BadRequest

CHUNK = 100
MAX_SCANNED = 2_000


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """What a listed message must be; empty fields do not matter."""

    status: str = ""
    user: str = ""
    thread: str = ""
    stream_type: str = ""

    def accepts(self, message: Message) -> bool:
        return (
            self.status in ("", message.status)
            and self.user in ("", message.user)
            and self.thread in ("", message.thread)
            and self.stream_type in ("", message.stream_type)
        )


class MessageList:
    """Reads lists. Raises `Unavailable` when Redis does not answer."""

    def __init__(self, lifecycle: Lifecycle) -> None:
        self._lifecycle = lifecycle

    async def page(self, account: str, wanted: Filter, limit: int, cursor: str) -> tuple[list[Message], str | None]:
        """Up to ``limit`` messages after ``cursor`` ('' for the newest) and the cursor of the next page, if any.

        Raises BadRequest when the cursor is not one of ours.
        """
        key = f"{self._lifecycle.keys.account_base(account)}list:{account}"
        position = _decode(cursor) if cursor else None
        found: list[Message] = []
        for _ in range(MAX_SCANNED // CHUNK):
            rows = await self._rows(key, position)
            messages = await self._lifecycle.read_many([f"{account}/{message_id}" for message_id, _ in rows])
            gone = [row[0] for row, message in zip(rows, messages, strict=True) if message is None]
            if gone:
                with redis_door():
                    await self._lifecycle.redis.zrem(key, *gone)
            for row, message in zip(rows, messages, strict=True):
                position = row
                if message is not None and wanted.accepts(message):
                    found.append(message)
                    if len(found) == limit:
                        return found, await self._next(key, position)
            if len(rows) < CHUNK:
                return found, None
        return found, await self._next(key, position)

    async def _rows(self, key: str, after: tuple[str, int] | None) -> list[tuple[str, int]]:
        start = 0
        with redis_door():
            if after is not None:
                rank = await self._lifecycle.redis.zrevrank(key, after[0])
                if rank is None:  # the message the cursor names is gone: its time says where it stood
                    start = await self._lifecycle.redis.zcount(key, f"({after[1]}", "+inf")
                else:
                    start = cast(int, rank) + 1
            rows = await self._lifecycle.redis.zrevrange(key, start, start + CHUNK - 1, withscores=True)
        return [(member.decode(), int(score)) for member, score in cast(list[tuple[bytes, float]], rows)]

    async def _next(self, key: str, position: tuple[str, int] | None) -> str | None:
        if position is None or not await self._rows(key, position):
            return None
        return urlsafe_b64encode(f"{position[1]}:{position[0]}".encode()).decode().rstrip("=")


def _decode(cursor: str) -> tuple[str, int]:
    try:
        time, _, message_id = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode().partition(":")
        if message_id:
            return message_id, int(time)
    except (ValueError, binascii.Error):
        pass
    raise BadRequest("cursor: not a cursor of this list", details={"field": "cursor", "reason": "unreadable"})
