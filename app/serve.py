"""A web process put together: `reprise serve`.

`create_app` assembles what answers, `serve` runs it: it opens the resources, starts what runs beside the requests,
listens with Granian's embeddable server inside our own loop, and stops in order. This is the one module that knows
that server.

Stopping, on SIGINT or SIGTERM:

1. `Web.drain`: readiness says no, open streams end cleanly, so that their clients resume elsewhere at once;
2. requests under way have ``FINISH_S`` to end;
3. the server stops, then what runs beside it, then the resources close.

Started as a command the server would wait for open streams before it told us of the signal: they would be cut.
"""

from __future__ import annotations

import gc
import os
import resource
import signal
import socket
import stat
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import structlog
from anyio.abc import TaskStatus
from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.server.embed import Server
from litestar import Litestar
from litestar.exceptions import HTTPException
from litestar.handlers import HTTPRouteHandler
from litestar.utils import normalize_path

from app.accounts import ensure_root_key
from app.chat.backlog import read_backlog
from app.chat.fanout import Fanout
from app.chat.lifecycle import Lifecycle
from app.chat.liveness import Sweeper, workers_alive
from app.chat.replay import Pages
from app.errors import StartFailed, ours_alone
from app.feeds import Feeds
from app.history import uploads
from app.history.search import HistorySearch
from app.integrations.watch import Hub
from app.limits import Limits
from app.llm import openai_wire
from app.llm.models import Models, load_models
from app.llm.types import Model
from app.memory.drawing import Drawer
from app.memory.embedding import Embedder
from app.memory.extract import Extractor
from app.memory.index import open_matching
from app.memory.intake import Intake
from app.memory.memories import Memories
from app.memory.profile import Profiles
from app.memory.remembered import Remembered
from app.memory.search import Search
from app.pulse import pulse
from app.resources import Resources, open_resources
from app.settings import Settings
from app.tail import Tail
from app.telemetry import Metrics, configure_logging, open_metrics
from app.web.docs import docs_handlers
from app.web.events_feed import feed_handlers
from app.web.find import Finder
from app.web.guard import Gate
from app.web.health import Probes, health_handlers
from app.web.history import HistoryRoutes
from app.web.integration_events import Watching, watching_handlers
from app.web.integration_intake import beginning_handlers
from app.web.integrations import IntegrationRoutes
from app.web.keys import key_handlers
from app.web.memories import MemoryRoutes
from app.web.messages import MessageRoutes
from app.web.observe import Observing, observe_handlers
from app.web.page import page_handlers
from app.web.problem import handlers as exception_handlers
from app.web.profiles import ProfileRoutes
from app.web.several import several_handlers
from app.web.shell import Shell
from app.web.sockets import socket_handlers
from app.web.sse import Streams
from app.web.stream_tokens import token_handlers
from app.web.webhooks import WebhookRoutes
from app.webhooks import deliveries
from app.webhooks.deliveries import Deliveries
from app.webhooks.store import Webhooks

BACKLOG = 4_096
MOST_AT_ONCE = 200_000
"""Requests and streams a process takes at once; the server's own default is its backlog."""
BUFFER_BYTES = 64 * 1024
"""Read and write buffer of a connection: what a client that does not read can hold, and the longest head."""
FINISH_S = 3.0
STOP_S = 2.0
CUT_AFTER_S = 7.0
"""How much longer than a write may take its connection stays open to a client that takes nothing."""
LISTEN_S = 10.0
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")

log = structlog.get_logger(__name__)


class Web:
    """The application, what must run beside it, and what ends its streams."""

    def __init__(self) -> None:
        self.draining = False
        self.app: Shell
        self.stalled_s = 0.0
        """How long a client may take nothing before its connection is cut."""
        self.hosts: list[Callable[..., Coroutine[Any, Any, None]]] = []
        """Run for the life of the process, started before the first request; each says when it is ready."""
        self.beside: list[Callable[[], Coroutine[Any, Any, None]]] = []
        """Run for the life of the process."""
        self.on_drain: list[Callable[[], None]] = []
        """Called when the process begins to stop: each ends its streams cleanly and takes no new ones."""

    def drain(self) -> None:
        self.draining = True
        for end in self.on_drain:
            end()


