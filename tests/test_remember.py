"""The bridge: finished messages stored, once, whatever dies; deleted ones never; what failed said and tried again."""

from __future__ import annotations

from typing import Any

import anyio
import asyncpg
import pytest
from asyncpg.connection import Connection

from app.chat import groups as groups_module
from app.chat.lifecycle import Note
from app.errors import RepriseError
from app.llm.types import Turn
from app.settings import Settings
from app.telemetry import Metrics
from app.workers.loop import GroupConsumer
from app.workers.remember import GROUP
from tests.bridge_rig import SAID, Killed, Points, Rig, rig_on
from tests.rig import new_message, until


@pytest.fixture
async def rig(settings: Settings):
    async with rig_on(settings) as made:
        yield made


async def test_a_completed_message_becomes_a_conversation_with_provenance(rig: Rig):
    """PROTOCOL M1."""
    metadata = {"agent_id": "guide", "source": "app", "title": "hello"}
    await rig.finish("m", thread="t1", metadata=metadata)
    assert (await rig.memory("m"))["status"] == "queued"
    await rig.deliver()
    memory = await rig.memory("m")
    assert (memory["status"], memory["error"]) == ("stored", None)
    rows = await rig.rows()
    assert rows["turns"] == [(0, "user", SAID), (1, "assistant", "Noted.")]
    assert [text for text, *_ in rows["memories"]] == [SAID]
    assert rows["conversations"] == [("reprise", "t1")]
    row = await rig.database.fetchrow("SELECT * FROM memories")
    assert memory["memory_ids"] == [row["id"]]
    named = ("message_id", "thread_id", "agent_id", "source")
    assert tuple(row[name] for name in named) == ("m", "t1", "guide", "app")
    assert await rig.lifecycle.redis.xlen(f"{rig.lifecycle.keys.bases[0]}finished") == 0


async def test_killed_after_any_step_and_delivered_again_the_rows_are_those_of_an_undisturbed_run(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
):
    """PROTOCOL M2."""
    points, redis = Points(), rig.lifecycle.redis
    await rig.finish("calm", user="calm", thread="t")
    with points.armed(monkeypatch, redis, 0):
        await rig.deliver()
    steps, wanted = points.count, await rig.rows("calm")
    assert steps > 15
    assert len(wanted["turns"]) == 2 and len(wanted["memories"]) == 1
    for step in range(1, steps + 1):
        name = f"killed{step}"
        await rig.finish(name, user=name, thread="t")
        killed = 0
        for _ in range(3):
            with points.armed(monkeypatch, redis, step):
                try:
                    await rig.deliver()
                except Killed:
                    killed += 1
            await rig.lapse()
        assert killed
        await rig.deliver()
        assert await rig.rows(name) == wanted, f"killed after step {step} of {steps}"
        assert (await rig.memory(name))["status"] == "stored"
        assert await redis.xlen(f"{rig.lifecycle.keys.bases[0]}finished") == 0, f"step {step} is not acknowledged"


async def test_what_was_not_asked_for_or_did_not_complete_is_not_stored(rig: Rig):
    """PROTOCOL M3."""
    await rig.finish("unwanted", store="no")
    await rig.finish("failed", status="error")
    await rig.lifecycle.create(new_message("cancelled"))
    await rig.lifecycle.cancel("acc", "cancelled")
    await rig.lifecycle.create(new_message("nothing said", store="partial", request=b'{"messages":[]}'))
    await rig.lifecycle.cancel("acc", "nothing said")
    await rig.deliver()
    for message_id in ("unwanted", "failed", "cancelled", "nothing said"):
        assert await rig.memory(message_id) == {"status": "skipped", "memory_ids": [], "error": None}, message_id
    assert await rig.database.fetchval("SELECT count(*) FROM owners") == 0
    assert await rig.database.fetchval("SELECT count(*) FROM remembered") == 0


async def test_partial_stores_what_was_written_before_the_end(rig: Rig):
    """PROTOCOL M3."""
    await rig.finish("failed", status="error", answer="As far as I", store="partial")
    await rig.deliver()
    assert (await rig.memory("failed"))["status"] == "stored"
    assert (await rig.rows())["turns"] == [(0, "user", SAID), (1, "assistant", "As far as I")]


async def test_a_client_that_sends_its_history_each_time_has_each_turn_stored_once(rig: Rig):
    await rig.finish("m1", thread="t")
    await rig.deliver()
    turns = [Turn("user", SAID), Turn("assistant", "Noted."), Turn("user", "I also have a dog.")]
    await rig.finish("m2", thread="t", turns=turns, answer="A dog too.")
    await rig.deliver()
    rows = await rig.rows()
    assert [text for _, _, text in rows["turns"]] == [SAID, "Noted.", "I also have a dog.", "A dog too."]
    assert sorted(text for text, *_ in rows["memories"]) == ["I also have a dog.", SAID]
    [second] = await rig.database.fetch("SELECT message_id FROM turns WHERE text = 'I also have a dog.'")
    assert second["message_id"] == "m2"


async def test_text_that_no_database_holds_is_stored_without_the_offending_character(rig: Rig):
    await rig.finish("m", said="I like\x00 tea.", answer="A \x00 b", metadata={"source": "x"})
    await rig.deliver()
    assert (await rig.memory("m"))["status"] == "stored"
    kept = await rig.kept.find("acc", ["m"])
    assert kept["m"].content[-1]["text"] == "A \x00 b"


