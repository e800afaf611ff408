"""What waits, for those who watch over it: numbers only, read in two round trips."""

from __future__ import annotations

import time
from typing import Any

import msgspec

from app.redis_door import Redis, redis_door
from app.redis_keys import Keys

MOST_ACCOUNTS = 50
"""Accounts of a partition whose oldest message is looked at: those whose turn comes next."""


class Backlog(msgspec.Struct, frozen=True):
    """Waiting messages, the age in seconds of the oldest that could start now, and dead letters."""

    waiting: int = 0
    oldest_s: float = 0.0
    dead_letters: int = 0


async def read_backlog(redis: Redis, keys: Keys) -> Backlog:
    """Raises Unavailable. A message counts as waiting when it is unfinished and holds no running slot."""
    with redis_door():
        async with redis.pipeline(transaction=False) as pipe:
            for base in keys.bases:
                pipe.zcard(f"{base}due")
                pipe.zcard(f"{base}leases")
                pipe.xlen(f"{base}dead")
                pipe.zrange(f"{base}ready", 0, MOST_ACCOUNTS - 1)
            found: list[Any] = await pipe.execute()
        accounts = [(base, name) for base, names in zip(keys.bases, found[3::4], strict=True) for name in names]
        oldest = await _oldest_ms(redis, accounts)
    age = max(0.0, time.time() - oldest / 1000) if oldest else 0.0
    return Backlog(max(0, sum(found[0::4]) - sum(found[1::4])), round(age, 3), sum(found[2::4]))


async def _oldest_ms(redis: Redis, accounts: list[tuple[str, bytes]]) -> float:
    if not accounts:
        return 0.0
    async with redis.pipeline(transaction=False) as pipe:
        for base, name in accounts:
            pipe.zrange(f"{base}wait:{name.decode()}", 0, 0, withscores=True)
        firsts: list[Any] = await pipe.execute()
    return min((float(rows[0][1]) for rows in firsts if rows), default=0.0)
