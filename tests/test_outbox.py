"""The outbox: told is what was committed, all of it, in its order, whatever dies; the feed has it once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anyio
import msgspec
import pytest

from app import outbox
from app.chat.lifecycle import Lifecycle
from app.database import Database
from app.errors import Unavailable
from app.history import tokens, uploads
from app.memory.embedding import Embedder
from app.memory.index import embed_missing
from app.memory.memories import Memories
from app.memory.profile import Profiles
from app.memory.types import Draft, Origin, Owner
from app.settings import Settings
from app.workers.ingest import Ingest
from app.workers.notify import Relay
from app.workers.upkeep import Signal
from tests.integration_rig import CHATS, conversation, send, send_chats, worker
from tests.memory_rig import Directions, keep, new_owner
from tests.rig import lifecycle_on
from tests.test_history_store import drain, put, walk
from tests.test_memory_profile import FIVE


@pytest.fixture
async def lifecycle(settings: Settings) -> AsyncIterator[Lifecycle]:
    async with lifecycle_on(settings) as made:
        yield made


@pytest.fixture
def memories(database: Database) -> Memories:
    return Memories(database, None)


async def waiting(database: Database) -> list[tuple[str, dict[str, Any]]]:
    """The kinds and data of what is to be told, oldest first."""
    rows = await database.fetch("SELECT kind, data FROM outbox ORDER BY id")
    return [(row["kind"], msgspec.json.decode(row["data"])) for row in rows]


async def kinds(database: Database) -> list[str]:
    return [kind for kind, _ in await waiting(database)]


async def fed(lifecycle: Lifecycle, account: str) -> list[dict[str, Any]]:
    """The bodies of the account's feed."""
    rows = await lifecycle.redis.xrange(lifecycle.keys.feed(account))
    return [msgspec.json.decode(fields[b"d"]) for _, fields in rows]


async def test_every_change_of_a_memory_is_told_with_what_it_says_now(
    memories: Memories, database: Database, owner: Owner
) -> None:
    """PROTOCOL G2."""
    [lyon] = await keep(memories, database, owner, "I live in Lyon.")
    [porto] = await keep(memories, database, owner, Draft(text="I live in Porto.", supersedes=lyon.id))
    await memories.edit(owner, porto.id, importance=0.9)
    backup, _ = await memories.delete(owner, [porto.id])
    assert backup is not None
    await memories.restore(owner, backup)
    await memories.delete(owner, [porto.id], backup=False)
    told = await waiting(database)
    assert [(kind, data["memory_id"]) for kind, data in told] == [
        ("memory.created", lyon.id),
        ("memory.created", porto.id),
        ("memory.updated", lyon.id),
        ("memory.updated", porto.id),
        ("memory.deleted", porto.id),
        ("memory.created", porto.id),
        ("memory.deleted", porto.id),
    ]
    assert told[0][1]["memory"] == "I live in Lyon."
    assert (told[2][1]["superseded_by"], told[3][1]["importance"]) == (porto.id, 0.9)
    assert told[-1][1] == {"memory_id": porto.id, "user_id": "ada"}


async def test_what_is_rolled_back_is_never_told(memories: Memories, database: Database, owner: Owner) -> None:
    """PROTOCOL G2."""
    with pytest.raises(ZeroDivisionError):
        async with database.transaction() as connection:
            await memories.add(
                connection, owner, [Draft(text="I live in Lyon.")], origin=Origin(), extractor="rules", source_key="k"
            )
            assert await connection.fetchval("SELECT count(*) FROM outbox") == 1
            _ = 1 / 0
    assert await kinds(database) == []


async def test_purging_what_was_deleted_long_ago_is_no_news(
    memories: Memories, database: Database, owner: Owner
) -> None:
    [one] = await keep(memories, database, owner, "I live in Lyon.")
    await memories.delete(owner, [one.id])
    await database.execute("UPDATE memories SET deleted_at = deleted_at - interval '40 days'")
    assert await memories.purge() == 1
    assert await kinds(database) == ["memory.created", "memory.deleted"]


async def test_a_conversation_is_told_indexed_once_its_vectors_are_there(database: Database, owner: Owner) -> None:
    """PROTOCOL G2."""
    embedder: Embedder = Directions()
    brought = await put(database, owner, walk())
    upload = await uploads.claim(database)
    assert upload is not None
    await Ingest(database, stored=Signal(), embeds=True).store(upload)
    assert await kinds(database) == []
    assert await embed_missing(database, embedder) > 0
    [(kind, data)] = await waiting(database)
    assert (kind, data["conversation_id"], data["status"]) == ("conversation.indexed", brought, "indexed")
    assert (data["user_id"], data["platform"], data["platform_conversation_id"]) == ("ada", "bot", "c-1")
    await embed_missing(database, embedder)
    assert len(await waiting(database)) == 1


