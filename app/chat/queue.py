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
from app.chat.scripts import Call, Scripts, redis_door
from app.redis_keys import Keys
from app.settings import Settings

LEASE_MS = 8_000
RUNNING_LEASE_MS = 30_000
RENEW_S = 5.0
_KINDS = {"completed": "message.completed", "cancelled": "message.cancelled", "error": "message.error"}
_CREATED = msgspec.Raw(b"\1")
"""Stands for the time of creation in JSON, where this byte cannot occur."""


class Queue:
    """The account side of messages. Every method raises `Unavailable` when Redis does not answer."""

    def __init__(self, scripts: Scripts, keys: Keys, settings: Settings) -> None:
        self._scripts = scripts
        self._keys = keys
        self._settings = settings
        self._wake = keys.channel("wake")

    def enter(self, message: Message, max_running: int, max_queued: int, *, force: bool = False) -> Call:
        """Puts a created message in the queue and on the list, and tells the feed; 0 when the queue is full.

        It is the caller's to run, together with the creation where it can be (``message_create_enter.lua``).
        """
        args = (
            *(message.account, message.id, message.created, max_running, max_queued, int(force), message.user),
            *(event_body("message.created", message), 2 * self._settings.max_retention_s * 1000, self._wake),
        )
        return "queue_enter", self._keys.account_base(message.account), args

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
        name, base, args = self.enter(message, self._settings.max_running, self._settings.max_queued, force=True)
        await self._scripts.run(name, base, *args)

    async def leave(self, message: Message, *, unlist: bool = False) -> None:
        """An ended message gives its place or slot back, and the feed says how it ended."""
        kind = _KINDS[message.status]
        body = event_body(kind, message)
        await self._leave(message.account, message.id, message.created, kind, message.user, body, unlist)

    async def forget(self, account: str, message_id: str) -> None:
        """A message that is gone gives back whatever place it held; nobody is told."""
        await self._leave(account, message_id, "", "", "", b"", unlist=True)

    def started(self, message: Message) -> Call:
        """Has the feed say that a worker has begun the message, unless it has been told of its end already.

        It is the caller's to run, along with something else: nothing waits for it.
        """
        base, kind = self._keys.account_base(message.account), "message.processing"
        return "queue_started", base, (message.account, message.id, kind, message.user, event_body(kind, message))

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

    async def _leave(
        self, account: str, message_id: str, created: int | str, kind: str, user: str, body: bytes, unlist: bool
    ) -> None:
        base = self._keys.account_base(account)
        args = (account, message_id, created, kind, user, body, int(unlist), self._wake)
        await self._scripts.run("queue_leave", base, *args)


def event_body(kind: str, message: Message) -> bytes:
    """The body of an account event, the same as a webhook's: ``{event, data: the status object, timestamp}``.

    A creation's times are left for the script that enters it to fill in.
    """
    data = message.status_object()
    if kind == "message.created":
        data |= {"created_at": _CREATED, "updated_at": _CREATED}
        return msgspec.json.encode({"event": kind, "data": data, "timestamp": _CREATED})
    return msgspec.json.encode({"event": kind, "data": data, "timestamp": iso(time.time_ns() // 1_000_000)})
