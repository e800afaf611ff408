"""`reprise dead-letters list|show|requeue|drop`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import TypeVar

import anyio
import click

from app.chat.groups import DeadLetter, Groups
from app.chat.scripts import Scripts
from app.cli import options
from app.cli.table import print_table
from app.engines.embedded import reachable
from app.errors import NotFound
from app.resources import open_resources
from app.settings import Settings, load

T = TypeVar("T")

letter_ids = click.argument("letter_ids", metavar="ID...", nargs=-1, required=True)


@click.group(epilog="Example: reprise dead-letters requeue 0:1795203003333-0")
def command() -> None:
    """Finished messages that a consumer group gave up on: list, show, requeue, drop.

    A message with a dead letter is kept, 30 days at most, until the letter is requeued and done, or dropped.
    """


@command.command("list", epilog="Example: reprise dead-letters list --group remember")
@click.option("--group", default="", help="Only this consumer group's.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True, help="How many, oldest first.")
@options.data_dir
def list_(group: str, limit: int, data_dir: str | None) -> None:
    """List the dead letters, oldest first."""
    letters = _run(data_dir, partial(_listed, group, limit))
    if not letters:
        click.echo("no dead letters", err=True)
        return
    rows = [(x.id, x.group, x.account, x.message_id, str(x.deliveries), x.at, x.reason) for x in letters]
    print_table(("id", "group", "account", "message", "deliveries", "at", "reason"), rows)


@command.command(epilog="Example: reprise dead-letters show 0:1795203003333-0")
@click.argument("letter_id", metavar="ID")
@options.data_dir
def show(letter_id: str, data_dir: str | None) -> None:
    """Show one dead letter whole."""
    letter = _run(data_dir, lambda groups: groups.dead_letter(letter_id))
    if letter is None:
        raise NotFound("dead_letter", f"there is no dead letter {letter_id}")
    for name in letter.__struct_fields__:
        click.echo(f"{name + ':':12} {getattr(letter, name)}")


@command.command(epilog="Example: reprise dead-letters requeue 0:1795203003333-0 0:1795203003412-0")
@letter_ids
@options.data_dir
def requeue(letter_ids: tuple[str, ...], data_dir: str | None) -> None:
    """Deliver dead letters again, each with a full number of tries."""
    _each(data_dir, letter_ids, lambda groups, letter_id: groups.requeue(letter_id))


@command.command(epilog="Example: reprise dead-letters drop 0:1795203003333-0")
@letter_ids
@options.data_dir
def drop(letter_ids: tuple[str, ...], data_dir: str | None) -> None:
    """Give dead letters up for good; their messages' retention starts."""
    _each(data_dir, letter_ids, lambda groups, letter_id: groups.drop(letter_id))


def _each(data_dir: str | None, letter_ids: tuple[str, ...], act: Callable[[Groups, str], Awaitable[str]]) -> None:
    async def all_of(groups: Groups) -> list[tuple[str, str]]:
        return [(letter_id, await act(groups, letter_id)) for letter_id in letter_ids]

    unknown = []
    for letter_id, outcome in _run(data_dir, all_of):
        click.echo(f"{letter_id} {outcome}")
        if outcome == "unknown":
            unknown.append(letter_id)
    if unknown:
        raise NotFound("dead_letter", f"there is no dead letter {', '.join(unknown)}")


async def _listed(group: str, limit: int, groups: Groups) -> list[DeadLetter]:
    letters = await groups.dead_letters(limit if not group else 10_000)
    return [letter for letter in letters if group in ("", letter.group)][:limit]


def _run(data_dir: str | None, act: Callable[[Groups], Awaitable[T]]) -> T:
    async def run() -> T:
        async with _groups(load({"data_dir": data_dir})) as groups:
            return await act(groups)

    return anyio.run(run)


@asynccontextmanager
async def _groups(settings: Settings) -> AsyncIterator[Groups]:
    async with reachable(settings) as there, open_resources(there, database=False) as resources:
        yield Groups(Scripts(resources.redis), resources.keys)
