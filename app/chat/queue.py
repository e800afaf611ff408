"""Who runs next: each account's waiting messages, its running slots, its list and what its feed is told.

Waiting messages stand in per-account queues that are served in turn. A running slot is a leased message id: a lease
that runs out does not free the slot by itself, it makes the sweep look at the message (`lifecycle.repair`), so a
running message is never started twice and a lost one never blocks its account for long.

``LEASE_MS`` covers a claim until the worker's first renewal; a worker renews every ``RENEW_S`` to ``RUNNING_LEASE_MS``.
"""

from __future__ import annotations

import time

import msgspec

from app.chat.message import Message, iso
from app.chat.scripts import Scripts, redis_door
from app.redis_keys import Keys
from app.settings import Settings

LEASE_MS = 8_000
RUNNING_LEASE_MS = 30_000
RENEW_S = 5.0
_KINDS = {"completed": "message.completed", "cancelled": "message.cancelled", "error": "message.error"}


class Queue:
    """The account side of messages. Every method raises `Unavailable` when Redis does not answer."""

    def __init__(self, scripts: Scripts, keys: Keys, settings: Settings) -> None:
        self._scripts = scripts
        self._keys = keys
        self._settings = settings
        self._wake = keys.channel("wake")

    async def enter(self, message: Message, max_running: int, max_queued: int) -> bool:
        """Puts a created message in the queue and on the list, and tells the feed; False when the queue is full."""
        return bool(await self._enter(message, max_running, max_queued, force=False))

    async def claim(self, base: str, most: int) -> list[str]:
        """Takes up to ``most`` waiting messages (members) of one partition, accounts in turn, with a slot for each."""
        taken = await self._scripts.run("queue_claim", base, most, LEASE_MS)
        return [member.decode() for member in taken]

    async def renew(self, members: list[str]) -> None:
        """The workers of ``members`` still hold their running slots."""
        by_base: dict[str, list[str]] = {}
        for member in members:
            by_base.setdefault(self._keys.account_base(member.partition("/")[0]), []).append(member)
        for base, group in by_base.items():
            await self._scripts.run("queue_renew", base, RUNNING_LEASE_MS, *group)

    async def requeue(self, message: Message) -> None:
        """A message that lost its worker waits again at its old place, whatever the limits."""
        base = self._keys.account_base(message.account)
        await self._scripts.run("queue_requeue", base, message.account, message.id, message.created, self._wake)

    async def offer(self, message: Message) -> None:
        """A message without an owner waits (again), unless a fresh lease says that a worker is just taking it."""
        await self._enter(message, self._settings.max_running, self._settings.max_queued, force=True)

    async def leave(self, message: Message, *, unlist: bool = False) -> None:
        """An ended message gives its place or slot back, and the feed says how it ended."""
        kind = _KINDS[message.status]
        body = event_body(kind, message)
        await self._leave(message.account, message.id, message.created, kind, message.user, body, unlist)

    async def forget(self, account: str, message_id: str) -> None:
        """A message that is gone gives back whatever place it held; nobody is told."""
        await self._leave(account, message_id, "", "", "", b"", unlist=True)

    async def started(self, message: Message) -> None:
        """The feed says that a worker has begun the message, unless it has been told of its end already."""
        base, kind = self._keys.account_base(message.account), "message.processing"
        body = event_body(kind, message)
        await self._scripts.run("queue_started", base, message.account, message.id, kind, message.user, body)

    async def lapsed(self, base: str, most: int) -> list[str]:
        """Members whose lease ran out."""
        return [member.decode() for member in await self._scripts.run("queue_lapsed", base, most)]

    async def depth(self) -> tuple[int, int]:
        """Accounts with work that could start now, and messages that hold a running slot, over all partitions."""
        with redis_door():
            async with self._scripts.redis.pipeline(transaction=False) as pipe:
                for base in self._keys.bases:
                    pipe.zcard(f"{base}ready")
                    pipe.zcard(f"{base}leases")
                counts = await pipe.execute()
        return sum(counts[::2]), sum(counts[1::2])

    async def _enter(self, message: Message, max_running: int, max_queued: int, *, force: bool) -> int:
        horizon = message.created - 2 * self._settings.max_retention_s * 1000
        return int(
            await self._scripts.run(
                "queue_enter",
                self._keys.account_base(message.account),
                message.account,
                message.id,
                message.created,
                max_running,
                max_queued,
                int(force),
                message.user,
                event_body("message.created", message),
                horizon,
                self._wake,
            )
        )

    async def _leave(
        self, account: str, message_id: str, created: int | str, kind: str, user: str, body: bytes, unlist: bool
    ) -> None:
        base = self._keys.account_base(account)
        args = (account, message_id, created, kind, user, body, int(unlist), self._wake)
        await self._scripts.run("queue_leave", base, *args)


def event_body(kind: str, message: Message) -> bytes:
    """The body of an account event, the same as a webhook's: ``{event, data: the status object, timestamp}``."""
    now = time.time_ns() // 1_000_000
    return msgspec.json.encode({"event": kind, "data": message.status_object(), "timestamp": iso(now)})
