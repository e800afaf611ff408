"""Every process of a deployment is replaced, one after the other, under load: nobody who uses it notices.

20 messages are in flight at any moment, each watched by five observers. Clients do what browsers and a proxy in front
of two web processes do: what is refused or cut is asked for again, at the other one.
"""

from __future__ import annotations

import itertools
import os
import signal
from asyncio.subprocess import Process
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import anyio
import httpx
import pytest

from tests.sse import Event, assert_dense, frames, text_of
from tests.system import KEY, System, system

MODEL = "t16-p5"
AT_ONCE = 20
OBSERVERS = 5
STOPS_WITHIN_S = 15.0


class Load:
    """Clients that keep ``AT_ONCE`` messages in flight until ``over``; what their observers saw stands in ``seen``."""

    def __init__(self, clients: list[httpx.AsyncClient]) -> None:
        self.over = False
        self.seen: dict[str, list[list[Event]]] = {}
        self.cut = 0
        self._clients = clients
        self._next: Iterator[httpx.AsyncClient] = itertools.cycle(clients)

    async def keep_one_in_flight(self, number: int) -> None:
        for turn in itertools.count():
            if self.over:
                return
            message_id = await self._initiate(f"slot-{number}-{turn}")
            seen: list[list[Event]] = [[] for _ in range(OBSERVERS)]
            self.seen[message_id] = seen
            async with anyio.create_task_group() as watching:
                for events in seen:
                    watching.start_soon(self._observe, message_id, events)

    async def _initiate(self, key: str) -> str:
        body = {"model": MODEL, "messages": [{"role": "user", "content": f"I live in {key}."}]}
        while True:
            try:
                answer = await next(self._next).post("/v1/messages/async", json=body, headers={"Idempotency-Key": key})
            except httpx.TransportError:
                await anyio.sleep(0.1)
                continue
            assert answer.status_code == 200, answer.text
            return str(answer.json()["message_id"])

    async def _observe(self, message_id: str, events: list[Event]) -> None:
        """Up to the terminal event, or the 204 that says it was seen."""
        while True:
            headers = {"Last-Event-ID": str(events[-1].id)} if events else {}
            url = f"/v1/messages/async/{message_id}/stream"
            try:
                async with next(self._next).stream("GET", url, headers=headers) as response:
                    if response.status_code == 204:
                        return
                    assert response.status_code == 200, (await response.aread()).decode()
                    async for event in frames(response):
                        events.append(event)  # noqa: PERF401 - what came before a cut counts
            except httpx.ConnectError:
                pass  # it is being replaced
            except httpx.TransportError:
                self.cut += 1
            await anyio.sleep(0.1)


async def replaced(old: Process, start_new: Callable[[], Awaitable[object]]) -> None:
    """Stops a process as a service manager does, and starts its successor when it has ended."""
    os.kill(old.pid, signal.SIGTERM)
    with anyio.fail_after(STOPS_WITHIN_S):
        assert await old.wait() == 0
    await start_new()


@pytest.mark.timeout(300)  # seven processes start one after the other
async def test_every_process_is_replaced_under_load_and_no_message_fails(short_tmp: Path) -> None:
    async with system(short_tmp, webs=2, workers=2, background=1, drain_s=10) as s:
        limits = httpx.Limits(max_connections=None)
        clients = [
            httpx.AsyncClient(base_url=url, headers={"X-API-Key": KEY}, timeout=30, limits=limits) for url in s.urls
        ]
        load = Load(clients)
        async with anyio.create_task_group() as flight:
            for number in range(AT_ONCE):
                flight.start_soon(load.keep_one_in_flight, number)
            await replace_everything(s)
            load.over = True
        assert load.cut == 0
        assert len(load.seen) > AT_ONCE
        for message_id, seen in load.seen.items():
            assert {b"".join(event.raw for event in events) for events in seen} == {
                b"".join(event.raw for event in seen[0])
            }
            assert_dense(seen[0])
            assert seen[0][-1].type == "message_stop"
            assert text_of(seen[0]) == s.up.text(MODEL)
            status = await s.status(clients[0], message_id)
            assert (status["status"], status["metadata"]["attempt"]) == ("completed", 1)
            assert (await s.remembered(clients[0], message_id))["status"] == "stored"
        for client in clients:
            await client.aclose()


async def replace_everything(s: System) -> None:
    await anyio.sleep(1)
    for number in range(2):
        await replaced(s.webs[number], lambda number=number: s.start_web(instead_of=number))
    generating, background = s.workers[:2], s.workers[2]
    for process in generating:
        await replaced(process, s.start_worker)
    await replaced(background, s.start_background)
