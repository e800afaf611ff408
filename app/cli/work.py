"""`reprise work`."""

from __future__ import annotations

from functools import partial

import anyio
import click

from app.cli import options
from app.engines.embedded import located
from app.errors import StartFailed
from app.settings import load
from app.work import Kind, run_workers


@click.command(epilog="Example: reprise work generate --until-idle")
@click.argument("kind", type=click.Choice(["generate", "background"]), default="generate")
@click.option("--until-idle", is_flag=True, help="Stop when nothing is left to do.")
@options.data_dir
@options.models
def command(kind: Kind, until_idle: bool, data_dir: str | None, models_file: str | None) -> None:
    """Run a worker process alone: generate talks to models, background does the rest.

    It uses the Redis and PostgreSQL of the settings, or those of a `reprise run` on this machine.
    """
    settings = located(load({"data_dir": data_dir, "models_file": models_file}))
    if settings is None:
        raise StartFailed("no engines: start `reprise run`, or set REPRISE_REDIS_URL and REPRISE_DATABASE_URL")
    anyio.run(partial(run_workers, settings, kind, until_idle=until_idle))
