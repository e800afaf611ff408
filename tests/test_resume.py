"""Resuming is exact: whatever is appended, read, cut and resumed in whatever order, the concatenation is the log.

Hypothesis draws interleavings of a writer (events, restarts, the end) and observers that read a little, are cut at any
event and come back with their cursor. They run against the observer itself; over HTTP every cut is tried once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import anyio
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from app.chat import fanout as fanout_module
from app.chat import replay
from app.chat.observer import FrameObserver, Gap
from app.settings import Settings
from tests.rig import until
from tests.stage import Author, Stage, body, stage


@pytest.fixture
async def web(settings: Settings) -> AsyncIterator[Stage]:
    async with stage(settings) as running:
        yield running


class Client:
    """Reads frames and keeps what a client keeps: the bytes of whole events and the last id."""

    def __init__(self, web: Stage, author: Author) -> None:
        self.web = web
        self.author = author
        self.cursor = 0
        self.received = b""
        self.done = False
        self.observer: FrameObserver | None = None

    async def read(self, most: int) -> None:
        """One read, of which the connection brings ``most`` events (0: all) and is cut after them."""
        message = await self.author.message()
        if self.done or (message.final and self.cursor == message.last_seq):
            self.done = True
            self.leave()
            return
        if self.observer is None:
            self.observer = FrameObserver(self.web.fanout, message, self.cursor)
        got = await self.observer.read()
        assert not isinstance(got, Gap)
        if got is None:
            return
        events = got.split(b"\n\n")[:-1]
        cut = most and most < len(events)
        for event in events[:most] if cut else events:
            self.received += event + b"\n\n"
            self.cursor = int(event.split(b"\n", 1)[0].removeprefix(b"id: "))
        if cut:
            self.leave()
        elif self.observer.over:
            self.done = True
            self.leave()

    def leave(self) -> None:
        if self.observer is not None:
            self.observer.close()
            self.observer = None


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("say"), st.integers(1, 12)),
        st.tuples(st.just("read"), st.integers(0, 9), st.integers(0, 5)),
        st.tuples(st.just("cut"), st.integers(0, 9)),
        st.tuples(st.just("turn"), st.just(0)),
        st.tuples(st.just("restart"), st.just(0)),
    ),
    max_size=40,
)


async def play(web: Stage, steps: list[tuple[str, ...]]) -> None:
    author = await Author.create(web.lifecycle)
    await author.start()
    clients = [Client(web, author) for _ in range(10)]
    restarts = 0
    for step in steps:
        name, number = step[0], int(step[1])
        if name == "say":
            await author.say(*(f"{author.seq}-{n} " for n in range(number)))
        elif name == "read":
            await clients[number].read(int(step[2]))
        elif name == "cut":
            clients[number].leave()
        elif name == "turn":
            await anyio.sleep(0)
        elif restarts < 2:
            restarts += 1
            await author.lose_worker()
            await author.claim()
            await author.append(author.assembler.start())
    await author.finish()

    async def everybody_done() -> bool:
        for client in clients:
            await client.read(0)
        return all(client.done for client in clients)

    await until(everybody_done)
    whole = await author.wire()
    for client in clients:
        assert client.received == whole
    assert len(web.fanout) == 0


@pytest.mark.parametrize("page", [500, 5])
async def test_any_interleaving(web: Stage, monkeypatch: pytest.MonkeyPatch, page: int) -> None:
    """PROTOCOL O3."""
    for module in (replay, fanout_module):
        monkeypatch.setattr(module, "PAGE", page)
    monkeypatch.setattr(fanout_module, "WINDOW_BYTES", 8_000)
    monkeypatch.setattr(fanout_module, "WINDOW_LEAST_BYTES", 8_000)
    loop = asyncio.get_running_loop()

    @hypothesis_settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(STEPS)
    def run(steps: list[tuple[str, ...]]) -> None:
        asyncio.run_coroutine_threadsafe(play(web, steps), loop).result(60)

    await anyio.to_thread.run_sync(run)


async def test_cut_and_resume_at_every_event_over_http(web: Stage) -> None:
    """PROTOCOL O3."""
    author = await Author.create(web.lifecycle)
    await author.start()
    got: list[bytes] = []

    async def follow(cursor: int) -> None:
        got.append(body(await web.get(author.path, last_event_id=str(cursor))))

    async with anyio.create_task_group() as group:
        for n in range(10):
            group.start_soon(follow, 0)
            await until(lambda n=n: web.observers == n + 1)
            await author.say(f"word{n} ", "and more ")
        await author.finish()
    whole = await author.wire()
    assert got == [whole] * 10
    events = [event + b"\n\n" for event in whole.split(b"\n\n")[:-1]]
    for cut in range(1, len(events)):
        got.clear()
        await follow(cut)
        assert b"".join(events[:cut]) + got[0] == whole
