"""What every module that talks to Redis shares: the client's type, and its errors translated at the door."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from redis import asyncio as aioredis
from redis import exceptions as redis_errors

from app.errors import Unavailable

Redis = aioredis.Redis | aioredis.RedisCluster


@contextmanager
def redis_door() -> Iterator[None]:
    """Turns Redis being down, loading, or out of memory into `Unavailable`."""
    try:
        yield
    except (redis_errors.ConnectionError, redis_errors.TimeoutError, OSError) as error:
        raise Unavailable(f"Redis does not answer: {type(error).__name__}") from error
    except (redis_errors.OutOfMemoryError, redis_errors.ReadOnlyError, redis_errors.ClusterDownError) as error:
        raise Unavailable(f"Redis refuses writes: {error}", retry_after=3) from error
