"""Bringing conversations: what a snapshot changes, in whatever order and however often it comes."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import anyio
import msgspec
import pytest

from app.database import Database
from app.history import chats, tokens, uploads
from app.history.inject import inject
from app.history.search import HistorySearch
from app.history.snapshot import Head
from app.history.tokens import MOST as MOST_TOKENS
from app.memory.conversations import conversation_id
from app.memory.memories import Memories
from app.memory.search import Search
from app.memory.types import Draft, Origin, Owner
from app.workers.ingest import Ingest
from app.workers.upkeep import Signal

DAY = "2026-04-27T"


def message(name: str, content: str, minute: int = 0, role: str = "human", **more: Any) -> dict[str, Any]:
    return {"id": name, "role": role, "content": content, "createdAt": f"{DAY}10:{minute:02}:00Z", **more}


def walk(**more: Any) -> dict[str, Any]:
    """A conversation of two messages."""
    said = [message("m1", "Where did we walk in Porto?"), message("m2", "Along the Douro river.", 1, "assistant")]
    return {"id": "c-1", "title": "A walk", "updatedAt": f"{DAY}11:00:00Z", "messages": said, **more}


async def put(database: Database, owner: Owner, conversation: dict[str, Any], platform: str = "bot") -> str:
    """Queues a snapshot; the conversation's id."""
    raw = msgspec.json.encode(conversation)
    head = msgspec.json.decode(raw, type=Head)
    queued = await uploads.queue(database, owner.account, owner.user, platform, head, raw)
    return queued.conversation


async def bring(database: Database, owner: Owner, *conversations: dict[str, Any]) -> str:
    """Queues snapshots and stores all that waits."""
    for conversation in conversations:
        found = await put(database, owner, conversation)
    await drain(database)
    return found


async def drain(database: Database) -> None:
    worker = Ingest(database, stored=Signal(), embeds=False)
    while (upload := await uploads.claim(database)) is not None:
        await worker.store(upload)


async def texts(database: Database, owner: Owner, conversation: str) -> list[str]:
    return [turn.text for turn in await chats.said(database, owner, conversation, page=1, size=100)]


async def found(database: Database, owner: Owner, query: str) -> list[str]:
    """The messages found by their words."""
    search = HistorySearch(database, Search(database, None))
    return [one.message_id for one in (await search.search(owner, query, limit=20)).results]


async def test_a_conversation_is_stored_and_found_by_its_words(database: Database, owner: Owner) -> None:
    conversation = await bring(database, owner, walk())
    assert conversation == conversation_id(owner, "bot", "c-1")
    search = HistorySearch(database, Search(database, None))
    results = (await search.search(owner, "Douro", limit=5)).results
    assert (results[0].message_id, results[0].sender) == ("m2", "assistant")
    assert (results[0].title, results[0].platform) == ("A walk", "bot")
    assert results[0].timestamp == datetime(2026, 4, 27, 10, 1, tzinfo=UTC)
    assert [one.message_id for one in results[0].context] == ["m1"]
    chat = await chats.chat(database, owner, conversation)
    assert chat is not None
    assert (chat.status, chat.messages, chat.title, chat.updated_at) == (
        "indexed",
        2,
        "A walk",
        datetime(2026, 4, 27, 11, tzinfo=UTC),
    )


async def test_the_same_snapshot_again_changes_nothing(database: Database, owner: Owner) -> None:
    await bring(database, owner, walk())
    before = await database.fetch("SELECT * FROM units ORDER BY id"), await database.fetch("SELECT * FROM turns")
    await bring(database, owner, walk(), walk())
    assert before == (
        await database.fetch("SELECT * FROM units ORDER BY id"),
        await database.fetch("SELECT * FROM turns"),
    )


async def test_without_times_the_same_snapshot_again_changes_nothing(database: Database, owner: Owner) -> None:
    said = [{"id": f"m{n}", "role": "human", "content": f"word{n}"} for n in range(3)]
    await bring(database, owner, {"id": "c", "messages": said})
    before = await database.fetch("SELECT id, text FROM units ORDER BY id")
    conversation = await bring(database, owner, {"id": "c", "messages": said})
    assert await database.fetch("SELECT id, text FROM units ORDER BY id") == before
    assert await texts(database, owner, conversation) == ["word0", "word1", "word2"]


