"""`reprise reindex`."""

from __future__ import annotations

import anyio
import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from app.cli import options
from app.database import open_pool
from app.engines.embedded import reachable
from app.errors import StartFailed
from app.memory.embedding import open_embedder
from app.memory.index import change_model, embed_missing
from app.settings import Settings, load
from app.telemetry import configure_logging


@click.command(epilog="Example: reprise reindex")
@options.data_dir
def command(data_dir: str | None) -> None:
    """Embed anew what is remembered, after the embedding model of the settings changed.

    Until it has run, search goes by keywords alone. It may be interrupted and run again.
    """
    count = anyio.run(_reindex, load({"data_dir": data_dir}))
    click.echo(f"{count} texts embedded" if count else "everything is embedded already")


async def _reindex(settings: Settings) -> int:
    configure_logging(settings)
    async with reachable(settings) as there, open_pool(there) as database:
        embedder = await open_embedder(there)
        if embedder is None:
            raise StartFailed("there is no embedder: set REPRISE_EMBEDDING_MODEL, or install the bundled model")
        left = await change_model(database, embedder)
        done = 0
        columns = (
            TextColumn(f"embedding with {embedder.name}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=Console(stderr=True), disable=not left) as progress:
            task = progress.add_task("", total=left)
            while given := await embed_missing(database, embedder):
                done += given
                progress.update(task, completed=done, total=max(left, done))
        return done
