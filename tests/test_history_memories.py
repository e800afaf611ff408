"""Memories of brought conversations: where they are wanted, of the person's own words, once, whatever dies."""

from __future__ import annotations

from typing import Any

import anyio
import msgspec
import pytest

from app.chat.lifecycle import Lifecycle
from app.database import Database
from app.history import chats, uploads
from app.history.search import HistorySearch
from app.history.snapshot import Head
from app.memory.memories import Memories
from app.memory.profile import Profiles
from app.memory.remembered import Remembered
from app.memory.search import Search
from app.memory.types import Owner
from app.workers import extraction, ingest
from app.workers.extraction import Extraction
from app.workers.ingest import Ingest
from app.workers.upkeep import Signal
from tests.memory_rig import dump
from tests.test_extraction import Reader
from tests.test_history_store import DAY, message


def chat(*said: dict[str, Any], hour: int = 11, name: str = "c-1") -> dict[str, Any]:
    return {"id": name, "title": "A chat", "updatedAt": f"{DAY}{hour}:00:00Z", "messages": list(said)}


BEA = {"name": "Bea", "mine": False}
LYON = message("m1", "I live in Lyon. What is new?")
BOTH = chat(
    LYON,
    message("m2", "I am a helpful assistant.", 1, "assistant"),
    message("m3", "I own a boat.", 2) | BEA,
    message("m4", "My dog is called Rex.", 3),
)


async def put(
    database: Database, owner: Owner, conversation: dict[str, Any], memories: bool | None = True, platform: str = "bot"
) -> str:
    raw = msgspec.json.encode(conversation)
    head = msgspec.json.decode(raw, type=Head)
    queued = await uploads.queue(database, owner.account, owner.user, platform, head, raw, memories=memories)
    return queued.conversation


async def bring(
    database: Database,
    owner: Owner,
    conversation: dict[str, Any],
    memories: bool | None = True,
    *,
    debounce_s: float | None = None,
    platform: str = "bot",
) -> str:
    """Queues a snapshot and stores all that waits."""
    name = await put(database, owner, conversation, memories, platform)
    await drain(database, debounce_s)
    return name


async def drain(database: Database, debounce_s: float | None = None) -> None:
    worker = Ingest(database, stored=Signal(), embeds=False, debounce_s=debounce_s)
    while (upload := await uploads.claim(database)) is not None:
        await worker.store(upload)


async def known(database: Database, owner: Owner) -> dict[str, str]:
    """The ids of the current memories by their texts."""
    rows = await database.fetch(
        "SELECT id, text FROM memories WHERE owner = $1 AND deleted_at IS NULL AND valid_to IS NULL ORDER BY id",
        owner.id,
    )
    return {row["text"]: row["id"] for row in rows}


async def test_memories_are_drawn_from_what_the_person_says_and_from_nobody_else(
    database: Database, owner: Owner
) -> None:
    conversation = await bring(database, owner, BOTH)
    made = await known(database, owner)
    assert set(made) == {"I live in Lyon.", "My dog is called Rex."}
    one = await Memories(database, None).get(owner, made["I live in Lyon."])
    (turn, *_) = await chats.said(database, owner, conversation, page=1, size=10)
    assert (one.source, one.conversation, one.extractor, one.turn_keys) == ("bot", conversation, "rules", [turn.key])
    assert one.valid_from == turn.said_at
    before = await dump(database, owner)
    await bring(database, owner, BOTH)
    assert await dump(database, owner) == before


async def test_none_are_drawn_unless_they_are_wanted_and_what_is_asked_for_one_conversation_counts_more(
    database: Database, owner: Owner
) -> None:
    profiles = Profiles(database, Memories(database, None), None)
    await bring(database, owner, chat(LYON), None)
    assert await known(database, owner) == {}
    await profiles.set_privacy(owner, memories_from_history=True)
    await bring(database, owner, chat(LYON, message("m2", "I own a boat.")), False)
    assert await known(database, owner) == {}
    await put(database, owner, chat(LYON, message("m3", "I like tea.", 4), hour=12), None)
    await drain(database)
    assert set(await known(database, owner)) == {"I like tea."}, "and only of what this snapshot added"
    await put(database, owner, chat(message("m4", "I like coffee."), hour=13), None)
    await profiles.set_privacy(owner, memories_from_history=False)
    await drain(database)
    assert set(await known(database, owner)) == {"I like tea."}, "what was switched off since is not drawn"


