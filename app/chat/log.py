"""Reading one message's stream: ranges by sequence number. Entries are decoded here and nowhere else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from app.chat.events import ATTEMPT_SPAN, Entry
from app.chat.message import Message
from app.chat.scripts import Redis, redis_door
from app.redis_keys import Keys


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
    return await read(redis, key, after=_before(attempt))


async def read_finished(
    redis: Redis, keys: Keys, messages: Sequence[Message]
) -> list[tuple[bytes | None, list[Entry]]]:
    """Of each message its request as JSON (None when it is gone) and all events of its last attempt; one round trip."""
    with redis_door():
        async with redis.pipeline(transaction=False) as pipe:
            for message in messages:
                pipe.get(keys.request(message.account, message.id))
                pipe.xrange(keys.log(message.account, message.id), min=f"{_before(message.attempt) + 1}-0")
            flat = await pipe.execute()
    return [(flat[i], [decode(item) for item in flat[i + 1] or []]) for i in range(0, len(flat), 2)]


def _before(attempt: int) -> int:
    return max(0, attempt - 1) * ATTEMPT_SPAN


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
