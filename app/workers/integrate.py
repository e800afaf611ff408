"""Integrations are worked on: each is claimed, taken through its steps and ended, a few at a time.

Who wins what:

- cancel against an item that is being brought: whoever commits first (`integrations.job`). The worker hears of it and
  stops what it was doing; without the hint it learns of it within a second.
- a worker that was paused against the one that took over: the claim's name tells; the first stores nothing more.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Protocol

import anyio
import structlog

from app.database import Database
from app.errors import ClaimLost, RepriseError, Unavailable
from app.integrations.job import Job, claim
from app.workers.upkeep import Signal

POLL_S = 1.0
RETRY_S = 1.0
GIVE_BACK_S = 1.0
AT_ONCE = 3
"""Integrations worked on side by side: a long one must not hold up the next."""

logger = structlog.get_logger(__name__)


class Kind(Protocol):
    """What a type does: a function for each of its steps."""

    @property
    def steps(self) -> Sequence[Callable[[Job], Awaitable[None]]]: ...


class Integrate:
    """Works on what waits. ``arrived`` is set when something may; ``told``: an integration has news."""

    def __init__(self, database: Database, kinds: dict[str, Kind], told: Callable[[str], Awaitable[None]]) -> None:
        self.arrived = Signal()
        self._database = database
        self._kinds = kinds
        self._told = told
        self._news: set[str] = set()
        self._newsflash = anyio.Event()
        self._running: dict[str, anyio.CancelScope] = {}

    async def run(self) -> None:
        """For ever."""
        free = anyio.Semaphore(AT_ONCE)
        async with anyio.create_task_group() as group:
            group.start_soon(self._pass_on)
            while True:
                await free.acquire()
                try:
                    job = await claim(self._database, self._has_news)
                except (Unavailable, ClaimLost):  # the latter: cancelled just when it was to be given up
                    job = None
                if job is not None:
                    group.start_soon(self._take, job, free)
                    continue
                free.release()
                await self.arrived.wait(POLL_S)

    def hinted(self, payload: bytes) -> None:
        """One waits, or was cancelled."""
        if scope := self._running.get(payload.decode(errors="replace")):
            scope.cancel()
        self.arrived.set()

    async def until_idle(self) -> None:
        """Works until nothing waits any more."""
        async with anyio.create_task_group() as group:
            group.start_soon(self._pass_on)
            while (job := await claim(self._database, self._has_news)) is not None:
                await self.work(job)
            group.cancel_scope.cancel()

    async def _take(self, job: Job, free: anyio.Semaphore) -> None:
        try:
            await self.work(job)
        except Unavailable:
            await anyio.sleep(RETRY_S)  # the lease lapses, and whoever is there goes on
        except Exception:
            logger.exception("integration.failed", integration=job.id)  # the outer edge: others go on
        finally:
            free.release()

    async def work(self, job: Job) -> None:
        """Takes a claimed integration through its steps. Raises Unavailable."""
        try:
            async with anyio.create_task_group() as group:
                self._running[job.id] = group.cancel_scope
                group.start_soon(job.keep_alive)
                await self._steps(job)
                group.cancel_scope.cancel()
        except* ClaimLost:
            logger.info("integration.left", integration=job.id)  # cancelled, or another goes on with it
        except* Unavailable:
            await job.give_back()
        except* RepriseError as failed:
            await self._fail(job, failed.exceptions[0])
        except* Exception as failed:  # one integration must not stop the others
            logger.exception("integration.broken", integration=job.id)
            await self._fail(job, failed.exceptions[0])
        finally:
            self._running.pop(job.id, None)
            with anyio.move_on_after(GIVE_BACK_S, shield=True), suppress(Unavailable):
                await job.let_go()

    async def _steps(self, job: Job) -> None:
        steps = self._kinds[job.type].steps
        for number in range(job.step, len(steps)):
            await job.begin(number)
            await steps[number](job)
        await job.complete()
        logger.info("integration.completed", integration=job.id, items=job.items_total)

    async def _fail(self, job: Job, error: BaseException) -> None:
        code, message = "INTERNAL_ERROR", "It could not be gone on with: an error of ours, see the log."
        if isinstance(error, RepriseError):
            code, message = error.code, error.message
        try:
            await job.fail(code, message)
        except ClaimLost:
            return
        logger.info("integration.failed", integration=job.id, code=code)

    def _has_news(self, integration_id: str) -> None:
        self._news.add(integration_id)
        self._newsflash.set()

    async def _pass_on(self) -> None:
        """Tells watchers' processes, each integration once however much there is."""
        while True:
            await self._newsflash.wait()
            self._newsflash = anyio.Event()
            while self._news:
                await self._told(self._news.pop())