async def test_added_messages_join_and_absent_ones_stay(database: Database, owner: Owner) -> None:
    await bring(database, owner, walk())
    added = walk(updatedAt=f"{DAY}12:00:00Z", messages=[message("m3", "And then to the Ribeira.", 2)])
    conversation = await bring(database, owner, added)
    assert await texts(database, owner, conversation) == [
        "Where did we walk in Porto?",
        "Along the Douro river.",
        "And then to the Ribeira.",
    ]
    assert (await found(database, owner, "Ribeira"))[0] == "m3"


async def test_a_message_between_others_stands_where_it_was_said(database: Database, owner: Owner) -> None:
    await bring(database, owner, walk(messages=[message("m1", "first", 0), message("m3", "third", 2)]))
    late = walk(updatedAt=f"{DAY}12:00:00Z", messages=[message("m2", "second", 1)])
    conversation = await bring(database, owner, late)
    assert await texts(database, owner, conversation) == ["first", "second", "third"]


async def test_an_edited_message_is_found_by_its_new_words_alone(database: Database, owner: Owner) -> None:
    await bring(database, owner, walk())
    edited = walk(updatedAt=f"{DAY}12:00:00Z")
    edited["messages"][1]["content"] = "Through the park of Serralves."
    conversation = await bring(database, owner, edited)
    assert await texts(database, owner, conversation) == [
        "Where did we walk in Porto?",
        "Through the park of Serralves.",
    ]
    assert await found(database, owner, "Douro river") == []
    assert (await found(database, owner, "Serralves"))[0] == "m2"
    words = await database.fetch("SELECT DISTINCT term FROM postings WHERE owner = $1", owner.id)
    assert not {"douro", "river"} & {row["term"] for row in words}  # not in its neighbours' windows either


async def test_an_older_snapshot_overwrites_nothing_and_adds_what_is_missing(database: Database, owner: Owner) -> None:
    await bring(database, owner, walk())
    older = walk(
        title="Old", updatedAt=f"{DAY}09:00:00Z", messages=[message("m1", "old words"), message("m0", "hello")]
    )
    conversation = await bring(database, owner, older)
    assert sorted(await texts(database, owner, conversation)) == [
        "Along the Douro river.",
        "Where did we walk in Porto?",
        "hello",
    ]
    chat = await chats.chat(database, owner, conversation)
    assert chat is not None
    assert (chat.title, chat.updated_at) == ("A walk", datetime(2026, 4, 27, 11, tzinfo=UTC))


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0), (1, 0, 2)])
async def test_in_whatever_order_snapshots_come_the_same_is_stored(
    database: Database, owner: Owner, order: tuple[int, ...]
) -> None:
    snapshots = [
        {
            "id": "c",
            "title": f"title {n}",
            "updatedAt": f"{DAY}1{n}:00:00Z",
            "messages": [message("all", f"said at {n}"), message(f"only{n}", f"only in {n}", n)],
        }
        for n in range(3)
    ]
    conversation = await bring(database, owner, *(snapshots[n] for n in order))
    assert sorted(await texts(database, owner, conversation)) == ["only in 0", "only in 1", "only in 2", "said at 2"]
    chat = await chats.chat(database, owner, conversation)
    assert chat is not None
    assert chat.title == "title 2"


async def test_what_was_drawn_from_edited_words_is_retired(database: Database, owner: Owner) -> None:
    conversation = await bring(
        database, owner, walk(messages=[message("m1", "I live in Lyon."), message("m2", "I ski.")])
    )
    turns = await chats.said(database, owner, conversation, page=1, size=10)
    memories = Memories(database, None)
    async with database.transaction() as connection:
        await memories.add(
            connection,
            owner,
            [Draft(text=turn.text, turn_keys=[turn.key]) for turn in turns],
            origin=Origin(conversation=conversation),
            extractor="test",
            source_key="s",
        )
    edited = walk(updatedAt=f"{DAY}12:00:00Z", messages=[message("m1", "I live in Porto.")])
    await bring(database, owner, edited)
    left = await database.fetch("SELECT text FROM memories WHERE owner = $1", owner.id)
    assert [row["text"] for row in left] == ["I ski."]


