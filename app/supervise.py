"""`reprise run`: the engines, then one or more web, generate and background processes; restart, stop.

Numbered choices:

1. Everything is one task per child under one task group: cancelling it stops all children at the same time, and
   only then do the engines stop. Children get ``CHILD_STOP_S``, or what the setting ``drain_s`` asks for above that,
   the engines what `Server.stop_steps` says; together under 10 s unless a longer drain is set.
2. A child's silence is counted in our own ticks, not by the clock: when this process was itself suspended or starved,
   nobody is killed for it.
3. A process that ends with an error before it was ever ready ends the whole start: it has printed its one line, and
   trying again would only repeat it. Later deaths are restarted for ever, with a pause that grows.
4. The port is tried without SO_REUSEPORT first: the server sets it, and would share a foreign server's traffic.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import socket
import sys
from asyncio.subprocess import Process
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import anyio
import msgspec
from anyio.abc import TaskStatus
from prometheus_client.multiprocess import mark_process_dead

from app.accounts import ensure_root_key
from app.chat.liveness import drop_worker
from app.engines.embedded import Engines, embedded
from app.engines.home import data_directory, hold
from app.engines.process import kill_group, spawn, stop
from app.errors import RepriseError, StartFailed, ours_alone
from app.llm.models import load_models
from app.pulse import VARIABLE
from app.resources import open_resources
from app.settings import Settings
from app.telemetry import configure_logging

SILENT_LIMIT_S = 5.0
START_ALLOWANCE_S = 30.0
TICK_S = 0.5
CHILD_STOP_S = 5.5
HAND_BACK_S = 1.5
"""What a worker needs after its drain, to hand back what still runs."""
SHORT_LIFE_S = 10.0
LONGEST_PAUSE_S = 10.0
DROP_LIMIT_S = 2.0

Say = Callable[[str], None]
Prepare = Callable[[Settings], Awaitable[str | None]]
"""What must be done once the engines run and before the children start; returns the root key where it is known."""
WorkerDied = Callable[[Settings, str], Awaitable[None]]
"""Drops the liveness of the worker of this name."""


class Program(msgspec.Struct, frozen=True, kw_only=True):
    """What a child runs. ``count`` of them are kept."""

    name: str
    command: Sequence[str]
    count: int = 1
    niceness: int = 0


def programs(settings: Settings) -> list[Program]:
    """The processes of `reprise run`."""
    reprise = (sys.executable, "-m", "app")
    return [
        Program(name="web", command=(*reprise, "serve"), count=settings.web),
        Program(name="generate", command=(*reprise, "work", "generate"), count=settings.workers),
        Program(name="background", command=(*reprise, "work", "background"), niceness=10),
    ]


async def run(settings: Settings, say: Say, show_key: bool) -> None:
    """`reprise run`: until SIGINT or SIGTERM. Raises StartFailed with one line when something cannot start.

    ``show_key``: what is said is seen by the person who started it, and kept in no log.
    """
    configure_logging(settings)
    load_models(settings)  # a mistake in the file is told before anything starts
    await supervise(
        settings, programs(settings), prepare=_prepare, worker_died=_drop_worker, say=say, show_key=show_key
    )


async def _prepare(settings: Settings) -> str | None:
    async with open_resources(settings) as resources:
        return await ensure_root_key(resources.database, settings)


async def _drop_worker(settings: Settings, worker: str) -> None:
    async with open_resources(settings, database=False) as resources:
        await drop_worker(resources.redis, resources.keys, worker)


async def supervise(
    settings: Settings,
    children: Sequence[Program],
    *,
    prepare: Prepare,
    worker_died: WorkerDied,
    say: Say,
    show_key: bool = False,
) -> None:
    """Run everything until SIGINT or SIGTERM. Raises StartFailed with one line when it cannot start."""
    try:
        async with anyio.create_task_group() as group:
            work = anyio.CancelScope()
            await group.start(_cancel_on_signal, work, say)
            with work:
                await _run(settings, children, prepare, worker_died, say, show_key)
            group.cancel_scope.cancel()
    except BaseExceptionGroup as failures:
        raise (ours_alone(failures) or failures) from None


async def _run(
    settings: Settings,
    children: Sequence[Program],
    prepare: Prepare,
    worker_died: WorkerDied,
    say: Say,
    show_key: bool,
) -> None:
    settings = msgspec.structs.replace(settings, port=free_port(settings.host, settings.port))
    async with (
        hold(data_directory(settings)) as home,
        embedded(home, redis=not settings.redis_url, postgres=not settings.database_url, say=say) as engines,
    ):
        settings = msgspec.structs.replace(
            settings,
            data_dir=str(home.path),
            redis_url=settings.redis_url or engines.urls.redis_url,
            database_url=settings.database_url or engines.urls.database_url,
        )
        key = await prepare(settings)
        say(introduction(settings, engines, children))
        environment = {
            **settings.child_environment(),
            "PROMETHEUS_MULTIPROC_DIR": str(fresh_directory(home.path / "metrics")),
        }
        running = [
            Child(program, number, settings, environment, worker_died, say)
            for program in children
            for number in range(program.count)
        ]
        async with anyio.create_task_group() as group:
            for child in running:
                group.start_soon(child.run)
            for child in running:
                await child.ready.wait()
            say(ready(settings, key, show_key))


class Child:
    """One process kept running: started again when it ends, killed when it falls silent."""

    def __init__(
        self,
        program: Program,
        number: int,
        settings: Settings,
        environment: Mapping[str, str],
        worker_died: WorkerDied,
        say: Say,
    ) -> None:
        self.label = program.name if program.count == 1 else f"{program.name} {number + 1}"
        self.ready = anyio.Event()
        self._program = program
        self._settings = settings
        self._environment = environment
        self._worker_died = worker_died
        self._say = say
        self._worker = ""

    async def run(self) -> None:
        """For ever. Cancelled, it stops the process and returns when that has ended. Raises StartFailed (choice 3)."""
        pause = 0.0
        while True:
            began = anyio.current_time()
            self._worker = ""
            status = await self._one_life()
            if status > 0 and not self.ready.is_set():
                raise StartFailed(f"the {self.label} process could not start (exit status {status})")
            lived = anyio.current_time() - began
            pause = 0.0 if lived > SHORT_LIFE_S else min(LONGEST_PAUSE_S, pause * 2 + 0.1)
            self._say(f"The {self.label} process ended ({_in_words(status)}); starting it again")
            await self._drop_worker()
            await anyio.sleep(pause)

    async def _one_life(self) -> int:
        """Start, watch, and clean up after one process; its exit status."""
        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        try:
            process = await spawn(
                self._program.command,
                death_signal=signal.SIGKILL,
                env={**self._environment, VARIABLE: str(writing)},
                pass_fds=(writing,),
                niceness=self._program.niceness,
            )
            os.close(writing)
            writing = -1
            try:
                async with anyio.create_task_group() as group:
                    group.start_soon(self._watch, process, reading)
                    status = await process.wait()
                    group.cancel_scope.cancel()
                self._hear(_read(reading))  # of a short life this may be the first that is heard
                return status
            finally:
                with anyio.CancelScope(shield=True):
                    await stop(process, (signal.SIGTERM, child_stop_s(self._settings)))
                mark_process_dead(process.pid, path=self._environment["PROMETHEUS_MULTIPROC_DIR"])  # type: ignore[no-untyped-call]
        finally:
            os.close(reading)
            if writing >= 0:
                os.close(writing)

    async def _watch(self, process: Process, pipe: int) -> None:
        """Read the pulse; kill the process when there is none (choice 2)."""
        silent, limit = 0.0, START_ALLOWANCE_S
        while True:
            await anyio.sleep(TICK_S)
            if self._hear(_read(pipe)):
                silent, limit = 0.0, SILENT_LIMIT_S
                continue
            silent += TICK_S
            if silent >= limit:
                self._say(f"The {self.label} process (pid {process.pid}) has not answered for {limit:g} s: killing it")
                kill_group(process)
                return

    def _hear(self, beats: list[str]) -> bool:
        if not beats:
            return False
        self._worker = beats[-1]
        self.ready.set()
        return True

    async def _drop_worker(self) -> None:
        """Tell the rest at once that the dead worker is dead; without it they find out when its key has run out."""
        if self._worker:
            with anyio.move_on_after(DROP_LIMIT_S), suppress(RepriseError):
                await self._worker_died(self._settings, self._worker)


def child_stop_s(settings: Settings) -> float:
    """How long a child may take to stop before it is killed."""
    return max(CHILD_STOP_S, settings.drain_s + HAND_BACK_S)


def free_port(host: str, port: int) -> int:
    """``port``, or for 0 one that is free. Raises StartFailed where it cannot be listened on (choice 4)."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            return int(probe.getsockname()[1])
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise StartFailed(f"port {port} of {host} is in use: choose another with --port") from None
        raise StartFailed(f"cannot listen on port {port} of {host}: {error.strerror}") from None


