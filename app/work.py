"""A generate or background process put together: `reprise work [generate|background]`.

A generate process imports litellm before it says that it is alive, so no message ever waits for an import; the web
never imports it, a background process only where its memory model is asked that way. On SIGINT or SIGTERM a worker
claims nothing more, lets what runs go on for ``drain_s``, hands the rest back, and ends.
"""

from __future__ import annotations

import gc
import importlib
import signal
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, Literal, NamedTuple

import anyio
import structlog

from app.chat.control import Channels, listen
from app.chat.groups import Groups
from app.chat.lifecycle import Lifecycle
from app.chat.liveness import Heart, Sweeper
from app.errors import StartFailed
from app.history import uploads
from app.integrations import store as integrations
from app.integrations.kinds.api import Api
from app.integrations.kinds.chat import Chat
from app.integrations.kinds.file import File
from app.integrations.kinds.social import Social
from app.integrations.kinds.storing import Store
from app.llm import openai_wire
from app.llm.models import Models, load_models
from app.llm.types import Model
from app.memory.drawing import Drawer
from app.memory.extract import Extractor
from app.memory.index import open_matching
from app.memory.memories import Memories
from app.memory.remembered import Remembered
from app.memory.search import Search
from app.outbound import open_outbound
from app.pulse import pulse
from app.resources import Resources, open_resources
from app.settings import Settings
from app.telemetry import Metrics, configure_logging, open_metrics
from app.webhooks import deliveries
from app.workers import notify, remember, upkeep
from app.workers.deliver import Sender
from app.workers.extraction import Extraction
from app.workers.generate import GenerateWorker
from app.workers.ingest import Ingest
from app.workers.integrate import Integrate
from app.workers.integrate import Kind as IntegrationKind
from app.workers.loop import GroupConsumer, Handler
from app.workers.notify import Notifier, Relay
from app.workers.recalling import Recaller
from app.workers.remember import Bridge
from app.workers.upkeep import Signal

Kind = Literal["generate", "background"]

GROUPS = (remember.GROUP, notify.GROUP)
"""The consumer groups of finished messages. Generate processes add them too: no message finishes before a group that
is to have it is known."""

log = structlog.get_logger(__name__)


async def run_workers(settings: Settings, kind: Kind, *, until_idle: bool = False) -> None:
    """Runs one worker process until it is told to stop, or (``until_idle``) until nothing waits any more."""
    configure_logging(settings)
    metrics = open_metrics()
    generate = kind == "generate"
    http = generate or bool(settings.memory_model)
    async with open_resources(settings, database=not generate, http=http) as resources, AsyncExitStack() as stack:
        lifecycle = Lifecycle(resources.redis, resources.keys, settings, metrics.message_ended)
        if generate:
            await _generate(stack, resources, lifecycle, metrics, until_idle)
        else:
            await _background(stack, resources, lifecycle, metrics, until_idle)


async def _generate(
    stack: AsyncExitStack, resources: Resources, lifecycle: Lifecycle, metrics: Metrics, until_idle: bool
) -> None:
    models = load_models(resources.settings)
    litellm = await _litellm(stack)
    gc.collect()
    gc.freeze()  # litellm's modules stay for good; else a full collection holds every message up for 200 ms
    opener = _opener(models, resources, litellm)
    recaller = Recaller(resources.settings)
    worker = GenerateWorker(lifecycle, opener, resources.settings, metrics, recaller)
    groups = Groups(lifecycle.scripts, lifecycle.keys)
    for name in GROUPS:
        await groups.add(name)
    async with anyio.create_task_group() as tg:
        tg.start_soon(_stop_on_signal, worker.stop)
        tg.start_soon(listen, resources.blocking_redis(), lambda: worker.channels)
        tg.start_soon(Sweeper(lifecycle, metrics.took_over).run)
        tg.start_soon(recaller.run, lambda: worker.busy)
        tg.start_soon(pulse, lambda: worker.heart.name)
        log.info("worker.started", kind="generate", worker=worker.heart.name)
        await worker.run(until_idle=until_idle)
        tg.cancel_scope.cancel()


async def _litellm(stack: AsyncExitStack) -> Any:
    """The module that imports litellm: seconds and 170 MB, so only for who needs it."""
    litellm = importlib.import_module("app.llm.litellm_door")
    stack.push_async_callback(litellm.close)
    await litellm.warm()
    return litellm


def _opener(models: Models, resources: Resources, litellm: Any) -> Callable[[str], Model]:
    return partial(models.open, direct=openai_wire.door(resources.http, litellm.cost_usd), litellm=litellm.door())


async def _memory_model(stack: AsyncExitStack, resources: Resources) -> Model | None:
    """The model that extracts, where one is set. Raises StartFailed for one that nobody knows."""
    name = resources.settings.memory_model
    if not name:
        return None
    models = load_models(resources.settings)
    if unknown := models.unknown(name):
        raise StartFailed(f"setting memory_model (REPRISE_MEMORY_MODEL): {unknown}")
    if models.target(name).path == "litellm":
        return _opener(models, resources, await _litellm(stack))(name)
    return models.open(name, direct=openai_wire.door(resources.http))


