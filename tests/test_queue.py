"""Who runs next: turns, limits, slots."""

from __future__ import annotations

import msgspec
import pytest

from app.chat.lifecycle import Lifecycle
from app.chat.message import iso
from app.settings import Settings
from tests.rig import claim, lifecycle_on, new_message


@pytest.fixture
async def lifecycle(settings: Settings):
    async with lifecycle_on(settings) as made:
        yield made


def base(lifecycle: Lifecycle) -> str:
    return lifecycle.keys.account_base("a")


async def fill(lifecycle: Lifecycle, account: str, count: int, **limits: int) -> None:
    for i in range(count):
        await lifecycle.create(new_message(f"{account}{i:03}", account=account, **limits))


async def test_a_single_message_of_b_comes_right_after_one_of_a_hundred_of_a(lifecycle: Lifecycle):
    await fill(lifecycle, "a", 100)
    assert await lifecycle.queue.claim(base(lifecycle), 2) == ["a/a000", "a/a001"]
    await fill(lifecycle, "b", 1)
    taken = await lifecycle.queue.claim(base(lifecycle), 3)
    assert "b/b000" in taken[:2]


async def test_accounts_take_turns(lifecycle: Lifecycle):
    for account in ("a", "b", "c"):
        await fill(lifecycle, account, 3)
    taken = await lifecycle.queue.claim(base(lifecycle), 9)
    assert [member[0] for member in taken] == ["a", "b", "c"] * 3
    assert [member for member in taken if member[0] == "b"] == ["b/b000", "b/b001", "b/b002"]


async def test_no_more_than_max_running(lifecycle: Lifecycle):
    await fill(lifecycle, "a", 5, max_running=2)
    assert await lifecycle.queue.claim(base(lifecycle), 10) == ["a/a000", "a/a001"]
    assert await lifecycle.queue.claim(base(lifecycle), 10) == []
    message = await claim(lifecycle, "a000", account="a")
    await lifecycle.finish(message, message.token, "completed", [], 1, [b"z", b""])
    assert await lifecycle.queue.claim(base(lifecycle), 10) == ["a/a002"]
    await lifecycle.cancel("a", "a001")
    assert await lifecycle.queue.claim(base(lifecycle), 10) == ["a/a003"]


async def test_a_raised_limit_counts_at_once(lifecycle: Lifecycle):
    await fill(lifecycle, "a", 3, max_running=1)
    await lifecycle.queue.claim(base(lifecycle), 10)
    await lifecycle.create(new_message("a900", account="a", max_running=3))
    assert len(await lifecycle.queue.claim(base(lifecycle), 10)) == 2


async def test_a_requeued_message_keeps_its_place(lifecycle: Lifecycle):
    await fill(lifecycle, "a", 3)
    await lifecycle.queue.claim(base(lifecycle), 1)
    message = await claim(lifecycle, "a000", account="a")
    await lifecycle.hand_back("a/a000", message.token)
    assert await lifecycle.queue.claim(base(lifecycle), 3) == ["a/a000", "a/a001", "a/a002"]


async def test_cancelling_a_waiting_message_takes_it_out_of_the_queue(lifecycle: Lifecycle):
    await fill(lifecycle, "a", 2, max_queued=2)
    await lifecycle.cancel("a", "a000")
    await lifecycle.create(new_message("a002", account="a", max_queued=2))
    assert await lifecycle.queue.claim(base(lifecycle), 3) == ["a/a001", "a/a002"]


@pytest.mark.parametrize(
    "created", [1, 68_169_600_000, 951_868_799_999, 1_709_164_800_000, 1_735_689_599_009, 4_107_542_400_000]
)
async def test_the_feed_tells_the_time_of_creation_as_the_status_does(lifecycle: Lifecycle, created: int):
    await fill(lifecycle, "a", 1)
    message = await lifecycle.read("a", "a000")
    assert message is not None
    message.id, message.created, message.updated = "other", created, created
    name, where, args = lifecycle.queue.enter(message, 9, 9)
    assert await lifecycle.scripts.run(name, where, *args) == 1
    _, fields = (await lifecycle.redis.xrange(lifecycle.keys.feed("a")))[-1]
    told = msgspec.json.decode(fields[b"d"])
    assert told == {"event": "message.created", "data": message.status_object(), "timestamp": iso(created)}
