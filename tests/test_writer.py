"""The writer and its outboxes: numbering, merging, repeats, refill after lost writes."""

from __future__ import annotations

import anyio
import pytest

from app.chat.events import Draft, content_of
from app.chat.lifecycle import Lifecycle
from app.chat.message import Message
from app.chat.writer import MERGE_BYTES, Outbox, Writer
from app.settings import Settings
from tests.rig import claim, entries, feed_kinds, lifecycle_on, new_message, until

START: list[Draft] = [(b"s", b'{"message":{}}'), (b"b0", b'{"type":"text","text":""}')]


@pytest.fixture
async def lifecycle(settings: Settings):
    async with lifecycle_on(settings) as made:
        yield made


@pytest.fixture
async def message(lifecycle: Lifecycle) -> Message:
    await lifecycle.create(new_message("m"))
    return await claim(lifecycle, "m")


def text(value: str) -> Draft:
    return (b"t0", value.encode())


async def test_waiting_deltas_merge_and_written_ones_never_change(message: Message):
    outbox = Outbox(message, message.token, b"", lambda: None)
    outbox.add([*START, text("a"), text("b")])
    assert outbox.unsent() == (1, [*START[0], *START[1], b"t0", b"ab"])
    outbox.add([text("c"), text("d"), (b"e0", b""), text("e")])
    first, flat = outbox.unsent()
    assert (first, flat[4:]) == (1, [b"t0", b"ab", b"t0", b"cd", b"e0", b"", b"t0", b"e"])
    outbox.settle(4, 5)
    assert outbox.unsent() == (5, [b"e0", b"", b"t0", b"e"])
    outbox.add([text("x" * MERGE_BYTES), text("y")])
    assert outbox.unsent()[1][4:] == [b"t0", b"x" * MERGE_BYTES, b"t0", b"y"]


async def test_everything_is_written_in_order_and_finished_once(lifecycle: Lifecycle, message: Message):
    writer = Writer(lifecycle)
    outbox = Outbox(message, message.token, b"", lambda: None)
    words = [f"w{i} " for i in range(300)]
    async with anyio.create_task_group() as tg:
        tg.start_soon(writer.run)
        writer.put(outbox, START)
        for word in words:
            writer.put(outbox, [text(word)])
            await anyio.sleep(0)
        final = await writer.finish(outbox, [(b"e0", b""), (b"z", b"")], "completed", {"ot": 300})
        tg.cancel_scope.cancel()
    assert (final.status, final.output_tokens) == ("completed", 300)
    log = await entries(lifecycle, "m")
    assert [e.seq for e in log] == list(range(1, len(log) + 1))
    assert content_of(log) == [{"type": "text", "text": "".join(words)}]
    assert len(log) < 300  # what waited for the pipeline was merged


async def test_what_redis_lost_is_sent_again_from_memory(lifecycle: Lifecycle, message: Message):
    writer = Writer(lifecycle)
    outbox = Outbox(message, message.token, b"", lambda: None)
    key, hash_key = lifecycle.keys.log("acc", "m"), lifecycle.keys.message("acc", "m")
    async with anyio.create_task_group() as tg:
        tg.start_soon(writer.run)
        for draft in [*START, text("one "), text("two "), text("three ")]:
            writer.put(outbox, [draft])
            await until(lambda: not outbox.dirty)
        # a failover forgets the last three writes
        await lifecycle.redis.delete(key)
        await lifecycle.redis.xadd(key, dict([START[0]]), id="1-0")
        await lifecycle.redis.xadd(key, dict([START[1]]), id="2-0")
        await lifecycle.redis.hset(hash_key, "n", 2)
        writer.put(outbox, [text("four")])
        await until(lambda: not outbox.dirty)
        assert content_of(await entries(lifecycle, "m")) == [{"type": "text", "text": "one two three four"}]
        # and another time just before the end, everything
        await lifecycle.redis.delete(key)
        await lifecycle.redis.hset(hash_key, "n", 0)
        assert (await writer.finish(outbox, [(b"z", b"")], "completed", {})).last_seq == 7
        tg.cancel_scope.cancel()
    log = await entries(lifecycle, "m")
    assert [e.seq for e in log] == [1, 2, 3, 4, 5, 6, 7]
    assert content_of(log) == [{"type": "text", "text": "one two three four"}]


async def test_a_later_attempt_refills_its_restart_too(lifecycle: Lifecycle, message: Message):
    await lifecycle.hand_back("acc/m", message.token)
    second, _, restart = await lifecycle.claim("acc", "m", "generate-w", "t2")
    key = lifecycle.keys.log("acc", "m")
    writer = Writer(lifecycle)
    outbox = Outbox(second, "t2", restart, lambda: None)
    await lifecycle.redis.delete(key)
    await lifecycle.redis.hset(lifecycle.keys.message("acc", "m"), "n", 0)
    final = await writer.finish(outbox, [*START, text("x"), (b"z", b"")], "completed", {})
    assert final.last_seq == 1_000_005
    log = await entries(lifecycle, "m")
    assert [e.seq for e in log] == [1_000_001, 1_000_002, 1_000_003, 1_000_004, 1_000_005]
    assert log[0].type == "message_restart"


async def test_a_lost_claim_is_told_once_and_writes_nothing(lifecycle: Lifecycle, message: Message):
    lost: list[int] = []
    writer = Writer(lifecycle)
    outbox = Outbox(message, "not the token", b"", lambda: lost.append(1))
    async with anyio.create_task_group() as tg:
        tg.start_soon(writer.run)
        writer.put(outbox, START)
        await until(lambda: lost)
        writer.put(outbox, [text("more")])
        assert await writer.finish(outbox, [(b"z", b"")], "completed", {}) is None
        tg.cancel_scope.cancel()
    assert lost == [1]
    assert await entries(lifecycle, "m") == []


@pytest.mark.parametrize("sends_first", ["the writer", "the end"])
async def test_the_feed_is_told_of_a_beginning_before_its_end(settings: Settings, sends_first: str):
    async with lifecycle_on(settings) as lifecycle:
        await lifecycle.create(new_message("m"))
        (member,) = await lifecycle.queue.claim(lifecycle.keys.account_base("acc"), 1)
        claimed = await lifecycle.claim(*member.split("/"), "generate-w", "token")
        assert claimed is not None
        writer = Writer(lifecycle)
        outbox = Outbox(claimed[0], "token", b"", lambda: None, lifecycle.queue.started(claimed[0]))
        async with anyio.create_task_group() as tg:
            if sends_first == "the writer":
                tg.start_soon(writer.run)
                writer.put(outbox, START)
                await until(lambda: not outbox.dirty)
            await writer.finish(outbox, [(b"z", b"")], "completed", {})
            tg.cancel_scope.cancel()
        assert await feed_kinds(lifecycle) == ["message.created", "message.processing", "message.completed"]
