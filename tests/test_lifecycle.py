"""Every step of a message's life against a real Redis: who wins, and what a late writer changes (nothing)."""

from __future__ import annotations

import msgspec
import pytest

from app.chat.events import content_of
from app.chat.lifecycle import Lifecycle
from app.chat.liveness import Sweeper, drop_worker
from app.errors import Conflict, NotFound, RateLimited
from app.settings import Settings
from tests.rig import claim, entries, feed_kinds, lifecycle_on, new_message, until

PARTITIONS = [1, 7]


@pytest.fixture(params=PARTITIONS)
async def lifecycle(settings: Settings, request: pytest.FixtureRequest):
    async with lifecycle_on(msgspec.structs.replace(settings, partitions=request.param)) as made:
        yield made


async def append(lifecycle: Lifecycle, message, first: int, *events: str, token: str | None = None):
    flat = [part for event in events for part in (event[:2].strip(), event[2:])]
    base = lifecycle.keys.message_base(message.account, message.id)
    return await lifecycle.scripts.run(
        "message_append", base, message.member, token or message.token, 1, 1, "", first, *flat
    )


async def finish(lifecycle: Lifecycle, message, first: int, status: str = "completed", field: bytes = b"z"):
    return await lifecycle.finish(message, message.token, status, [], first, [field, b"{}" if field == b"x" else b""])


async def test_from_initiate_to_the_end(lifecycle: Lifecycle):
    await lifecycle.create(new_message("m"))
    assert (await lifecycle.read("acc", "m")).status == "pending"
    base = lifecycle.keys.account_base("acc")
    assert await lifecycle.queue.claim(base, 10) == ["acc/m"]
    message = await claim(lifecycle, "m")
    assert (message.status, message.attempt) == ("processing", 1)
    assert await append(lifecycle, message, 1, "s ", 'b0{"type":"text","text":""}', "t0hel", "t0lo") == 5
    done = await finish(lifecycle, message, 5)
    assert (done.status, done.last_seq, done.worker, done.token) == ("completed", 5, "", "")
    log = await entries(lifecycle, "m")
    assert [e.seq for e in log] == [1, 2, 3, 4, 5]
    assert content_of(log) == [{"type": "text", "text": "hello"}]
    assert await feed_kinds(lifecycle) == ["message.created", "message.processing", "message.completed"]
    assert await lifecycle.queue.depth() == (0, 0)
    for key in (lifecycle.keys.message("acc", "m"), lifecycle.keys.log("acc", "m"), lifecycle.keys.request("acc", "m")):
        assert 590 < await lifecycle.redis.ttl(key) <= 600


async def test_a_repeated_append_is_skipped_and_a_hole_is_refused(lifecycle: Lifecycle):
    await lifecycle.create(new_message("m"))
    message = await claim(lifecycle, "m")
    assert await append(lifecycle, message, 1, "s ", "t0a", "t0b") == 4
    assert await append(lifecycle, message, 2, "t0a", "t0b", "t0c") == 5  # two again, one new
    assert await append(lifecycle, message, 9, "t0z") == -5  # 5 to 8 are missing
    assert [e.value for e in await entries(lifecycle, "m")] == [b"", b"a", b"b", b"c"]


async def test_only_the_claim_token_writes(lifecycle: Lifecycle):
    await lifecycle.create(new_message("m"))
    message = await claim(lifecycle, "m")
    assert await append(lifecycle, message, 1, "s ", token="another") is None
    assert await lifecycle.finish(message, "another", "completed", [], 1, [b"z", b""]) is None
    assert await lifecycle.claim("acc", "m", "generate-other", "t2") is None
    assert (await lifecycle.read("acc", "m")).worker == "generate-w"