async def test_more_than_the_most_tokens_is_rejected_with_the_reason(database: Database, owner: Owner) -> None:
    words = " hello" * 1_000
    assert tokens.count(words) == 1_000
    said = [message(f"m{n}", words) for n in range(MOST_TOKENS // 1_000)]
    conversation = await bring(database, owner, walk(messages=said))
    chat = await chats.chat(database, owner, conversation)
    assert chat is not None
    assert (chat.status, chat.messages) == ("indexed", MOST_TOKENS // 1_000)
    said.append(message("more", "hello"))
    await bring(database, owner, walk(updatedAt=f"{DAY}12:00:00Z", messages=said))
    chat = await chats.chat(database, owner, conversation)
    assert chat is not None
    assert chat.status == "rejected"
    assert chat.reason is not None
    assert "100,000 tokens" in chat.reason
    assert chat.messages == MOST_TOKENS // 1_000  # what was there stays


async def test_two_workers_never_store_one_conversation_at_once(database: Database, owner: Owner) -> None:
    await put(database, owner, walk())
    await put(database, owner, walk(updatedAt=f"{DAY}12:00:00Z"))
    await put(database, owner, walk(id="c-2"))
    first, second, third = [await uploads.claim(database) for _ in range(3)]
    assert first is not None
    assert second is not None
    assert third is None
    assert first.conversation != second.conversation


async def test_a_worker_that_died_is_followed_by_another_and_writes_nothing_more(
    database: Database, owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    conversation = await put(database, owner, walk())
    monkeypatch.setattr(uploads, "LEASE_S", 0.0)
    paused = await uploads.claim(database)
    await anyio.sleep(0.01)
    assert paused is not None
    other = await uploads.claim(database)
    assert other is not None
    worker = Ingest(database, stored=Signal(), embeds=False)
    await worker.store(other)
    assert len(await texts(database, owner, conversation)) == 2
    await worker.store(paused)
    assert len(await texts(database, owner, conversation)) == 2
    assert await database.fetchval("SELECT count(*) FROM upload_parts") == 0


async def test_a_lease_is_renewed_beside_a_transaction_that_takes_long(database: Database, owner: Owner) -> None:
    await put(database, owner, walk())
    upload = await uploads.claim(database)
    assert upload is not None
    lease = "SELECT claimed_until FROM uploads"
    before = await database.fetchval(lease)
    await uploads.renew(database, upload)
    renewed = await database.fetchval(lease)
    assert renewed > before
    async with database.transaction() as connection:
        assert await uploads.drop(connection, upload)
        with anyio.fail_after(10):
            await uploads.renew(database, upload)
        assert await database.fetchval(lease) == renewed


async def test_what_cannot_be_stored_is_given_up_with_its_reason(
    database: Database, owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "PAUSE_S", 0.0)
    raw = b'{"id": "c", "messages": [{"id": 7}]}'
    queued = await uploads.queue(database, owner.account, owner.user, "bot", Head(id="c"), raw)
    for _ in range(uploads.TRIES):
        await drain(database)
    chat = await chats.chat(database, owner, queued.conversation)
    assert chat is not None
    assert (chat.status, chat.reason) == ("failed", "it could not be stored")
    assert await uploads.claim(database) is None


async def test_deleting_a_conversation_takes_everything_along_and_it_can_be_brought_again(
    database: Database, owner: Owner
) -> None:
    conversation = await bring(database, owner, walk())
    await put(database, owner, walk(updatedAt=f"{DAY}12:00:00Z"))  # still waiting
    assert await chats.delete(database, owner, [conversation, "conv_other"]) == [conversation]
    for table in ("conversations", "turns", "units", "postings", "uploads", "upload_parts"):
        assert await database.fetchval(f"SELECT count(*) FROM {table}") == 0, table
    await bring(database, owner, walk())
    assert (await found(database, owner, "Douro"))[0] == "m2"


@pytest.mark.parametrize("budget", [1, 10, 30, 60, 200, 2_000])
async def test_an_injection_never_exceeds_its_budget(database: Database, owner: Owner, budget: int) -> None:
    said = [message(f"m{n}", f"river {n} " + "walking along the water and talking " * n, n) for n in range(12)]
    await bring(database, owner, walk(messages=said))
    search = HistorySearch(database, Search(database, None))
    made = await inject(search, owner, ["river"], budget=budget)
    assert made.tokens == tokens.count(made.content) <= budget
    assert [f"[{n}] " in made.content for n in range(1, len(made.sources) + 1)] == [True] * len(made.sources)
    if budget >= 60:
        assert made.sources


async def test_an_injection_leaves_out_what_the_conversation_says_already(database: Database, owner: Owner) -> None:
    await bring(database, owner, walk())
    search = HistorySearch(database, Search(database, None))
    made = await inject(search, owner, ["Douro river walk"], budget=600, known=["along the DOURO river."])
    assert [one.message_id for one in made.sources] == ["m1"]
