"""Webhooks are told: signed, at least once, whatever a receiver does; who is slow or broken holds up nobody else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import anyio
import pytest
from standardwebhooks.webhooks import WebhookVerificationError

from app.chat.lifecycle import Lifecycle
from app.database import Database
from app.errors import Conflict, NotFound
from app.memory.memories import Memories
from app.memory.types import Owner
from app.settings import Settings
from app.webhooks import deliveries
from app.webhooks.queue import EACH, Result, claim, settle
from app.webhooks.store import Webhook
from app.workers.deliver import KEPT_CHARACTERS, LONGEST_WAIT_S, Timing
from app.workers.notify import GROUP
from tests.memory_rig import keep, new_owner, until_one_waits
from tests.rig import claim as claim_message
from tests.rig import lifecycle_on, new_message, until
from tests.site_rig import Asked, Reply, Site, for_ever, site
from tests.test_outbound import Names, Network
from tests.webhook_rig import Hooks, always, events_of, hooks_on, verified


@pytest.fixture
async def lifecycle(settings: Settings) -> AsyncIterator[Lifecycle]:
    async with lifecycle_on(settings) as made:
        yield made


@pytest.fixture
async def hooks(database: Database, lifecycle: Lifecycle) -> AsyncIterator[Hooks]:
    async with hooks_on(database, lifecycle) as made:
        yield made


async def remember(hooks: Hooks, owner: Owner, *texts: str) -> None:
    """Memories, told of."""
    await keep(Memories(hooks.database, None), hooks.database, owner, *texts)
    await hooks.tell()


async def end(hooks: Hooks, message_id: str, status: Any = "completed", account: str = "acc", **more: Any) -> None:
    """A message that has ended so."""
    await hooks.lifecycle.create(new_message(message_id, account, **more))
    if status == "cancelled":
        await hooks.lifecycle.cancel(account, message_id)
        return
    message = await claim_message(hooks.lifecycle, message_id, account=account)
    await hooks.lifecycle.finish(message, message.token, status, [], 1, [b"z", b""])


@asynccontextmanager
async def one(
    hooks: Hooks, owner: Owner, answer: Callable[[Asked], Reply], **more: Any
) -> AsyncIterator[tuple[Site, Webhook, str]]:
    """A receiver, its webhook, and the webhook's secret."""
    async with site(answer) as receiver:
        hook, secret = await hooks.hook(owner, f"{receiver.url}/hook", **more)
        yield receiver, hook, secret


# ---- what is sent ---------------------------------------------------------------------------------------------------


async def test_the_official_library_verifies_what_is_sent(hooks: Hooks, owner: Owner) -> None:
    """PROTOCOL G3, G4."""
    async with one(hooks, owner, always(200)) as (receiver, hook, secret):
        await remember(hooks, owner, "I live in Lyon, and I like Zürich.")
        assert await hooks.send() == ["delivered"]
        [asked] = receiver.asked
        body = verified(asked, secret)
        with pytest.raises(WebhookVerificationError):
            verified(asked._replace(body=asked.body.replace(b"Lyon", b"Rome")), secret)
        [delivery] = await hooks.of(hook)
        [attempt] = await hooks.attempts(hook)
    assert (asked.method, asked.path, asked.headers["content-type"]) == ("POST", "/hook", "application/json")
    assert set(body) == {"event", "data", "timestamp"}
    assert (body["event"], body["data"]["memory"]) == ("memory.created", "I live in Lyon, and I like Zürich.")
    assert asked.headers["webhook-id"] == delivery.event_id
    assert (delivery.status, delivery.attempts) == ("delivered", 1)
    assert (attempt.status, attempt.error, attempt.response) == (200, None, "ok")


@pytest.mark.parametrize("status", ["completed", "cancelled", "error"])
async def test_a_message_that_ends_is_told_with_its_status_object(
    hooks: Hooks, database: Database, status: str
) -> None:
    """PROTOCOL G1, G3."""
    await new_owner(database, account="acc")
    async with one(hooks, await new_owner(database, account="acc"), always(200)) as (receiver, _, secret):
        await end(hooks, "m1", status)
        await hooks.tell()
        await hooks.send()
        [asked] = receiver.asked
    body = verified(asked, secret)
    assert body["event"] == f"message.{status}"
    assert (body["data"]["message_id"], body["data"]["status"]) == ("m1", status)
    assert body["timestamp"] == body["data"]["completed_at"]


