"""Consumer groups of finished messages: settling before expiry, claims, failures, dead letters."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import anyio
import pytest

from app.chat import groups as groups_module
from app.chat.groups import Delivery, Groups
from app.chat.lifecycle import Lifecycle
from app.errors import RepriseError, Unavailable
from app.settings import Settings
from app.telemetry import Metrics
from app.workers import loop
from app.workers.loop import GroupConsumer
from tests.rig import claim, lifecycle_on, new_message, until


@pytest.fixture
async def lifecycle(settings: Settings):
    async with lifecycle_on(settings) as made:
        yield made


@pytest.fixture
def groups(lifecycle: Lifecycle) -> Groups:
    return Groups(lifecycle.scripts, lifecycle.keys)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(groups_module, "PAUSES_MS", (1,))


async def finish(lifecycle: Lifecycle, message_id: str) -> None:
    await lifecycle.create(new_message(message_id))
    message = await claim(lifecycle, message_id)
    await lifecycle.finish(message, message.token, "completed", [], 1, [b"z", b""])


async def days_left(lifecycle: Lifecycle, message_id: str) -> float:
    return await lifecycle.redis.ttl(lifecycle.keys.message("acc", message_id)) / 86_400


async def lapse(lifecycle: Lifecycle, group: str) -> None:
    """Every lease and pause of the group ends now."""
    for base in lifecycle.keys.bases:
        for entry in await lifecycle.redis.zrange(f"{base}due:{group}", 0, -1):
            await lifecycle.redis.zadd(f"{base}due:{group}", {entry: 1})


async def test_retention_starts_when_every_group_has_settled(lifecycle: Lifecycle, groups: Groups):
    base = lifecycle.keys.bases[0]
    await finish(lifecycle, "before")
    assert await days_left(lifecycle, "before") < 1
    await groups.add("remember")
    await groups.add("notify")
    await finish(lifecycle, "m")
    assert await days_left(lifecycle, "m") > 29
    [first] = await groups.take("remember", "t1", base, 10)
    [second] = await groups.take("notify", "t2", base, 10)
    assert (first.member, second.member) == ("acc/m", "acc/m")  # "before" is not theirs
    assert await groups.done("remember", [first])
    assert await days_left(lifecycle, "m") > 29
    assert await lifecycle.redis.xlen(f"{base}finished") == 1
    assert await groups.done("notify", [second])
    assert await days_left(lifecycle, "m") < 1
    assert await lifecycle.redis.xlen(f"{base}finished") == 0
    assert not await groups.done("notify", [second])


async def test_a_consumer_that_lost_its_claim_acknowledges_nothing(lifecycle: Lifecycle, groups: Groups):
    base = lifecycle.keys.bases[0]
    await groups.add("remember")
    await finish(lifecycle, "m")
    [paused] = await groups.take("remember", "t1", base, 10)
    assert await groups.take("remember", "t2", base, 10) == []
    assert await groups.renew("remember", [paused]) == []
    await lapse(lifecycle, "remember")
    [taken] = await groups.take("remember", "t2", base, 10)
    assert (taken.member, taken.deliveries) == ("acc/m", 2)
    assert await groups.renew("remember", [paused]) == [paused]
    assert not await groups.done("remember", [paused])
    assert await groups.fail("remember", paused, "late") == "lost"
    assert await days_left(lifecycle, "m") > 29
    assert await groups.done("remember", [taken])


async def test_dead_letters_are_listed_requeued_and_dropped(lifecycle: Lifecycle, groups: Groups):
    base = lifecycle.keys.bases[0]
    await groups.add("remember")
    await finish(lifecycle, "m")
    outcome = "retry"
    while outcome == "retry":
        await lapse(lifecycle, "remember")
        [delivery] = await groups.take("remember", "t", base, 10)
        outcome = await groups.fail("remember", delivery, "the database is away")
    assert (outcome, delivery.deliveries) == ("dead", groups_module.MAX_DELIVERIES)
    [letter] = await groups.dead_letters()
    assert (letter.group, letter.account, letter.message_id) == ("remember", "acc", "m")
    assert (letter.reason, letter.deliveries) == ("the database is away", groups_module.MAX_DELIVERIES)
    assert await days_left(lifecycle, "m") > 29
    assert await groups.dead_letter(letter.id) == letter
    assert await groups.requeue(letter.id) == "requeued"
    assert await groups.dead_letter(letter.id) is None
    assert await groups.requeue(letter.id) == "unknown"
    assert await groups.dead_letters() == []
    [again] = await groups.take("remember", "t", base, 10)
    assert again.deliveries == 1
    for _ in range(groups_module.MAX_DELIVERIES):
        outcome = await groups.fail("remember", again, "no")
        await lapse(lifecycle, "remember")
        if outcome == "retry":
            [again] = await groups.take("remember", "t", base, 10)
    [letter] = await groups.dead_letters()
    assert await groups.drop(letter.id) == "dropped"
    assert await days_left(lifecycle, "m") < 1
    for nonsense in ("", "0", "9:1-1", "0:1", "x:1-1", "0:a-b"):
        assert await groups.requeue(nonsense) == "unknown"


async def test_a_deleted_message_is_delivered_to_nobody(lifecycle: Lifecycle, groups: Groups):
    base = lifecycle.keys.bases[0]
    await groups.add("remember")
    await finish(lifecycle, "m")
    await finish(lifecycle, "n")
    await lifecycle.delete("acc", "m")
    assert [d.member for d in await groups.take("remember", "t", base, 10)] == ["acc/n"]


async def test_the_loop_hands_over_together_what_waits_and_alone_what_failed_together(
    lifecycle: Lifecycle, groups: Groups
):
    seen: list[list[str]] = []

    async def handle(batch: Sequence[Delivery]) -> None:
        seen.append([f"{d.member}:{d.deliveries}" for d in batch])
        for delivery in batch:
            if delivery.member == "acc/flaky" and delivery.deliveries < 3:
                raise RepriseError("not yet")

    await groups.add("remember")
    for message_id in ("one", "flaky", "two"):
        await finish(lifecycle, message_id)
    consumer = GroupConsumer(groups, lifecycle.keys, "remember", handle, Metrics())
    async with anyio.create_task_group() as tg:
        tg.start_soon(consumer.run)
        await until(lambda: len(seen) == 6)
        consumer.stop()
    first = ["acc/one:1", "acc/flaky:1", "acc/two:1"]
    assert seen == [first, *([one] for one in first), ["acc/flaky:2"], ["acc/flaky:3"]]
    for message_id in ("one", "flaky", "two"):
        assert await days_left(lifecycle, message_id) < 1


async def test_an_engine_that_is_away_counts_against_no_delivery_however_often(
    lifecycle: Lifecycle, groups: Groups, monkeypatch: pytest.MonkeyPatch
):
    """PROTOCOL M4."""
    monkeypatch.setattr(groups_module, "AWAY_PAUSE_MS", 1)
    monkeypatch.setattr(loop, "AWAY_S", 0.01)
    seen: list[list[str]] = []

    async def handle(batch: Sequence[Delivery]) -> None:
        seen.append([f"{d.member}:{d.deliveries}" for d in batch])
        if len(seen) < 2 * groups_module.MAX_DELIVERIES:
            raise Unavailable("PostgreSQL does not answer")

    await groups.add("remember")
    for message_id in ("one", "two"):
        await finish(lifecycle, message_id)
    consumer = GroupConsumer(groups, lifecycle.keys, "remember", handle, Metrics())
    async with anyio.create_task_group() as tg:
        tg.start_soon(consumer.run)
        for message_id in ("one", "two"):
            await until(partial(retained, lifecycle, message_id))
        consumer.stop()
    assert {name for names in seen for name in names} == {"acc/one:1", "acc/two:1"}
    assert len(seen) >= 2 * groups_module.MAX_DELIVERIES
    assert await groups.dead_letters() == []


async def retained(lifecycle: Lifecycle, message_id: str) -> bool:
    """Whether the message's retention has begun: it was settled."""
    return await days_left(lifecycle, message_id) < 1


