"""A generate or background process put together: `reprise work [generate|background]`.

A generate process imports litellm before it says that it is alive, so no message ever waits for an import; a
background process and the web never import it. On SIGINT or SIGTERM a worker claims nothing more, lets what runs go on
for ``drain_s``, hands the rest back, and ends.
"""

from __future__ import annotations

import gc
import importlib
import signal
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, Literal

import anyio
import structlog

from app.chat.control import Channels, listen
from app.chat.groups import Groups
from app.chat.lifecycle import Lifecycle
from app.chat.liveness import Heart, Sweeper
from app.llm import openai_wire
from app.llm.models import Models, load_models
from app.llm.types import Model
from app.pulse import pulse
from app.resources import Resources, open_resources
from app.settings import Settings
from app.telemetry import Metrics, configure_logging, open_metrics
from app.workers.generate import GenerateWorker
from app.workers.loop import GroupConsumer, Handler

Kind = Literal["generate", "background"]

GROUPS: dict[str, Callable[[Resources, Lifecycle], Handler]] = {}
"""The consumer groups of finished messages, by name: what makes each group's handler. None remember yet."""

log = structlog.get_logger(__name__)


async def run_workers(settings: Settings, kind: Kind, *, until_idle: bool = False) -> None:
    """Runs one worker process until it is told to stop, or (``until_idle``) until nothing waits any more."""
    configure_logging(settings)
    metrics = open_metrics()
    generate = kind == "generate"
    async with open_resources(settings, database=not generate, http=generate) as resources, AsyncExitStack() as stack:
        lifecycle = Lifecycle(resources.redis, resources.keys, settings, metrics.message_ended)
        if generate:
            await _generate(stack, resources, lifecycle, metrics, until_idle)
        else:
            await _background(resources, lifecycle, metrics, until_idle)


async def _generate(
    stack: AsyncExitStack, resources: Resources, lifecycle: Lifecycle, metrics: Metrics, until_idle: bool
) -> None:
    models = load_models(resources.settings)
    litellm = importlib.import_module("app.llm.litellm_door")  # only this kind of process pays for it
    stack.push_async_callback(litellm.close)
    await litellm.warm()
    gc.collect()
    gc.freeze()  # litellm's modules stay for good; else a full collection holds every message up for 200 ms
    opener = _opener(models, resources, litellm)
    worker = GenerateWorker(lifecycle, opener, resources.settings, metrics)
    async with anyio.create_task_group() as tg:
        tg.start_soon(_stop_on_signal, worker.stop)
        tg.start_soon(listen, resources.blocking_redis(), lambda: worker.channels)
        tg.start_soon(Sweeper(lifecycle, metrics.took_over).run)
        tg.start_soon(pulse, lambda: worker.heart.name)
        log.info("worker.started", kind="generate", worker=worker.heart.name)
        await worker.run(until_idle=until_idle)
        tg.cancel_scope.cancel()


def _opener(models: Models, resources: Resources, litellm: Any) -> Callable[[str], Model]:
    return partial(models.open, direct=openai_wire.door(resources.http, litellm.cost_usd), litellm=litellm.door())


async def _background(resources: Resources, lifecycle: Lifecycle, metrics: Metrics, until_idle: bool) -> None:
    groups = Groups(lifecycle.scripts, lifecycle.keys)
    consumers = [
        GroupConsumer(groups, lifecycle.keys, name, make(resources, lifecycle), metrics)
        for name, make in GROUPS.items()
    ]
    heart = Heart(lifecycle, "background", tuple, lambda _: None)
    stopped = anyio.Event()

    async def stop() -> None:
        for consumer in consumers:
            consumer.stop()
        stopped.set()

    def wake(_: bytes) -> None:
        for consumer in consumers:
            consumer.wake()

    hints: Channels = {lifecycle.keys.channel("done"): wake}
    async with anyio.create_task_group() as tg:
        await heart.beat()
        tg.start_soon(_stop_on_signal, stop)
        tg.start_soon(heart.run)
        tg.start_soon(listen, resources.blocking_redis(), lambda: hints)
        tg.start_soon(Sweeper(lifecycle, metrics.took_over).run)
        tg.start_soon(pulse, lambda: heart.name)
        log.info("worker.started", kind="background", worker=heart.name)
        async with anyio.create_task_group() as work:
            for consumer in consumers:
                work.start_soon(partial(consumer.run, until_idle=until_idle))
            if not until_idle:
                await stopped.wait()
        tg.cancel_scope.cancel()
    with anyio.move_on_after(1):
        await heart.stop()


async def _stop_on_signal(stop: Callable[[], Any]) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            await stop()
            return
