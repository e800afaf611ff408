"""The generate worker with models the test scripts itself: every way a generation ends, and what is written then."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
import msgspec
import pytest
from structlog.testing import capture_logs

from app.chat.control import listen
from app.chat.events import content_of
from app.chat.lifecycle import Lifecycle
from app.chat.message import Message
from app.errors import UpstreamFailed
from app.llm.types import Delta, Request, Stop, Text, Usage
from app.settings import Settings
from app.telemetry import Metrics
from app.workers.generate import GenerateWorker
from tests.rig import entries, lifecycle_on, new_message, until

Script = Callable[[Request], AsyncIterator[list[Delta]]]


class Scripted:
    """A model that plays what the test wrote under its name; ``left`` counts streams that were closed."""

    def __init__(self, name: str, script: Script, left: list[str]) -> None:
        self.name = name
        self._script = script
        self._left = left

    @asynccontextmanager
    async def stream(self, request: Request) -> AsyncIterator[AsyncIterator[list[Delta]]]:
        answer = self._script(request)
        try:
            yield answer
        finally:
            self._left.append(self.name)
            await answer.aclose()  # type: ignore[attr-defined]


async def endless(_: Request) -> AsyncIterator[list[Delta]]:
    while True:
        yield [Text("more ")]
        await anyio.sleep(0.005)


async def silent(_: Request) -> AsyncIterator[list[Delta]]:
    yield [Text("well, ")]
    await anyio.sleep_forever()


async def crashing(_: Request) -> AsyncIterator[list[Delta]]:
    yield [Text("so ")]
    raise ZeroDivisionError("a bug of ours, with a secret in it")


async def failing(_: Request) -> AsyncIterator[list[Delta]]:
    yield [Text("partial ")]
    raise UpstreamFailed("503 from the model", type="overloaded_error", code="OVERLOADED", explanation="Too busy.")


async def short(_: Request) -> AsyncIterator[list[Delta]]:
    yield [Text("done"), Stop("end_turn"), Usage(3, 1, 0.25)]


SCRIPTS = {"endless": endless, "silent": silent, "crashing": crashing, "failing": failing, "short": short}


class Rig:
    def __init__(self, lifecycle: Lifecycle, worker: GenerateWorker, left: list[str]) -> None:
        self.lifecycle = lifecycle
        self.worker = worker
        self.left = left

    async def ended(self, message_id: str) -> Message:
        async def final() -> Message | None:
            message = await self.lifecycle.read("acc", message_id)
            return message if message and message.final else None

        return await until(final)

    async def begun(self, message_id: str, events: int = 3) -> None:
        async def written() -> bool:
            message = await self.lifecycle.read("acc", message_id)
            return message is not None and message.last_seq >= events

        await until(written)


@asynccontextmanager
async def worker_on(settings: Settings, **changes: object) -> AsyncIterator[Rig]:
    settings = msgspec.structs.replace(settings, **changes)
    left: list[str] = []
    async with lifecycle_on(settings) as lifecycle, lifecycle_on(settings) as listening:
        worker = GenerateWorker(lifecycle, lambda name: Scripted(name, SCRIPTS[name], left), settings, Metrics())
        async with anyio.create_task_group() as tg:
            tg.start_soon(listen, listening.redis, lambda: worker.channels)
            tg.start_soon(worker.run)
            yield Rig(lifecycle, worker, left)
            tg.cancel_scope.cancel()


def error_of(message: Message) -> dict[str, str]:
    assert message.error is not None
    return message.error["error"] | message.error["error"]["detail"]


async def test_a_whole_answer(settings: Settings):
    async with worker_on(settings) as rig:
        await rig.lifecycle.create(new_message("m", model="short"))
        message = await rig.ended("m")
        assert (message.status, message.stop_reason, message.input_tokens) == ("completed", "end_turn", 3)
        assert (message.output_tokens, message.cost_usd, message.attempt) == (1, 0.25, 1)
        assert rig.left == ["short"]


async def test_the_models_own_failure_keeps_the_partial_text(settings: Settings):
    async with worker_on(settings) as rig:
        with capture_logs() as lines:
            await rig.lifecycle.create(new_message("m", model="failing"))
            message = await rig.ended("m")
            (line,) = await until(lambda: [line for line in lines if line["event"] == "message.error"])
        assert (line["log_level"], line["error"], line["reason"]) == ("warning", "OVERLOADED", "Too busy.")
        assert (message.status, error_of(message)["type"]) == ("error", "overloaded_error")
        assert message.status_object()["error_message"] == "Too busy. (503 from the model)"
        log = await entries(rig.lifecycle, "m")
        assert content_of(log) == [{"type": "text", "text": "partial "}]
        assert log[-1].type == "error"


async def test_a_bug_of_ours_ends_the_message_and_shows_nothing(settings: Settings):
    async with worker_on(settings) as rig:
        await rig.lifecycle.create(new_message("m", model="crashing"))
        message = await rig.ended("m")
        assert error_of(message)["code"] == "INTERNAL_ERROR"
        assert "secret" not in str(message.error)
        await rig.lifecycle.create(new_message("n", model="short"))
        assert (await rig.ended("n")).status == "completed"


async def test_a_model_no_longer_configured_is_an_error_not_a_crash(settings: Settings):
    async with worker_on(settings) as rig:
        await rig.lifecycle.create(new_message("m", model="gone"))
        assert (await rig.ended("m")).status == "error"


async def test_silence_ends_it(settings: Settings):
    async with worker_on(settings) as rig:
        await rig.lifecycle.create(new_message("m", model="silent", idle_s=1))
        message = await rig.ended("m")
        assert error_of(message)["code"] == "IDLE_TIMEOUT"
        assert rig.left == ["silent"]


@pytest.mark.parametrize("limit", [{"max_output_bytes": 200}, {"max_output_events": 20}])
async def test_too_much_output_ends_it(settings: Settings, limit: dict[str, int]):
    async with worker_on(settings, **limit) as rig:
        await rig.lifecycle.create(new_message("m", model="endless"))
        message = await rig.ended("m")
        assert error_of(message)["code"] == "OUTPUT_LIMIT"
        assert rig.left == ["endless"]
        assert [e.seq for e in await entries(rig.lifecycle, "m")] == list(range(1, message.last_seq + 1))


@pytest.mark.parametrize("act", ["cancel", "delete"])
async def test_cancelled_or_deleted_elsewhere_it_stops_at_once(settings: Settings, act: str):
    async with worker_on(settings) as rig:
        await rig.lifecycle.create(new_message("m", model="endless"))
        await rig.begun("m")
        await getattr(rig.lifecycle, act)("acc", "m")
        await until(lambda: rig.left == ["endless"])
        log = await entries(rig.lifecycle, "m")
        assert log[-1].type == "message_cancelled"
        assert sum(e.terminal for e in log) == 1


async def test_without_any_hint_a_stalled_generation_still_learns_of_its_end(settings: Settings):
    async with worker_on(settings) as rig:
        await rig.lifecycle.create(new_message("m", model="silent"))
        await rig.begun("m")
        # what cancel does, without its hint: a lost pub/sub message
        base = rig.lifecycle.keys.message_base("acc", "m")
        await rig.lifecycle.scripts.run("message_cancel", base, "acc/m", "nobody listens here:", "user", b"{}")
        await until(lambda: rig.left == ["silent"])


async def test_stopping_drains_then_hands_back(settings: Settings):
    async with worker_on(settings, drain_s=0.3) as rig:
        await rig.lifecycle.create(new_message("m", model="endless"))
        await rig.begun("m")
        with capture_logs() as lines:
            await rig.worker.stop()
        (line,) = [line for line in lines if line["event"] == "worker.finishing"]
        assert (line["messages"], line["at_most_s"]) == (1, 0.3)
        await until(lambda: rig.left == ["endless"])

        async def handed_back() -> bool:
            message = await rig.lifecycle.read("acc", "m")
            return message is not None and message.last_seq == 1_000_001

        await until(handed_back)
        message = await rig.lifecycle.read("acc", "m")
        assert (message.status, message.worker, message.losses) == ("processing", "", 0)


async def test_a_worker_takes_no_more_than_its_slots(settings: Settings):
    async with worker_on(settings, worker_slots=2) as rig:
        for i in range(4):
            await rig.lifecycle.create(new_message(f"m{i}", model="endless"))
        for i in range(2):
            await rig.begun(f"m{i}")
        assert (await rig.lifecycle.read("acc", "m2")).status == "pending"
        await rig.lifecycle.cancel("acc", "m0")
        await rig.begun("m2")
        assert (await rig.lifecycle.read("acc", "m3")).status == "pending"
