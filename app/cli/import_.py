"""`reprise import`."""

from __future__ import annotations

from pathlib import Path

import anyio
import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from app.accounts import DEFAULT_ACCOUNT, Accounts
from app.cli import options
from app.database import Database, migrate, open_pool
from app.engines.embedded import reachable
from app.history import chats, uploads
from app.integrations.bring import bring
from app.integrations.exports.reader import NAMES, PLATFORMS, detect, read_export
from app.integrations.types import Problem, Unreadable
from app.memory.conversations import find_owner
from app.settings import Settings, load
from app.telemetry import configure_logging
from app.workers.ingest import Ingest
from app.workers.upkeep import Signal

SHOWN_PROBLEMS = 10


class Brought(msgspec.Struct, kw_only=True):
    """What came of the files."""

    conversations: dict[str, int] = {}
    """Messages by conversation."""
    problems: list[Problem] = []


@click.command(epilog="Example: reprise import conversations.json --user ada")
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path(exists=True, dir_okay=False))
@click.option("--platform", type=click.Choice(PLATFORMS), help="Whose export it is. [default: told from the file]")
@click.option("--user", default="default", show_default=True, help="The end user it is brought for.")
@click.option("--account", default=DEFAULT_ACCOUNT, show_default=True, help="The account's name.")
@click.option("--me", help="The name, in a chat between people, of the person whose words are their own.")
@options.data_dir
def command(
    files: tuple[str, ...], platform: str | None, user: str, account: str, me: str | None, data_dir: str | None
) -> None:
    """Bring chats from an export of ChatGPT, Claude, Telegram, WhatsApp, Slack or Discord.

    They are found by their words when it ends; by their meaning as soon as a running Reprise has embedded them.
    Running it again brings what is new and changes what was edited.
    """
    settings = load({"data_dir": data_dir})
    brought = anyio.run(_import, settings, [Path(file) for file in files], platform, user, account, me)
    messages = sum(brought.conversations.values())
    click.echo(f"{len(brought.conversations)} conversations with {messages} messages brought")
    for problem in brought.problems[:SHOWN_PROBLEMS]:
        click.echo(f"  not read: {problem.item_id}: {problem.message}", err=True)
    if len(brought.problems) > SHOWN_PROBLEMS:
        click.echo(f"  … and {len(brought.problems) - SHOWN_PROBLEMS} more", err=True)


async def _import(
    settings: Settings, files: list[Path], platform: str | None, user: str, account: str, me: str | None
) -> Brought:
    configure_logging(msgspec.structs.replace(settings, log_level="warning"))
    async with reachable(settings) as there:
        await migrate(there)
        async with open_pool(there) as database:
            found = (await (await Accounts.open(database)).account_named(account)).id
            brought = Brought()
            columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed} conversations"))
            with Progress(*columns, console=Console(stderr=True)) as progress:
                for file in files:
                    task = progress.add_task(file.name, total=None)
                    await bring_file(database, found, user, file, platform, me, brought, progress, task)
                await _store(database, progress, there.memory_debounce_s if there.memory_model else None)
            await _count(database, found, user, brought)
            return brought


async def bring_file(
    database: Database,
    account: str,
    user: str,
    file: Path,
    platform: str | None,
    me: str | None,
    brought: Brought,
    progress: Progress,
    task: TaskID,
) -> None:
    """Queues what one file holds. Raises Unreadable for a file of which nothing can be read."""
    data = await anyio.to_thread.run_sync(file.read_bytes)
    whose = platform or detect(data, file.name)
    if whose is None:
        raise Unreadable(
            "UNKNOWN_FORMAT", f"{file.name}: it is not told from the file whose export it is: name --platform"
        )
    items = read_export(whose, data, name=file.name, me=me)
    while True:
        try:
            item = await anyio.to_thread.run_sync(next, items, None)
        except Unreadable as error:
            raise Unreadable(error.code, f"{file.name}: {error.message}") from None
        if item is None:
            break
        if isinstance(item, Problem):
            brought.problems.append(item)
            continue
        queued = await bring(database, account, user, whose, item, NAMES[whose])
        brought.conversations[queued.conversation] = 0
        progress.update(task, completed=len(brought.conversations))
    progress.update(task, total=max(1, len(brought.conversations)), completed=len(brought.conversations))


async def _store(database: Database, progress: Progress, debounce_s: float | None) -> None:
    """Stores what waits, beside whoever else does: a running Reprise, or another import."""
    worker = Ingest(database, stored=Signal(), embeds=True, debounce_s=debounce_s)
    waiting = int(await database.fetchval("SELECT count(*) FROM uploads"))
    task = progress.add_task("storing", total=waiting)
    while waiting:
        if (upload := await uploads.claim(database)) is None:
            await anyio.sleep(0.2)  # somebody else has what is left
        else:
            await worker.store(upload)
        left = int(await database.fetchval("SELECT count(*) FROM uploads"))
        progress.update(task, completed=max(0, waiting - left))
        if not left:
            return


async def _count(database: Database, account: str, user: str, brought: Brought) -> None:
    """The messages of each conversation, and those that could not be stored as problems."""
    owner = await find_owner(database, account, user)
    for name in list(brought.conversations):
        chat = await chats.chat(database, owner, name) if owner else None
        if chat is None:
            continue
        brought.conversations[name] = chat.messages
        if chat.status in ("rejected", "failed"):
            title = chat.title or chat.external_id
            brought.problems.append(Problem(item_id=title, code=chat.status.upper(), message=chat.reason or ""))