@pytest.mark.parametrize("state", ["pending", "processing"])
async def test_cancel_wins_over_everything_later(lifecycle: Lifecycle, state: str):
    await lifecycle.create(new_message("m"))
    message = await claim(lifecycle, "m") if state == "processing" else await lifecycle.read("acc", "m")
    if state == "processing":
        await append(lifecycle, message, 1, "s ", "t0a")
    cancelled = await lifecycle.cancel("acc", "m")
    assert (cancelled.status, cancelled.done is not None) == ("cancelled", True)
    again = await lifecycle.cancel("acc", "m")
    assert again.done == cancelled.done
    assert await append(lifecycle, message, 3, "t0late", token=message.token or "x") is None
    assert await lifecycle.finish(message, message.token or "x", "completed", [], 3, [b"z", b""]) is None
    assert await lifecycle.claim("acc", "m", "generate-w", "t") is None
    assert await lifecycle.expire("acc/m") is None
    log = await entries(lifecycle, "m")
    assert [e.type for e in log][-1] == "message_cancelled"
    assert sum(e.terminal for e in log) == 1
    assert (await lifecycle.read("acc", "m")).status == "cancelled"
    assert (await feed_kinds(lifecycle)).count("message.cancelled") == 1
    assert await lifecycle.queue.depth() == (0, 0)


async def test_cancel_after_the_end_is_a_conflict_with_the_status(lifecycle: Lifecycle):
    await lifecycle.create(new_message("m"))
    await finish(lifecycle, await claim(lifecycle, "m"), 1)
    with pytest.raises(Conflict) as caught:
        await lifecycle.cancel("acc", "m")
    assert caught.value.details == {"status": "completed"}
    with pytest.raises(NotFound):
        await lifecycle.cancel("acc", "never")
    with pytest.raises(NotFound):
        await lifecycle.cancel("other", "m")


async def test_delete_leaves_a_tombstone_and_no_way_back(lifecycle: Lifecycle):
    await lifecycle.create(new_message("m"))
    message = await claim(lifecycle, "m")
    await append(lifecycle, message, 1, "s ", "t0a")
    await lifecycle.delete("acc", "m")
    assert await lifecycle.read("acc", "m") is None
    assert (await entries(lifecycle, "m"))[-1].type == "message_cancelled"
    assert await append(lifecycle, message, 4, "t0late") is None
    assert await finish(lifecycle, message, 4) is None
    assert await lifecycle.claim("acc", "m", "generate-w", "t") is None
    with pytest.raises(Conflict):
        await lifecycle.create(new_message("m"))
    with pytest.raises(NotFound):
        await lifecycle.delete("acc", "m")
    keys = lifecycle.keys
    assert 0 < await lifecycle.redis.pttl(keys.log("acc", "m")) <= 10_000
    assert await lifecycle.redis.exists(keys.message("acc", "m"), keys.request("acc", "m")) == 0
    assert 590 < await lifecycle.redis.ttl(keys.tombstone("acc", "m")) <= 600
    assert await lifecycle.redis.zcard(f"{keys.account_base('acc')}list:acc") == 0
    assert await lifecycle.queue.depth() == (0, 0)


async def test_an_id_is_unique_per_account(lifecycle: Lifecycle):
    await lifecycle.create(new_message("m"))
    await lifecycle.create(new_message("m", account="other"))
    with pytest.raises(Conflict):
        await lifecycle.create(new_message("m"))
    await lifecycle.cancel("acc", "m")
    assert (await lifecycle.read("other", "m")).status == "pending"


async def test_the_same_idempotency_key_creates_once(lifecycle: Lifecycle):
    first = await lifecycle.create(new_message("m", digest="body"))
    assert await lifecycle.create(new_message("m", digest="body")) == first
    with pytest.raises(Conflict):
        await lifecycle.create(new_message("m", digest="another body"))
    assert (await feed_kinds(lifecycle)) == ["message.created"]