def create_app(resources: Resources, metrics: Metrics, embedder: Embedder | None) -> Web:
    """Everything a web process answers. Raises StartFailed for a mistake in the models' file."""
    web, settings, accounts = Web(), resources.settings, resources.accounts
    lifecycle = Lifecycle(resources.redis, resources.keys, settings, metrics.message_ended)
    models = load_models(settings)
    web.stalled_s = settings.send_timeout_s + CUT_AFTER_S
    gate = Gate(accounts, Limits(lifecycle.scripts, resources.keys, settings))
    tail = Tail(resources.redis, resources.blocking_redis(connections=256))
    fanout = Fanout(lifecycle, tail, Pages(resources.redis))
    streams = Streams(settings.ping_s, settings.send_timeout_s, metrics, settings.max_streams)
    feeds = Feeds(resources.redis, resources.keys, tail)
    memories = Memories(resources.database, embedder)
    remembered = Remembered(resources.database, memories)
    model = _memory_model(resources, models)
    door = Observing(lifecycle, fanout, streams, remembered)
    hub = Hub(resources.database, resources.keys)
    watching = Watching(hub, streams, resources.hint)
    probes = Probes(
        redis=resources.ping_redis,
        postgresql=resources.ping_database,
        workers=lambda: workers_alive(resources.redis, resources.keys),
        backlog=lambda: read_backlog(resources.redis, resources.keys),
        draining=lambda: web.draining,
    )
    litestar = Litestar(
        [
            *MessageRoutes(lifecycle, remembered, models, accounts, settings).handlers(),
            *observe_handlers(door),
            *several_handlers(door),
            *socket_handlers(door, gate),
            *feed_handlers(door, feeds),
            *watching_handlers(watching, gate),
            *beginning_handlers(watching, settings.max_ingest_bytes),
            *IntegrationRoutes(watching, memories, settings.max_body_bytes).handlers(),
            *token_handlers(accounts, Finder(lifecycle, remembered), resources.database, settings.max_body_bytes),
            *_memory_handlers(resources, memories, embedder, model, metrics),
            *key_handlers(accounts, settings.max_body_bytes),
            *WebhookRoutes(
                Webhooks(resources.database),
                Deliveries(resources.database),
                partial(resources.hint, deliveries.CHANNEL),
                settings.max_body_bytes,
                allow_private=settings.allow_private_addresses,
            ).handlers(),
            *page_handlers(models.target("default").path == "demo"),
            *health_handlers(probes, metrics),
            *docs_handlers(),
        ],
        guards=[gate.guard],
        exception_handlers=exception_handlers(metrics),
        openapi_config=None,
        logging_config=None,
        request_max_body_size=None,  # `web/parse.py` bounds every body, without a content length too
    )
    web.app = Shell(litestar, settings, metrics, lambda path: methods_of(litestar, path))
    web.hosts = [tail.run, fanout.run, streams.run]
    hearing = partial(hub.run, resources.blocking_redis(block_s=None, connections=2))
    web.beside = [accounts.watch, Sweeper(lifecycle, metrics.took_over).run, hearing]
    web.on_drain = [door.drain, feeds.drain, hub.drain]
    return web


def _memory_handlers(
    resources: Resources, memories: Memories, embedder: Embedder | None, model: Model | None, metrics: Metrics
) -> list[HTTPRouteHandler]:
    """The routes of memories, profiles and the chat history."""
    database, settings = resources.database, resources.settings
    search, profiles = Search(database, embedder), Profiles(database, memories, model)
    history = HistorySearch(database, search)
    drawer = Drawer(database, memories, search, embedder, Extractor(model) if model else None)
    intake = Intake(database, memories, drawer)
    return [
        *MemoryRoutes(database, memories, search, intake, profiles, settings, metrics).handlers(),
        *ProfileRoutes(database, profiles, settings.max_body_bytes).handlers(),
        *HistoryRoutes(
            database, history, settings, partial(resources.hint, uploads.CHANNEL), embedder.name if embedder else None
        ).handlers(),
    ]


def _memory_model(resources: Resources, models: Models) -> Model | None:
    """The model that draws memories and writes bios, where it is one that a web process can ask.

    Raises StartFailed for one that nobody knows. What needs litellm is left to the background process.
    """
    name = resources.settings.memory_model
    if not name:
        return None
    if unknown := models.unknown(name):
        raise StartFailed(f"setting memory_model (REPRISE_MEMORY_MODEL): {unknown}")
    if models.target(name).path == "litellm":
        return None
    return models.open(name, direct=openai_wire.door(resources.http))


def methods_of(app: Litestar, path: str) -> frozenset[str]:
    """The methods that have a handler at this path; none for one that leads nowhere."""
    found = set()
    for method in METHODS:
        with suppress(HTTPException):
            app.asgi_router.handle_routing(path=normalize_path(path), method=method)
            found.add(method)
    return frozenset(found)


