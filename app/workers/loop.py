"""The loop every consumer group shares: take, keep alive, hand to the handler, acknowledge or fail, drain.

A worker module (`remember`, `notify`, …) is one consumer group and one handler of batches. The handler must be
idempotent: an entry is delivered at least once. What it raises counts as a failed delivery with that reason.

Choices:

1. Entries are taken in batches: one that comes alone at once, those that follow it every `GATHER_S` together, and what
   is left of more than a batch at once again. Beside the streams that the same cores carry, one wake-up for several
   messages costs a fraction of one for each.
2. When a batch fails, each of its entries is handed over again alone: one that always fails holds up no other.
3. An engine that is away is nobody's fault: it does not count as a failed delivery, and the loop rests before it takes
   more.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import anyio
import structlog
from anyio.abc import TaskGroup

from app import ids
from app.chat.groups import LEASE_MS, Delivery, Groups
from app.errors import RepriseError, Unavailable
from app.redis_keys import Keys
from app.telemetry import Metrics

POLL_S = 1.0
AWAY_S = 1.0
GATHER_S = 0.2
BATCH = 16
"""Entries handed over together."""
AT_ONCE = 48
"""Entries one process handles at a time for one group."""

Handler = Callable[[Sequence[Delivery]], Awaitable[None]]

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
        self._away = False

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
            if self._away:
                self._away = False
                await anyio.sleep(AWAY_S)
            wake = self._wake = anyio.Event()
            try:
                if not known:
                    await self._groups.add(self._group)
                    known = True
                taken, more = await self._take(handlers)
            except Unavailable as error:
                self._metrics.unavailable(error)
                await anyio.sleep(0.3)
                continue
            if until_idle and not taken and not self._busy:
                return
            if not taken:
                with anyio.move_on_after(POLL_S):
                    await wake.wait()
            elif not more and not until_idle:
                await anyio.sleep(GATHER_S)

    async def _take(self, handlers: TaskGroup) -> tuple[int, bool]:
        """Starts handling what each partition has, up to a batch of each; how many entries, and whether more wait."""
        taken, more = 0, False
        for base in self._keys.bases:
            free = min(BATCH, AT_ONCE - len(self._busy))
            if free <= 0:
                break
            batch = await self._groups.take(self._group, ids.token(), base, free)
            more |= len(batch) == free
            if batch:
                scope = anyio.CancelScope()
                self._busy |= dict.fromkeys(batch, scope)
                handlers.start_soon(self._many, batch, scope)
                taken += len(batch)
        return taken, more

    async def _many(self, batch: list[Delivery], scope: anyio.CancelScope) -> None:
        try:
            with scope:
                reasons = await self._reasons(batch)
            if not scope.cancelled_caught:
                with anyio.CancelScope(shield=True), anyio.move_on_after(5):
                    await self._settle(batch, reasons)
        except Unavailable:
            self._away = True  # not acknowledged: delivered again when its lease runs out
        finally:
            for delivery in batch:
                self._busy.pop(delivery, None)
            self._wake.set()

    async def _reasons(self, batch: list[Delivery]) -> dict[Delivery, str]:
        """Handles a batch; why it failed for those entries for which it did, empty when an engine was away."""
        try:
            await self._handle(batch)
        except Unavailable as error:
            self._metrics.unavailable(error)
            log.warning("delivery.away", group=self._group, deliveries=len(batch), reason=error.message)
            return dict.fromkeys(batch, "")
        except Exception as error:
            if len(batch) > 1:
                reasons: dict[Delivery, str] = {}
                for delivery in batch:
                    reasons |= await self._reasons([delivery])
                return reasons
            if isinstance(error, RepriseError):
                return {batch[0]: error.message or error.code}
            log.exception("delivery.crashed", group=self._group, message=batch[0].member)
            return {batch[0]: type(error).__name__}
        return {}

    async def _settle(self, batch: list[Delivery], reasons: dict[Delivery, str]) -> None:
        await self._groups.done(self._group, [delivery for delivery in batch if delivery not in reasons])
        for delivery, reason in reasons.items():
            if not reason:
                self._away = True
                await self._groups.hand_back(self._group, delivery)
                continue
            outcome = await self._groups.fail(self._group, delivery, reason)
            if outcome == "dead":
                self._metrics.dead_lettered.labels(self._group).inc()
            level = log.error if outcome == "dead" else log.warning
            level(f"delivery.{outcome}", group=self._group, message=delivery.member, reason=reason)

    async def _renew(self) -> None:
        """Keeps the leases of what is under way; stops handling a batch that was taken away.

        What was taken away of a batch that is ours for the rest changes nothing there: see the handler.
        """
        while True:
            await anyio.sleep(LEASE_MS / 4000)
            if not self._busy:
                continue
            try:
                lost = await self._groups.renew(self._group, list(self._busy))
            except Unavailable:
                continue
            for delivery in lost:
                scope = self._busy.pop(delivery, None)
                if scope is not None:
                    log.warning("delivery.lost", group=self._group, message=delivery.member)
                    if scope not in self._busy.values():
                        scope.cancel()
