"""The work on an integration: what was sent is read, items are found, taken and brought.

Choices:

1. An item is brought and counted in one commit. So whoever dies at whatever moment, the next one goes on with the first
   item that is not done, and nothing is brought twice.
2. Items are taken in their order, one step of all of them before the next: what a watcher sees is the order of steps.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import asyncpg
import msgspec
import structlog

from app import ids
from app.database import Database
from app.errors import ClaimLost, RepriseError, Unavailable
from app.integrations.claimed import LEASE_S, LONGEST_REASON, Claimed
from app.integrations.store import COLUMNS, PART_BYTES, item_error, to_integration
from app.integrations.types import Problem
from app.memory.records import clean

TRIES = 5
"""Claims of one integration that came to nothing before it is given up."""
TAKEN = 200
"""Items looked up at once."""
MOST_TOLD = 1_000
"""Item errors that are events of their own; ``errors_count`` counts all."""
LONGEST_ID = 300

logger = structlog.get_logger(__name__)


class Item(msgspec.Struct, kw_only=True):
    """One thing to be brought. ``turns``: keys of what an earlier part of the work stored of it, None for nothing."""

    position: int
    item_id: str
    payload: bytes = b""
    conversation: str | None = None
    turns: list[str] | None = None
    through: bool = False
    """The step it was taken in is done with it."""


class New(msgspec.Struct, kw_only=True):
    """An item that was found."""

    item_id: str
    payload: bytes


class Job(Claimed):
    """A claimed integration's files and items. Its methods raise ClaimLost as soon as it is somebody else's."""

    async def files(self) -> list[str]:
        """The names of what was sent."""
        rows = await self.database.fetch(
            "SELECT name FROM integration_files WHERE integration = $1 ORDER BY file", self.id
        )
        return [row["name"] for row in rows]

    async def read(self, file: int) -> bytes:
        """What was sent as this file."""
        rows = await self.database.fetch(
            "SELECT data FROM integration_parts WHERE integration = $1 AND file = $2 ORDER BY part", self.id, file
        )
        return b"".join(row["data"] for row in rows)

    async def keep(self, name: str, chunks: AsyncIterator[bytes]) -> int:
        """Takes what a source sends as the one file of this integration; its size in bytes."""
        async with self.transaction() as connection:
            await connection.execute("DELETE FROM integration_files WHERE integration = $1", self.id)
            await connection.execute(
                "INSERT INTO integration_files (integration, file, name) VALUES ($1, 0, $2)", self.id, clean(name)
            )
        held, part, size = bytearray(), 0, 0
        async for chunk in chunks:
            held += chunk
            size += len(chunk)
            if len(held) >= PART_BYTES:
                await self._part(part, bytes(held))
                held, part = bytearray(), part + 1
        await self._part(part, bytes(held))
        return size

    async def _part(self, part: int, data: bytes) -> None:
        async with self.transaction() as connection:
            await connection.execute(
                "INSERT INTO integration_parts (integration, file, part, data) VALUES ($1, 0, $2, $3)",
                self.id,
                part,
                data,
            )

    async def forget_files(self) -> None:
        """What was sent is read."""
        async with self.transaction() as connection:
            await connection.execute("DELETE FROM integration_files WHERE integration = $1", self.id)

    async def forget_items(self) -> None:
        """Finding begins anew: whoever found these died before the step was over."""
        async with self.transaction() as connection:
            await connection.execute("DELETE FROM integration_items WHERE integration = $1", self.id)
            await connection.execute(
                "UPDATE integrations SET items_total = 0, items_processed = 0, errors_count = 0 WHERE id = $1", self.id
            )

    async def found(
        self, items: list[New | Problem], *, step: int, place: str | None = None, instead_of: Item | None = None
    ) -> None:
        """Adds items for ``step`` to take, and those that cannot be read as failed.

        ``place``: where finding goes on after them. ``instead_of``: the item they were made of, which is none any more.
        """
        async with self.transaction() as connection:
            if instead_of is not None:
                await self._drop(connection, instead_of)
            new = [one for one in items if isinstance(one, New)]
            await connection.execute(
                """INSERT INTO integration_items (integration, position, item_id, step, payload)
                SELECT $1, g.n + (SELECT coalesce(max(position), -1) FROM integration_items WHERE integration = $1),
                    g.item_id, $2, g.payload
                FROM unnest($3::text[], $4::bytea[]) WITH ORDINALITY AS g (item_id, payload, n)""",
                self.id,
                step,
                [_id(one.item_id) for one in new],
                [one.payload for one in new],
            )
            await self._count(connection, total=len(new))
            if place is not None:
                await connection.execute("UPDATE integrations SET place = $2 WHERE id = $1", self.id, place)
            for problem in [one for one in items if isinstance(one, Problem)]:
                await self.unreadable(connection, problem)

    async def unreadable(self, connection: asyncpg.Connection, problem: Problem) -> None:
        """Adds an item that there is nothing to be done with."""
        row = await connection.fetchrow(
            """INSERT INTO integration_items
                (integration, position, item_id, step, state, counted, code, message, failed_at)
            SELECT $1, 1 + (SELECT coalesce(max(position), -1) FROM integration_items WHERE integration = $1),
                $2, $3, 'failed', true, $4, $5, clock_timestamp()
            RETURNING position, item_id, code, message, failed_at""",
            self.id,
            _id(problem.item_id),
            self.step,
            problem.code,
            clean(problem.message)[:LONGEST_REASON],
        )
        await self._count(connection, total=1, processed=1, errors=1)
        await self._error(connection, row)

    async def each(self, work: Callable[[Job, Item], Awaitable[None]]) -> None:
        """Has ``work`` take every item that waits for this step. What it raises becomes the item's error."""
        while True:
            rows = await self.database.fetch(
                """SELECT position, item_id, conversation, turns FROM integration_items
                WHERE integration = $1 AND step = $2 AND state = 'waiting' ORDER BY position LIMIT $3""",
                self.id,
                self.step,
                TAKEN,
            )
            if not rows:
                return
            for row in rows:
                item = Item(**dict(row))
                item.payload = await self.database.fetchval(
                    "SELECT payload FROM integration_items WHERE integration = $1 AND position = $2",
                    self.id,
                    item.position,
                )
                if item.payload is None:
                    raise ClaimLost("somebody else took the item")
                await self._one(work, item)

    async def _one(self, work: Callable[[Job, Item], Awaitable[None]], item: Item) -> None:
        try:
            await work(self, item)
        except (Unavailable, ClaimLost):
            raise
        except RepriseError as error:
            await self.fail_item(item, error.code, error.message)
        except Exception:  # one item must not stop the others
            logger.exception("integration.item_broken", integration=self.id, position=item.position)
            await self.fail_item(item, "INTERNAL_ERROR", "It could not be brought: an error of ours, see the log.")
        if self._left and item.through:
            self._left -= 1

    async def stored(
        self,
        connection: asyncpg.Connection,
        item: Item,
        turns: list[str],
        conversation: str | None,
        *,
        made: bool,
        payload: bytes | None = None,
        step: int | None = None,
    ) -> None:
        """Notes, in the transaction that stored it, what became of an item; ``step`` takes it next."""
        await connection.execute(
            """UPDATE integration_items SET turns = $3, conversation = $4, made = made OR $5, step = coalesce($6, step),
            payload = coalesce($7, payload) WHERE integration = $1 AND position = $2""",
            self.id,
            item.position,
            turns,
            conversation,
            made,
            step,
            payload,
        )
        item.through = step not in (None, self.step)
        await self._processed(connection, item)

    async def moved(self, item: Item, payload: bytes, step: int) -> None:
        """The item is something else now, for ``step`` to take."""
        async with self.transaction() as connection:
            await connection.execute(
                "UPDATE integration_items SET payload = $3, step = $4 WHERE integration = $1 AND position = $2",
                self.id,
                item.position,
                payload,
                step,
            )
        item.through = True

    async def done(self, connection: asyncpg.Connection, item: Item, memory_ids: list[str] | None = None) -> None:
        """Notes, in the transaction that brought it, that an item is brought, and what was learned from it."""
        await connection.execute(
            """UPDATE integration_items SET state = 'done', payload = NULL, turns = NULL, memory_ids = $3
            WHERE integration = $1 AND position = $2""",
            self.id,
            item.position,
            memory_ids or [],
        )
        item.through = True
        await self._processed(connection, item)
        await self._count(connection, memories=len(memory_ids or []))

    async def fail_item(self, item: Item, code: str, message: str) -> None:
        """Notes that an item could not be brought; the others go on."""
        async with self.transaction() as connection:
            row = await connection.fetchrow(
                """UPDATE integration_items SET state = 'failed', code = $3, message = $4, failed_at = clock_timestamp()
                WHERE integration = $1 AND position = $2 RETURNING position, item_id, code, message, failed_at""",
                self.id,
                item.position,
                code,
                clean(message)[:LONGEST_REASON],
            )
            if row is None:
                raise ClaimLost("the integration was deleted")
            await self._processed(connection, item)
            await self._count(connection, errors=1)
            await self._error(connection, row)
        item.through = True
        self._told()

    async def _drop(self, connection: asyncpg.Connection, item: Item) -> None:
        item.through = True
        await connection.execute(
            "DELETE FROM integration_items WHERE integration = $1 AND position = $2", self.id, item.position
        )
        await self._count(connection, total=-1)

    async def _processed(self, connection: asyncpg.Connection, item: Item) -> None:
        """Counts an item, once."""
        counted = await connection.execute(
            "UPDATE integration_items SET counted = true WHERE integration = $1 AND position = $2 AND NOT counted",
            self.id,
            item.position,
        )
        await self._count(connection, processed=int(counted == "UPDATE 1"))

    async def _count(
        self, connection: asyncpg.Connection, *, total: int = 0, processed: int = 0, memories: int = 0, errors: int = 0
    ) -> None:
        if total or processed or memories or errors:
            row = await connection.fetchrow(
                """UPDATE integrations SET items_total = items_total + $2, items_processed = items_processed + $3,
                memories_created = memories_created + $4, errors_count = errors_count + $5 WHERE id = $1
                RETURNING items_total, items_processed, memories_created, errors_count""",
                self.id,
                total,
                processed,
                memories,
                errors,
            )
            if row is not None:
                self._row = msgspec.structs.replace(self._row, **dict(row))

    async def _error(self, connection: asyncpg.Connection, row: Any) -> None:
        told = self._row.errors_count
        if told <= MOST_TOLD:
            await self._tell(connection, "item_error", {"error": item_error(self.id, row)})
        if told == MOST_TOLD:
            await self.log_in(connection, f"{MOST_TOLD:,} items failed: further ones are only counted", "warning")