async def test_an_id_that_comes_again_after_its_retention_is_another_message(rig: Rig):
    await rig.finish("m", said="I like tea.")
    await rig.deliver()
    await rig.lifecycle.redis.delete(rig.lifecycle.keys.message("acc", "m"), rig.lifecycle.keys.log("acc", "m"))
    await anyio.sleep(0.002)  # times of creation are milliseconds
    await rig.finish("m", said="I like coffee.")
    await rig.deliver()
    kept = await rig.kept.find("acc", ["m"])
    later = await rig.lifecycle.read("acc", "m")
    assert later is not None and kept["m"].outcome.created_ms == later.created
    assert {text for text, *_ in (await rig.rows())["memories"]} == {"I like tea.", "I like coffee."}


async def test_a_status_is_never_told_of_another_message_of_the_same_id(rig: Rig):
    first = await rig.finish("m")
    await rig.lifecycle.redis.delete(rig.lifecycle.keys.message("acc", "m"), rig.lifecycle.keys.log("acc", "m"))
    await anyio.sleep(0.002)
    await rig.lifecycle.create(new_message("m"))
    await rig.lifecycle.note_remembered(
        Note(account="acc", message_id=name, created=first.created, status="stored", memory_ids=["mem_1"])
        for name in ("m", "gone")
    )
    assert (await rig.memory("m"))["memory_ids"] == []
    assert await rig.lifecycle.read("acc", "gone") is None


async def test_a_message_deleted_before_it_is_remembered_never_is(rig: Rig):
    """PROTOCOL D3."""
    message = await rig.finish("m")
    [delivery] = await rig.take()
    await rig.kept.delete("acc", "ada", "m", message.created, memories=False)
    await rig.bridge([delivery])  # its record is still there: the deletion has come as far as PostgreSQL
    rows = await rig.rows()
    assert all(not rows[name] for name in rows)
    assert (await rig.memory("m"))["status"] == "skipped"


@pytest.mark.parametrize("first", ["delete", "store"])
async def test_delete_wins_whichever_transaction_comes_first(rig: Rig, monkeypatch: pytest.MonkeyPatch, first: str):
    """PROTOCOL D3. Each is held back, its transaction open, until the other waits for it."""
    message = await rig.finish("m")
    [delivery] = await rig.take()
    held, go = anyio.Event(), anyio.Event()
    statement = "INSERT INTO tombstones" if first == "delete" else "INSERT INTO remembered"
    execute = Connection.execute

    async def holding(self: Any, query: str, *args: Any, **named: Any) -> Any:
        result = await execute(self, query, *args, **named)
        if query.startswith(statement):
            held.set()
            await go.wait()
        return result

    monkeypatch.setattr(Connection, "execute", holding)

    async def delete() -> None:
        await rig.kept.delete("acc", "ada", "m", message.created, memories=True)

    async def store() -> None:
        await rig.bridge([delivery])

    async def waits() -> bool:
        count = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND application_name = 'reprise'"
        return bool(await rig.database.fetchval(count))

    async with anyio.create_task_group() as tg:
        tg.start_soon(delete if first == "delete" else store)
        await held.wait()
        tg.start_soon(store if first == "delete" else delete)
        await until(waits)
        go.set()
    rows = await rig.rows()
    assert all(not rows[name] for name in rows), rows


async def test_deleting_a_remembered_message_keeps_its_memories_unless_they_are_to_go_too(rig: Rig):
    """PROTOCOL D4."""
    for message_id, said in (("m1", "I like tea."), ("m2", "I like coffee.")):
        message = await rig.finish(message_id, said=said)
        await rig.deliver()
        await rig.kept.delete("acc", "ada", message_id, message.created, memories=message_id == "m2")
    assert await rig.kept.find("acc", ["m1", "m2"]) == {}
    rows = await rig.rows()
    assert [text for text, *_ in rows["memories"]] == ["I like tea."]
    assert "I like coffee." not in [text for _, _, text in rows["turns"]]
    assert "coffee" not in str(rows["units"]) + str(rows["postings"])


async def test_what_always_fails_is_a_dead_letter_whose_reason_the_status_shows_and_requeued_it_succeeds(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
):
    """PROTOCOL M4."""
    monkeypatch.setattr(groups_module, "PAUSES_MS", (1,))
    await rig.finish("m")
    key = rig.lifecycle.keys.request("acc", "m")
    request = await rig.lifecycle.redis.getdel(key)
    consumer = GroupConsumer(rig.groups, rig.lifecycle.keys, GROUP, rig.bridge, Metrics())
    async with anyio.create_task_group() as tg:
        tg.start_soon(consumer.run)
        await until(rig.groups.dead_letters)
        memory = await rig.memory("m")
        assert memory == {"status": "failed", "memory_ids": [], "error": "the message's request is gone"}
        await rig.lifecycle.redis.set(key, request)
        [letter] = await rig.groups.dead_letters()
        assert await rig.groups.requeue(letter.id) == "requeued"
        assert (await rig.memory("m"))["status"] in ("queued", "stored")

        async def stored() -> bool:
            return bool((await rig.memory("m"))["status"] == "stored")

        await until(stored)
        consumer.stop()
    assert len((await rig.rows())["turns"]) == 2


async def test_with_the_database_away_a_delivery_fails_and_its_next_one_succeeds(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
):
    await rig.finish("m")
    [delivery] = await rig.take()

    async def refuse(*_: Any, **__: Any) -> Any:
        raise asyncpg.CannotConnectNowError("starting up")

    with monkeypatch.context() as patch:
        patch.setattr(Connection, "fetchrow", refuse)
        with pytest.raises(RepriseError):
            await rig.bridge([delivery])
    assert (await rig.memory("m"))["status"] == "queued"
    await rig.lapse()
    await rig.deliver()
    assert (await rig.memory("m"))["status"] == "stored"