def fresh_directory(path: Path) -> Path:
    """An empty directory at ``path``."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(mode=0o700)
    return path


def page_address(settings: Settings, key: str | None) -> str:
    """Where a person on this machine finds the page, the root key in the fragment, which browsers never send."""
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(settings.host, settings.host)  # noqa: S104
    address = f"http://{f'[{host}]' if ':' in host and '[' not in host else host}:{settings.port}/"
    return f"{address}#key={key}" if key else address


def ready(settings: Settings, key: str | None, show_key: bool) -> str:
    """That everything runs, where, and with which key: a log must not hold the key itself."""
    if key is None or show_key:
        return f"Ready: {page_address(settings, key)}"
    return f"Ready: {page_address(settings, None)} (the root key is in {Path(settings.data_dir) / 'root-key'})"


def introduction(settings: Settings, engines: Engines, children: Sequence[Program]) -> str:
    """What was started, in plain words."""
    servers = [f"{server.name} {server.version} (embedded)" for server in engines.servers]
    external = [name for name, own in (("Redis", engines.redis), ("PostgreSQL", engines.postgres)) if own is None]
    processes = ", ".join(f"{program.count} {program.name}" for program in children)
    return "\n".join(
        [
            f"Engines: {', '.join([*servers, *(f'{name} (as configured)' for name in external)])}",
            f"Data:    {settings.data_dir}",
            f"Starting processes: {processes}",
        ]
    )


async def _cancel_on_signal(
    scope: anyio.CancelScope, say: Say, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED
) -> None:
    """Cancel ``scope`` at the first signal. Later ones change nothing: stopping is bounded already."""
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        async for _ in signals:
            if not scope.cancel_called:
                say("Stopping")
            scope.cancel()


def _read(pipe: int) -> list[str]:
    """The lines that have come since the last look; empty at the end of the pipe too."""
    try:
        return os.read(pipe, 65_536).decode(errors="replace").splitlines()
    except BlockingIOError:
        return []


def _in_words(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"