async def test_a_webhook_gets_the_events_it_named_of_its_account_and_user_alone(
    hooks: Hooks, database: Database
) -> None:
    """PROTOCOL G1, G9."""
    ada, bob = await new_owner(database, "ada", "acc"), await new_owner(database, "bob", "acc")
    stranger = await new_owner(database, "ada", "other")
    all_of, _ = await hooks.hook("acc", "http://127.0.0.1:9/")
    of_bob, _ = await hooks.hook("acc", "http://127.0.0.1:9/", user="bob")
    of_ends, _ = await hooks.hook("acc", "http://127.0.0.1:9/", ["message.error"])
    for owner in (ada, bob, stranger):
        await remember(hooks, owner, "I live in Lyon.")
        await end(hooks, f"m-{owner.id}", "error", owner.account, user=owner.user)
    await hooks.tell()
    found = {hook.id: [one.kind for one in await hooks.of(hook)] for hook in (all_of, of_bob, of_ends)}
    assert sorted(found[all_of.id]) == ["memory.created"] * 2 + ["message.error"] * 2
    assert found[of_bob.id] == ["memory.created", "message.error"]
    assert found[of_ends.id] == ["message.error"] * 2
    others = await database.fetchval("SELECT count(*) FROM deliveries")
    assert others == 4 + 2 + 2


async def test_an_event_told_of_again_is_delivered_once(hooks: Hooks, owner: Owner, database: Database) -> None:
    """PROTOCOL G4."""
    await new_owner(database, account="acc")
    hook, _ = await hooks.hook("acc", "http://127.0.0.1:9/")
    await end(hooks, "m1")
    base = hooks.lifecycle.keys.bases[0]
    batch = await hooks.groups.take(GROUP, "t", base, 16)
    await hooks.notifier(batch)
    await hooks.notifier(batch)
    assert len(await hooks.of(hook)) == 1


async def test_an_id_used_again_is_another_event(hooks: Hooks, database: Database) -> None:
    await new_owner(database, account="acc")
    hook, _ = await hooks.hook("acc", "http://127.0.0.1:9/")
    for _ in range(2):
        await end(hooks, "m1")
        await hooks.tell()
        await hooks.lifecycle.delete("acc", "m1")
        keys = hooks.lifecycle.keys
        await hooks.lifecycle.redis.delete(keys.tombstone("acc", "m1"), keys.log("acc", "m1"))
    assert len({delivery.event_id for delivery in await hooks.of(hook)}) == 2


async def test_both_secrets_sign_until_the_overlap_ends(hooks: Hooks, owner: Owner, database: Database) -> None:
    """PROTOCOL G8."""
    async with one(hooks, owner, always(200)) as (receiver, hook, old):
        _, new = await hooks.store.rotate(owner.account, hook.id, user=None, overlap_s=60)
        await remember(hooks, owner, "I live in Lyon.")
        await hooks.send()
        assert verified(receiver.asked[0], old) == verified(receiver.asked[0], new)
        await database.execute("UPDATE webhooks SET previous_until = now() - interval '1 second'")
        await remember(hooks, owner, "I own a cat.")
        await hooks.send()
        assert verified(receiver.asked[1], new)
        with pytest.raises(WebhookVerificationError):
            verified(receiver.asked[1], old)


# ---- receivers that misbehave ---------------------------------------------------------------------------------------


async def test_a_receiver_that_is_down_for_three_attempts_gets_it_with_the_fourth(hooks: Hooks, owner: Owner) -> None:
    """PROTOCOL G4, G5."""
    replies = [Reply(0), Reply(500, b"broken"), Reply(503, b"later")]
    async with one(hooks, owner, lambda _: replies.pop(0) if replies else Reply(204)) as (receiver, hook, secret):
        await remember(hooks, owner, "I live in Lyon.")
        assert await hooks.send(4) == ["failed", "failed", "failed", "delivered"]
        attempts = await hooks.attempts(hook)
        assert [attempt.status for attempt in attempts] == [None, 500, 503, 204]
        assert attempts[0].error is not None and attempts[1].response == "broken"
        assert len({asked.headers["webhook-id"] for asked in receiver.asked}) == 1
        assert len({asked.body for asked in receiver.asked}) == 1
        assert all(verified(asked, secret) for asked in receiver.asked)
        assert (await hooks.again(hook)).failing_since is None


