"""A message remembered, found and recalled, on a whole deployment; and a memory store that is frozen or gone."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import httpx
import pytest

from app.database import open_pool
from app.errors import StartFailed
from app.memory.conversations import find_owner
from app.memory.embedding import open_embedder
from app.memory.search import Search
from app.memory.types import Hit
from tests.rig import until
from tests.sse import Event, assert_dense
from tests.stage import started
from tests.system import System, system

SAID = "My sister Clara plays the cello in an orchestra."


@pytest.fixture(scope="module")
async def s() -> AsyncIterator[System]:
    """A deployment that remembers."""
    place = Path(tempfile.mkdtemp(prefix="rp-", dir="/tmp"))
    try:
        async with started(system(place, background=1)) as made:
            yield made
    finally:
        shutil.rmtree(place, ignore_errors=True)


@asynccontextmanager
async def searching(s: System) -> AsyncIterator[Search]:
    """The deployment's memory as a web process searches it."""
    async with open_pool(s.settings) as database:
        yield Search(database, await open_embedder(s.settings))


async def account_of(s: System) -> str:
    async with open_pool(s.settings) as database:
        return str(await database.fetchval("SELECT id FROM accounts WHERE name = 'default'"))


async def say(s: System, client: httpx.AsyncClient, text: str, user: str, model: str = "t20", **memory: Any) -> str:
    """A message of a user that has completed."""
    metadata = {"user_id": user, "thread_id": f"{user}-1", "agent_id": "guide", "source": "test"}
    message_id = await s.initiate(client, model, text=text, metadata=metadata, memory=memory)
    assert (await s.ended(client, message_id))["status"] == "completed"
    return message_id


async def recall_of(s: System, client: httpx.AsyncClient, message_id: str) -> tuple[Event, list[Event]]:
    """The message's ``memory_recall`` and all its events, the former where it must stand."""
    events = await s.observe(client, message_id)
    assert_dense(events)
    assert [e.type for e in events[:3]] == ["message_start", "memory_recall", "content_block_start"]
    return events[1], events


class Recalled(NamedTuple):
    """A message that recalled in time."""

    id: str
    question: str
    event: Event


async def recalled(s: System, client: httpx.AsyncClient, question: str, user: str, **more: Any) -> Recalled:
    """A question that recalls, asked again (numbered) while the process is still loading its vectors, or a busy machine
    takes longer than recalling may."""
    with anyio.fail_after(30):
        for number in count():
            numbered = f"{question} ({number})"
            message_id = await say(s, client, numbered, user, recall=True, **more)
            event, _ = await recall_of(s, client, message_id)
            if "error" not in event.data:
                break
    return Recalled(message_id, numbered, event)


def asked(s: System, text: str) -> dict[str, Any]:
    """What the model was asked in the call whose last turn is this text."""
    bodies = [r.body for r in s.up.requests if r.body and r.body["messages"][-1]["content"] == text]
    assert len(bodies) == 1
    return bodies[0]


async def test_a_completed_message_is_found_in_other_words_and_with_its_provenance(s: System):
    async with s.client() as client, searching(s) as search, open_pool(s.settings) as database:
        account = await account_of(s)
        message_id = await say(s, client, SAID, "finder")

        async def found() -> Hit | None:
            owner = await find_owner(database, account, "finder")
            if owner is None:
                return None
            hits = (await search.search(owner, "Which instrument does a sibling of mine make music with?")).hits
            # by meaning: the question shares no word with it that counts
            return next((hit for hit in hits if hit.memory and hit.vector_distance is not None), None)

        hit = await until(found, 20)
        memory = hit.memory
        assert (memory.text, memory.message_id, memory.thread_id) == (SAID, message_id, "finder-1")
        assert (memory.agent_id, memory.source) == ("guide", "test")
        status = await s.remembered(client, message_id)
        assert (status["status"], status["memory_ids"]) == ("stored", [memory.id])


async def test_a_second_message_gets_what_the_first_said_when_it_asks_for_it(s: System):
    """PROTOCOL M6."""
    async with s.client() as client:
        first = await say(s, client, SAID, "clara")
        memory = await s.remembered(client, first)
        recalling, question, event = await recalled(s, client, "What does Clara play?", "clara", limit=3)
        assert {"id": memory["memory_ids"][0], "memory": SAID} in event.data["memories"]
        assert 1 <= len(event.data["memories"]) <= 3
        system_prompt, user = asked(s, question)["messages"]
        assert (system_prompt["role"], user) == ("system", {"role": "user", "content": question})
        assert SAID in system_prompt["content"] and "untrusted" in system_prompt["content"]
        chunks = await client.get(f"/v1/messages/async/{recalling}/stream", params={"format": "openai"})
        assert "event: memory_recall\n" in chunks.text
        without = await say(s, client, "And without?", "clara")
        assert "memory_recall" not in [e.type for e in await s.observe(client, without)]
        assert [m["role"] for m in asked(s, "And without?")["messages"]] == ["user"]


async def test_nobody_recalls_what_another_user_said(s: System):
    async with s.client() as client:
        await s.remembered(client, await say(s, client, "My locker code is Zebra.", "owner"))
        _, question, event = await recalled(s, client, "What is the locker code Zebra?", "other")
        assert event.data["memories"] == []
        assert "Zebra." not in str(asked(s, question))


async def test_answers_that_repeat_what_was_recalled_make_no_new_memories(s: System):
    async with s.client() as client, open_pool(s.settings) as database:
        await s.remembered(client, await say(s, client, SAID, "parrot"))
        s.up.say("parrot", f"You told me: {SAID}")
        count = "SELECT count(*) FROM memories m JOIN owners o ON o.id = m.owner WHERE o.user_id = 'parrot'"
        for turn in range(10):
            text = f"Tell me again what Clara plays, for the {turn}th time?"
            one = await recalled(s, client, text, "parrot", model="say-parrot", limit=50)
            assert SAID in [memory["memory"] for memory in one.event.data["memories"]]
            assert (await s.remembered(client, one.id))["memory_ids"] == []
        assert await database.fetchval(count) == 1


