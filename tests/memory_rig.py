"""Memory without HTTP: a migrated database with accounts and owners, and an embedder whose vectors the test writes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import numpy as np
from numpy.typing import NDArray

from app import ids
from app.database import Database
from app.errors import Unavailable
from app.memory.conversations import NewTurns, conversation_id, ensure_owner, keyed, store_turns
from app.memory.memories import Memories
from app.memory.types import Draft, Memory, Origin, Owner, StoredTurn, Turn

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def at(minutes: float) -> datetime:
    """So many minutes after noon of a day."""
    return NOON + timedelta(minutes=minutes)


class Directions:
    """An embedder: a vector of its own for each text, near the one of another text where the test says so."""

    name = "directions"
    dimension = 8

    def __init__(self) -> None:
        self.down = False
        self._near: dict[str, tuple[str, float]] = {}

    def put(self, text: str, near: str, cosine: float) -> None:
        """Gives ``text`` a vector at this cosine from the one of ``near``."""
        self._near[text] = (near, cosine)

    async def embed(self, texts: list[str]) -> list[NDArray[np.float32]]:
        if self.down:
            raise Unavailable("the embedding model does not answer")
        return [self._vector(text) for text in texts]

    def _vector(self, text: str) -> NDArray[np.float32]:
        own = np.random.default_rng(abs(hash(text))).normal(size=self.dimension)
        if text in self._near:
            near, cosine = self._near[text]
            base = self._vector(near).astype(float)
            aside = own - base * (own @ base)
            own = cosine * base + (1 - cosine**2) ** 0.5 * aside / np.linalg.norm(aside)
        return (own / np.linalg.norm(own)).astype(np.float32)


async def new_owner(database: Database, user: str = "ada", account: str = "") -> Owner:
    """An owner of a new account, or of the one given."""
    account = account or ids.new_id("acc")
    await database.execute(
        "INSERT INTO accounts (id, name) VALUES ($1, $1) ON CONFLICT DO NOTHING",
        account,
    )
    async with database.transaction() as connection:
        return await ensure_owner(connection, account, user)


async def say(
    database: Database, owner: Owner, *texts: str, thread: str = "t", message: str | None = "msg_1", **more: Any
) -> list[StoredTurn]:
    """Stores turns, user's and assistant's by turns, a minute apart."""
    conversation = conversation_id(owner, "reprise", thread)
    pairs = [("user" if n % 2 == 0 else "assistant", text) for n, text in enumerate(texts)]
    turns = [
        Turn(key=key, role=role, text=text, said_at=at(n), message_id=message)  # type: ignore[arg-type]
        for n, (key, (role, text)) in enumerate(zip(keyed(pairs, conversation), pairs, strict=True))
    ]
    async with database.transaction() as connection:
        said = NewTurns(owner=owner, platform="reprise", external_id=thread, turns=turns, origin=Origin(**more))
        assert said.conversation == conversation
        [stored] = await store_turns(connection, [said])
    return stored


async def keep(
    memories: Memories, database: Database, owner: Owner, *drafts: Draft | str, key: str = "", **origin: Any
) -> list[Memory]:
    """Adds drafts in a transaction of their own."""
    async with database.transaction() as connection:
        return await memories.add(
            connection,
            owner,
            [Draft(text=draft) if isinstance(draft, str) else draft for draft in drafts],
            origin=Origin(**origin),
            extractor="verbatim",
            source_key=key or ids.new_id("req"),
        )


async def dump(database: Database, owner: Owner) -> dict[str, list[dict[str, Any]]]:
    """Every row that belongs to the owner, by table: what two runs are compared by."""
    found = {}
    for table in ("owners", "conversations", "turns", "memories", "memory_backups", "units", "postings"):
        column = "id" if table == "owners" else "owner"
        rows = await database.fetch(f"SELECT t::text AS row FROM {table} t WHERE {column} = $1 ORDER BY 1", owner.id)
        found[table] = [row["row"] for row in rows]
    events = await database.fetch(
        "SELECT h::text AS row FROM memory_history h JOIN memories m ON m.id = h.memory WHERE m.owner = $1 ORDER BY 1",
        owner.id,
    )
    found["history"] = [row["row"] for row in events]
    return found


async def until_one_waits(database: Database) -> None:
    """Until another transaction of this pool waits for a lock."""
    with anyio.fail_after(5):
        while not await database.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND application_name = 'reprise'"
        ):
            await anyio.sleep(0.01)
