"""`reprise doctor`: what is here, what is wrong, and what to do about it. Changes nothing.

`machine` looks at this host and the settings, `models` at what answers, `redis` and `postgres` at the engines.

Engines that do not run are started for the look where they hold data already, and left alone where they do not. A model
is asked only where that is wanted: it costs money.
"""

from __future__ import annotations

import anyio

from app.doctor import machine, models, postgres, redis
from app.doctor.finding import Finding
from app.engines.embedded import located, reachable
from app.engines.home import data_directory, lock_owner
from app.errors import RepriseError
from app.settings import Settings

__all__ = ["Finding", "examine"]


async def examine(settings: Settings, *, call_models: bool = False) -> list[Finding]:
    """Everything worth knowing, in the order in which it can go wrong. ``call_models``: each alias is asked once."""
    findings = [
        *machine.settings(settings),
        machine.python(),
        *models.known(settings),
        await redis.server(settings),
        await postgres.server(settings),
        machine.data(settings),
        machine.key_files(settings),
        machine.open_files(),
        machine.port(settings),
    ]
    findings += await _engines(settings)
    if call_models:
        findings += await models.called(settings)
    return findings


async def _engines(settings: Settings) -> list[Finding]:
    """Whether the engines answer, how they are set, and what they hold."""
    home = data_directory(settings)
    subject = "Engines"
    try:
        running = located(settings) is not None
        if not running:
            if lock_owner(home) is not None:
                return [Finding(subject, "warn", "being started by another process", "look again in a moment")]
            if not (home / "postgres" / "PG_VERSION").exists():
                return [Finding(subject, "ok", "not set up yet: the first `reprise run` does it")]
        async with reachable(settings) as there:
            found: dict[str, list[Finding]] = {}

            async def look(name: str) -> None:
                found[name] = await (redis.examine(there, running) if name == "redis" else postgres.examine(there))

            async with anyio.create_task_group() as looking:
                looking.start_soon(look, "redis")
                looking.start_soon(look, "postgres")
            return found["redis"] + found["postgres"]
    except RepriseError as error:
        return [Finding(subject, "bad", error.message, f"look into the logs in {home}")]