async def test_what_nobody_takes_is_dead_after_its_last_try_and_redelivered_under_its_id(
    hooks: Hooks, owner: Owner
) -> None:
    """PROTOCOL G5, G7."""
    async with one(hooks, owner, always(500)) as (receiver, hook, _):
        await remember(hooks, owner, "I live in Lyon.")
        assert await hooks.send(6) == ["failed", "failed", "failed", "dead"]
        [dead] = await hooks.of(hook)
        assert (dead.status, dead.attempts) == ("dead", 4)
        receiver.answer = always(200)
        again = await hooks.deliveries.redeliver(hook, dead.id)
        assert again.status == "pending"
        assert await hooks.send() == ["delivered"]
        assert len({asked.headers["webhook-id"] for asked in receiver.asked}) == 1
        assert [attempt.number for attempt in await hooks.attempts(hook)] == [1, 2, 3, 4, 5]
        await hooks.deliveries.redeliver(hook, dead.id)
        receiver.answer = always(500)
        assert await hooks.send(6) == ["failed", "failed", "failed", "dead"]


def test_tries_go_on_for_a_day_with_growing_pauses() -> None:
    """PROTOCOL G5."""
    timing = Timing()
    pauses = [timing.pause(tries, None) for tries in range(1, 12)]
    assert pauses[-1] is None
    waits = [pause for pause in pauses if pause is not None]
    assert 20 * 3_600 < sum(waits) < 28 * 3_600
    assert all(later > earlier for earlier, later in pairwise(waits[:-1]))
    assert len({timing.pause(5, None) for _ in range(20)}) > 1


def test_a_longer_retry_after_is_kept_to_within_bounds() -> None:
    """PROTOCOL G5."""
    timing = Timing()
    assert timing.pause(1, 600.0) == 600.0
    assert timing.pause(1, 1e9) == timing.pause(1, float("inf")) == LONGEST_WAIT_S
    assert (timing.pause(1, 0.0) or 0) > 1
    assert (timing.pause(1, float("nan")) or 0) > 1


async def test_a_receiver_that_asks_for_time_is_given_it(hooks: Hooks, owner: Owner) -> None:
    """PROTOCOL G5."""
    async with one(hooks, owner, always(429, retry_after="1000")) as (_, hook, _):
        await remember(hooks, owner, "I live in Lyon.")
        assert await hooks.send(2) == ["failed"]
        [delivery] = await hooks.of(hook)
        assert 900 < (delivery.next_at - datetime.now(UTC)).total_seconds() <= 1_000


async def test_a_redirect_is_a_failure_and_its_target_is_never_asked(hooks: Hooks, owner: Owner) -> None:
    """PROTOCOL G6."""
    async with site(always(200)) as inside:
        for status in (301, 302, 307, 308):
            async with one(hooks, owner, always(status, location=f"{inside.url}/secret")) as (receiver, hook, _):
                await remember(hooks, owner, f"I own book {status}.")
                assert await hooks.send() == ["failed"]
                assert (await hooks.attempts(hook))[0].status == status
                assert len(receiver.asked) == 1
                await hooks.store.delete(owner.account, hook.id, user=None)
        assert inside.connections == 0


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:{port}/", "http://localhost:{port}/", "http://inside.example:{port}/"]
)
async def test_a_name_that_leads_to_this_machine_is_refused_at_every_attempt(
    database: Database, lifecycle: Lifecycle, owner: Owner, url: str
) -> None:
    """PROTOCOL G6."""
    async with (
        site(always(200)) as inside,
        hooks_on(database, lifecycle, private=False, resolve=Names(["127.0.0.1"])) as hooks,
    ):
        hook, _ = await hooks.hook(owner, url.format(port=inside.port))
        await remember(hooks, owner, "I live in Lyon.")
        assert await hooks.send(2) == ["failed", "failed"]
        assert "private" in ((await hooks.attempts(hook))[0].error or "")
        assert inside.connections == 0


async def test_the_address_that_was_checked_is_the_one_that_is_told(
    database: Database, lifecycle: Lifecycle, owner: Owner
) -> None:
    """PROTOCOL G6."""
    async with site(always(200)) as receiver:
        network = Network(receiver)
        names = Names(["93.184.216.34"], ["127.0.0.1"])
        async with hooks_on(database, lifecycle, private=False, resolve=names, network=network) as hooks:
            await hooks.hook(owner, "http://rebinding.example/")
            await remember(hooks, owner, "I live in Lyon.")
            assert await hooks.send() == ["delivered"]
            assert (network.dialled, len(names.asked)) == (["93.184.216.34"], 1)