async def test_a_frozen_memory_store_costs_a_message_its_memories_and_no_more(s: System):
    """PROTOCOL M7."""
    async with s.client() as client:
        await s.remembered(client, await say(s, client, SAID, "frozen"))
        with frozen(s):
            recalling = await say(s, client, "Does Clara play while frozen?", "frozen", recall=True)
            event, _ = await recall_of(s, client, recalling)
        assert event.data["memories"] == [] and "50 ms" in event.data["error"]
        assert [m["role"] for m in asked(s, "Does Clara play while frozen?")["messages"]] == ["user"]
        assert (await s.remembered(client, recalling, 30))["status"] == "stored"

        assert (await recalled(s, client, "What does Clara play?", "frozen")).event.data["memories"]


async def test_without_postgresql_messages_run_recall_says_why_and_deleting_is_refused(s: System):
    """PROTOCOL M7, D5."""
    async with s.client() as client:
        kept = await say(s, client, "I like stopped clocks.", "stopped")
        await s.remembered(client, kept)
        async with stopped(s):
            recalling = await say(s, client, "What do I like?", "stopped", recall=True)
            event, _ = await recall_of(s, client, recalling)
            assert event.data["memories"] == [] and event.data["error"]
            status = await s.status(client, kept)  # no word of PostgreSQL's is needed for it
            assert status["metadata"]["memory"]["status"] == "stored"
            assert (await s.status(client, recalling))["metadata"]["memory"]["status"] == "queued"
            answer = await client.delete(f"/v1/messages/async/{kept}")
            assert (answer.status_code, answer.json()["code"]) == (503, "UNAVAILABLE")
            assert (await s.status(client, kept)) == status
            assert (await client.get("/v1/messages/async/msg_unknown/status")).status_code == 503
        assert (await s.remembered(client, recalling, 30))["status"] == "stored"
        assert (await client.delete(f"/v1/messages/async/{kept}", params={"memories": "true"})).status_code == 204
        assert (await client.get(f"/v1/messages/async/{kept}/status")).status_code == 404


async def test_a_worker_started_without_postgresql_answers_and_recalls_once_it_is_there(s: System):
    async with s.client() as client:
        await s.remembered(client, await say(s, client, SAID, "late"))
        async with stopped(s):
            old, s.workers[0] = s.workers[0], await s.start_worker()
            s.workers.pop()
            s.stop([old])
            await old.wait()
            event, _ = await recall_of(s, client, await say(s, client, "Clara? (1)", "late", recall=True))
            assert event.data["error"]
        assert (await recalled(s, client, "What does Clara play?", "late")).event.data["memories"]


async def test_a_memory_model_reads_what_was_said_after_a_pause(short_tmp: Path):
    """PROTOCOL M5."""
    item = {"action": "add", "text": "The user's sister Clara plays the cello.", "type": "semantic", "turns": [1]}
    async with system(short_tmp, background=1, memory_model="say-memories", memory_debounce_s=0.3) as s:
        name = s.up.say("memories", "no JSON at all", "nor this", json.dumps({"memories": [item]}))
        assert name == s.settings.memory_model
        async with s.client() as client, open_pool(s.settings) as database:
            message_id = await say(s, client, SAID, "read")
            assert await s.remembered(client, message_id) == {"status": "stored", "memory_ids": [], "error": None}

            async def failed() -> bool:
                return (await s.remembered(client, message_id))["status"] == "failed"

            await until(failed)
            assert "could not be used" in (await s.remembered(client, message_id))["error"]
            await database.execute("UPDATE extractions SET due_at = now()")

            async def told() -> list[str]:
                return list((await s.remembered(client, message_id))["memory_ids"])

            [memory_id] = await until(told)
            row = await database.fetchrow("SELECT text, extractor, message_id FROM memories WHERE id = $1", memory_id)
            assert tuple(row) == (item["text"], f"model:{name}", message_id)
            assert (await s.remembered(client, message_id))["status"] == "stored"


def _postgres(s: System) -> list[int]:
    """Every process of the deployment's PostgreSQL."""
    assert s.engines.postgres is not None and s.engines.postgres.pid is not None
    main = s.engines.postgres.pid
    found = [main]
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == main:
            found.append(int(stat.parent.name))
    return found


@contextmanager
def frozen(s: System) -> Iterator[None]:
    """PostgreSQL takes connections and statements and says nothing."""
    pids = _postgres(s)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in reversed(pids):
            os.kill(pid, signal.SIGCONT)


@asynccontextmanager
async def stopped(s: System) -> AsyncIterator[None]:
    """PostgreSQL is not there; started again afterwards."""
    server = s.engines.postgres
    assert server is not None and server.pid is not None
    start = server.start

    async def refuse() -> None:
        raise StartFailed("kept down by the test")

    server.start = refuse  # type: ignore[method-assign]
    try:
        os.kill(server.pid, signal.SIGKILL)

        async def away() -> bool:
            return not await _answers(s)

        await until(away)
        yield
    finally:
        server.start = start  # type: ignore[method-assign]

    async def back() -> bool:
        return await _answers(s)

    await until(back, 30)


async def _answers(s: System) -> bool:
    import asyncpg

    try:
        connection = await asyncpg.connect(s.settings.database_url, timeout=2)
    except (OSError, asyncpg.PostgresError, TimeoutError):
        return False
    await connection.close()
    return True