async def claim(database: Database, told: Callable[[str], None]) -> Job | None:
    """The next integration to be worked on, for ``LEASE_S``; None when nothing waits. ``told``: that it has news."""
    name = ids.token()
    row = await database.fetchrow(
        f"""UPDATE integrations i SET claim = $1, claimed_until = now() + make_interval(secs => $2), tries = tries + 1,
            status = 'processing'
        FROM owners o WHERE o.id = i.owner AND i.id = (
            SELECT id FROM integrations WHERE status IN ('pending', 'processing') AND due_at <= now()
            AND (claimed_until IS NULL OR claimed_until < now()) ORDER BY due_at, id LIMIT 1 FOR UPDATE SKIP LOCKED)
        RETURNING {COLUMNS}, i.tries, i.secret, i.place""",  # noqa: S608 - constants
        name,
        LEASE_S,
    )
    if row is None:
        return None
    integration = to_integration(row)
    secret = msgspec.json.decode(row["secret"]) if row["secret"] else {}
    job = Job(database, integration, name, secret, lambda: told(integration.id))
    job.place = row["place"]
    if row["tries"] > TRIES:
        await job.fail("GIVEN_UP", f"Working on it came to nothing {TRIES} times.")
        return await claim(database, told)
    return job


def _id(name: str) -> str:
    return clean(name)[:LONGEST_ID] or "-"