async def test_steps_whose_reply_was_lost_can_be_repeated(lifecycle: Lifecycle):
    """The client sends a script again when the connection broke: it may have run already."""
    new, keys = new_message("m"), lifecycle.keys
    base, account_base = keys.message_base("acc", "m"), keys.account_base("acc")
    create = ("acc/m", "nonce", 600, 60_000, 0, "", new.request, "us", "ada", "is", 30)
    first = await lifecycle.scripts.run("message_create", base, *create)
    assert await lifecycle.scripts.run("message_create", base, *create) == first
    assert first[0] == b"created"
    await lifecycle.repair("acc/m")
    assert await lifecycle.queue.claim(account_base, 5) == ["acc/m"]
    assert (await lifecycle.claim("acc", "m", "generate-w", "t"))[0].attempt == 1
    message, *_ = await lifecycle.claim("acc", "m", "generate-w", "t")
    assert message.attempt == 1
    done = await finish(lifecycle, message, 1)
    assert await finish(lifecycle, message, 1) == done
    assert await lifecycle.finish(message, "another", "completed", [], 1, [b"z", b""]) is None
    assert [e.seq for e in await entries(lifecycle, "m")] == [1]
    assert (await feed_kinds(lifecycle)).count("message.completed") == 1
    assert await lifecycle.queue.depth() == (0, 0)


async def test_a_full_queue_refuses_and_keeps_nothing(lifecycle: Lifecycle):
    for i in range(3):
        await lifecycle.create(new_message(f"m{i}", max_queued=3, digest=f"d{i}"))
    with pytest.raises(RateLimited):
        await lifecycle.create(new_message("m3", max_queued=3))
    assert await lifecycle.read("acc", "m3") is None
    await lifecycle.create(new_message("m0", max_queued=3, digest="d0"))  # a repeat is no new message
    await lifecycle.create(new_message("m3", account="other", max_queued=3))


async def test_a_lost_worker_restarts_the_message_as_a_new_attempt(lifecycle: Lifecycle):
    await lifecycle.create(new_message("m"))
    first = await claim(lifecycle, "m", "generate-a")
    await append(lifecycle, first, 1, "s ", "t0par")
    assert await lifecycle.take_from_dead("acc/m", "generate-a") is None  # it is alive
    await drop_worker(lifecycle.redis, lifecycle.keys, "generate-a")
    taken = await lifecycle.take_from_dead("acc/m", "generate-a")
    assert (taken.status, taken.attempt, taken.last_seq, taken.tokens) == ("processing", 1, 1_000_001, 0)
    assert await lifecycle.take_from_dead("acc/m", "generate-a") is None
    assert await append(lifecycle, first, 3, "t0tial") is None
    second = await claim(lifecycle, "m", "generate-b")
    assert (second.attempt, second.losses) == (2, 1)
    assert await append(lifecycle, second, 1_000_001, 'r {"attempt":2}', "s ", "t0whole") == 1_000_004
    await finish(lifecycle, second, 1_000_004)
    log = await entries(lifecycle, "m")
    assert [e.seq for e in log] == [1, 2, 1_000_001, 1_000_002, 1_000_003, 1_000_004]
    assert [e.type for e in log][2] == "message_restart"
    assert (await feed_kinds(lifecycle)).count("message.completed") == 1


async def test_three_losses_are_the_end(lifecycle: Lifecycle):
    await lifecycle.create(new_message("m"))
    for attempt in (1, 2, 3):
        await claim(lifecycle, "m", f"generate-{attempt}")
        await drop_worker(lifecycle.redis, lifecycle.keys, f"generate-{attempt}")
        taken = await lifecycle.take_from_dead("acc/m", f"generate-{attempt}")
    assert taken.status == "error"
    assert taken.error["error"]["detail"]["code"] == "WORKER_LOST"
    assert taken.error["request_id"] == "req-1"
    assert [e.type for e in await entries(lifecycle, "m")] == ["message_restart", "message_restart", "error"]


async def test_handing_back_is_no_loss(lifecycle: Lifecycle):
    await lifecycle.create(new_message("m"))
    for attempt in range(1, 6):
        message = await claim(lifecycle, "m")
        assert message.attempt == attempt
        assert (await lifecycle.hand_back("acc/m", message.token)).losses == 0
    assert await lifecycle.hand_back("acc/m", message.token) is None