async def test_a_rejected_conversation_is_told_with_its_reason(
    database: Database, owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PROTOCOL G2."""
    monkeypatch.setattr("app.workers.ingest.MOST", 3)
    await put(database, owner, walk())
    await drain(database)
    [(kind, data)] = await waiting(database)
    assert kind == "conversation.rejected"
    assert "tokens" in data["reason"]
    assert tokens.MOST > 3


async def test_a_conversation_that_cannot_be_stored_is_told_failed_after_its_last_try(
    database: Database, owner: Owner
) -> None:
    """PROTOCOL G2."""
    await put(database, owner, walk())
    await database.execute("UPDATE uploads SET tries = 4")
    upload = await uploads.claim(database)
    assert upload is not None
    await uploads.fail(database, upload, "broken")
    [(kind, data)] = await waiting(database)
    assert (kind, data["reason"]) == ("conversation.failed", "broken")


async def test_the_end_of_an_integration_is_told_with_its_status(database: Database, owner: Owner) -> None:
    """PROTOCOL G2."""
    await send_chats(database, owner, [conversation("c1", "Hello there.", "Hi.")])
    broken = await send(database, owner, "chat", "custom", CHATS, {"chat_data.json": b"{"})
    await worker(database).until_idle()
    told = {kind: data for kind, data in await waiting(database) if kind.startswith("integration.")}
    assert set(told) == {"integration.completed", "integration.failed"}
    assert told["integration.completed"]["stats"]["items_processed"] == 1
    assert told["integration.completed"]["user_id"] == "ada"
    assert told["integration.failed"]["integration_id"] == broken.id
    assert told["integration.failed"]["errors"][0]["code"]


async def test_a_profile_changed_on_purpose_is_told_and_one_composed_is_not(
    memories: Memories, database: Database, owner: Owner
) -> None:
    """PROTOCOL G2."""
    await keep(memories, database, owner, *FIVE)
    await database.execute("DELETE FROM outbox")
    profiles = Profiles(database, memories, None)
    await profiles.bio(owner)
    assert await kinds(database) == []
    await profiles.edit_bio(owner, "I am Ana.")
    await profiles.regenerate_bio(owner)
    await profiles.set_privacy(owner, include_private=True)
    assert [data["changed"] for _, data in await waiting(database)] == ["bio", "bio", "privacy"]


async def test_the_feed_has_events_in_the_order_of_their_commits(
    memories: Memories, database: Database, owner: Owner, lifecycle: Lifecycle
) -> None:
    """PROTOCOL A7."""
    made = [(await keep(memories, database, owner, f"I own book {n}."))[0].id for n in range(30)]
    other = await new_owner(database)
    await keep(memories, database, other, "I live in Lyon.")
    relay = Relay(lifecycle, database, lambda: None)
    assert await relay.tell() == 31
    bodies = await fed(lifecycle, owner.account)
    assert [body["data"]["memory_id"] for body in bodies] == made
    assert {body["event"] for body in bodies} == {"memory.created"}
    assert all(set(body) == {"event", "data", "timestamp"} for body in bodies)
    assert len(await fed(lifecycle, other.account)) == 1
    assert await relay.tell() == 0


async def test_a_relay_that_dies_after_the_feed_was_told_says_nothing_twice(
    memories: Memories, database: Database, owner: Owner, lifecycle: Lifecycle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PROTOCOL A7."""
    await keep(memories, database, owner, "I live in Lyon.", "I own a cat.")
    relay = Relay(lifecycle, database, lambda: None)
    post = relay._post

    async def post_and_die(events: list[outbox.Telling]) -> None:
        await post(events)
        raise Unavailable("gone")

    with monkeypatch.context() as patch:
        patch.setattr(relay, "_post", post_and_die)
        with pytest.raises(Unavailable):
            await relay.tell()
    assert (len(await fed(lifecycle, owner.account)), len(await waiting(database))) == (2, 2)
    assert await relay.tell() == 2
    assert len(await fed(lifecycle, owner.account)) == 2


async def test_of_two_relays_one_waits_for_the_other(
    memories: Memories, database: Database, owner: Owner, lifecycle: Lifecycle
) -> None:
    await keep(memories, database, owner, *[f"I own book {n}." for n in range(20)])
    told: list[int] = []

    async def tell() -> None:
        told.append(await Relay(lifecycle, database, lambda: None).tell())

    async with anyio.create_task_group() as group:
        for _ in range(4):
            group.start_soon(tell)
    assert sum(told) == 20
    assert len(await fed(lifecycle, owner.account)) == 20
