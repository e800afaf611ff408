"""`reprise run`."""

from __future__ import annotations

import sys
from typing import Any

import anyio
import click

from app.cli import options
from app.settings import load
from app.supervise import run


@click.command(epilog="Example: reprise run --port 8080 --models models.toml --workers 2")
@options.host
@options.port
@options.data_dir
@options.models
@click.option("--workers", type=int, metavar="N", help="Processes that talk to models. [default: 1]")
@click.option("--web", type=int, metavar="N", help="Web processes. [default: 1]")
def command(**overrides: Any) -> None:
    """Start everything on this machine.

    A private Redis and PostgreSQL (unless REPRISE_REDIS_URL and REPRISE_DATABASE_URL name others), web processes and
    workers. What dies is started again; Ctrl-C stops everything.
    """
    anyio.run(run, load(overrides), click.echo, sys.stdout.isatty())