async def test_more_than_a_batch_is_handed_over_without_a_pause(
    lifecycle: Lifecycle, groups: Groups, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(loop, "BATCH", 2)
    monkeypatch.setattr(loop, "GATHER_S", 3600)
    seen: list[int] = []

    async def handle(batch: Sequence[Delivery]) -> None:
        seen.append(len(batch))

    await groups.add("remember")
    for number in range(5):
        await finish(lifecycle, f"m{number}")
    consumer = GroupConsumer(groups, lifecycle.keys, "remember", handle, Metrics())
    async with anyio.create_task_group() as tg:
        tg.start_soon(consumer.run)
        await until(lambda: len(seen) == 3)
        tg.cancel_scope.cancel()
    assert sorted(seen) == [1, 2, 2]


async def test_a_batch_goes_on_while_one_of_its_claims_is_still_ours(
    lifecycle: Lifecycle, groups: Groups, monkeypatch: pytest.MonkeyPatch
):
    """Lost one by one; with the last the handling is cancelled."""
    monkeypatch.setattr(loop, "LEASE_MS", 80)
    started, cancelled = anyio.Event(), anyio.Event()
    lost: list[Delivery] = []

    async def handle(batch: Sequence[Delivery]) -> None:
        started.set()
        try:
            await anyio.sleep(3600)
        finally:
            cancelled.set()

    async def renew(group: str, deliveries: list[Delivery]) -> list[Delivery]:
        lost.extend(deliveries[:1])
        assert len(lost) > 1 or not cancelled.is_set()
        return deliveries[:1]

    await groups.add("remember")
    for message_id in ("one", "two"):
        await finish(lifecycle, message_id)
    monkeypatch.setattr(groups, "renew", renew)
    consumer = GroupConsumer(groups, lifecycle.keys, "remember", handle, Metrics())
    async with anyio.create_task_group() as tg:
        tg.start_soon(consumer.run)
        await started.wait()
        await until(cancelled.is_set)
        consumer.stop()
    assert [delivery.member for delivery in lost] == ["acc/one", "acc/two"]
