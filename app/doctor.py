"""`reprise doctor`: what is here, what is wrong, and what to do about it. Changes nothing.

Engines that do not run are started for the look where they hold data already, and left alone where they do not.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Literal, cast

import msgspec

from app.database import known_migrations, open_pool
from app.engines import postgres, redis
from app.engines.embedded import located, reachable
from app.engines.home import data_directory, lock_owner
from app.errors import RepriseError, StartFailed
from app.llm.models import load_models
from app.redis_door import redis_door
from app.resources import redis_client
from app.settings import Settings, misspelt, place_of
from app.supervise import free_port

LOW_DISK_BYTES = 1_000_000_000
ANSWER_S = 5.0


class Finding(msgspec.Struct, frozen=True):
    """One line of the table. ``advice`` is empty where nothing need be done."""

    subject: str
    state: Literal["ok", "warn", "bad"]
    found: str
    advice: str = ""


async def examine(settings: Settings) -> list[Finding]:
    """Everything worth knowing, in the order in which it can go wrong."""
    findings = [
        _settings(),
        _python(),
        _models(settings),
        await _redis_here(settings),
        await _postgres_here(settings),
        _data(data_directory(settings)),
        _port(settings),
    ]
    return findings + await _engines(settings)


def _settings() -> Finding:
    if unknown := misspelt():
        return Finding("Settings", "warn", f"no setting is called {', '.join(unknown)}", "README lists all settings")
    return Finding("Settings", "ok", "all understood")


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        return Finding("Python", "bad", version, "use Python 3.11, 3.12 or 3.13")
    return Finding("Python", "ok", version)


def _models(settings: Settings) -> Finding:
    try:
        models = load_models(settings)
    except StartFailed as error:
        return Finding("Models", "bad", error.message, "correct the models file or the settings")
    if models.target("default").path == "demo":
        return Finding("Models", "warn", "only the built-in demo", "give --models FILE or set REPRISE_MODEL")
    return Finding("Models", "ok", ", ".join(models.names()))


async def _redis_here(settings: Settings) -> Finding:
    if settings.redis_url:
        return Finding("Redis server", "ok", "external, as REPRISE_REDIS_URL says")
    found = await redis.installed()
    if not found:
        return Finding(
            "Redis server", "bad", "none found", "install redis-server 6.2 or newer, or use Python 3.11 or 3.12"
        )
    program, written = found[0]
    return Finding("Redis server", "ok", f"{written.engine} {written.version} ({program})")


async def _postgres_here(settings: Settings) -> Finding:
    if settings.database_url:
        return Finding("PostgreSQL server", "ok", "external, as REPRISE_DATABASE_URL says")
    try:
        _, version = await postgres.installed()
    except StartFailed as error:
        return Finding("PostgreSQL server", "bad", error.message, "run scripts/run again, it installs what is missing")
    return Finding("PostgreSQL server", "ok", f"{version} with pgvector")


def _data(path: Path) -> Finding:
    nearest = next(place for place in (path, *path.parents) if place.exists())
    if not os.access(nearest, os.W_OK):
        return Finding("Data directory", "bad", f"{path} cannot be written", "choose another with --data-dir")
    try:
        owner = lock_owner(path)
    except StartFailed as error:
        return Finding("Data directory", "bad", error.message, "run this as the user who started Reprise")
    free = shutil.disk_usage(nearest).free
    used = (
        "not there yet"
        if nearest != path
        else "not in use"
        if owner is None
        else f"held by process {owner or 'unknown'}"
    )
    found = f"{path} ({used}; {free / 1e9:.1f} GB free)"
    if free < LOW_DISK_BYTES:
        return Finding("Data directory", "warn", found, "make room: the engines stop writing when the disk is full")
    return Finding("Data directory", "ok", found)


def _port(settings: Settings) -> Finding:
    place = f"{settings.host}:{settings.port}"
    try:
        free_port(settings.host, settings.port)
    except StartFailed as error:
        if lock_owner(data_directory(settings)) is not None:
            return Finding("Port", "ok", f"{place} in use, and Reprise runs")
        return Finding("Port", "bad", error.message.partition(": choose")[0], "choose another with --port")
    return Finding("Port", "ok", f"{place} is free")


async def _engines(settings: Settings) -> list[Finding]:
    """Whether the engines answer, and what the database holds."""
    home = data_directory(settings)
    subject = "Engines"
    try:
        if located(settings) is None:
            if lock_owner(home) is not None:
                return [Finding(subject, "warn", "being started by another process", "look again in a moment")]
            if not (home / "postgres" / "PG_VERSION").exists():
                return [Finding(subject, "ok", "not set up yet: the first `reprise run` does it")]
        async with reachable(settings) as there:
            return [
                await _asked("Redis", _ask_redis, there),
                await _asked("PostgreSQL", _ask_postgres, there),
                await _asked("Migrations", _ask_migrations, there),
                await _asked("Extension vector", _ask_vector, there),
            ]
    except RepriseError as error:
        return [Finding(subject, "bad", error.message, f"look into the logs in {home}")]


async def _asked(subject: str, ask: Callable[[str, Settings], Awaitable[Finding]], settings: Settings) -> Finding:
    try:
        return await ask(subject, settings)
    except RepriseError as error:
        return Finding(subject, "bad", error.message, "check its address, and that it runs")


async def _ask_redis(subject: str, settings: Settings) -> Finding:
    client = redis_client(settings.redis_url, timeout_s=ANSWER_S, connections=2, retries=0)
    try:
        with redis_door(place_of(settings.redis_url, 6379)):
            information = await cast(Any, client).info("server")
    finally:
        await client.aclose()
    version = str(information.get("valkey_version") or information.get("redis_version"))
    return Finding(subject, "ok", f"answers, version {version}")


async def _ask_postgres(subject: str, settings: Settings) -> Finding:
    async with open_pool(settings) as database:
        version = await database.fetchval("SHOW server_version")
    return Finding(subject, "ok", f"answers, version {version}")


async def _ask_migrations(subject: str, settings: Settings) -> Finding:
    wanted = max(migration.number for migration in known_migrations())
    async with open_pool(settings) as database:
        table = await database.fetchval("SELECT to_regclass($1)::text", f'"{settings.database_schema}".migrations')
        applied = await database.fetchval("SELECT coalesce(max(number), 0) FROM migrations") if table else 0
    found = f"{applied} of {wanted}"
    if applied > wanted:
        return Finding(subject, "bad", found, "this database was made by a newer Reprise: use that one")
    if applied < wanted:
        return Finding(subject, "warn", found, "`reprise run` or `reprise migrate` applies the rest")
    return Finding(subject, "ok", found)


async def _ask_vector(subject: str, settings: Settings) -> Finding:
    async with open_pool(settings) as database:
        version = await database.fetchval("SELECT extversion FROM pg_extension WHERE extname = 'vector'")
        offered = await database.fetchval("SELECT default_version FROM pg_available_extensions WHERE name = 'vector'")
    if version:
        return Finding(subject, "ok", f"version {version}")
    if offered:
        return Finding(subject, "ok", f"version {offered} available")
    return Finding(subject, "bad", "not there", "install pgvector on the PostgreSQL server")