async def test_410_disables_the_webhook_and_ends_all_that_waits_for_it(hooks: Hooks, owner: Owner) -> None:
    """PROTOCOL G6."""
    async with one(hooks, owner, always(410)) as (receiver, hook, _):
        await remember(hooks, owner, *[f"I own book {n}." for n in range(8)])
        [first, *_] = await claim(hooks.database, 1, 5.0)
        assert await hooks.sender.send(first) == "dead"
        found = await hooks.again(hook)
        assert (found.status, found.reason) == ("disabled", "its receiver answered 410 Gone")
        assert {delivery.status for delivery in await hooks.of(hook)} == {"dead"}
        await remember(hooks, owner, "I live in Lyon.")
        assert await hooks.send() == []
        assert len(receiver.asked) == 1
        with pytest.raises(Conflict):
            await hooks.deliveries.redeliver(found, (await hooks.of(hook))[0].id)


async def test_an_endless_answer_is_cut_and_counts_by_its_status(hooks: Hooks, owner: Owner) -> None:
    """PROTOCOL G6."""
    sent = [0]

    async def endless(writer: asyncio.StreamWriter) -> None:
        while sent[0] < 100_000_000:
            writer.write(b"x" * 65_536)
            await writer.drain()
            sent[0] += 65_536

    async with one(hooks, owner, lambda _: Reply(200, write=endless)) as (_, hook, _):
        await remember(hooks, owner, "I live in Lyon.")
        assert await hooks.send() == ["delivered"]
        [attempt] = await hooks.attempts(hook)
    assert (attempt.error, attempt.response) == (None, "x" * KEPT_CHARACTERS)
    assert sent[0] < 20_000_000


async def test_an_answer_that_never_ends_after_its_status_was_taken(hooks: Hooks, owner: Owner) -> None:
    """PROTOCOL G6."""
    drip = lambda writer: for_ever(writer, b"x", 0.05)  # noqa: E731
    async with one(hooks, owner, lambda _: Reply(202, write=drip)) as (_, hook, _):
        await remember(hooks, owner, "I live in Lyon.")
        assert await hooks.send() == ["delivered"]
        assert (await hooks.attempts(hook))[0].status == 202


async def test_what_a_receiver_answers_is_kept_as_text_that_can_be_stored(hooks: Hooks, owner: Owner) -> None:
    async with one(hooks, owner, lambda _: Reply(500, b"\x00\xff\xc3")) as (_, hook, _):
        await remember(hooks, owner, "I live in Lyon.")
        assert await hooks.send() == ["failed"]
        assert "\x00" not in (await hooks.attempts(hook))[0].response


