"""The bridge: finished messages stored, once, whatever dies; deleted ones never; what failed said and tried again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import contextmanager, suppress
from typing import Any

import anyio
import asyncpg
import pytest
from asyncpg.connection import Connection
from redis.asyncio.client import Pipeline

from app.chat import groups as groups_module
from app.chat import log
from app.chat.lifecycle import Note
from app.errors import RepriseError
from app.llm.types import Turn
from app.settings import Settings
from app.telemetry import Metrics
from app.workers.loop import GroupConsumer
from app.workers.remember import GROUP
from tests.bridge_rig import SAID, Rig, rig_on
from tests.rig import new_message, until


@pytest.fixture
async def rig(settings: Settings):
    async with rig_on(settings) as made:
        yield made


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


TALK = [
    ("ada", "t1", "I live in Lyon.", "A fine city."),
    ("ada", "t1", "What is the weather like?", "It rains."),
    ("ada", "t2", "I moved to Porto.", "By the sea."),
    ("bob", "t1", "I live in Ghent.", "Noted."),
    ("ada", "t1", "And tomorrow?", "It rains on."),
    ("bob", "", "Tell me a joke.", "Two fish swim."),
    ("ada", "t2", "My name is Ada.", "Hello Ada."),
]
"""Two users, conversations that go on, statements that supersede others."""


async def tell(rig: Rig, mark: str) -> None:
    """All of `TALK`, by users and in threads of its own."""
    for number, (user, thread, said, answer) in enumerate(TALK):
        await rig.finish(f"{mark}{number}", said, answer, user=f"{user}{mark}", thread=thread)


async def test_however_deliveries_are_batched_the_rows_are_the_same(rig: Rig):
    await tell(rig, "one")
    for delivery in await rig.take():
        await rig.bridge([delivery])
        await rig.groups.done(GROUP, [delivery])
    await tell(rig, "all")
    await rig.deliver()
    for user in ("ada", "bob"):
        wanted, got = await rig.rows(f"{user}one"), await rig.rows(f"{user}all")
        assert len(wanted["turns"]) == 2 * sum(name == user for name, *_ in TALK)
        assert got == wanted
    current = "SELECT m.text FROM memories m JOIN owners o ON o.id = m.owner WHERE o.user_id = $1 AND valid_to IS NULL"
    for mark in ("one", "all"):
        rows = await rig.database.fetch(current, f"ada{mark}")
        assert {row["text"] for row in rows} == {"I moved to Porto.", "My name is Ada."}
    for number in range(len(TALK)):
        one, other = await rig.memory(f"one{number}"), await rig.memory(f"all{number}")
        assert (one["status"], len(one["memory_ids"])) == (other["status"], len(other["memory_ids"]))


async def test_a_batch_killed_after_any_step_and_delivered_again_leaves_the_rows_of_an_undisturbed_one(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
):
    """PROTOCOL M2."""
    points = Points()
    await tell(rig, "calm")
    with points.armed(monkeypatch, rig.lifecycle.redis, 0):
        await rig.deliver()
    steps = points.count
    for step in range(1, steps + 1):
        mark = f"killed{step}"
        await tell(rig, mark)
        with points.armed(monkeypatch, rig.lifecycle.redis, step), suppress(Killed):
            await rig.deliver()
        await rig.lapse()
        await rig.deliver()
        for user in ("ada", "bob"):
            got = await rig.rows(f"{user}{mark}")
            assert got == await rig.rows(f"{user}calm"), f"killed after step {step} of {steps}"
        assert [(await rig.memory(f"{mark}{number}"))["status"] for number in range(len(TALK))] == ["stored"] * len(
            TALK
        )
        assert await rig.lifecycle.redis.xlen(f"{rig.lifecycle.keys.bases[0]}finished") == 0


async def test_delivered_in_any_order_the_rows_are_those_of_the_order_asked_in(rig: Rig):
    for mark, order in (("calm", (0, 1, 2, 3, 4)), ("back", (4, 3, 2, 1, 0)), ("late", (0, 2, 4, 1, 3))):
        for number, said in enumerate(
            ["I live in Lyon.", "What now?", "I moved to Porto.", "And?", "I moved to Bari."]
        ):
            await rig.finish(f"{mark}{number}", said, f"Answer {number}.", user=mark, thread="t")
            await anyio.sleep(0.002)  # times of creation are milliseconds
        batch = await rig.take()
        for number in order:
            await rig.bridge([batch[number]])
        assert await rig.groups.done(GROUP, batch) == 5
    wanted = await rig.rows("calm")
    assert [text for _, _, text in wanted["turns"]][::2] == [
        "I live in Lyon.",
        "What now?",
        "I moved to Porto.",
        "And?",
        "I moved to Bari.",
    ]
    for mark in ("calm", "back", "late"):
        got = await rig.rows(mark)
        for name in ("turns", "units", "postings", "conversations"):
            assert got[name] == wanted[name], (mark, name)
        chain = await rig.database.fetch(
            "SELECT m.text, later.text AS later, m.valid_to = later.valid_from AS meet FROM memories m"
            " LEFT JOIN memories later ON later.id = m.superseded_by"
            " JOIN owners o ON o.id = m.owner WHERE o.user_id = $1 ORDER BY m.valid_from",
            mark,
        )
        assert [tuple(row) for row in chain] == [
            ("I live in Lyon.", "I moved to Porto.", True),
            ("I moved to Porto.", "I moved to Bari.", True),
            ("I moved to Bari.", None, None),
        ], mark


async def test_a_batch_never_overtakes_an_earlier_one_of_the_same_conversation(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
):
    for number in range(4):
        await rig.finish(f"m{number}", f"What about number {number}?", f"Answer {number}.", thread="t")
        await rig.finish(f"other{number}", user="bob", thread="t")
    batch = await rig.take()
    held, go, read = anyio.Event(), anyio.Event(), log.read_finished

    async def slow(redis: Any, keys: Any, messages: list[Any]) -> Any:
        if messages[0].id == "m0":
            held.set()
            await go.wait()
        return await read(redis, keys, messages)

    monkeypatch.setattr(log, "read_finished", slow)
    async with anyio.create_task_group() as tg:
        tg.start_soon(rig.bridge, [one for one in batch if one.member == "acc/m0"])
        await held.wait()
        tg.start_soon(rig.bridge, [one for one in batch if one.member in ("acc/m1", "acc/m2", "acc/m3")])
        await rig.bridge([one for one in batch if "other" in one.member])  # another conversation waits for none
        assert (await rig.memory("other3"))["status"] == "stored"
        assert (await rig.memory("m3"))["status"] == "queued"
        go.set()
    texts = await rig.database.fetch(
        "SELECT t.text FROM turns t JOIN owners o ON o.id = t.owner WHERE o.user_id = 'ada' ORDER BY t.id"
    )
    assert [row["text"] for row in texts][1::2] == [f"Answer {number}." for number in range(4)]


async def test_one_message_that_cannot_be_remembered_does_not_keep_its_batch_from_it(rig: Rig):
    for message_id in ("m1", "broken", "m2"):
        await rig.finish(message_id, thread=message_id)
    await rig.lifecycle.redis.delete(rig.lifecycle.keys.request("acc", "broken"))
    consumer = GroupConsumer(rig.groups, rig.lifecycle.keys, GROUP, rig.bridge, Metrics())
    async with anyio.create_task_group() as tg:
        tg.start_soon(consumer.run)

        async def stored() -> bool:
            return [(await rig.memory(name))["status"] for name in ("m1", "broken", "m2")] == [
                "stored",
                "queued",
                "stored",
            ]

        await until(stored)
        consumer.stop()


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
