"""`reprise serve`."""

from __future__ import annotations

from typing import Any

import anyio
import click

from app.cli import options
from app.engines.embedded import located
from app.errors import StartFailed
from app.pulse import supervised
from app.serve import serve
from app.settings import load
from app.supervise import free_port


@click.command(epilog="Example: reprise serve --port 8080")
@options.host
@options.port
@options.data_dir
@options.models
def command(**overrides: Any) -> None:
    """Run a web process alone.

    It uses the Redis and PostgreSQL of the settings, or those of a `reprise run` on this machine.
    """
    settings = load(overrides)
    if not supervised():  # the processes of one `reprise run` share its port
        free_port(settings.host, settings.port)
    here = located(settings)
    if here is None:
        raise StartFailed("no engines: start `reprise run`, or set REPRISE_REDIS_URL and REPRISE_DATABASE_URL")
    anyio.run(serve, here)
