"""What is sent as an integration, on its way in: a row that is ``receiving``, its files in parts of a megabyte.

No worker takes it and nobody sees it until all is there; one whose sender went away is removed (`store.purge`).
"""

from __future__ import annotations

from typing import Any

import asyncpg

from app import ids
from app.database import Database
from app.errors import Conflict
from app.integrations.integration import Integration, Type
from app.integrations.store import COLUMNS, PART_BYTES, tell, to_integration
from app.memory.conversations import ensure_owner
from app.memory.records import clean, to_json

KEYS_KEPT = "24 hours"
"""How long an Idempotency-Key counts."""


class Receiving:
    """An integration whose files are on their way. Call `ready` at the end, `drop` when that does not come."""

    def __init__(self, database: Database, integration_id: str) -> None:
        self.id = integration_id
        self.names: list[str] = []
        """Of the files that were begun."""
        self._database = database
        self._parts = 0
        self._held = bytearray()

    async def belongs_to(self, account: str, user: str) -> None:
        """It is this user's: who sends a form may say whose it is after its files."""
        async with self._database.transaction() as connection:
            owner = await ensure_owner(connection, account, user)
            await connection.execute("UPDATE integrations SET owner = $2 WHERE id = $1", self.id, owner.id)

    async def file(self, name: str) -> None:
        """Begins the next file."""
        await self._flush()
        await self._database.execute(
            "INSERT INTO integration_files (integration, file, name) VALUES ($1, $2, $3)",
            self.id,
            len(self.names),
            clean(name),
        )
        self.names.append(name)
        self._parts = 0

    async def write(self, data: bytes | memoryview) -> None:
        """Adds to the file that was begun last. Written in parts: a large file is never held whole."""
        self._held += data
        if len(self._held) >= PART_BYTES:
            await self._flush()

    async def ready(
        self,
        kind: Type,
        platform: str,
        request: dict[str, Any],
        *,
        name: str | None = None,
        secret: dict[str, Any] | None = None,
        once: tuple[bytes, bytes] | None = None,
    ) -> Integration:
        """Hands it over to the workers. ``once``: the hashes of an Idempotency-Key and of what came with it.

        The same key again answers what the first one made. Raises Conflict for one that came with something else.
        """
        await self._flush()
        async with self._database.transaction() as connection:
            if once is not None:
                await connection.execute(
                    f"""UPDATE integrations SET key_hash = NULL, body_hash = NULL
                    WHERE owner = (SELECT owner FROM integrations WHERE id = $1) AND key_hash = $2
                    AND created_at < now() - interval '{KEYS_KEPT}'""",  # noqa: S608 - constants
                    self.id,
                    once[0],
                )
            try:
                async with connection.transaction():
                    await connection.execute(
                        """UPDATE integrations SET status = 'pending', type = $2, platform = $3, request = $4,
                        name = $5, secret = $6, key_hash = $7, body_hash = $8, created_at = now() WHERE id = $1""",
                        self.id,
                        kind,
                        platform,
                        to_json(request),
                        name and clean(name),
                        to_json(secret) if secret else None,
                        *(once or (None, None)),
                    )
            except asyncpg.UniqueViolationError:
                assert once is not None
                return await self._first(connection, *once)
            return await tell(connection, self.id, "progress")

    async def drop(self) -> None:
        """Forgets it."""
        await self._database.execute("DELETE FROM integrations WHERE id = $1 AND status = 'receiving'", self.id)

    async def _first(self, connection: asyncpg.Connection, key: bytes, body: bytes) -> Integration:
        first = await connection.fetchrow(
            f"""SELECT {COLUMNS}, i.body_hash FROM integrations i JOIN owners o ON o.id = i.owner
            WHERE i.key_hash = $2 AND i.owner = (SELECT owner FROM integrations WHERE id = $1)""",  # noqa: S608
            self.id,
            key,
        )
        await connection.execute("DELETE FROM integrations WHERE id = $1", self.id)
        if first is None or first["body_hash"] != body:
            raise Conflict("this Idempotency-Key was used with another body")
        return to_integration(first)

    async def _flush(self) -> None:
        if self._held:
            held, self._held = bytes(self._held), bytearray()
            await self._database.execute(
                "INSERT INTO integration_parts (integration, file, part, data) VALUES ($1, $2, $3, $4)",
                self.id,
                len(self.names) - 1,
                self._parts,
                held,
            )
            self._parts += 1


async def receive(database: Database, account: str, user: str) -> Receiving:
    """Begins an integration of this user's. Raises Unavailable."""
    async with database.transaction() as connection:
        owner = await ensure_owner(connection, account, user)
        integration_id = ids.new_id("int")
        await connection.execute(
            "INSERT INTO integrations (id, owner, type, platform, request) VALUES ($1, $2, 'file', '', '{}')",
            integration_id,
            owner.id,
        )
    return Receiving(database, integration_id)
