"""The bridge, several messages at a time: what is stored does not depend on how deliveries are batched or ordered."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import anyio
import pytest

from app.chat import log
from app.settings import Settings
from app.telemetry import Metrics
from app.workers.loop import GroupConsumer
from app.workers.remember import GROUP
from tests.bridge_rig import Killed, Points, Rig, rig_on
from tests.rig import until


@pytest.fixture
async def rig(settings: Settings):
    async with rig_on(settings) as made:
        yield made


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
