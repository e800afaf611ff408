"""The core without HTTP: a Lifecycle on the session's Redis, and a worker whose models the test scripts itself."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import msgspec
from redis.asyncio import Redis

from app import ids
from app.chat import log
from app.chat.events import Entry
from app.chat.lifecycle import Lifecycle, NewMessage
from app.chat.message import Message
from app.llm.types import Request, Turn
from app.redis_keys import Keys
from app.settings import Settings

UNLIMITED: dict[str, Any] = dict.fromkeys(("rate_requests", "rate_search", "rate_integrations", "rate_messages"), "")
"""Settings: a test asks more in a second than a person in a minute. `test_limits` sets its own."""


@asynccontextmanager
async def lifecycle_on(settings: Settings) -> AsyncIterator[Lifecycle]:
    """A Lifecycle with connections of its own."""
    redis = Redis.from_url(settings.redis_url)
    try:
        yield Lifecycle(redis, Keys(settings.redis_prefix, settings.partitions), settings)
    finally:
        await redis.aclose()


def new_message(message_id: str = "", account: str = "acc", **changes: Any) -> NewMessage:
    """A message as initiate would make it; any field can be given."""
    model = changes.pop("model", "default")
    request = Request(model=model, messages=[Turn("user", "hello")])
    fields: dict[str, Any] = {
        "id": message_id or ids.new_id("msg"),
        "account": account,
        "user": "ada",
        "key_id": "key_1",
        "request_id": "req-1",
        "model": model,
        "message_count": 1,
        "request": msgspec.json.encode(request),
        "metadata": {"title": "hello"},
        "deadline_s": 60,
        "idle_s": 30,
        "retention_s": 600,
        "max_running": 100,
        "max_queued": 1000,
    }
    return NewMessage(**fields | changes)


async def claim(lifecycle: Lifecycle, message_id: str, worker: str = "generate-w", account: str = "acc") -> Message:
    """Claims one waiting message the way a worker does, with its liveness key set."""
    base = lifecycle.keys.message_base(account, message_id)
    await lifecycle.scripts.run("worker_renew", base, worker, 60_000)
    claimed = await lifecycle.claim(account, message_id, worker, ids.token())
    assert claimed is not None
    await lifecycle.scripts.run_many([lifecycle.queue.started(claimed[0])])
    return claimed[0]


async def entries(lifecycle: Lifecycle, message_id: str, account: str = "acc") -> list[Entry]:
    return await log.read(lifecycle.redis, lifecycle.keys.log(account, message_id))


async def feed_kinds(lifecycle: Lifecycle, account: str = "acc") -> list[str]:
    """The kinds of the account's feed, oldest first."""
    rows = await lifecycle.redis.xrange(lifecycle.keys.feed(account))
    return [fields[b"k"].decode() for _, fields in rows]


async def until(fact: Callable[[], Any], seconds: float = 10.0) -> Any:
    """Waits for a fact: ``fact`` is called (and awaited) until it gives something true, which is returned."""
    with anyio.fail_after(seconds):
        while True:
            value = fact()
            if hasattr(value, "__await__"):
                value = await value
            if value:
                return value
            await anyio.sleep(0.01)
