"""The door to PostgreSQL: a pool, errors translated, numbered migrations.

Every table lives in the schema that the settings name, found through the search path. What goes wrong with the server
leaves as `Unavailable`; what is wrong with a statement leaves as asyncpg raised it, for it is our own mistake.

Choices:

1. Migrations take one advisory lock for the whole database, not for the schema: two schemas that both create the
   extension at once would fail otherwise.
2. A database that holds a migration this program does not know is refused: the program is older than its data.
3. Nothing of ours changes a session: settings are made for a transaction only, and no lock or listener outlives one. So
   a connection is not reset when it goes back to the pool, which would be a round trip for every statement.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from importlib.resources import files
from typing import Any

import anyio
import asyncpg
import msgspec
import structlog

from app.errors import BadRequest, StartFailed, Unavailable
from app.settings import Settings, place_of

POOL_SIZE = 10
ACQUIRE_S = 5.0
"""How long a caller waits for a connection of a busy pool before it is told that the database is unavailable."""
STATEMENT_S = 30.0
CONNECT_S = 5.0
CLOSE_S = 2.0
MIGRATIONS_LOCK = 7_310_579_228_137

log = structlog.get_logger(__name__)

_DOWN = (
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,  # shutting down, starting up, crashed
    asyncpg.InsufficientResourcesError,
    asyncpg.ReadOnlySQLTransactionError,  # a failover made our server a replica
    asyncpg.SerializationError,
    asyncpg.DeadlockDetectedError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    OSError,
    TimeoutError,
)


@contextmanager
def translate(place: str = "") -> Iterator[None]:
    """Turns PostgreSQL being down, restarting, full or too slow into `Unavailable`, naming ``place`` where it is given.

    Text with the one character PostgreSQL cannot hold is the caller's mistake: BadRequest.
    """
    try:
        yield
    except asyncpg.CharacterNotInRepertoireError as error:
        raise BadRequest("text may not contain the NUL character") from error
    except _DOWN as error:
        raise _unavailable(error, place) from error
    except asyncpg.InterfaceError as error:
        if "clos" not in str(error):  # "connection is closed", "pool is closing": all else is misuse
            raise
        raise _unavailable(error, place) from error
    except asyncpg.InternalClientError as error:
        if "another operation" not in str(error):
            raise
        # the server's last words came between two statements, and asyncpg took the next one for its answer
        raise _unavailable(error, place) from error


def _unavailable(error: BaseException, place: str) -> Unavailable:
    said = f"PostgreSQL{place and f' at {place}'} does not answer: {type(error).__name__}"
    return Unavailable(said, details={"engine": "postgresql"})


class Database:
    """A pool of connections. Every method raises `Unavailable` when the server does not serve."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[asyncpg.Connection]:
        """A connection for several statements."""
        with translate():
            async with self._pool.acquire(timeout=ACQUIRE_S) as connection:
                yield connection

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[asyncpg.Connection]:
        """A connection inside a transaction: committed at the end of the block, rolled back by an error."""
        async with self.connection() as connection, connection.transaction():
            yield connection

    async def fetch(self, statement: str, *values: Any, timeout: float | None = None) -> list[Any]:
        """The rows of one statement."""
        with translate():
            return list(await self._pool.fetch(statement, *values, timeout=timeout))

    async def fetchrow(self, statement: str, *values: Any, timeout: float | None = None) -> Any:
        """The first row, or None."""
        with translate():
            return await self._pool.fetchrow(statement, *values, timeout=timeout)

    async def fetchval(self, statement: str, *values: Any, timeout: float | None = None) -> Any:
        """The first column of the first row, or None."""
        with translate():
            return await self._pool.fetchval(statement, *values, timeout=timeout)

    async def execute(self, statement: str, *values: Any, timeout: float | None = None) -> str:
        """Runs one statement; its command tag, such as ``UPDATE 1``."""
        with translate():
            return str(await self._pool.execute(statement, *values, timeout=timeout))


@asynccontextmanager
async def open_pool(settings: Settings) -> AsyncIterator[Database]:
    """A pool on the settings' database and schema, closed with the block. Raises `Unavailable` when none is there."""
    with translate(place_of(settings.database_url, 5432)), _bad_address():
        pool = await asyncpg.create_pool(
            settings.database_url,
            min_size=1,
            max_size=POOL_SIZE,
            timeout=CONNECT_S,
            command_timeout=STATEMENT_S,
            server_settings=_server_settings(settings),
            reset=_keep,
        )
    try:
        yield Database(pool)
    finally:
        with anyio.move_on_after(CLOSE_S, shield=True):
            await pool.close()
        pool.terminate()


