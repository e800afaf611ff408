"""The loop every consumer group shares: take, keep alive, hand to the handler, acknowledge or fail, drain.

A worker module (`remember`, `notify`, …) is one consumer group and one handler. The handler must be idempotent: an
entry is delivered at least once. What it raises counts as a failed delivery with that reason.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
import structlog
from anyio.abc import TaskGroup

from app import ids
from app.chat.groups import LEASE_MS, Delivery, Groups
from app.errors import RepriseError, Unavailable
from app.redis_keys import Keys
from app.telemetry import Metrics

POLL_S = 1.0
AT_ONCE = 16
"""Entries one process handles at a time for one group."""

Handler = Callable[[Delivery], Awaitable[None]]

log = structlog.get_logger(__name__)


class GroupConsumer:
    """One process's share of one consumer group. Run `run`; `wake` is called when a message has finished."""

    def __init__(self, groups: Groups, keys: Keys, group: str, handle: Handler, metrics: Metrics) -> None:
        self._metrics = metrics
        self._groups = groups
        self._keys = keys
        self._group = group
        self._handle = handle
        self._busy: dict[Delivery, anyio.CancelScope] = {}
        self._wake = anyio.Event()
        self._stopping = False

    def wake(self) -> None:
        """There may be something to take."""
        self._wake.set()

    def stop(self) -> None:
        """Takes nothing more; `run` returns when what is under way has ended."""
        self._stopping = True
        self._wake.set()

    async def run(self, *, until_idle: bool = False) -> None:
        """Takes and handles deliveries until `stop`, or until there is nothing left to take."""
        async with anyio.create_task_group() as renewal:
            renewal.start_soon(self._renew)
            async with anyio.create_task_group() as handlers:
                await self._take_loop(handlers, until_idle)
            renewal.cancel_scope.cancel()

    async def _take_loop(self, handlers: TaskGroup, until_idle: bool) -> None:
        known = False
        while not self._stopping:
            wake = self._wake = anyio.Event()
            try:
                if not known:
                    await self._groups.add(self._group)
                    known = True
                taken = await self._take(handlers)
            except Unavailable as error:
                self._metrics.unavailable(error)
                await anyio.sleep(0.3)
                continue
            if taken:
                continue
            if until_idle and not self._busy:
                return
            with anyio.move_on_after(POLL_S):
                await wake.wait()

    async def _take(self, handlers: TaskGroup) -> int:
        taken = 0
        for base in self._keys.bases:
            free = AT_ONCE - len(self._busy)
            if free <= 0:
                break
            for delivery in await self._groups.take(self._group, ids.token(), base, free):
                scope = anyio.CancelScope()
                self._busy[delivery] = scope
                handlers.start_soon(self._one, delivery, scope)
                taken += 1
        return taken

    async def _one(self, delivery: Delivery, scope: anyio.CancelScope) -> None:
        reason = ""
        try:
            with scope:
                try:
                    await self._handle(delivery)
                except RepriseError as error:
                    reason = error.message
                except Exception as error:
                    log.exception("delivery.crashed", group=self._group, message=delivery.member)
                    reason = f"{type(error).__name__}"
            if not scope.cancelled_caught:
                with anyio.CancelScope(shield=True), anyio.move_on_after(5):
                    await self._settle(delivery, reason)
        except Unavailable:
            pass  # not acknowledged: delivered again when its lease runs out
        finally:
            del self._busy[delivery]
            self._wake.set()

    async def _settle(self, delivery: Delivery, reason: str) -> None:
        if not reason:
            await self._groups.done(self._group, delivery)
            return
        outcome = await self._groups.fail(self._group, delivery, reason)
        if outcome == "dead":
            self._metrics.dead_lettered.labels(self._group).inc()
        level = log.error if outcome == "dead" else log.warning
        level(f"delivery.{outcome}", group=self._group, message=delivery.member, reason=reason)

    async def _renew(self) -> None:
        """Keeps the leases of what is under way; stops handling what was taken away."""
        while True:
            await anyio.sleep(LEASE_MS / 4000)
            if not self._busy:
                continue
            try:
                lost = await self._groups.renew(self._group, list(self._busy))
            except Unavailable:
                continue
            for delivery in lost:
                if delivery in self._busy:
                    log.warning("delivery.lost", group=self._group, message=delivery.member)
                    self._busy[delivery].cancel()
