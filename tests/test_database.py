"""The door to PostgreSQL: migrations that any number of processes may run, and errors translated."""

from __future__ import annotations

import socket

import anyio
import asyncpg
import msgspec
import pytest

from app.database import Migration, known_migrations, migrate, open_pool, translate
from app.errors import StartFailed, Unavailable
from app.settings import Settings


async def test_a_fresh_schema_is_migrated_once(settings: Settings) -> None:
    assert await migrate(settings) == len(known_migrations())
    assert await migrate(settings) == 0
    async with open_pool(settings) as database:
        assert await database.fetchval("SELECT version FROM key_version") == 1
        assert await database.fetchval("SELECT '[1,2]'::vector <-> '[1,3]'::vector") == 1.0


async def test_many_at_once_migrate_it_once(settings: Settings) -> None:
    applied: list[int] = []

    async def one() -> None:
        applied.append(await migrate(settings))

    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(one)
    assert sorted(applied) == [0, 0, 0, 0, len(known_migrations())]


async def test_a_newer_database_is_refused(settings: Settings) -> None:
    known = known_migrations()
    await migrate(settings, [*known, Migration(99, "later", "SELECT 1")])
    with pytest.raises(StartFailed, match="has migration 0099"):
        await migrate(settings)


async def test_an_altered_migration_is_refused(settings: Settings) -> None:
    await migrate(settings)
    first, *rest = known_migrations()
    altered = msgspec.structs.replace(first, sql=first.sql + "\n-- touched")
    with pytest.raises(StartFailed, match=r"migration 0001_\w+ is not the one"):
        await migrate(settings, [altered, *rest])


async def test_a_failing_migration_leaves_nothing_of_itself(settings: Settings) -> None:
    known = known_migrations()
    with pytest.raises(asyncpg.UndefinedTableError):
        await migrate(settings, [*known, Migration(99, "bad", "CREATE TABLE half (); SELECT * FROM nowhere")])
    async with open_pool(settings) as database:
        assert await database.fetchval("SELECT to_regclass('half')") is None
        assert await database.fetchval("SELECT max(number) FROM migrations") == known[-1].number


async def test_a_server_without_the_extension_is_named(settings: Settings) -> None:
    with pytest.raises(StartFailed, match="lacks the extension"):
        await migrate(settings, [Migration(1, "none", "CREATE EXTENSION no_such_thing")])


def test_migrations_are_numbered_without_holes() -> None:
    assert [m.number for m in known_migrations()] == list(range(1, len(known_migrations()) + 1))


async def test_nobody_there_is_unavailable(settings: Settings) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{bound.getsockname()[1]}"
        url = f"postgresql://u:p@{place}/d"
        nowhere = msgspec.structs.replace(settings, database_url=url)
        with pytest.raises(Unavailable, match=f"PostgreSQL at {place} does not answer"):
            await migrate(nowhere)
        with pytest.raises(Unavailable):
            async with open_pool(nowhere):
                pass


async def test_no_address_at_all_cannot_start(settings: Settings) -> None:
    with pytest.raises(StartFailed, match="REPRISE_DATABASE_URL"):
        await migrate(msgspec.structs.replace(settings, database_url="mysql://here"))


async def test_a_killed_connection_is_unavailable_and_the_next_works(settings: Settings) -> None:
    await migrate(settings)
    async with open_pool(settings) as database:
        with pytest.raises(Unavailable):
            await database.execute("SELECT pg_terminate_backend(pg_backend_pid())")
        assert await database.fetchval("SELECT 1") == 1


async def test_a_slow_statement_is_unavailable(settings: Settings) -> None:
    await migrate(settings)
    async with open_pool(settings) as database:
        with pytest.raises(Unavailable):
            await database.fetch("SELECT pg_sleep(5)", timeout=0.05)


async def test_our_own_mistakes_stay_what_they_are(settings: Settings) -> None:
    await migrate(settings)
    async with open_pool(settings) as database:
        with pytest.raises(asyncpg.UndefinedColumnError):
            await database.fetch("SELECT nothing")
        with pytest.raises(asyncpg.InterfaceError):
            await database.fetch("SELECT $1::int", 1, 2)


def test_what_is_down_names_its_engine() -> None:
    with pytest.raises(Unavailable) as caught, translate():
        raise asyncpg.TooManyConnectionsError("full")
    assert caught.value.details == {"engine": "postgresql"}
    assert caught.value.retry_after >= 1


@pytest.mark.parametrize(
    "said", ["cannot switch to state 11; another operation (2) is in progress", "got a wrong type"]
)
def test_a_server_that_died_between_two_statements_is_unavailable(said: str) -> None:
    """What asyncpg makes of it; what else it says of itself stays."""
    expected = Unavailable if "another operation" in said else asyncpg.InternalClientError
    with pytest.raises(expected), translate():
        raise asyncpg.InternalClientError(said)
