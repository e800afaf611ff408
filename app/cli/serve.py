"""`reprise serve`."""

from __future__ import annotations

from typing import Any

import anyio
import click

from app.cli import options
from app.engines.embedded import located
from app.errors import StartFailed
from app.serve import serve
from app.settings import load


@click.command(epilog="Example: reprise serve --port 8080")
@options.host
@options.port
@options.data_dir
@options.models
def command(**overrides: Any) -> None:
    """Run a web process alone.

    It uses the Redis and PostgreSQL of the settings, or those of a `reprise run` on this machine.
    """
    settings = located(load(overrides))
    if settings is None:
        raise StartFailed("no engines: start `reprise run`, or set REPRISE_REDIS_URL and REPRISE_DATABASE_URL")
    anyio.run(serve, settings)
