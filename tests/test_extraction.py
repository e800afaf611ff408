"""A model reads conversations once they pause: debounced, leased, told in the status, tried again when it fails."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import anyio
import pytest

from app.errors import ExtractionFailed
from app.memory.search import Search
from app.memory.types import Draft, Memory, StoredTurn
from app.settings import Settings
from app.workers import extraction
from app.workers.extraction import Extraction
from app.workers.remember import Bridge
from tests.bridge_rig import Rig, rig_on


class Reader:
    """Stands for the extractor, whose own tests are elsewhere: one memory of each user turn it is given."""

    name = "model:reader"

    def __init__(self) -> None:
        self.read: list[list[str]] = []
        self.failing = ""
        self.asked = anyio.Event()
        self.answer = anyio.Event()
        self.answer.set()

    async def extract(self, turns: list[StoredTurn], existing: list[Memory], *, user_first: bool = True) -> list[Draft]:
        self.read.append([one.turn.text for one in turns])
        self.asked.set()
        await self.answer.wait()
        if self.failing:
            raise ExtractionFailed(self.failing)
        return [
            Draft(text=f"They said: {one.turn.text}", turn_keys=[one.turn.key])
            for one in turns
            if one.turn.role == "user"
        ]


class ModelRig:
    """The bridge as it is with a memory model, and the loop that asks it."""

    def __init__(self, rig: Rig, debounce_s: float = 0.0) -> None:
        self.rig = rig
        rig.bridge = Bridge(rig.lifecycle, rig.database, rig.memories, None, debounce_s=debounce_s)
        self.reader = Reader()
        search: Any = Search(rig.database, None)
        self.extraction = Extraction(rig.lifecycle, rig.database, rig.memories, search, self.reader, rig.kept)  # type: ignore[arg-type]

    async def say(self, message_id: str, said: str, thread: str = "t") -> None:
        await self.rig.finish(message_id, said=said, thread=thread, answer=f"You said: {said}")
        await self.rig.deliver()

    async def row(self) -> Any:
        return await self.rig.database.fetchrow("SELECT *, due_at <= now() AS due FROM extractions")

    async def wait_less(self, seconds: float) -> None:
        """Lets so much time pass."""
        await self.rig.database.execute(
            "UPDATE extractions SET due_at = due_at - $1::interval, since = since - $1::interval,"
            " claimed_until = claimed_until - $1::interval",
            timedelta(seconds=seconds),
        )

    async def texts(self) -> list[str]:
        return [row["text"] for row in await self.rig.database.fetch("SELECT text FROM memories ORDER BY text")]


@pytest.fixture
async def rig(settings: Settings):
    async with rig_on(settings) as made:
        yield made


async def test_a_pause_makes_one_call_of_many_turns(rig: Rig):
    made = ModelRig(rig, debounce_s=60)
    for number in range(3):
        await made.say(f"m{number}", f"fact {number}")
        assert not await made.extraction.step()
        await made.wait_less(30)
    assert (await rig.memory("m0"))["status"] == "stored" and await made.texts() == []
    await made.wait_less(31)
    assert await made.extraction.step()
    assert not await made.extraction.step()
    [read] = made.reader.read
    assert read == [text for n in range(3) for text in (f"fact {n}", f"You said: fact {n}")]
    assert await made.texts() == [f"They said: fact {n}" for n in range(3)]
    for number in range(3):
        [memory_id] = (await rig.memory(f"m{number}"))["memory_ids"]
        row = await rig.database.fetchrow("SELECT * FROM memories WHERE id = $1", memory_id)
        assert (row["text"], row["message_id"]) == (f"They said: fact {number}", f"m{number}")
    await made.say("m3", "fact 3")
    await made.wait_less(61)
    assert await made.extraction.step()
    assert made.reader.read[-1] == ["fact 3", "You said: fact 3"]


async def test_a_conversation_that_never_pauses_is_read_all_the_same(rig: Rig):
    made = ModelRig(rig, debounce_s=10)
    for number in range(12):
        await made.say(f"m{number}", f"fact {number}")
        await made.wait_less(9)
        if await made.extraction.step():
            break
    assert 10 <= number <= 11
    assert len(made.reader.read[0]) == 2 * (number + 1)


async def test_a_failure_is_said_in_the_status_and_tried_again(rig: Rig):
    """PROTOCOL M5."""
    made = ModelRig(rig)
    await made.say("m", "fact")
    made.reader.failing = "the answer was no JSON"
    assert await made.extraction.step()
    assert await rig.memory("m") == {"status": "failed", "memory_ids": [], "error": "the answer was no JSON"}
    assert not await made.extraction.step()  # a pause first
    assert (await made.row())["done_to"] == 0
    made.reader.failing = ""
    await made.wait_less(11)
    assert await made.extraction.step()
    memory = await rig.memory("m")
    assert (memory["status"], memory["error"], len(memory["memory_ids"])) == ("stored", None, 1)
    row = await made.row()
    assert (row["tries"], row["reason"], row["due_at"]) == (0, None, None)


async def test_tries_end_and_a_new_turn_begins_them_anew(rig: Rig):
    made = ModelRig(rig)
    await made.say("m", "fact")
    made.reader.failing = "no"
    for _ in range(extraction.MOST_TRIES):
        assert await made.extraction.step()
        await made.wait_less(4_000)
    assert not await made.extraction.step()
    made.reader.failing = ""
    await made.say("n", "another fact")
    assert await made.extraction.step()
    assert await made.texts() == ["They said: another fact", "They said: fact"]


async def test_a_dead_workers_conversation_is_taken_over_when_its_lease_ends_and_it_commits_nothing(rig: Rig):
    made = ModelRig(rig)
    await made.say("m", "fact")
    made.reader.answer = anyio.Event()
    async with anyio.create_task_group() as tg:
        tg.start_soon(made.extraction.step)  # it hangs, then wakes up late
        await made.reader.asked.wait()
        assert not await made.extraction.step()
        await made.wait_less(extraction.LEASE.total_seconds())
        late, made.reader.answer = made.reader.answer, anyio.Event()
        made.reader.answer.set()
        assert await made.extraction.step()
        before = await rig.rows()
        made.reader.failing = "too late to matter"
        late.set()
    assert await rig.rows() == before
    assert (await rig.memory("m"))["status"] == "stored"
    assert len(made.reader.read) == 2


async def test_turns_that_come_while_the_model_reads_are_read_next(rig: Rig):
    made = ModelRig(rig)
    await made.say("m", "fact")
    made.reader.answer = anyio.Event()
    async with anyio.create_task_group() as tg:
        tg.start_soon(made.extraction.step)
        await made.reader.asked.wait()
        await made.say("n", "meanwhile")
        made.reader.answer.set()
    assert await made.texts() == ["They said: fact"]
    assert await made.extraction.step()
    assert made.reader.read[-1] == ["meanwhile", "You said: meanwhile"]
    assert not await made.extraction.step()


async def test_what_was_deleted_before_a_model_read_it_is_not_read_nor_what_was_deleted_meanwhile_remembered(rig: Rig):
    """PROTOCOL D3."""
    made = ModelRig(rig)
    await made.say("m", "fact")
    await made.say("n", "secret")
    message = await rig.lifecycle.read("acc", "n")
    assert message is not None
    await rig.kept.delete("acc", "ada", "n", message.created, memories=False)
    made.reader.answer = anyio.Event()
    async with anyio.create_task_group() as tg:
        tg.start_soon(made.extraction.step)
        await made.reader.asked.wait()
        message = await rig.lifecycle.read("acc", "m")
        assert message is not None
        await rig.kept.delete("acc", "ada", "m", message.created, memories=False)
        made.reader.answer.set()
    assert made.reader.read == [["fact", "You said: fact"]]
    assert await made.texts() == []
    assert (await made.row())["due_at"] is None


async def test_a_worker_that_died_before_it_told_the_statuses_is_made_up_for(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    made = ModelRig(rig)
    await made.say("m", "fact")

    async def die(*_: Any) -> None:
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(made.extraction, "_tell", die)
        with pytest.raises(RuntimeError, match="killed"):
            await made.extraction.step()
    assert (await rig.memory("m"))["memory_ids"] == []
    await rig.database.execute("UPDATE remembered SET at = at - interval '1 minute'")
    await made.extraction.repair()
    assert len((await rig.memory("m"))["memory_ids"]) == 1
    assert await rig.kept.unnoted() == []