async def test_a_receiver_that_never_answers_holds_up_nobody_else(
    hooks: Hooks, owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PROTOCOL G6."""
    monkeypatch.setattr("app.workers.deliver.AT_ONCE", 8)  # fewer than wait for the one that never answers
    never = anyio.Event()
    open_now, most = [0], [0]

    async def hang(_: asyncio.StreamWriter) -> None:
        open_now[0] += 1
        most[0] = max(most[0], open_now[0])
        try:
            await asyncio.wait_for(never.wait(), 5)
        finally:
            open_now[0] -= 1

    async with (
        site(always(200)) as quick,
        _mute(hang) as slow_url,
        anyio.create_task_group() as group,
    ):
        slow, _ = await hooks.hook(owner, slow_url)
        fast, _ = await hooks.hook(owner, quick.url)
        await remember(hooks, owner, *[f"I own book {n}." for n in range(20)])
        group.start_soon(hooks.sender.run)

        async def all_told() -> bool:
            return {delivery.status for delivery in await hooks.of(fast)} == {"delivered"}

        await until(all_told)
        assert len(quick.asked) == 20
        assert {delivery.status for delivery in await hooks.of(slow)} == {"pending"}
        assert 1 <= most[0] <= 4
        group.cancel_scope.cancel()
        never.set()


@asynccontextmanager
async def _mute(hang: Any) -> AsyncIterator[str]:
    """A receiver that takes connections and says nothing."""

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await hang(writer)
        except (TimeoutError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"


async def test_no_answer_in_time_is_a_failure_that_says_so(hooks: Hooks, owner: Owner) -> None:
    """PROTOCOL G6."""

    async def hang(_: asyncio.StreamWriter) -> None:
        await asyncio.sleep(2)

    async with _mute(hang) as url:
        hook, _ = await hooks.hook(owner, url)
        await remember(hooks, owner, "I live in Lyon.")
        assert await hooks.send() == ["failed"]
        assert "too long" in ((await hooks.attempts(hook))[0].error or "")


async def test_one_that_failed_is_tried_alone_until_it_takes_something(hooks: Hooks, owner: Owner) -> None:
    async with one(hooks, owner, always(500)) as (receiver, _, _):
        await remember(hooks, owner, *[f"I own book {n}." for n in range(10)])
        first = await claim(hooks.database, 100, 5.0)
        assert len(first) == EACH
        for claimed in first:
            await hooks.sender.send(claimed)
        assert len(await claim(hooks.database, 100, 0.0)) == 1
        receiver.answer = always(200)
        assert await hooks.send() == ["delivered"]
        assert len(await claim(hooks.database, 100, 5.0)) == EACH


async def test_five_days_of_nothing_but_failures_disable_a_webhook(
    hooks: Hooks, owner: Owner, database: Database
) -> None:
    """PROTOCOL G6."""
    async with one(hooks, owner, always(500)) as (receiver, hook, _):
        await remember(hooks, owner, "I live in Lyon.")
        await hooks.send()
        await database.execute("UPDATE webhooks SET failing_since = now() - interval '4 days 23 hours'")
        await hooks.send()
        assert (await hooks.again(hook)).status == "active"
        receiver.answer = always(200)
        await hooks.send()
        assert (await hooks.again(hook)).failing_since is None
        receiver.answer = always(500)
        await remember(hooks, owner, "I own a cat.")
        await hooks.send()
        await database.execute("UPDATE webhooks SET failing_since = now() - interval '5 days 1 minute'")
        await hooks.send()
        found = await hooks.again(hook)
        assert (found.status, found.reason) == ("disabled", "nothing could be delivered for 5 days")
        active = await hooks.store.edit(owner.account, hook.id, user=None, status="active")
        assert (active.status, active.reason, active.failing_since) == ("active", None, None)


# ---- processes that die ---------------------------------------------------------------------------------------------


async def test_what_a_dead_sender_held_is_sent_by_another_under_the_same_id(
    hooks: Hooks, owner: Owner, database: Database
) -> None:
    """PROTOCOL G4."""
    async with one(hooks, owner, always(200)) as (receiver, hook, _):
        await remember(hooks, owner, "I live in Lyon.")
        [held] = await claim(database, 10, 60.0)
        assert await hooks.send() == []
        await database.execute("UPDATE deliveries SET next_at = now()")  # the lease is over
        assert await hooks.send() == ["delivered"]
        late = Result(at=datetime.now(UTC), ms=1, status=500)
        assert await settle(database, held, late, 1.0) == "lost"
        [delivery] = await hooks.of(hook)
        assert (delivery.status, [attempt.number for attempt in await hooks.attempts(hook)]) == ("delivered", [2])
        assert receiver.asked[0].headers["webhook-id"] == held.event_id


async def test_a_sender_that_is_stopped_lets_go_of_what_it_was_sending(
    hooks: Hooks, owner: Owner, database: Database
) -> None:
    async def hang(_: asyncio.StreamWriter) -> None:
        await asyncio.sleep(2)

    async with _mute(hang) as url:
        hook, _ = await hooks.hook(owner, url)
        await remember(hooks, owner, "I live in Lyon.")
        async with anyio.create_task_group() as group:
            group.start_soon(hooks.sender.run)
            await until(lambda: hooks.sender.under_way == 1)
            group.cancel_scope.cancel()
        [again] = await claim(database, 10, 5.0)
        assert (again.tries, await hooks.attempts(hook)) == (2, [])


async def test_deleting_a_webhook_while_its_deliveries_settle_fails_for_nobody(
    hooks: Hooks, owner: Owner, database: Database
) -> None:
    async with one(hooks, owner, always(200)) as (_, hook, _):
        await remember(hooks, owner, "I live in Lyon.")
        [held] = await claim(database, 10, 5.0)
        result = Result(at=datetime.now(UTC), ms=1, status=200)
        outcomes: list[str] = []

        async def end_it() -> None:
            outcomes.append(await settle(database, held, result, 1.0))

        async with anyio.create_task_group() as group, database.transaction() as connection:
            await connection.execute("SELECT FROM webhooks WHERE id = $1 FOR UPDATE", hook.id)
            group.start_soon(end_it)
            await until_one_waits(database)
            await connection.execute("DELETE FROM webhooks WHERE id = $1", hook.id)
        assert outcomes == ["lost"]


async def test_two_senders_never_hold_the_same_delivery(hooks: Hooks, owner: Owner, database: Database) -> None:
    for _ in range(6):
        await hooks.hook(owner, "http://127.0.0.1:9/")
    await remember(hooks, owner, "I live in Lyon.", "I own a cat.", "I like tea.")
    held: list[str] = []

    async def take() -> None:
        held.extend(claimed.id for claimed in await claim(database, 100, 60.0))

    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(take)
    while taken := await claim(database, 100, 60.0):
        held.extend(claimed.id for claimed in taken)
    assert len(held) == len(set(held)) == 18


async def test_a_webhook_disabled_while_it_is_told_gets_nothing_more(hooks: Hooks, owner: Owner) -> None:
    async with one(hooks, owner, always(500)) as (receiver, hook, _):
        await remember(hooks, owner, "I live in Lyon.", "I own a cat.")
        [first, second] = await claim(hooks.database, 10, 5.0)
        await hooks.store.edit(owner.account, hook.id, user=None, status="disabled")
        assert await hooks.sender.send(first) == "dead"
        await hooks.database.execute("UPDATE deliveries SET next_at = now()")
        assert await hooks.send() == ["dead"]
        assert (len(receiver.asked), second.active) == (1, True)
        assert {delivery.status for delivery in await hooks.of(hook)} == {"dead"}


async def test_a_webhook_deleted_while_it_is_told_is_gone_with_its_deliveries(hooks: Hooks, owner: Owner) -> None:
    async with one(hooks, owner, always(200)) as (_, hook, _):
        await remember(hooks, owner, "I live in Lyon.")
        [held] = await claim(hooks.database, 10, 5.0)
        await hooks.store.delete(owner.account, hook.id, user=None)
        assert await hooks.sender.send(held) == "lost"
        with pytest.raises(NotFound):
            await hooks.again(hook)
        await remember(hooks, owner, "I own a cat.")
        assert await hooks.database.fetchval("SELECT count(*) FROM deliveries") == 0


async def test_old_deliveries_are_removed_and_waiting_ones_stay(hooks: Hooks, owner: Owner) -> None:
    """PROTOCOL G7."""
    async with one(hooks, owner, always(200)) as (_, hook, _):
        await remember(hooks, owner, "I live in Lyon.", "I own a cat.", "I like tea.")
        waiting, delivered, dead = await hooks.of(hook)
        for delivery, status, days in ((delivered, "delivered", 8), (dead, "dead", 8)):
            await hooks.database.execute(
                "UPDATE deliveries SET status = $2, ended_at = now() - make_interval(days => $3) WHERE id = $1",
                delivery.id,
                status,
                days,
            )
        await deliveries.purge(hooks.database)
        assert [one.id for one in await hooks.of(hook)] == [waiting.id, dead.id]
        await hooks.database.execute("UPDATE deliveries SET ended_at = ended_at - interval '23 days'")
        await deliveries.purge(hooks.database)
        assert [one.id for one in await hooks.of(hook)] == [waiting.id]


async def test_a_test_event_is_sent_to_its_webhook_alone(hooks: Hooks, owner: Owner) -> None:
    """PROTOCOL G7."""
    async with one(hooks, owner, always(200)) as (receiver, hook, secret):
        other, _ = await hooks.hook(owner, receiver.url)
        made = await hooks.deliveries.test(hook, "once")
        assert (await hooks.deliveries.test(hook, "once")).id == made.id
        assert await hooks.send() == ["delivered"]
        body = verified(receiver.asked[0], secret)
        assert (body["event"], body["data"]) == ("webhook.test", {"webhook_id": hook.id})
        assert await hooks.of(other) == []
        assert events_of(receiver.asked) == ["webhook.test"]
