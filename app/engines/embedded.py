"""The embedded engines together: start at once, restart what dies on the same data, stop in the end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
import msgspec

from app.engines.home import Home, Urls, data_directory, hold, in_use, running_engines
from app.engines.postgres import PostgresServer
from app.engines.redis import RedisServer
from app.engines.server import Server
from app.errors import StartFailed
from app.settings import Settings

SHORT_LIFE_S = 10.0  # one that dies sooner after its start waits before the next
LONGEST_PAUSE_S = 5.0


class Engines:
    """The engines of one data directory. ``redis`` and ``postgres`` are None where they are not embedded."""

    def __init__(self, home: Home, *, redis: bool, postgres: bool) -> None:
        self.redis = RedisServer(home) if redis else None
        self.postgres = PostgresServer(home) if postgres else None
        self.servers: list[Server] = [server for server in (self.redis, self.postgres) if server is not None]
        self.urls = Urls(self.redis.url if self.redis else "", self.postgres.url if self.postgres else "")


def _quiet(_line: str) -> None:
    return


@asynccontextmanager
async def embedded(
    home: Home, *, redis: bool = True, postgres: bool = True, say: Callable[[str], None] = _quiet
) -> AsyncIterator[Engines]:
    """Run the engines of ``home`` for the time of the block; what dies is restarted, ``say`` is told.

    Raises StartFailed when one cannot start at first; the other is stopped then.
    """
    engines = Engines(home, redis=redis, postgres=postgres)
    raised: BaseException | None = None
    try:
        await _start(engines.servers)
        home.publish(engines.urls)
        async with anyio.create_task_group() as keepers:
            for server in engines.servers:
                keepers.start_soon(_keep, server, say)
            try:
                yield engines
            except Exception as error:  # noqa: BLE001 - raised again below, out of the group's wrapping
                raised = error
            keepers.cancel_scope.cancel()
    finally:
        with anyio.CancelScope(shield=True):
            async with anyio.create_task_group() as stopping:
                for server in engines.servers:
                    stopping.start_soon(server.stop)
    if raised is not None:
        raise raised


def located(settings: Settings) -> Settings | None:
    """``settings`` with the addresses of both engines: as given, else of a supervisor on the same data directory.

    None when one of them is neither. Raises StartFailed when the data directory cannot be read.
    """
    home = data_directory(settings)
    settings = msgspec.structs.replace(settings, data_dir=str(home))
    if not (settings.redis_url and settings.database_url):
        running = running_engines(home)
        if running is None:
            return None
        settings = msgspec.structs.replace(
            settings,
            redis_url=settings.redis_url or running.redis_url,
            database_url=settings.database_url or running.database_url,
        )
    return settings if settings.redis_url and settings.database_url else None


@asynccontextmanager
async def reachable(settings: Settings, *, create: bool = False) -> AsyncIterator[Settings]:
    """``settings`` with engines that answer during the block: `located` ones, else embedded ones started for it.

    Raises StartFailed where the data directory holds nothing yet, unless it may be created.
    """
    there = located(settings)
    if there is not None:
        yield there
        return
    place = data_directory(settings)
    if not (create or in_use(place)):
        raise StartFailed(
            f"there is nothing of Reprise in {place}: start `reprise run`, or set REPRISE_DATA_DIR (--data-dir), or "
            "REPRISE_REDIS_URL and REPRISE_DATABASE_URL"
        )
    async with (
        hold(place) as home,
        embedded(home, redis=not settings.redis_url, postgres=not settings.database_url) as engines,
    ):
        yield msgspec.structs.replace(
            settings,
            data_dir=str(home.path),
            redis_url=settings.redis_url or engines.urls.redis_url,
            database_url=settings.database_url or engines.urls.database_url,
        )


async def _start(servers: list[Server]) -> None:
    failures: list[StartFailed] = []

    async def one(server: Server) -> None:
        try:
            await server.start()
        except StartFailed as failure:
            failures.append(failure)

    async with anyio.create_task_group() as starting:
        for server in servers:
            starting.start_soon(one, server)
    if failures:
        raise failures[0]


async def _keep(server: Server, say: Callable[[str], None]) -> None:
    pause = 0.0
    while True:
        began = anyio.current_time()
        status = await server.wait()
        pause = 0.0 if anyio.current_time() - began > SHORT_LIFE_S else min(LONGEST_PAUSE_S, pause * 2 + 0.1)
        say(f"{server.name} ended (status {status}); starting it again on the same data")
        await anyio.sleep(pause)
        try:
            await server.start()
        except StartFailed as failure:
            say(failure.message)
