"""Every rule about what an observer gets for its cursor, over real HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import msgspec
import pytest

from app.chat import fanout
from app.chat.events import gap_frame
from app.settings import Settings
from tests.rig import until
from tests.stage import Author, Stage, body, finished, stage


@pytest.fixture
async def web(settings: Settings) -> AsyncIterator[Stage]:
    async with stage(settings) as running:
        yield running


async def test_finished_message_is_replayed_and_closed(web: Stage) -> None:
    """PROTOCOL O5, O12."""
    author = await finished(web.lifecycle)
    response = await web.get(author.path)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["x-accel-buffering"] == "no"
    assert body(response) == await author.wire()


async def test_every_cursor_gives_exactly_the_rest(web: Stage) -> None:
    """PROTOCOL O3, E1, E4."""
    author = await finished(web.lifecycle)
    for cursor in range(author.seq):
        assert body(await web.get(f"{author.path}?after={cursor}")) == await author.wire(cursor)
        assert body(await web.get(author.path, last_event_id=str(cursor))) == await author.wire(cursor)


async def test_header_wins_over_query(web: Stage) -> None:
    """PROTOCOL O1."""
    author = await finished(web.lifecycle)
    assert body(await web.get(f"{author.path}?after=1", last_event_id="4")) == await author.wire(4)
    assert body(await web.get(f"{author.path}?after=x", last_event_id="4")) == await author.wire(4)


async def test_last_event_of_a_finished_message_is_204(web: Stage) -> None:
    """PROTOCOL O6."""
    author = await finished(web.lifecycle)
    for name in ("anthropic", "openai", "text"):
        response = await web.get(f"{author.path}?after={author.seq}&format={name}")
        assert (response.status_code, response.content) == (204, b"")


async def test_cursor_beyond_a_finished_message_is_a_gap_and_the_whole_log(web: Stage) -> None:
    """PROTOCOL O7, E5."""
    author = await finished(web.lifecycle)
    got = body(await web.get(f"{author.path}?after=999"))
    assert got == gap_frame(999, 1, author.seq) + await author.wire()


@pytest.mark.parametrize("bad", ["-1", "x", "1.5", "1e3", "0x10", "٣", "9" * 5000, "%00"])
async def test_malformed_cursor_is_400(web: Stage, bad: str) -> None:
    """PROTOCOL O2."""
    author = await finished(web.lifecycle)
    response = await web.get(f"{author.path}?after={bad}")
    assert response.status_code == 400
    assert response.json()["error"]["details"]["field"] == "after"


async def test_malformed_header_is_400(web: Stage) -> None:
    """PROTOCOL O2."""
    author = await finished(web.lifecycle)
    response = await web.get(author.path, last_event_id="-1")
    assert response.status_code == 400
    assert response.json()["error"]["details"]["field"] == "Last-Event-ID"


async def test_unknown_format_is_400_naming_the_known(web: Stage) -> None:
    """PROTOCOL F1."""
    author = await finished(web.lifecycle)
    response = await web.get(f"{author.path}?format=ui")
    assert response.status_code == 400
    assert "anthropic, openai, text" in response.json()["error"]["message"]


async def test_unknown_and_others_messages_are_404(web: Stage) -> None:
    """PROTOCOL O10."""
    author = await finished(web.lifecycle)
    assert (await web.get("/v1/messages/async/nothing/stream")).status_code == 404
    assert (await web.get(author.path, key="other")).status_code == 404
    assert (await web.get(author.path, key="acc/bob")).status_code == 404
    assert (await web.get(author.path, key="acc/ada")).status_code == 200


async def test_head_opens_no_stream(web: Stage) -> None:
    """PROTOCOL O16."""
    author = await Author.create(web.lifecycle)
    async with web.client() as client:
        response = await client.head(author.path)
    assert (response.status_code, response.headers["cache-control"]) == (200, "no-store")
    assert web.observers == 0


async def test_pending_message_is_followed_live_to_its_end(web: Stage) -> None:
    """PROTOCOL O4."""
    author = await Author.create(web.lifecycle)
    async with web.client() as client, client.stream("GET", author.path) as response:
        lines = response.aiter_lines()
        assert await anext(lines) == "retry: 1000"
        await author.start()
        await author.say("Hello")
        got = [line async for line in _until_text(lines, "Hello")]
        await author.say(" world")
        await author.finish()
        got += [line async for line in lines]
    expected = (await author.wire()).decode().splitlines()
    assert [line for line in got if line] == [line for line in expected if line]
    await until(lambda: web.observers == 0 and len(web.fanout) == 0)


async def _until_text(lines: AsyncIterator[str], text: str) -> AsyncIterator[str]:
    async for line in lines:
        yield line
        if text in line:
            return


async def _observe(web: Stage, path: str, into: list[bytes]) -> None:
    into.append(body(await web.get(path)))


async def test_cursor_above_an_unfinished_tail_follows(web: Stage) -> None:
    """PROTOCOL O8."""
    author = await Author.create(web.lifecycle)
    await author.start()
    got: list[bytes] = []
    async with anyio.create_task_group() as group:
        group.start_soon(_observe, web, f"{author.path}?after=4", got)
        await until(lambda: web.observers == 1)
        await author.say("a", "b", "c", "d")
        await author.finish()
    assert got == [await author.wire(4)]


async def test_message_that_ends_at_or_below_the_cursor_gives_gap_and_whole_log(web: Stage) -> None:
    """PROTOCOL O8."""
    for cursor in (5, 6, 700, 2_000_000):
        author = await Author.create(web.lifecycle)
        await author.start()
        got: list[bytes] = []
        async with anyio.create_task_group() as group:
            group.start_soon(_observe, web, f"{author.path}?after={cursor}", got)
            await until(lambda: web.observers == 1)
            await author.finish([(b"b0", b"{}"), (b"e0", b""), (b"d", b'{"delta":{},"usage":{}}'), (b"z", b"")])
        assert author.seq == 5
        assert got == [gap_frame(cursor, 1, 5) + await author.wire()]


async def test_restart_is_crossed_and_resumed(web: Stage) -> None:
    """PROTOCOL E2, E3."""
    author = await Author.create(web.lifecycle)
    await author.start()
    await author.say("one", "two")
    await author.lose_worker()
    await author.claim()
    await author.append(author.assembler.start())
    await author.say("one", "two", "three")
    await author.finish()
    whole = await author.wire()
    assert b"message_restart" in whole
    assert body(await web.get(author.path)) == whole
    for cursor in (2, 4, 5, 77, 1_000_001, 1_000_003):
        assert body(await web.get(f"{author.path}?after={cursor}")) == await author.wire(cursor)


async def test_log_that_begins_late_is_a_gap(web: Stage) -> None:
    """PROTOCOL O9."""
    author = await finished(web.lifecycle)
    await web.lifecycle.redis.xtrim(web.lifecycle.keys.log("acc", author.id), minid="4-0", approximate=False)
    left = await author.wire()
    assert body(await web.get(author.path)) == gap_frame(0, 4, author.seq) + left
    assert body(await web.get(f"{author.path}?after=2")) == gap_frame(2, 4, author.seq) + left
    assert body(await web.get(f"{author.path}?after=3")) == left


async def test_log_that_is_gone_is_a_gap_and_the_end(web: Stage) -> None:
    """PROTOCOL O9."""
    author = await finished(web.lifecycle)
    await web.lifecycle.redis.delete(web.lifecycle.keys.log("acc", author.id))
    assert body(await web.get(author.path)) == gap_frame(0, None, None)
    assert (await web.get(f"{author.path}?after={author.seq}")).status_code == 204


async def test_history_lost_of_an_unfinished_message_is_told_and_then_followed(web: Stage) -> None:
    """PROTOCOL O9."""
    author = await Author.create(web.lifecycle)
    await author.start()
    await author.say("a", "b")
    await web.lifecycle.redis.delete(web.lifecycle.keys.log("acc", author.id))
    before = author.seq
    got: list[bytes] = []
    async with anyio.create_task_group() as group:
        group.start_soon(_observe, web, f"{author.path}?after=1", got)
        await until(lambda: web.observers == 1)
        await author.say("c")
        await author.finish()
    gap, _, rest = got[0].partition(b"\n\n")
    assert msgspec.json.decode(gap.split(b"data: ")[1]) | {"latest": 0} == {
        "type": "gap",
        "requested": 1,
        "earliest": before + 1,
        "latest": 0,
    }
    assert rest == await author.wire()


async def test_deleting_a_running_message_ends_its_observers(web: Stage) -> None:
    """PROTOCOL O11."""
    author = await Author.create(web.lifecycle)
    await author.start()
    got: list[bytes] = []
    async with anyio.create_task_group() as group:
        group.start_soon(_observe, web, author.path, got)
        await until(lambda: web.observers == 1)
        await web.lifecycle.delete("acc", author.id)
    assert b"event: message_cancelled" in got[0]
    assert (await web.get(author.path)).status_code == 404


async def test_message_that_vanishes_ends_its_observers(web: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """PROTOCOL O17."""
    monkeypatch.setattr(fanout, "LOOK_S", 0.5)
    author = await Author.create(web.lifecycle)
    await author.start()
    got: list[bytes] = []
    async with anyio.create_task_group() as group:
        group.start_soon(_observe, web, author.path, got)
        await until(lambda: web.observers == 1)
        keys = web.lifecycle.keys
        await web.lifecycle.redis.delete(keys.log("acc", author.id), keys.message("acc", author.id))
    assert got[0].count(b"event:") <= 1


async def test_end_that_was_missed_does_not_hang(web: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """PROTOCOL O17."""
    monkeypatch.setattr(fanout, "LOOK_S", 0.5)
    author = await Author.create(web.lifecycle)
    await author.start()
    got: list[bytes] = []
    async with anyio.create_task_group() as group:
        group.start_soon(_observe, web, author.path, got)
        await until(lambda: web.observers == 1 and len(web.fanout) == 1)
        keys = web.lifecycle.keys
        await web.lifecycle.redis.hset(keys.message("acc", author.id), mapping={"s": "completed", "n": 9})
    assert b"event: gap" in got[0]


async def test_drain_ends_streams_and_turns_new_ones_away(web: Stage) -> None:
    """PROTOCOL O15."""
    author = await Author.create(web.lifecycle)
    await author.start()
    got: list[bytes] = []
    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(_observe, web, author.path, got)
        await until(lambda: web.observers == 3)
        with anyio.fail_after(2):
            web.door.drain()
            await until(lambda: len(got) == 3)
    response = await web.get(author.path)
    assert response.status_code == 200
    assert response.content.startswith(b"retry: 3000\n\n:")
    assert web.observers == 0


async def test_ping_comes_after_silence(settings: Settings) -> None:
    """PROTOCOL O12."""
    quick = msgspec.structs.replace(settings, ping_s=0.2)
    async with stage(quick) as web:
        author = await Author.create(web.lifecycle)
        async with web.client() as client, client.stream("GET", author.path) as response:
            lines = response.aiter_lines()
            pings = 0
            with anyio.fail_after(5):
                while pings < 2:
                    pings += await anext(lines) == ": ping"


async def test_observed_lease_is_renewed(web: Stage) -> None:
    author = await Author.create(web.lifecycle, unseen_s=30)
    unseen = f"{author.base}unseen"
    await web.lifecycle.redis.zadd(unseen, {author.member: 1})
    async with web.client() as client, client.stream("GET", author.path):

        async def renewed() -> bool:
            return bool((await web.lifecycle.redis.zscore(unseen, author.member) or 0) > 1)

        await until(renewed)
