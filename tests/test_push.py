"""Writing to streams from where their events are read: who keeps up is not woken, who does not loses nothing."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest

from app.settings import Settings
from app.web.formats import NativeSource, TranslatedSource, source_for
from tests.rig import until
from tests.stage import Author, Stage, stage

Source = NativeSource | TranslatedSource


@pytest.fixture
async def web(settings: Settings) -> AsyncIterator[Stage]:
    async with stage(settings) as running:
        yield running


class Client:
    """A source's connection: takes ``room`` pieces at once, then has each awaited until `take`."""

    def __init__(self, source: Source, room: int = 1_000_000) -> None:
        self.source = source
        self.room = room
        self.got: list[bytes] = []
        self.woken = 0
        self.waits = self.done = False
        self._held: list[asyncio.Future[None]] = []
        source.push_to(self.send)

    @property
    def body(self) -> bytes:
        return b"".join(self.got)

    def send(self, message: Any) -> Any:
        assert message["type"] == "http.response.body"
        assert message["more_body"] is True
        assert not self._held, "written to while a write was under way"
        self.got.append(message["body"])
        if self.room > 0:
            self.room -= 1
            return _taken()
        self._held.append(asyncio.get_running_loop().create_future())
        return self._held[-1]

    def take(self, room: int) -> None:
        """Takes what is held, and has room for as many more."""
        self.room = room
        for sending in self._held:
            if not sending.done():
                sending.set_result(None)
        self._held.clear()

    async def run(self) -> None:
        """What `app.web.sse` does with a source."""
        try:
            while True:
                if data := await self.source.read():
                    await self.send({"type": "http.response.body", "body": data, "more_body": True})
                elif self.source.over:
                    return
                else:
                    self.waits = True
                    unsent = await self.source.wait()
                    self.waits = False
                    self.woken += 1
                    if unsent is not None:
                        await unsent
        finally:
            self.source.close()
            self.done = True


class _Taken:
    def __await__(self) -> Any:
        return iter(())


def _taken() -> _Taken:
    """What Granian's send gives for what was taken at once: something to await that is no future."""
    return _Taken()


async def client(web: Stage, author: Author, name: str = "anthropic", room: int = 1_000_000) -> Client:
    return Client(source_for(name, web.fanout, await author.message(), 0), room)


@pytest.mark.parametrize("name", ["anthropic", "openai", "text"])
async def test_streams_that_keep_up_are_not_woken(web: Stage, name: str) -> None:
    author = await Author.create(web.lifecycle)
    await author.start()
    clients = [await client(web, author, name) for _ in range(3)]
    async with anyio.create_task_group() as group:
        for one in clients:
            group.start_soon(one.run)
        await until(lambda: all(one.waits for one in clients))
        woken = [one.woken for one in clients]
        for n in range(5):
            await author.say(f"{n} ")
            await until(lambda n=n: all(f"{n} ".encode() in one.body for one in clients))
        assert [one.woken for one in clients] == woken
        assert all(one.source.pushed_at for one in clients)
        await author.finish()
    assert len({one.body for one in clients}) == 1
    if name == "anthropic":
        assert clients[0].body == await author.wire()


async def test_one_that_finds_no_room_wakes_alone_and_loses_nothing(web: Stage) -> None:
    author = await Author.create(web.lifecycle)
    await author.start()
    quick, slow = await client(web, author), await client(web, author)
    async with anyio.create_task_group() as group:
        group.start_soon(quick.run)
        group.start_soon(slow.run)
        await until(lambda: quick.waits and slow.waits)
        slow.room = 1
        for n in range(6):
            await author.say(f"{n} ")
            await until(lambda n=n: f"{n} ".encode() in quick.body)
        assert quick.woken == 0
        assert slow.woken == 1
        assert b'"1 "' in slow.body  # handed over, and awaited by its task
        assert b'"2 "' not in slow.body
        slow.take(1_000)
        await until(lambda: b'"5 "' in slow.body and slow.waits)
        await author.say("together ")
        await until(lambda: b"together" in slow.body)
        assert slow.woken == 1  # it is pushed to again
        await author.finish()
    assert slow.body == quick.body == await author.wire()