@pytest.mark.parametrize(("written", "status"), [("t0some", "error"), ("y {}", "processing")])
async def test_on_worker_loss_error_ends_it_only_once_content_was_written(lifecycle: Lifecycle, written, status):
    await lifecycle.create(new_message("m", on_worker_loss="error"))
    message = await claim(lifecycle, "m")
    base = lifecycle.keys.message_base("acc", "m")
    content = int(written.startswith("t0"))
    args = (message.member, message.token, 1, content, "", 1, written[:2].strip(), written[2:])
    await lifecycle.scripts.run("message_append", base, *args)
    await drop_worker(lifecycle.redis, lifecycle.keys, "generate-w")
    assert (await lifecycle.take_from_dead("acc/m", "generate-w")).status == status


async def test_the_deadline_counts_from_initiate_and_needs_no_worker(lifecycle: Lifecycle):
    await lifecycle.create(new_message("m", deadline_s=1))
    assert await lifecycle.expire("acc/m") is None

    async def swept():
        for base in lifecycle.keys.bases:
            await Sweeper(lifecycle).sweep(base, lock_ms=1)
        return (await lifecycle.read("acc", "m")).final

    await until(swept, 5)
    message = await lifecycle.read("acc", "m")
    assert message.status == "error"
    assert message.error["error"]["detail"]["code"] == "DEADLINE_EXCEEDED"
    assert (await feed_kinds(lifecycle)) == ["message.created", "message.error"]


async def test_an_unobserved_message_is_cancelled_unless_its_lease_is_renewed(lifecycle: Lifecycle):
    await lifecycle.create(new_message("m", unseen_s=1))
    message = await lifecycle.read("acc", "m")
    sweeper = Sweeper(lifecycle)
    base = lifecycle.keys.message_base("acc", "m")
    await lifecycle.redis.zadd(f"{base}unseen", {"acc/m": 1})  # the second is over
    await lifecycle.seen([message])
    await sweeper.sweep(base, lock_ms=1)
    assert (await lifecycle.read("acc", "m")).status == "pending"
    await lifecycle.redis.zadd(f"{base}unseen", {"acc/m": 1})

    async def cancelled():
        await sweeper.sweep(base, lock_ms=1)
        return (await lifecycle.read("acc", "m")).status == "cancelled"

    await until(cancelled)


async def test_what_died_between_the_two_scripts_is_repaired(lifecycle: Lifecycle):
    queue, keys = lifecycle.queue, lifecycle.keys
    account_base = keys.account_base("acc")
    # created, but never put in the queue
    new = new_message("m1")
    await lifecycle.create(new)
    await lifecycle.redis.zrem(f"{account_base}wait:acc", "m1")
    await lifecycle.redis.zrem(f"{account_base}ready", "acc")
    await lifecycle.repair("acc/m1")
    assert await queue.claim(account_base, 5) == ["acc/m1"]
    # taken from the queue, but never claimed: nothing happens while the lease stands, then it waits again
    await lifecycle.repair("acc/m1")
    assert await queue.claim(account_base, 5) == []
    await lifecycle.redis.zadd(f"{account_base}leases", {"acc/m1": 1})
    assert await queue.lapsed(account_base, 5) == ["acc/m1"]
    await lifecycle.repair("acc/m1")
    assert await queue.claim(account_base, 5) == ["acc/m1"]
    # finished, but its slot never freed
    message = await claim(lifecycle, "m1")
    args = (message.member, message.token, "completed", 0, 1, "z", "")
    await lifecycle.scripts.run("message_finish", keys.message_base("acc", "m1"), *args)
    assert await queue.depth() == (0, 1)
    await lifecycle.repair("acc/m1")
    await lifecycle.repair("acc/m1")
    assert await queue.depth() == (0, 0)
    assert (await feed_kinds(lifecycle)).count("message.completed") == 1


async def test_a_lapsed_lease_of_a_running_message_is_renewed_not_doubled(lifecycle: Lifecycle):
    await lifecycle.create(new_message("m"))
    base = lifecycle.keys.account_base("acc")
    await lifecycle.queue.claim(base, 1)
    await claim(lifecycle, "m")
    await lifecycle.redis.zadd(f"{base}leases", {"acc/m": 1})
    await lifecycle.repair("acc/m")
    assert await lifecycle.queue.lapsed(base, 5) == []
    assert await lifecycle.queue.claim(base, 1) == []
