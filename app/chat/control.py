"""Hints between processes over pub/sub: there is work, this message is no longer yours, a feed has a new entry.

A hint only saves time. Losing one (Redis restarted, the connection broke) is harmless: a worker polls its queue, and
learns of a lost claim from its next append or renewal.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio

from app.redis_door import FAILURES, Redis

Channels = dict[str, Callable[[bytes], None]]

POLL_S = 1.0
"""How long a lost hint can delay work."""


async def listen(client: Redis, channels: Callable[[], Channels]) -> None:
    """Calls each channel's function with every hint, for ever.

    ``channels`` is asked again each second, since a worker may take a new name; subscriptions follow it.
    """
    while True:
        try:
            await client.initialize()  # a cluster's client knows no node before
            async with client.pubsub(ignore_subscribe_messages=True) as pubsub:
                await _serve(pubsub, channels)
        except FAILURES:
            await anyio.sleep(0.2)


async def _serve(pubsub: Any, channels: Callable[[], Channels]) -> None:
    subscribed: set[str] = set()
    while True:
        wanted = channels()
        if new := set(wanted) - subscribed:
            await pubsub.subscribe(*new)
        if old := subscribed - set(wanted):
            await pubsub.unsubscribe(*old)
        subscribed = set(wanted)
        hint = await pubsub.get_message(timeout=POLL_S)
        if hint and (call := wanted.get(hint["channel"].decode())):
            call(hint["data"])
