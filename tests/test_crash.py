"""What survives: workers, web processes and Redis killed or frozen at the worst moments, on a real deployment.

The tests share one deployment, because what has survived one of them must survive the next as well; each says how many
workers it begins with.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import httpx
import pytest
from redis.asyncio import Redis

from tests.rig import until
from tests.sse import Event, assert_dense, frames, text_of
from tests.stage import started
from tests.system import System, system

TOLD_WITHIN_S = 6.0
"""Observers learn of a lost worker within this; PROTOCOL.md promises it, so it is a bound and no timing of the test."""


@pytest.fixture(scope="module")
async def s() -> AsyncIterator[System]:
    place = Path(tempfile.mkdtemp(prefix="rp-", dir="/tmp"))
    try:
        async with started(system(place, workers=0, drain_s=0.5)) as made:
            yield made
    finally:
        shutil.rmtree(place, ignore_errors=True)


@pytest.fixture
async def client(s: System) -> AsyncIterator[httpx.AsyncClient]:
    async with s.client() as made:
        yield made


async def workers(s: System, count: int) -> list[Process]:
    """Exactly so many workers: those that run already, as far as there are any."""
    running = [process for process in s.workers if process.returncode is None]
    s.stop(running[count:])
    for process in running[count:]:
        await process.wait()
    return running[:count] + [await s.start_worker() for _ in range(count - len(running))]


async def observing(s: System, client, message_id: str, into: list[Event]) -> None:
    into += await s.observe(client, message_id)


@pytest.mark.parametrize(("model", "seq"), [("slowstart2-t20", 1), ("t200-p100", 40)])
async def test_a_killed_worker_is_replaced_by_another(s: System, client: httpx.AsyncClient, model: str, seq: int):
    """PROTOCOL R1, E2."""
    await workers(s, 2)
    message_id = await s.initiate(client, model)
    seen: list[Event] = []
    async with anyio.create_task_group() as tg:
        tg.start_soon(observing, s, client, message_id, seen)
        await s.written(client, message_id, seq)
        victim = await worker_of(s, message_id)
        os.kill(victim, signal.SIGKILL)
        killed = time.monotonic()

        async def told() -> bool:
            return (await s.status(client, message_id))["metadata"]["last_seq"] > 1_000_000

        await until(told, TOLD_WITHIN_S + 1)
        assert time.monotonic() - killed < TOLD_WITHIN_S
    status = await s.ended(client, message_id)
    assert (status["status"], status["metadata"]["attempt"]) == ("completed", 2)
    assert_dense(seen)
    assert text_of(seen) == s.up.text(model)
    assert [e.type for e in seen].count("message_restart") == 1
    again = await s.observe(client, message_id)
    assert [e.raw for e in again] == [e.raw for e in seen]


async def worker_of(s: System, message_id: str) -> int:
    """The pid of the worker that has claimed the message."""
    async with Redis.from_url(s.settings.redis_url) as redis:
        [key] = [key async for key in redis.scan_iter(f"*m:*/{message_id}")]
        name = (await redis.hget(key, "w")).decode()
    [pid] = [process.pid for process in s.workers if process.returncode is None and name in s.log(process)]
    return pid


async def test_a_stopping_worker_hands_its_messages_back(s: System, client: httpx.AsyncClient):
    await workers(s, 2)
    message_id = await s.initiate(client, "t200-p100")
    await s.written(client, message_id, 20)
    leaving = await worker_of(s, message_id)
    os.kill(leaving, signal.SIGTERM)
    status = await s.ended(client, message_id)
    assert (status["status"], status["metadata"]["attempt"]) == ("completed", 2)
    events = await s.observe(client, message_id)
    assert next(e for e in events if e.type == "message_restart").data["reason"] == "worker_stopped"
    with anyio.fail_after(5):
        await next(p for p in s.workers if p.pid == leaving).wait()


async def test_a_killed_web_process_costs_nothing_but_a_reconnect(s: System):
    await workers(s, 1)
    number = await s.start_web()
    async with s.client(web=number) as client, s.client() as other:
        message_id = await s.initiate(client, "t200-p100")
        first: list[Event] = []
        async with client.stream("GET", f"/v1/messages/async/{message_id}/stream") as response:
            try:
                async for event in frames(response):
                    first.append(event)
                    if len(first) == 30:
                        s.webs[number].kill()
            except httpx.TransportError:
                pass  # it was killed
        rest = await s.observe(other, message_id, after=int(first[-1].id))
        assert_dense([*first, *rest])
        assert text_of([*first, *rest]) == s.up.text("t200-p100")


async def test_redis_killed_and_restarted_loses_and_doubles_nothing(s: System, client: httpx.AsyncClient):
    """PROTOCOL R3."""
    await workers(s, 1)
    message_id = await s.initiate(client, "t400-p100")
    seen: list[Event] = []
    async with anyio.create_task_group() as tg:
        tg.start_soon(observing, s, client, message_id, seen)
        await s.written(client, message_id, 50)
        os.kill(s.engines.redis.pid, signal.SIGKILL)
    assert_dense(seen)
    assert text_of(seen) == s.up.text("t400-p100")
    status = await s.ended(client, message_id)
    assert (status["status"], status["metadata"]["attempt"]) == ("completed", 1)


@pytest.mark.parametrize("setting", [("min-replicas-to-write", "1", "0"), ("maxmemory", "1mb", "0")])
async def test_a_redis_that_refuses_writes_for_a_while_ends_no_process(
    s: System, client: httpx.AsyncClient, setting: tuple[str, str, str]
):
    name, refusing, taking = setting
    running = [s.webs[0], *await workers(s, 1)]
    async with Redis.from_url(s.settings.redis_url) as redis:
        message_id = await s.initiate(client, "t400-p100")
        await s.written(client, message_id, 30)
        await redis.config_set(name, refusing)
        for _ in range(30):  # a sweep and a beat of every process fall into this time
            answer = await client.post(f"/v1/messages/async/{message_id}/cancel")
            assert (answer.status_code, answer.json()["code"]) == (503, "UNAVAILABLE")
            await anyio.sleep(0.1)
        await redis.config_set(name, taking)
        status = await s.ended(client, message_id)
        assert (status["status"], status["metadata"]["attempt"]) == ("completed", 1)
        events = await s.observe(client, message_id)
        assert_dense(events)
        assert text_of(events) == s.up.text("t400-p100")
        assert [process.returncode for process in running] == [None, None]


async def test_a_frozen_worker_that_wakes_up_changes_nothing(s: System, client: httpx.AsyncClient):
    [frozen] = await workers(s, 1)
    message_id = await s.initiate(client, "t400-p100")
    await s.written(client, message_id, 50)
    os.kill(frozen.pid, signal.SIGSTOP)
    other = await s.start_worker()
    status = await s.ended(client, message_id, 40)
    assert (status["status"], status["metadata"]["attempt"]) == ("completed", 2)
    before = await s.observe(client, message_id)
    closes = len(s.up.closes)
    os.kill(frozen.pid, signal.SIGCONT)
    await until(lambda: len(s.up.closes) > closes or s.up.active == 0, 10)
    # the woken worker is a working worker again, under another name
    s.stop([other])
    again = await s.initiate(client, "t20")
    assert (await s.ended(client, again))["status"] == "completed"
    after = await s.observe(client, message_id)
    assert [e.raw for e in after] == [e.raw for e in before]
    assert_dense(after)
    assert text_of(after) == s.up.text("t400-p100")
    assert (await s.status(client, message_id))["updated_at"] == status["updated_at"]


async def test_without_any_worker_a_message_ends_at_its_deadline(s: System, client: httpx.AsyncClient):
    """PROTOCOL R2."""
    [worker] = await workers(s, 1)
    running = await s.initiate(client, "stall10", deadline_seconds=4)
    await s.written(client, running, 3)  # its ten tokens come in one read
    worker.kill()
    waiting = await s.initiate(client, "t20", deadline_seconds=3)
    for message_id in (running, waiting):
        status = await s.ended(client, message_id, 12)
        assert status["status"] == "error"
        events = await s.observe(client, message_id)
        assert events[-1].data["error"]["detail"]["code"] == "DEADLINE_EXCEEDED"
        assert_dense(events)


async def test_until_idle_two_workers_and_each_message_once(s: System, client: httpx.AsyncClient):
    await workers(s, 0)
    asked = len(s.up.requests)
    wanted = [await s.initiate(client, "t20", text=f"number {i}") for i in range(30)]
    for worker in [await s.start_worker("--until-idle") for _ in range(2)]:
        with anyio.fail_after(30):
            assert await worker.wait() == 0, s.logs()
    for message_id in wanted:
        status = await s.status(client, message_id)
        assert (status["status"], status["metadata"]["attempt"]) == ("completed", 1)
    assert len(s.up.requests) - asked == 30
