"""The engines every test runs against, and settings of a test's own.

One Redis and one PostgreSQL, embedded as `reprise run` has them, serve the whole session; each test gets a random
key prefix and schema in them, removed afterwards. REPRISE_TEST_REDIS_URL and REPRISE_TEST_DATABASE_URL name others.
"""

from __future__ import annotations

import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import NamedTuple

import anyio.from_thread
import asyncpg
import pytest
from redis.asyncio import Redis

from app.database import Database, migrate, open_pool
from app.engines.embedded import embedded
from app.engines.home import Urls, hold
from app.memory.types import Owner
from app.settings import Settings, environment
from tests.memory_rig import new_owner
from tests.rig import UNLIMITED
from tests.system import KEY, System, remove_first_start, system


def pytest_sessionfinish() -> None:
    remove_first_start()  # not at exit: the processes of pytest-xdist end without it


@pytest.fixture
def short_tmp() -> Iterator[Path]:
    """A directory below /tmp with a short name, so that sockets fit."""
    place = Path(tempfile.mkdtemp(prefix="rp-", dir="/tmp"))
    yield place
    shutil.rmtree(place, ignore_errors=True)


@pytest.fixture(scope="session")
def engine_urls() -> Iterator[Urls]:
    """The session's engines. They live in a thread and loop of their own, so that no test can stall them."""
    given = Urls(environment("REPRISE_TEST_REDIS_URL") or "", environment("REPRISE_TEST_DATABASE_URL") or "")
    if given.redis_url and given.database_url:
        yield given
        return
    place = Path(tempfile.mkdtemp(prefix="rp-", dir="/tmp"))
    with anyio.from_thread.start_blocking_portal() as portal:
        try:
            with (
                portal.wrap_async_context_manager(hold(place)) as home,
                portal.wrap_async_context_manager(
                    embedded(home, redis=not given.redis_url, postgres=not given.database_url)
                ) as engines,
            ):
                urls = engines.urls
                yield Urls(given.redis_url or urls.redis_url, given.database_url or urls.database_url)
        finally:
            shutil.rmtree(place, ignore_errors=True)


@pytest.fixture(scope="session")
def live() -> Iterator[System]:
    """One whole deployment for the black-box tests of the session: two web processes, one worker, small limits."""
    place = Path(tempfile.mkdtemp(prefix="rp-", dir="/tmp"))
    with anyio.from_thread.start_blocking_portal() as portal:
        try:
            with portal.wrap_async_context_manager(system(place, webs=2)) as made:
                yield made
        finally:
            shutil.rmtree(place, ignore_errors=True)


@pytest.fixture(scope="session")
def redis_url(engine_urls: Urls) -> str:
    return engine_urls.redis_url


@pytest.fixture(scope="session")
def database_url(engine_urls: Urls) -> str:
    return engine_urls.database_url


@pytest.fixture
async def settings(redis_url: str, database_url: str, short_tmp: Path) -> AsyncIterator[Settings]:
    """Settings with a prefix and schema of their own, both emptied after the test. The schema is not created."""
    name = f"t{secrets.token_hex(6)}"
    yield Settings(
        redis_url=redis_url,
        database_url=database_url,
        data_dir=str(short_tmp),
        redis_prefix=name,
        database_schema=name,
        port=0,
        **UNLIMITED,
    )
    async with Redis.from_url(redis_url) as client:
        async for key in client.scan_iter(match=f"{name}:*", count=1000):
            await client.unlink(key)
    connection = await asyncpg.connect(database_url)
    try:
        await connection.execute(f'SET client_min_messages = warning; DROP SCHEMA IF EXISTS "{name}" CASCADE')
    finally:
        await connection.close()


class DemoServer(NamedTuple):
    base_url: str
    key: str


@pytest.fixture(scope="session")
def live_server() -> Iterator[DemoServer]:
    """A deployment where nothing but the demo answers: what a person sees who has just started it."""
    place = Path(tempfile.mkdtemp(prefix="rp-", dir="/tmp"))
    with anyio.from_thread.start_blocking_portal() as portal:
        try:
            with portal.wrap_async_context_manager(system(place, demo=True)) as made:
                yield DemoServer(made.url, KEY)
        finally:
            shutil.rmtree(place, ignore_errors=True)


@pytest.fixture
async def database(settings: Settings) -> AsyncIterator[Database]:
    """A migrated database of the test's own."""
    await migrate(settings)
    async with open_pool(settings) as opened:
        yield opened


@pytest.fixture
async def owner(database: Database) -> Owner:
    """An end user of an account of their own, of whom nothing is remembered."""
    return await new_owner(database)
