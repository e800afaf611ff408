"""The generate worker when Redis's answers get lost, hints come late, and it is told to stop at a bad moment."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import msgspec
import pytest

from app.chat.lifecycle import Lifecycle
from app.chat.scripts import Call, Redis, Scripts
from app.errors import Unavailable
from app.llm.types import Delta, Request, Stop, Text
from app.redis_keys import Keys
from app.settings import Settings
from app.telemetry import Metrics
from app.workers.generate import GenerateWorker
from tests.rig import entries, feed_kinds, lifecycle_on, new_message, until


class LossyScripts(Scripts):
    """Runs scripts, and loses the replies of those named in ``lose`` (how many times each)."""

    def __init__(self, redis: Redis) -> None:
        super().__init__(redis)
        self.lose: dict[str, int] = {}
        self.hold: dict[str, anyio.Event] = {}
        self.held = anyio.Event()

    async def run(self, name: str, base: str, *args: Any) -> Any:
        reply = await super().run(name, base, *args)
        if held := self.hold.get(name):
            self.held.set()
            await held.wait()
        if self.lose.get(name, 0) > 0:
            self.lose[name] -= 1
            raise Unavailable("the reply was lost")
        return reply

    async def run_many(self, calls: list[Call]) -> list[Any]:
        replies = await super().run_many(calls)
        for name, _, _ in calls:
            if self.lose.get(name, 0) > 0:
                self.lose[name] -= 1
                raise Unavailable("the replies were lost")
        return replies


class LossyLifecycle(Lifecycle):
    def __init__(self, redis: Redis, keys: Keys, settings: Settings) -> None:
        super().__init__(redis, keys, settings)
        self.scripts: LossyScripts = LossyScripts(redis)
        self.queue._scripts = self.scripts


class Gated:
    """A model that says a word and then waits to be let go on."""

    def __init__(self) -> None:
        self.go = anyio.Event()

    @asynccontextmanager
    async def stream(self, request: Request) -> AsyncIterator[AsyncIterator[list[Delta]]]:
        async def deltas() -> AsyncIterator[list[Delta]]:
            yield [Text("hello")]
            await self.go.wait()
            yield [Text(" world"), Stop("end_turn")]

        yield deltas()


class Rig:
    def __init__(self, lifecycle: LossyLifecycle) -> None:
        self.lifecycle = lifecycle
        self.model = Gated()
        self.worker = GenerateWorker(lifecycle, lambda _: self.model, lifecycle.settings, Metrics())

    async def ended(self, seconds: float = 5) -> Any:
        async def final() -> Any:
            message = await self.lifecycle.read("acc", "m")
            return message if message.final else None

        return await until(final, seconds)

    async def speaking(self) -> None:
        async def spoken() -> bool:
            return len(await entries(self.lifecycle, "m")) >= 3

        await until(spoken)


@pytest.fixture(params=[1, 3], ids=["one partition", "three partitions"])
async def rig(settings: Settings, request: pytest.FixtureRequest):
    async with lifecycle_on(msgspec.structs.replace(settings, partitions=request.param)) as plain:
        yield Rig(LossyLifecycle(plain.redis, plain.keys, settings))


@pytest.mark.parametrize("script", ["message_claim", "message_take", "queue_started", "message_finish", "queue_leave"])
async def test_a_lost_reply_costs_neither_the_message_nor_its_slot(rig: Rig, script: str):
    rig.model.go.set()
    rig.lifecycle.scripts.lose[script] = 2
    await rig.lifecycle.create(new_message("m"))
    async with anyio.create_task_group() as tg:
        tg.start_soon(rig.worker.run)
        message = await rig.ended()
        await until(lambda: not rig.worker._running)
        await rig.worker.stop()
    assert (message.status, message.attempt) == ("completed", 1)
    assert await rig.lifecycle.queue.depth() == (0, 0)
    kinds = await feed_kinds(rig.lifecycle)
    assert (kinds[0], kinds.count("message.completed"), kinds[-1]) == ("message.created", 1, "message.completed")


async def test_a_late_hint_about_an_earlier_claim_leaves_no_message_behind(rig: Rig):
    await rig.lifecycle.create(new_message("m"))
    async with anyio.create_task_group() as tg:
        tg.start_soon(rig.worker.run)
        await rig.speaking()
        rig.worker._on_lost("acc/m")  # it is not: the hint was about a claim of before
        rig.model.go.set()
        message = await rig.ended()
        await rig.worker.stop()
    assert (message.status, message.attempt, message.losses) == ("completed", 2, 0)


async def test_a_message_that_comes_back_before_its_loss_is_noticed_starts_anew(rig: Rig):
    lifecycle, name = rig.lifecycle, rig.worker.heart.name
    await lifecycle.create(new_message("m"))
    async with anyio.create_task_group() as tg:
        tg.start_soon(rig.worker.run)
        await rig.speaking()
        await lifecycle.redis.delete(f"{lifecycle.keys.message_base('acc', 'm')}alive:{name}")
        assert await lifecycle.take_from_dead("acc/m", name) is not None
        rig.worker._wake.set()

        async def taken_again() -> bool:
            return (await lifecycle.read("acc", "m")).worker == name

        await until(taken_again)
        rig.model.go.set()
        message = await rig.ended()
        await rig.worker.stop()
    assert (message.status, message.attempt, message.losses) == ("completed", 2, 1)
    assert await lifecycle.queue.depth() == (0, 0)


async def test_a_take_that_redis_runs_after_its_repeat_takes_nothing(settings: Settings):
    async with lifecycle_on(settings) as lifecycle:
        await lifecycle.create(new_message("m"))
        base = lifecycle.keys.bases[0]
        assert await lifecycle.taken(base, "generate-w", "token") == []
        assert await lifecycle.take(base, 1, "generate-w", "token") == []
        ((member, _),) = await lifecycle.take(base, 1, "generate-w", "another")
        assert member == "acc/m"
        assert [member for member, _ in await lifecycle.taken(base, "generate-w", "another")] == ["acc/m"]


async def test_stopping_while_a_claim_is_under_way_takes_nothing(rig: Rig):
    await rig.lifecycle.create(new_message("m"))
    release = anyio.Event()
    rig.lifecycle.scripts.hold = {"queue_claim": release, "message_take": release}
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tg:
            tg.start_soon(rig.worker.run)
            await rig.lifecycle.scripts.held.wait()
            await rig.worker.stop()
            release.set()
    assert not (await rig.lifecycle.read("acc", "m")).worker
    rig.lifecycle.scripts.hold = {}
    assert await rig.lifecycle.queue.claim(rig.lifecycle.keys.account_base("acc"), 1) == ["acc/m"]
