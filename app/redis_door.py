"""What every module that talks to Redis shares: the client's type, and its errors translated at the door."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from redis import asyncio as aioredis
from redis import exceptions as redis_errors

from app.errors import Unavailable

Redis = aioredis.Redis | aioredis.RedisCluster

FAILURES = (redis_errors.RedisError, redis_errors.RedisClusterException, OSError, AttributeError)
"""Everything the client raises. The cluster's own errors are no RedisError; and a connection that one task closes while
another opens it (a failover does that) fails on its missing writer, with an AttributeError."""

_AWAY = (
    redis_errors.ConnectionError,
    redis_errors.TimeoutError,
    redis_errors.RedisClusterException,
    OSError,
    AttributeError,  # see FAILURES
)
_REFUSING = (
    redis_errors.OutOfMemoryError,
    redis_errors.ReadOnlyError,
    redis_errors.ClusterError,
    redis_errors.AskError,
    redis_errors.TryAgainError,
)
_REFUSAL = re.compile(r"(?:^|-)(?:MISCONF|NOREPLICAS|BUSY|OOM|READONLY) ")
"""A full disk, too few replicas, a script that runs too long have no exceptions of their own; and from within a script,
Redis before 7 reports every refusal as the script's own error."""


@contextmanager
def redis_door(place: str = "") -> Iterator[None]:
    """Turns Redis being down, loading, failing over, or refusing writes into `Unavailable`.

    ``place`` is named where an operator reads the error; an API's caller is not told where the engines are.
    """
    try:
        yield
    except _AWAY as error:
        raise Unavailable(f"Redis{place and f' at {place}'} does not answer: {type(error).__name__}") from error
    except _REFUSING as error:
        raise Unavailable(f"Redis refuses writes: {error}", retry_after=3) from error
    except redis_errors.ResponseError as error:
        if not _REFUSAL.search(str(error)):
            raise
        raise Unavailable(f"Redis refuses writes: {error}", retry_after=3) from error
