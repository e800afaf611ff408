"""An integration that a worker has claimed: its steps, its progress as watchers are told of it, its end.

Choices:

1. A claim is a lease with a random name. Every transaction of the work ends with a look at it (`Claimed.transaction`):
   who lost it, or was cancelled, stores nothing more.
2. Watchers are told twice a second at most, and once a second for as long as work goes on.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Literal

import anyio
import asyncpg
import msgspec

from app.database import Database
from app.errors import ClaimLost, NotFound
from app.integrations.integration import STEPS, Integration, Pace, percentage
from app.integrations.store import COLUMNS, EventType, tell, to_integration
from app.iso import iso
from app.memory.records import clean
from app.memory.types import Owner

LEASE_S = 6.0
RENEW_S = 1.5
TICK_S = 0.5
TOLD_S = 0.95
PAUSE_S = 2.0
"""Before an integration is tried again; doubled with each try."""
LONGEST_REASON = 600


class Claimed:
    """A claimed integration. Its methods raise ClaimLost as soon as it is somebody else's, or nobody's."""

    def __init__(
        self, database: Database, integration: Integration, claim: str, secret: dict[str, Any], told: Callable[[], None]
    ) -> None:
        self.database = database
        self.owner = Owner(integration.owner, integration.account, integration.user)
        self.secret = secret
        self.place: str | None = None
        self._claim = claim
        self._row = integration
        self._told = told
        self._share = 0.0
        self._left: int | None = None
        self._pace = Pace()
        self._since = time.monotonic()

    @property
    def id(self) -> str:
        return self._row.id

    @property
    def type(self) -> str:
        return self._row.type

    @property
    def platform(self) -> str:
        return self._row.platform

    @property
    def request(self) -> dict[str, Any]:
        return self._row.request

    @property
    def step(self) -> int:
        return self._row.step

    @property
    def items_total(self) -> int:
        return self._row.items_total

    @asynccontextmanager
    async def transaction(self, *, came_on: bool = True) -> AsyncIterator[asyncpg.Connection]:
        """A transaction that counts only while the claim holds. ``came_on``: the work made progress by it."""
        async with self.database.transaction() as connection:
            yield connection
            held = await connection.execute(
                """UPDATE integrations SET tries = CASE WHEN $3 THEN 0 ELSE tries END
                WHERE id = $1 AND claim = $2 AND status = 'processing'""",
                self.id,
                self._claim,
                came_on,
            )
            _must_hold(held == "UPDATE 1")

    async def begin(self, step: int) -> None:
        """The work is in this step now."""
        async with self.transaction(came_on=False) as connection:
            self._left = await connection.fetchval(
                "SELECT count(*) FROM integration_items WHERE integration = $1 AND step = $2 AND state = 'waiting'",
                self.id,
                step,
            )
            self._share = 0.0
            await connection.execute(
                "UPDATE integrations SET step = $2, place = CASE WHEN step = $2 THEN place END WHERE id = $1",
                self.id,
                step,
            )
            self._row.step = step
            self._pace = Pace()
            await self._progress(connection)
        self._told()

    async def is_of(self, platform: str) -> None:
        """It turned out whose it is."""
        async with self.transaction(came_on=False) as connection:
            await connection.execute("UPDATE integrations SET platform = $2 WHERE id = $1", self.id, platform)
            await self._progress(connection)

    def came(self, share: float) -> None:
        """So much of a step that is taken as a whole is done, 0 to 1."""
        self._share, self._left = share, None

    async def log(self, message: str, level: Literal["info", "warning", "error"] = "info") -> None:
        """Writes a line of the log that watchers see."""
        async with self.transaction(came_on=False) as connection:
            await self.log_in(connection, message, level)
        self._told()

    async def log_in(
        self, connection: asyncpg.Connection, message: str, level: Literal["info", "warning", "error"] = "info"
    ) -> None:
        line = {
            "timestamp": iso(datetime.now(UTC)),
            "level": level,
            "message": clean(message)[:LONGEST_REASON],
            "step": STEPS[self.type][self.step],
        }
        await self._tell(connection, "log", {"log": line})

    async def keep_alive(self) -> None:
        """Renews the lease and tells watchers how far it is, until cancelled."""
        told_at, renewed_at = time.monotonic(), time.monotonic()
        before = self._seen()
        while True:
            await anyio.sleep(TICK_S)
            now = time.monotonic()
            row = await self.database.fetchrow(
                f"""SELECT {COLUMNS} FROM integrations i JOIN owners o ON o.id = i.owner
                WHERE i.id = $1 AND i.claim = $2 AND i.status = 'processing'""",  # noqa: S608 - constants
                self.id,
                self._claim,
            )
            _must_hold(row is not None)
            self._row = msgspec.structs.replace(to_integration(row), step=self._row.step)
            if now - renewed_at >= RENEW_S:
                await self.database.execute(
                    "UPDATE integrations SET claimed_until = now() + make_interval(secs => $3) "
                    "WHERE id = $1 AND claim = $2",
                    self.id,
                    self._claim,
                    LEASE_S,
                )
                renewed_at = now
            if self._seen() != before or now - told_at >= TOLD_S:
                async with self.transaction(came_on=False) as connection:
                    await self._progress(connection)
                self._told()
                before, told_at = self._seen(), now

    def _seen(self) -> tuple[int, ...]:
        row = self._row
        percent = percentage(row.type, row.step, self._done_share())
        return row.step, percent, row.items_total, row.items_processed, row.memories_created, row.errors_count

    def _done_share(self) -> float:
        """Of the step."""
        if self._left is None or not self._row.items_total:
            return self._share
        return 1 - self._left / max(self._left, self._row.items_total)

    async def _progress(self, connection: asyncpg.Connection) -> None:
        share = self._done_share()
        now = time.monotonic()
        worked, self._since = now - self._since, now
        percent = percentage(self.type, self.step, share)
        await connection.execute(
            """UPDATE integrations SET percentage = greatest(percentage, $2), worked_ms = worked_ms + $3,
            estimated_at = coalesce($4, estimated_at) WHERE id = $1""",
            self.id,
            percent,
            round(worked * 1000),
            self._pace.observe(datetime.now(UTC), percent),
        )
        await self._tell(connection, "progress")

    async def _tell(self, connection: asyncpg.Connection, kind: EventType, extra: dict[str, Any] | None = None) -> None:
        try:
            self._row = await tell(connection, self.id, kind, extra)
        except NotFound:
            raise ClaimLost("the integration was deleted") from None

    async def complete(self) -> None:
        """It is through: completed, or failed where not one of its items could be brought."""
        async with self.database.transaction() as connection:
            counts = await connection.fetchrow(
                """SELECT count(*) FILTER (WHERE state = 'done') AS done,
                count(*) FILTER (WHERE state = 'failed') AS bad,
                min(message) FILTER (WHERE state = 'failed') AS why FROM integration_items WHERE integration = $1""",
                self.id,
            )
            if counts["bad"] and not counts["done"]:
                several = f"None of the {counts['bad']:,} items could be: see the errors."
                why = counts["why"] if counts["bad"] == 1 and counts["why"] else several
                await self._end(connection, "failed", "NOTHING_BROUGHT", f"Nothing was brought. {why}")
            else:
                await self._end(connection, "completed")
        self._told()

    async def fail(self, code: str, message: str) -> None:
        """It cannot go on."""
        async with self.database.transaction() as connection:
            await self._end(connection, "failed", code, message)
        self._told()

    async def _end(
        self, connection: asyncpg.Connection, status: Literal["completed", "failed"], code: str = "", message: str = ""
    ) -> None:
        reason = {"code": code, "message": clean(message)[:LONGEST_REASON], "at": iso(datetime.now(UTC))}
        ended = await connection.execute(
            """UPDATE integrations SET status = $3, claim = NULL, claimed_until = NULL, secret = NULL,
            estimated_at = NULL, completed_at = clock_timestamp(), failure = $4, errors_count = errors_count + $5,
            worked_ms = worked_ms + $6, percentage = CASE WHEN $3 = 'completed' THEN 100 ELSE percentage END
            WHERE id = $1 AND claim = $2 AND status = 'processing'""",
            self.id,
            self._claim,
            status,
            msgspec.json.encode(reason).decode() if code else None,
            int(bool(code)),
            round((time.monotonic() - self._since) * 1000),
        )
        _must_hold(ended == "UPDATE 1")
        await self._tell(connection, status)

    async def let_go(self) -> None:
        """Lets another go on at once, where it has not ended. That we stop is no failed try of it."""
        await self.database.execute(
            """UPDATE integrations SET claim = NULL, claimed_until = NULL, tries = greatest(tries - 1, 0)
            WHERE id = $1 AND claim = $2""",
            self.id,
            self._claim,
        )

    async def give_back(self) -> None:
        """Something it needs does not answer: it is tried again later, or given up."""
        await self.database.execute(
            """UPDATE integrations SET claim = NULL, claimed_until = NULL,
            due_at = now() + make_interval(secs => $3 * 2 ^ least(tries, 6)) WHERE id = $1 AND claim = $2""",
            self.id,
            self._claim,
            PAUSE_S,
        )


def _must_hold(held: bool) -> None:
    if not held:
        raise ClaimLost("the integration was cancelled, or is another worker's")