async def _keep(_: asyncpg.Connection) -> None:
    """What is done to a connection that is given back, besides ending its transaction: nothing (choice 3)."""


def _server_settings(settings: Settings) -> dict[str, str]:
    return {"search_path": f'"{settings.database_schema}", public', "application_name": "reprise"}


@contextmanager
def _bad_address() -> Iterator[None]:
    try:
        yield
    except (asyncpg.ClientConfigurationError, ValueError) as error:
        raise StartFailed(f"setting database_url (REPRISE_DATABASE_URL) is no PostgreSQL address: {error}") from None


class Migration(msgspec.Struct, frozen=True):
    number: int
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()


def known_migrations() -> list[Migration]:
    """The migrations this program brings, in their order."""
    found = []
    for file in sorted((files("app") / "migrations").iterdir(), key=lambda entry: entry.name):
        if file.name.endswith(".sql"):
            number, _, name = file.name.removesuffix(".sql").partition("_")
            found.append(Migration(int(number), name, file.read_text(encoding="utf-8")))
    return found


async def migrate(settings: Settings, migrations: list[Migration] | None = None) -> int:
    """Brings the schema up to date; answers how many migrations it applied.

    Each migration is one transaction. Several processes may call it at once: one works, the others wait and find
    nothing to do. Raises StartFailed when the database is newer than the program, was migrated by an altered file,
    lacks the vector extension or refuses us; Unavailable when it does not answer.
    """
    wanted = known_migrations() if migrations is None else migrations
    with translate(place_of(settings.database_url, 5432)), _bad_address():
        connection = await asyncpg.connect(
            settings.database_url, timeout=CONNECT_S, server_settings=_server_settings(settings)
        )
        try:
            await connection.execute("SELECT pg_advisory_lock($1)", MIGRATIONS_LOCK)
            return await _apply(connection, settings.database_schema, wanted)
        except asyncpg.InsufficientPrivilegeError as error:
            raise StartFailed(f"the PostgreSQL user may not set up the database: {error}") from error
        finally:
            connection.terminate()


async def _apply(connection: asyncpg.Connection, schema: str, wanted: list[Migration]) -> int:
    applied = await _applied(connection, schema)
    known = {migration.number: migration for migration in wanted}
    for number, checksum in applied.items():
        if number not in known:
            raise StartFailed(
                f"the database has migration {number:04}, this program knows {max(known, default=0):04} as the last: "
                "start the version of Reprise that made it, or a newer one"
            )
        if known[number].checksum != checksum:
            raise StartFailed(f"migration {number:04}_{known[number].name} is not the one this database was made with")
    missing = [migration for migration in wanted if migration.number not in applied]
    for migration in missing:
        await _run(connection, migration)
        log.info("database.migrated", migration=f"{migration.number:04}_{migration.name}")
    return len(missing)


async def _applied(connection: asyncpg.Connection, schema: str) -> dict[int, str]:
    """The applied migrations' checksums by number. Looks before it creates: a later start needs no right to create."""
    if await connection.fetchval("SELECT to_regclass($1)", f'"{schema}".migrations') is None:
        await connection.execute(
            f"""
            CREATE SCHEMA IF NOT EXISTS "{schema}";
            CREATE TABLE "{schema}".migrations (
                number integer PRIMARY KEY,
                name text NOT NULL,
                checksum text NOT NULL,
                applied_at timestamptz NOT NULL DEFAULT now()
            )"""
        )
    rows = await connection.fetch("SELECT number, checksum FROM migrations ORDER BY number")
    return {row["number"]: row["checksum"] for row in rows}


async def _run(connection: asyncpg.Connection, migration: Migration) -> None:
    try:
        async with connection.transaction():
            await connection.execute("SET LOCAL client_min_messages = warning")
            await connection.execute(migration.sql)
            await connection.execute(
                "INSERT INTO migrations (number, name, checksum) VALUES ($1, $2, $3)",
                migration.number,
                migration.name,
                migration.checksum,
            )
    except (asyncpg.UndefinedFileError, asyncpg.FeatureNotSupportedError) as error:
        if "extension" not in str(error):
            raise
        raise StartFailed(f"this PostgreSQL lacks the extension pgvector, install it on the server: {error}") from error