async def _background(
    stack: AsyncExitStack, resources: Resources, lifecycle: Lifecycle, metrics: Metrics, until_idle: bool
) -> None:
    groups = Groups(lifecycle.scripts, lifecycle.keys)
    allow_private = resources.settings.allow_private_addresses
    outbound = await stack.enter_async_context(open_outbound(allow_private=allow_private))
    memory = await _memory(stack, resources, lifecycle)
    sender = Sender(resources.database, outbound, metrics)
    relay = Relay(lifecycle, resources.database, sender.arrived.set)
    notifier = Notifier(lifecycle, resources.database, sender.arrived.set)
    handlers: dict[str, Handler] = {remember.GROUP: memory.bridge, notify.GROUP: notifier}
    consumers = [GroupConsumer(groups, lifecycle.keys, name, handlers[name], metrics) for name in GROUPS]
    heart = Heart(lifecycle, "background", tuple, lambda _: None)
    stopped = anyio.Event()

    async def stop() -> None:
        for consumer in consumers:
            consumer.stop()
        stopped.set()

    def wake(_: bytes) -> None:
        for consumer in consumers:
            consumer.wake()

    hints: Channels = {
        lifecycle.keys.channel("done"): wake,
        lifecycle.keys.channel(uploads.CHANNEL): lambda _: memory.ingest.arrived.set(),
        lifecycle.keys.channel(integrations.CHANNEL): memory.integrate.hinted,
        lifecycle.keys.channel(deliveries.CHANNEL): lambda _: sender.arrived.set(),
    }
    async with anyio.create_task_group() as tg:
        await heart.beat()
        tg.start_soon(_stop_on_signal, stop)
        tg.start_soon(heart.run)
        tg.start_soon(listen, resources.blocking_redis(), lambda: hints)
        tg.start_soon(Sweeper(lifecycle, metrics.took_over).run)
        tg.start_soon(pulse, lambda: heart.name)
        for run in (*memory.beside, relay.run, sender.run):
            tg.start_soon(run)
        log.info("worker.started", kind="background", worker=heart.name)
        async with anyio.create_task_group() as work:
            for consumer in consumers:
                work.start_soon(partial(consumer.run, until_idle=until_idle))
            if not until_idle:
                await stopped.wait()
        tg.cancel_scope.cancel()
    with anyio.move_on_after(1):
        await heart.stop()


class _Memory(NamedTuple):
    """The bridge, what stores brought conversations, what works on integrations, and what runs beside them for the life
    of the process."""

    bridge: Bridge
    ingest: Ingest
    integrate: Integrate
    beside: list[Callable[[], Coroutine[Any, Any, None]]]


async def _memory(stack: AsyncExitStack, resources: Resources, lifecycle: Lifecycle) -> _Memory:
    database, settings = resources.database, resources.settings
    embedder = await open_matching(database, settings, patient=True)
    model = await _memory_model(stack, resources)
    memories = Memories(database, embedder)
    kept = Remembered(database, memories)
    stored = Signal()
    search, extractor = Search(database, embedder), Extractor(model) if model else None
    debounce_s = settings.memory_debounce_s if model else None
    bridge = Bridge(lifecycle, database, memories, embedder, debounce_s=debounce_s, stored=stored)
    drawer = Drawer(database, memories, search, embedder, extractor)
    ingest = Ingest(database, stored=stored, embeds=embedder is not None, drawer=drawer, debounce_s=debounce_s)
    integrate = await _integrate(stack, resources, drawer, stored)
    beside: list[Callable[[], Coroutine[Any, Any, None]]] = [
        partial(upkeep.keep_tidy, database, memories, kept),
        ingest.run,
        integrate.run,
    ]
    if embedder is not None:
        beside.append(partial(upkeep.keep_embedded, database, embedder, stored, upkeep.Machine()))
    if extractor is not None:
        beside.append(Extraction(lifecycle, database, memories, search, extractor, kept).run)
    return _Memory(bridge, ingest, integrate, beside)


async def _integrate(stack: AsyncExitStack, resources: Resources, drawer: Drawer, stored: Signal) -> Integrate:
    """What works on integrations."""
    settings = resources.settings
    outbound = await stack.enter_async_context(open_outbound(allow_private=settings.allow_private_addresses))
    store = Store(resources.database, drawer, stored.set, embeds=drawer.embeds)
    bases = {
        "linkedin": settings.linkedin_api_base,
        "twitter": settings.twitter_api_base,
        "reddit": settings.reddit_api_base,
    }
    kinds: dict[str, IntegrationKind] = {
        "chat": Chat(store),
        "file": File(store),
        "social": Social(store, outbound, bases),
        "api": Api(store, outbound, settings.max_ingest_bytes),
    }
    return Integrate(resources.database, kinds, partial(resources.hint, integrations.TOLD_CHANNEL))


async def open_integrate(stack: AsyncExitStack, resources: Resources) -> Integrate:
    """What works on integrations, for a process that does nothing else. Units get their vectors elsewhere."""
    database = resources.database
    embedder = await open_matching(database, resources.settings)
    model = await _memory_model(stack, resources)
    extractor = Extractor(model) if model else None
    drawer = Drawer(database, Memories(database, embedder), Search(database, embedder), embedder, extractor)
    return await _integrate(stack, resources, drawer, Signal())


async def _stop_on_signal(stop: Callable[[], Any]) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            await stop()
            return