async def serve(
    settings: Settings,
    *,
    stop: anyio.Event | None = None,
    task_status: TaskStatus[str] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Runs a web process until SIGINT or SIGTERM, or until ``stop`` where one is given (no signal is handled then).

    Answers are given once ``task_status`` has been told the address. Raises StartFailed, Unavailable.
    """
    configure_logging(settings)
    _raise_file_limit()
    try:
        await _serve(settings, stop, task_status)
    except BaseExceptionGroup as failures:
        raise ours_alone(failures) or failures from None


async def _serve(settings: Settings, stop: anyio.Event | None, task_status: TaskStatus[str]) -> None:
    port = settings.port or _free_port(settings.host)
    async with open_resources(settings, http=bool(settings.memory_model)) as resources:
        await ensure_root_key(resources.database, settings)
        web = create_app(resources, open_metrics(), await open_matching(resources.database, settings))
        async with anyio.create_task_group() as group:
            for host in web.hosts:
                await group.start(host)
            for task in web.beside:
                group.start_soon(task)
            await _listen(web, settings.host, port, stop, task_status)
            group.cancel_scope.cancel()


async def _listen(web: Web, host: str, port: int, stop: anyio.Event | None, task_status: TaskStatus[str]) -> None:
    """Serves until told to stop, then stops in order."""
    server = Server(
        web.app,
        address=host,
        port=port,
        interface=Interfaces.ASGINL,
        http=HTTPModes.http1,
        http1_settings=HTTP1Settings(max_buffer_size=BUFFER_BYTES),
        backlog=BACKLOG,
        backpressure=MOST_AT_ONCE,
        log_enabled=False,
    )
    stopping, ended = stop or anyio.Event(), anyio.Event()
    async with anyio.create_task_group() as group:
        if stop is None:
            await group.start(_on_signal, stopping)
        group.start_soon(_run, server, stopping, ended)
        await _until_listening(host, port)
        _keep_what_is_loaded()
        _cut_stalled_connections(port, web.stalled_s)
        group.start_soon(pulse)
        log.info("web.started", host=host, port=port)
        task_status.started(f"http://{f'[{host}]' if ':' in host else host}:{port}")
        try:
            await stopping.wait()
        finally:
            with anyio.CancelScope(shield=True):
                await _wind_down(web, server, ended)
        group.cancel_scope.cancel()


async def _run(server: Server, stopping: anyio.Event, ended: anyio.Event) -> None:
    """The server for as long as it lasts; its end ends the process."""
    try:
        await server.serve()
    except (OSError, RuntimeError) as error:
        raise StartFailed(
            f"port {server.bind_port} of {server.bind_addr} cannot be served: {_first_line(error)}"
        ) from None
    finally:
        ended.set()
        stopping.set()


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]  # the server puts a stack of its own behind


async def _wind_down(web: Web, server: Server, ended: anyio.Event) -> None:
    web.drain()
    with anyio.move_on_after(FINISH_S):
        await web.app.until_idle()
    log.info("web.stopped", unfinished=web.app.open)
    server.stop()
    with anyio.move_on_after(STOP_S):
        await ended.wait()


async def _on_signal(stopping: anyio.Event, *, task_status: TaskStatus[None]) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        async for _ in signals:
            stopping.set()


async def _until_listening(host: str, port: int) -> None:
    """The server says nothing when it listens: connecting tells."""
    address = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    with anyio.move_on_after(LISTEN_S):
        while True:
            try:
                await (await anyio.connect_tcp(address, port)).aclose()
                return
            except OSError:
                await anyio.sleep(0.01)
    raise StartFailed(f"port {port} of {host} cannot be listened on")


def _cut_stalled_connections(port: int, seconds: float) -> None:
    """Has the kernel cut a connection whose client takes nothing of what was sent for so long, on Linux.

    A client let go by us keeps its socket, and megabytes of the kernel's, until the server has flushed its last write:
    for one that never reads again that is never. Connections inherit this from the listening socket, which the server
    keeps to itself: it is found among the process's own.
    """
    option = getattr(socket, "TCP_USER_TIMEOUT", None)
    if option is None:
        return
    for number in [int(entry.name) for entry in Path("/proc/self/fd").iterdir()]:
        with suppress(OSError):  # one that was closed meanwhile
            if stat.S_ISSOCK(os.fstat(number).st_mode):
                with socket.socket(fileno=os.dup(number)) as found:
                    if found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) and found.getsockname()[1] == port:
                        found.setsockopt(socket.IPPROTO_TCP, option, round(seconds * 1000))


def _keep_what_is_loaded() -> None:
    """What has been imported stays for good: without this a full collection holds every stream up for 40 ms."""
    gc.collect()
    gc.freeze()


def _free_port(host: str) -> int:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _raise_file_limit() -> None:
    """Every observer is a file descriptor: takes as many as this process may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
