"""`reprise migrate`."""

from __future__ import annotations

import anyio
import click

from app.cli import options
from app.database import migrate
from app.engines.embedded import reachable
from app.settings import Settings, load
from app.telemetry import configure_logging


@click.command(epilog="Example: reprise migrate")
@options.data_dir
def command(data_dir: str | None) -> None:
    """Bring the database up to date. `reprise run` does so by itself."""
    count = anyio.run(_migrate, load({"data_dir": data_dir}))
    click.echo(f"{count} migrations applied" if count else "the database is up to date")


async def _migrate(settings: Settings) -> int:
    configure_logging(settings)
    async with reachable(settings) as there:
        return await migrate(there)
