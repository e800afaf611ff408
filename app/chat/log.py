"""Reading one message's stream: ranges by sequence number. Entries are decoded here and nowhere else."""

from __future__ import annotations

from typing import Any

from app.chat.events import ATTEMPT_SPAN, Entry
from app.chat.scripts import Redis, redis_door


def decode(raw: tuple[bytes, dict[bytes, bytes]] | list[Any]) -> Entry:
    """An entry of an XRANGE or XREAD reply."""
    entry_id, fields = raw
    ((field, value),) = fields.items()
    return Entry(int(entry_id[: entry_id.index(b"-")]), field, value)


async def read(redis: Redis, key: str, after: int = 0, count: int | None = None) -> list[Entry]:
    """Events numbered above ``after``, in order, at most ``count``. Empty when the log is gone. Raises Unavailable."""
    with redis_door():
        raw: list[Any] = await redis.xrange(key, min=f"{after + 1}-0", count=count) or []
    return [decode(item) for item in raw]


async def read_attempt(redis: Redis, key: str, attempt: int) -> list[Entry]:
    """All events of one attempt."""
    return await read(redis, key, after=max(0, attempt - 1) * ATTEMPT_SPAN)


async def bounds(redis: Redis, key: str) -> tuple[int, int] | None:
    """The first and last sequence numbers in the log, or None when it is empty or gone."""
    with redis_door():
        async with redis.pipeline(transaction=False) as pipe:
            pipe.xrange(key, count=1)
            pipe.xrevrange(key, count=1)
            first, last = await pipe.execute()
    if not first:
        return None
    return decode(first[0]).seq, decode(last[0]).seq
