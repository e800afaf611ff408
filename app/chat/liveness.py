"""Who is alive: workers say so, any process finds those that are not, and finishes what died half done.

A worker's `Heart` renews its liveness key from the loop that does the work, and learns by the same step which of its
messages are no longer its own. A `Sweeper` runs in every process, web included: owners found dead lose their claims,
deadlines end messages, unobserved messages are cancelled, and steps that died between two scripts are completed.

Choices:

1. After Redis was away (or a sweeper has just started) owners are not judged for ``JUDGE_AFTER_S``: their keys ran out
   while nobody could renew them, and a restart of Redis is no reason to restart every answer.
2. Sweepers of all processes share a short lock per partition, with a lifetime: a killed sweeper blocks nobody.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import cast

import anyio
import structlog

from app import ids
from app.chat.lifecycle import Lifecycle
from app.chat.queue import RENEW_S
from app.chat.scripts import Redis, redis_door
from app.errors import Conflict, NotFound, Unavailable
from app.redis_keys import Keys

ALIVE_MS = 5_000
BEAT_S = 1.5
SWEEP_S = 0.4
JUDGE_AFTER_S = 3.0
MOST = 200
"""Messages of each kind handled per sweep and partition; the rest comes with the next."""

log = structlog.get_logger(__name__)


class Heart:
    """A worker's liveness. ``owned`` gives the members it runs; ``on_lost`` is called for those it runs no longer."""

    def __init__(
        self, lifecycle: Lifecycle, kind: str, owned: Callable[[], Iterable[str]], on_lost: Callable[[str], None]
    ) -> None:
        self._lifecycle = lifecycle
        self._kind = kind
        self._owned = owned
        self._on_lost = on_lost
        self.name = _new_name(kind)

    async def beat(self) -> None:
        """One renewal in every partition. After a loss the worker goes on under a new name."""
        by_base: dict[str, list[str]] = {base: [] for base in self._lifecycle.keys.bases}
        for member in self._owned():
            account, _, message_id = member.partition("/")
            by_base[self._lifecycle.keys.message_base(account, message_id)].append(member)
        calls = [("worker_renew", base, (self.name, ALIVE_MS, *members)) for base, members in by_base.items()]
        lost: list[str] = []
        was_alive = True
        for reply in await self._lifecycle.scripts.run_many(calls):
            if isinstance(reply, Exception):
                raise Unavailable("Redis refused a liveness key") from reply
            was_alive = was_alive and bool(reply[0])
            lost += [member.decode() for member in reply[1:]]
        await _register(self._lifecycle.redis, self._lifecycle.keys, self.name)
        for member in lost:
            self._on_lost(member)
        if lost and not was_alive:
            log.warning("worker.was_taken_for_dead", worker=self.name, messages=len(lost))
            self.name = _new_name(self._kind)
            await self.beat()

    async def run(self) -> None:
        """Beats, and renews the running slots, for ever."""
        slots_due = 0.0
        while True:
            await anyio.sleep(BEAT_S)
            try:
                await self.beat()
                if time.monotonic() >= slots_due:
                    slots_due = time.monotonic() + RENEW_S
                    members = list(self._owned())
                    if members:
                        await self._lifecycle.queue.renew(members)
            except Unavailable:
                log.warning("worker.beat_failed", worker=self.name)

    async def stop(self) -> None:
        """Says goodbye: the key goes at once."""
        await drop_worker(self._lifecycle.redis, self._lifecycle.keys, self.name)


class Sweeper:
    """Looks after every partition. Run `run` in any process; ``on_reclaim`` counts messages taken from dead workers."""

    def __init__(self, lifecycle: Lifecycle, on_reclaim: Callable[[int], None] = lambda _: None) -> None:
        self._lifecycle = lifecycle
        self._on_reclaim = on_reclaim
        self._judge_from = time.monotonic() + JUDGE_AFTER_S

    async def run(self) -> None:
        """Sweeps for ever; Redis being down only postpones it."""
        while True:
            try:
                for base in self._lifecycle.keys.bases:
                    await self.sweep(base)
            except Unavailable:
                self._judge_from = time.monotonic() + JUDGE_AFTER_S
                await anyio.sleep(0.2)
            except Exception:
                log.exception("sweep.failed")  # the outer edge of a loop that must not end
            await anyio.sleep(SWEEP_S)

    async def sweep(self, base: str, *, lock_ms: int = int(SWEEP_S * 800)) -> bool:
        """One look at one partition; False when another process has just looked."""
        found = await self._lifecycle.scripts.run("sweep", base, max(lock_ms, 1), MOST)
        if not found:
            return False
        overdue, check, unseen, orphans = found
        for member in overdue:
            await self._lifecycle.expire(member.decode())
        for member in unseen:
            await self._cancel_unseen(member.decode())
        if time.monotonic() >= self._judge_from:
            await self._take_orphans(orphans)
        for member in {*check, *(m.encode() for m in await self._lifecycle.queue.lapsed(base, MOST))}:
            await self._lifecycle.repair(member.decode())
        return True

    async def _take_orphans(self, orphans: list[bytes]) -> None:
        taken = 0
        for worker, member in zip(orphans[::2], orphans[1::2], strict=True):
            message = await self._lifecycle.take_from_dead(member.decode(), worker.decode())
            if message:
                taken += 1
                log.warning("message.reclaimed", message_id=message.id, worker=worker.decode(), status=message.status)
        if taken:
            self._on_reclaim(taken)

    async def _cancel_unseen(self, member: str) -> None:
        account, _, message_id = member.partition("/")
        with suppress(NotFound, Conflict):  # it ended in this very moment
            await self._lifecycle.cancel(account, message_id, "unobserved")


async def workers_alive(redis: Redis, keys: Keys) -> dict[str, int]:
    """How many workers of each kind have beaten within ``ALIVE_MS``."""
    since = time.time() * 1000 - ALIVE_MS
    with redis_door():
        names = cast(list[bytes], await redis.zrangebyscore(_register_key(keys), since, "+inf"))
    counts = {"generate": 0, "background": 0}
    for name in names:
        kind = name.decode().partition("-")[0]
        counts[kind] = counts.get(kind, 0) + 1
    return counts


def _new_name(kind: str) -> str:
    return f"{kind}-{ids.token(80)}"


def _register_key(keys: Keys) -> str:
    return f"{keys.bases[0]}workers"


async def _register(redis: Redis, keys: Keys, name: str) -> None:
    now = time.time() * 1000
    with redis_door():
        await redis.zadd(_register_key(keys), {name: now})
        await redis.zremrangebyscore(_register_key(keys), "-inf", now - 60_000)


async def drop_worker(redis: Redis, keys: Keys, worker: str) -> None:
    """A worker is gone, by its own word or by a supervisor's that saw it end: nobody waits for its key to run out."""
    with redis_door():
        for base in keys.bases:
            await redis.delete(f"{base}alive:{worker}")
        await redis.zrem(_register_key(keys), worker)
