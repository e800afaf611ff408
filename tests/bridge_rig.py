"""The bridge without processes: a lifecycle on the session's Redis, a database, and what remembers between them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import msgspec
import pytest
from asyncpg.connection import Connection
from redis.asyncio.client import Pipeline

from app.chat.events import Assembler
from app.chat.groups import Delivery, Groups
from app.chat.lifecycle import Lifecycle
from app.chat.message import Message
from app.database import Database, migrate, open_pool
from app.llm.types import Request, Text, Thinking, Turn
from app.memory.memories import Memories
from app.memory.remembered import Remembered
from app.settings import Settings
from app.workers.remember import GROUP, Bridge
from tests.rig import claim, lifecycle_on, new_message

SAID = "I live in Lyon with my two cats."


class Killed(BaseException):
    """The process ends here."""


class Points:
    """Counts every command that a process sends to PostgreSQL and Redis; kills it after the one whose turn it is."""

    def __init__(self) -> None:
        self.count = 0
        self.kill_after = 0

    def passed(self) -> None:
        self.count += 1
        if self.count == self.kill_after:
            raise Killed

    def wrap(self, call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def counted(*args: Any, **named: Any) -> Any:
            result = await call(*args, **named)
            self.passed()
            return result

        return counted

    @contextmanager
    def armed(self, monkeypatch: pytest.MonkeyPatch, redis: Any, kill_after: int):
        self.count, self.kill_after = 0, kill_after
        with monkeypatch.context() as patch:
            for name in ("execute", "executemany", "fetch", "fetchrow", "fetchval", "copy_records_to_table"):
                patch.setattr(Connection, name, self.wrap(getattr(Connection, name)))
            patch.setattr(redis, "execute_command", self.wrap(redis.execute_command))
            patch.setattr(Pipeline, "execute", self.wrap(Pipeline.execute))
            yield


class Rig:
    """A lifecycle, a database with the account ``acc``, and the bridge between them."""

    def __init__(self, lifecycle: Lifecycle, database: Database) -> None:
        self.lifecycle = lifecycle
        self.database = database
        self.groups = Groups(lifecycle.scripts, lifecycle.keys)
        self.memories = Memories(database, None)
        self.kept = Remembered(database, self.memories)
        self.bridge = Bridge(lifecycle, database, self.memories, None)

    async def finish(
        self, message_id: str, said: str = SAID, answer: str = "Noted.", *, status: Any = "completed", **changes: Any
    ) -> Message:
        """A message that has ended, with one user turn (or the ``turns`` given) and an answer."""
        turns = changes.pop("turns", [Turn("user", said)])
        request = msgspec.json.encode(Request(messages=turns))
        await self.lifecycle.create(new_message(message_id, request=request, **changes))
        claimed = await claim(self.lifecycle, message_id)
        assembler = Assembler(message_id, "default")
        drafts = [*assembler.start(), *assembler.feed([Thinking("hm"), Text(answer)] if answer else [])]
        end = assembler.end() if status == "completed" else [(b"x", b'{"error":{"type":"api_error"}}')]
        flat = [part for one in [*drafts, *end] for part in one]
        values = ["ot", 5, "it", 3] if status == "completed" else ["er", _ERROR]
        final = await self.lifecycle.finish(claimed, claimed.token, status, values, 1, flat)
        assert isinstance(final, Message)
        return final

    async def take(self) -> list[Delivery]:
        return await self.groups.take(GROUP, "t", self.lifecycle.keys.bases[0], 10)

    async def deliver(self) -> None:
        """What a worker does: takes, handles, acknowledges."""
        if batch := await self.take():
            await self.bridge(batch)
            assert await self.groups.done(GROUP, batch) == len(batch)

    async def lapse(self) -> None:
        """Every lease and pause ends now."""
        base = self.lifecycle.keys.bases[0]
        for entry in await self.lifecycle.redis.zrange(f"{base}due:{GROUP}", 0, -1):
            await self.lifecycle.redis.zadd(f"{base}due:{GROUP}", {entry: 1})

    async def memory(self, message_id: str) -> dict[str, Any]:
        """``metadata.memory`` of the status."""
        message = await self.lifecycle.read("acc", message_id)
        assert message is not None
        return dict(message.status_object()["metadata"]["memory"])

    async def rows(self, user: str = "ada") -> dict[str, list[tuple[Any, ...]]]:
        """Everything stored for one user, ids and times aside."""
        selects = {
            "turns": "SELECT t.position, t.role, t.text FROM turns t JOIN owners o ON o.id = t.owner",
            "memories": "SELECT m.text, m.type, m.categories, m.importance, m.extractor, m.turn_keys <> '{}',"
            " (SELECT count(*) FROM memory_history h WHERE h.memory = m.id)"
            " FROM memories m JOIN owners o ON o.id = m.owner",
            "units": "SELECT u.piece, u.text, u.length, u.memory IS NULL FROM units u JOIN owners o ON o.id = u.owner",
            "postings": "SELECT p.term, p.count, u.text FROM postings p JOIN owners o ON o.id = p.owner"
            " JOIN units u ON u.id = p.unit",
            "conversations": "SELECT c.platform, c.thread_id FROM conversations c JOIN owners o ON o.id = c.owner",
            "remembered": "SELECT r.status FROM remembered r JOIN owners o ON o.id = r.owner",
        }
        return {
            name: sorted(map(tuple, await self.database.fetch(f"{select} WHERE o.user_id = $1", user)), key=repr)
            for name, select in selects.items()
        }


_ERROR = msgspec.json.encode(
    {"error": {"type": "api_error", "message": "no", "detail": {"code": "NO", "explanation": "No."}}, "request_id": "r"}
)


@asynccontextmanager
async def rig_on(settings: Settings) -> AsyncIterator[Rig]:
    await migrate(settings)
    async with open_pool(settings) as database, lifecycle_on(settings) as lifecycle:
        await database.execute("INSERT INTO accounts (id, name) VALUES ('acc', 'acc')")
        made = Rig(lifecycle, database)
        await made.groups.add(GROUP)
        yield made
