"""Consumer groups of the feed of finished messages: delivery, claims, acknowledgement, dead letters.

Each group (remember, notify, …) gets every message that finishes after the group was added, at least once. A delivery
is leased under a random claim token; renewing, acknowledging and failing check it, so a consumer that was paused and
lost its claim changes nothing. A message's retention starts when every group it waited for has settled it: an engine
that was away for a day loses nothing, and nothing becomes a dead letter for it. A dead letter is unsettled until it is
requeued and done, or dropped.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal, cast

import msgspec

from app.chat.message import iso
from app.chat.scripts import Scripts, redis_door
from app.redis_keys import Keys

_LETTER_ID = re.compile(r"(\d{1,4}):(\d{1,15}-\d{1,15})", re.ASCII)
LEASE_MS = 15_000
MAX_DELIVERIES = 5
PAUSES_MS = (1_000, 5_000, 30_000, 120_000)
"""Pause before the next delivery after the first, second, … failure."""
AWAY_PAUSE_MS = 5_000
"""Pause before the next delivery after one that found an engine away."""


class Delivery(msgspec.Struct, frozen=True):
    """One entry handed to one consumer. ``member`` is ``<account>/<message id>``, ``base`` its partition's prefix."""

    base: str
    entry: str
    member: str
    deliveries: int
    token: str


class DeadLetter(msgspec.Struct, frozen=True):
    """An entry that failed ``deliveries`` times in ``group``. ``id`` names it for requeue and drop."""

    id: str
    group: str
    account: str
    message_id: str
    reason: str
    deliveries: int
    at: str


class Groups:
    """The groups of one Redis. Every method raises `Unavailable` when Redis does not answer."""

    def __init__(self, scripts: Scripts, keys: Keys) -> None:
        self._scripts = scripts
        self._keys = keys

    async def add(self, group: str) -> None:
        """Adds the group where it is not known yet; it counts for messages that finish from now on."""
        for base in self._keys.bases:
            await self._scripts.run("group_add", base, group)

    async def take(self, group: str, token: str, base: str, most: int) -> list[Delivery]:
        """Up to ``most`` deliveries of one partition under ``token``."""
        flat = await self._scripts.run("group_take", base, group, token, LEASE_MS, most)
        return [
            Delivery(base, flat[i].decode(), flat[i + 1].decode(), int(flat[i + 2]), token)
            for i in range(0, len(flat), 3)
        ]

    async def renew(self, group: str, deliveries: list[Delivery]) -> list[Delivery]:
        """Renews the leases; answers the deliveries that have been taken away."""
        lost: list[Delivery] = []
        for base, token in {(d.base, d.token) for d in deliveries}:
            ours = {d.entry: d for d in deliveries if d.base == base and d.token == token}
            reply = await self._scripts.run("group_renew", base, group, token, LEASE_MS, *ours)
            lost += [ours[entry.decode()] for entry in reply]
        return lost

    async def done(self, group: str, deliveries: Sequence[Delivery]) -> int:
        """Acknowledges and settles; how many were still ours: a claim that is another's by now is left alone."""
        calls = [("group_done", d.base, (group, d.entry, d.token, d.member)) for d in deliveries]
        return sum(map(int, await self._scripts.run_all(calls)))

    async def fail(self, group: str, delivery: Delivery, reason: str) -> Literal["retry", "dead", "lost"]:
        """Tries again after a pause, or puts the entry among the dead letters."""
        pause = PAUSES_MS[min(delivery.deliveries, len(PAUSES_MS)) - 1]
        return await self._failed(group, delivery, reason, MAX_DELIVERIES, pause)

    async def hand_back(self, group: str, delivery: Delivery) -> None:
        """It could not be handled, through no fault of its own: tried again after a pause, however often."""
        await self._failed(group, delivery, "", 0, AWAY_PAUSE_MS)

    async def _failed(
        self, group: str, delivery: Delivery, reason: str, most: int, pause: int
    ) -> Literal["retry", "dead", "lost"]:
        args = (group, delivery.entry, delivery.token, delivery.member, reason, most, pause)
        reply = await self._scripts.run("group_fail", delivery.base, *args)
        return cast(Literal["retry", "dead", "lost"], reply.decode())

    async def dead_letters(self, limit: int = 100) -> list[DeadLetter]:
        """The oldest dead letters of every partition."""
        letters: list[DeadLetter] = []
        for index, base in enumerate(self._keys.bases):
            with redis_door():
                raw: list[Any] = await self._scripts.redis.xrange(f"{base}dead", count=limit) or []
            letters += [_letter(index, entry_id, fields) for entry_id, fields in raw]
        return sorted(letters, key=lambda letter: letter.at)[:limit]

    async def dead_letter(self, letter_id: str) -> DeadLetter | None:
        """One dead letter, or None."""
        place = self._place(letter_id)
        if place is None:
            return None
        partition, entry = place
        with redis_door():
            raw: list[Any] = await self._scripts.redis.xrange(f"{self._keys.bases[partition]}dead", entry, entry) or []
        return _letter(partition, *raw[0]) if raw else None

    async def requeue(self, letter_id: str) -> Literal["requeued", "gone", "unknown"]:
        """Delivers a dead letter again with a full number of tries."""
        return cast(Literal["requeued", "gone", "unknown"], await self._dead("dead_requeue", letter_id))

    async def drop(self, letter_id: str) -> Literal["dropped", "unknown"]:
        """Gives a dead letter up for good; its message settles."""
        return cast(Literal["dropped", "unknown"], await self._dead("dead_drop", letter_id))

    async def _dead(self, script: str, letter_id: str) -> str:
        place = self._place(letter_id)
        if place is None:
            return "unknown"
        partition, entry = place
        reply: bytes = await self._scripts.run(script, self._keys.bases[partition], entry)
        return reply.decode()

    def _place(self, letter_id: str) -> tuple[int, str] | None:
        """The partition and entry an id names, or None when it is no id of ours."""
        found = _LETTER_ID.fullmatch(letter_id)
        if found is None or int(found[1]) >= len(self._keys.bases):
            return None
        return int(found[1]), found[2]


def _letter(partition: int, entry_id: bytes, fields: dict[bytes, bytes]) -> DeadLetter:
    account, _, message_id = fields[b"message"].decode().partition("/")
    return DeadLetter(
        id=f"{partition}:{entry_id.decode()}",
        group=fields[b"group"].decode(),
        account=account,
        message_id=message_id,
        reason=fields[b"reason"].decode(),
        deliveries=int(fields[b"deliveries"]),
        at=iso(int(entry_id.partition(b"-")[0])),
    )