@pytest.mark.parametrize("point", ["apply", "_add", "settle", "changes", "drop", "committed"])
async def test_a_worker_killed_anywhere_leaves_the_same_memories_once(
    database: Database, owner: Owner, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await put(database, owner, BOTH)
    monkeypatch.setattr(uploads, "LEASE_S", 0.0)
    killed = await uploads.claim(database)
    assert killed is not None
    reached = []

    async def ends(*given: Any, **more: Any) -> Any:
        answer = await real(*given, **more)
        reached.append(point)
        scope.cancel()
        await anyio.sleep(0)
        return answer

    with monkeypatch.context() as patch, anyio.CancelScope() as scope:
        worker: Any = Ingest(database, stored=Signal(), embeds=False)
        if point != "committed":
            where = {"_add": worker, "drop": uploads}.get(point, ingest)
            real = getattr(where, point)
            patch.setattr(where, point, ends)
        await worker.store(killed)
    assert reached == ([] if point == "committed" else [point])
    assert (await known(database, owner) == {}) == (point != "committed")
    await anyio.sleep(0.01)  # the lease of no time ends
    await drain(database)
    await worker.store(killed)  # it was only paused
    assert set(await known(database, owner)) == {"I live in Lyon.", "My dog is called Rex."}
    assert await database.fetchval("SELECT count(*) FROM memories WHERE owner = $1", owner.id) == 2


async def test_an_edited_message_retires_what_it_no_longer_says_and_lets_the_rest_stand(
    database: Database, owner: Owner
) -> None:
    await bring(database, owner, chat(message("m1", "I live in Lyon. I own a boat.")))
    before = await known(database, owner)
    assert set(before) == {"I live in Lyon.", "I own a boat."}
    conversation = await bring(database, owner, chat(message("m1", "I live in Porto. I own a boat."), hour=12))
    now = await known(database, owner)
    assert set(now) == {"I live in Porto.", "I own a boat."}
    assert now["I own a boat."] == before["I own a boat."]
    (turn,) = await chats.said(database, owner, conversation, page=1, size=10)
    boat = await Memories(database, None).get(owner, now["I own a boat."])
    assert boat.turn_keys == [turn.key]
    await bring(database, owner, chat(message("m1", "Never mind."), hour=13))
    assert await known(database, owner) == {}


@pytest.mark.parametrize("backup", [True, False])
async def test_a_deleted_memory_does_not_come_back_with_a_later_snapshot(
    database: Database, owner: Owner, backup: bool
) -> None:
    said = message("m1", "I live in Lyon. I own a boat.")
    await bring(database, owner, chat(said))
    memories = Memories(database, None)
    kept, _ = await memories.delete(owner, [(await known(database, owner))["I live in Lyon."]], backup=backup)
    await bring(database, owner, chat(said, message("m2", "I like tea.", 2), hour=12))
    assert set(await known(database, owner)) == {"I own a boat.", "I like tea."}
    edited = message("m1", "I live in Lyon. I own a small boat.")
    await bring(database, owner, chat(edited, hour=13))
    assert set(await known(database, owner)) == {"I own a small boat.", "I like tea."}
    if kept is not None:
        found = await HistorySearch(database, Search(database, None)).search(owner, "Lyon", limit=5)
        assert found.results == []
        await memories.restore(owner, kept)
        assert "I live in Lyon." in await known(database, owner)


async def test_a_forgotten_turn_makes_no_memory_again(database: Database, owner: Owner) -> None:
    await bring(database, owner, chat(LYON))
    await Memories(database, None).delete(owner, list((await known(database, owner)).values()), cascade=True)
    await bring(database, owner, chat(LYON, hour=12))
    assert await known(database, owner) == {}
    await bring(database, owner, chat(LYON, message("m2", "I live in Lyon.", 5), hour=13))
    assert set(await known(database, owner)) == {"I live in Lyon."}, "but what is said anew does"


async def test_who_speaks_may_turn_out_later(database: Database, owner: Owner) -> None:
    """An export brought again with the name of its person."""
    boat = message("m1", "I own a boat.") | {"name": "Ada"}
    await bring(database, owner, chat(boat | {"mine": False}))
    assert await known(database, owner) == {}
    await bring(database, owner, chat(boat | {"mine": True}, hour=12))
    assert set(await known(database, owner)) == {"I own a boat."}
    await bring(database, owner, chat(boat | {"mine": False}, hour=13))
    assert await known(database, owner) == {}


async def test_what_was_said_long_ago_does_not_overrule_what_is_so_now(database: Database, owner: Owner) -> None:
    await bring(database, owner, chat(message("m1", "I moved to Porto.", 30)))
    await bring(database, owner, chat(message("m1", "I moved to Lyon.", 10), name="c-2"))
    assert set(await known(database, owner)) == {"I moved to Porto."}


async def test_deleting_a_conversation_takes_its_memories_along(database: Database, owner: Owner) -> None:
    conversation = await bring(database, owner, BOTH)
    await chats.delete(database, owner, [conversation])
    assert await database.fetchval("SELECT count(*) FROM memories WHERE owner = $1", owner.id) == 0


class Model:
    """The queue of `extraction` with a reader that stands for the model."""

    def __init__(self, database: Database) -> None:
        self.reader = Reader()
        memories = Memories(database, None)
        told: Any = Nobody()
        self.extraction = Extraction(
            told,
            database,
            memories,
            Search(database, None),
            self.reader,
            Remembered(database, memories),  # type: ignore[arg-type]
        )

    async def steps(self) -> int:
        """Reads until nothing is due; how often."""
        done = 0
        while await self.extraction.step():
            done += 1
        return done


class Nobody(Lifecycle):
    """There are no messages whose statuses could be told."""

    def __init__(self) -> None:
        pass

    async def note_remembered(self, notes: Any) -> None:
        assert not list(notes)


async def test_a_model_reads_later_what_was_added_or_edited_and_each_once(database: Database, owner: Owner) -> None:
    model = Model(database)
    await bring(database, owner, chat(LYON), False, debounce_s=0.0)
    assert await model.steps() == 0
    await bring(database, owner, chat(LYON, message("m2", "Tea.", 2), hour=12), debounce_s=0.0)
    assert await known(database, owner) == {}
    assert await model.steps() == 1
    assert model.reader.read == [["Tea."]]
    await bring(database, owner, chat(LYON, message("m3", "Not wanted.", 3), hour=13), False, debounce_s=0.0)
    await bring(database, owner, chat(message("m2", "Coffee.", 2), message("m4", "Rex.", 4), hour=14), debounce_s=0.0)
    assert set(await known(database, owner)) == set(), "what came of the old words is retired"
    assert await model.steps() == 1
    assert model.reader.read[1:] == [["Coffee.", "Rex."]]
    assert set(await known(database, owner)) == {"They said: Coffee.", "They said: Rex."}
    await bring(database, owner, chat(message("m2", "Coffee.", 2), message("m4", "Rex.", 4), hour=15), debounce_s=0.0)
    assert await model.steps() == 0


async def test_a_long_history_is_read_in_several_calls(
    database: Database, owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extraction, "MOST_TURNS", 3)
    model = Model(database)
    late = [message(f"n{n}", f"late {n}", 30 + n) for n in range(2)]
    await bring(database, owner, chat(*late), debounce_s=0.0)
    early = [message(f"m{n}", f"early {n}", n) for n in range(4)]
    await bring(database, owner, chat(*early, hour=12), debounce_s=0.0)
    assert await model.steps() == 2
    assert model.reader.read == [["early 0", "early 1", "early 2"], ["early 3", "late 0", "late 1"]]


async def test_a_model_that_fails_reads_the_same_again(database: Database, owner: Owner) -> None:
    model = Model(database)
    conversation = await bring(database, owner, chat(LYON), debounce_s=0.0)
    model.reader.failing = "no"
    assert await model.steps() == 1
    found = await chats.chat(database, owner, conversation)
    assert found is not None
    assert (found.status, await known(database, owner)) == ("indexed", {})
    model.reader.failing = ""
    await database.execute("UPDATE extractions SET due_at = now()")
    assert await model.steps() == 1
    assert len(await known(database, owner)) == 1


async def test_what_is_edited_while_the_model_reads_is_read_again_and_nothing_of_the_old_words_kept(
    database: Database, owner: Owner
) -> None:
    model = Model(database)
    await bring(database, owner, chat(message("m1", "Tea."), message("m2", "Rex.", 1)), debounce_s=0.0)
    model.reader.answer = anyio.Event()
    async with anyio.create_task_group() as tg:
        tg.start_soon(model.extraction.step)
        await model.reader.asked.wait()
        await bring(database, owner, chat(message("m1", "Coffee."), hour=12), debounce_s=0.0)
        model.reader.answer.set()
    assert set(await known(database, owner)) == {"They said: Rex."}
    assert await model.steps() == 1
    assert model.reader.read[-1] == ["Coffee."]
    assert set(await known(database, owner)) == {"They said: Rex.", "They said: Coffee."}


async def test_where_nobody_says_anything_of_their_own_no_model_is_asked(database: Database, owner: Owner) -> None:
    model = Model(database)
    said = [message("m1", "I own a boat.") | BEA, message("m2", "I see.", 1, "assistant")]
    await bring(database, owner, chat(*said), debounce_s=0.0)
    assert await database.fetchval("SELECT count(*) FROM extractions") == 0
    assert await model.steps() == 0


async def test_what_is_brought_into_a_thread_of_messages_is_read_like_them(database: Database, owner: Owner) -> None:
    model = Model(database)
    await bring(database, owner, chat(LYON), debounce_s=0.0, platform="reprise")
    assert await database.fetchval("SELECT chosen FROM extractions") is None
    assert await model.steps() == 1
    assert model.reader.read == [[LYON["content"]]]