async def test_one_whose_write_fails_ends_alone(web: Stage) -> None:
    author = await Author.create(web.lifecycle)
    whole, broken = await client(web, author), await client(web, author)

    def fail(_: Any) -> Any:
        raise OSError("this connection is broken")

    broken.source.push_to(fail)

    async def told() -> None:
        with pytest.raises(OSError, match="broken"):
            await broken.run()

    async with anyio.create_task_group() as group:
        group.start_soon(told)
        group.start_soon(whole.run)
        await until(lambda: broken.waits and whole.waits)
        await author.start()
        await author.finish()
    assert whole.body == await author.wire()


async def test_a_translation_that_fails_ends_alone(web: Stage) -> None:
    author = await Author.create(web.lifecycle)
    whole, broken = await client(web, author, "openai"), await client(web, author, "openai")

    async def told() -> None:
        with pytest.raises(ValueError, match="unreadable"):
            await broken.run()

    async with anyio.create_task_group() as group:
        group.start_soon(whole.run)
        group.start_soon(told)
        await until(lambda: broken.waits and whole.waits)
        assert isinstance(broken.source, TranslatedSource)
        broken.source._translator = _Unreadable()
        await author.start()
        await author.finish()
    assert whole.body.endswith(b"data: [DONE]\n\n")


class _Unreadable:
    def event(self, _: Any) -> bytes:
        raise ValueError("unreadable")

    gap = event


async def test_streams_that_leave_leave_nothing_behind(web: Stage) -> None:
    author = await Author.create(web.lifecycle)
    await author.start()
    clients = [await client(web, author) for _ in range(3)]
    async with anyio.create_task_group() as outer:
        async with anyio.create_task_group() as group:
            for one in clients[1:]:
                group.start_soon(one.run)
            outer.start_soon(clients[0].run)
            await until(lambda: all(one.waits for one in clients))
            topic = clients[0].source._observer._topic  # type: ignore[union-attr]
            assert topic is not None
            assert len(topic.waiting) == 1  # all of them stand together
            group.cancel_scope.cancel()
        await author.say("still ")
        await until(lambda: b"still" in clients[0].body)
        assert not any(b"still" in one.body for one in clients[1:])
        outer.cancel_scope.cancel()
    assert not topic.waiting
    assert len(web.fanout) == 0


@pytest.mark.parametrize("seed", range(8))
async def test_any_mixture_of_clients_is_given_the_same_bytes(web: Stage, seed: int) -> None:
    """They come at any time, have room for any number of pieces and are rung for pings."""
    chance = random.Random(seed)
    author = await Author.create(web.lifecycle)
    clients: list[Client] = []
    async with anyio.create_task_group() as group:
        for n in range(60):
            if n == 5:
                await author.start()
            if n % 4 == 0:
                name = chance.choice(["anthropic", "anthropic", "openai"])
                clients.append(await client(web, author, name, chance.randrange(6)))
                group.start_soon(clients[-1].run)
            if n > 5:
                await author.say(*(f"{n}.{i} " for i in range(chance.randrange(3))))
            for one in chance.sample(clients, len(clients) // 2):
                chance.choice([one.source.ring, lambda one=one: one.take(chance.randrange(8))])()
            if chance.random() < 0.5:
                await anyio.sleep(0)
        await author.finish()

        async def take_all() -> None:
            while not all(one.done for one in clients):
                for one in clients:
                    one.take(1_000_000)
                await anyio.sleep(0.005)

        await take_all()
    native = [one.body for one in clients if isinstance(one.source, NativeSource)]
    assert set(native) == {await author.wire()}
    assert len({one.body for one in clients if isinstance(one.source, TranslatedSource)}) == 1
