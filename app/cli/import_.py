"""`reprise import`."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anyio
import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn

from app.accounts import DEFAULT_ACCOUNT
from app.cli import options
from app.engines.embedded import reachable
from app.integrations import store
from app.integrations.documents.kinds import kind_of
from app.integrations.exports.reader import PLATFORMS, detect
from app.integrations.integration import Integration, StatusBody, Type
from app.integrations.receiving import receive
from app.integrations.social.read import PLATFORMS as SOCIAL
from app.integrations.social.read import detect as detect_archive
from app.integrations.store import PART_BYTES
from app.integrations.types import Unreadable
from app.resources import Resources, open_resources
from app.settings import Settings, load
from app.telemetry import configure_logging
from app.work import open_integrate

SHOWN_ERRORS = 10
LOOK_S = 0.2
BETWEEN_PEOPLE = frozenset({"telegram", "whatsapp", "slack", "discord"})
ALONE_AFTER_S = 1.5
"""When no running Reprise takes it up, this process does."""


class Sent(msgspec.Struct, frozen=True, kw_only=True):
    """What a file turned out to be."""

    type: Type
    platform: str
    request: dict[str, Any]


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """How a file ended; ``unnamed``: a chat between people, and nobody said who of them brings it."""

    name: str
    body: StatusBody
    unnamed: bool


@click.command(epilog="Example: reprise import conversations.json notes.pdf --user ada")
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path(exists=True, dir_okay=False))
@click.option(
    "--platform", type=click.Choice([*PLATFORMS, *SOCIAL]), help="Whose export it is. [default: told from the file]"
)
@click.option(
    "--user",
    default="default",
    show_default=True,
    help="The end user it is brought for; the page shows those of `default`.",
)
@click.option("--account", default=DEFAULT_ACCOUNT, show_default=True, help="The account's name.")
@click.option("--me", help="The name, in a chat between people, of the person whose words are their own.")
@click.option("--memories/--no-memories", default=True, show_default=True, help="Draw memories from chats.")
@options.data_dir
def command(
    files: tuple[str, ...],
    platform: str | None,
    user: str,
    account: str,
    me: str | None,
    memories: bool,
    data_dir: str | None,
) -> None:
    """Bring chats, documents and social archives.

    Chats: an export of ChatGPT, Claude, Telegram, WhatsApp, Slack or Discord. Documents: pdf, docx, txt, md, html.
    Archives: what LinkedIn, X and Reddit give to their members. A running Reprise does the work, and goes on with it
    when this command is ended; without one it is done here. Bringing the same again brings what is new or was edited.
    """
    settings = load({"data_dir": data_dir})
    ended: list[Ended] = []
    failed: list[Unreadable] = []
    try:
        anyio.run(_import, settings, [Path(f) for f in files], platform, user, account, me, memories, ended, failed)
    except KeyboardInterrupt:
        click.echo(
            "Not watched any more: a running Reprise goes on with what was handed over, or the next to start.", err=True
        )
        raise
    finally:
        for one in ended:
            _report(one)
        for error in failed:
            click.echo(f"reprise: {error.message}", err=True)
    if failed or any(one.body.status != "completed" for one in ended):
        raise SystemExit(1)


def _report(one: Ended) -> None:
    name, body, stats = one.name, one.body, one.body.stats
    brought = max(0, stats.items_processed - stats.errors_count + (body.status == "failed"))
    what = {"chat": "conversation", "file": "chunk", "social": "item"}[body.type]
    memories = "1 new memory" if stats.memories_created == 1 else f"{stats.memories_created} new memories"
    click.echo(f"{name}: {body.status}: {brought} {what}{'s' * (brought != 1)}, {memories}")
    if one.unnamed and not stats.memories_created:
        click.echo("  Where others speak too, --me NAME tells which words are yours to draw memories from.", err=True)
    errors = body.errors if isinstance(body.errors, list) else []
    for error in errors[:SHOWN_ERRORS]:
        click.echo(f"  {error.code}: {error.item_id or name}: {error.message}", err=True)
    if stats.errors_count > SHOWN_ERRORS:
        click.echo(f"  … and {stats.errors_count - SHOWN_ERRORS} more", err=True)


async def _import(
    settings: Settings,
    files: list[Path],
    platform: str | None,
    user: str,
    account: str,
    me: str | None,
    memories: bool,
    ended: list[Ended],
    failed: list[Unreadable],
) -> None:
    """Adds to ``ended`` and ``failed`` as it goes on, so that they are told of an interrupted one too."""
    configure_logging(msgspec.structs.replace(settings, log_level="warning"))
    async with reachable(settings) as there, AsyncExitStack() as stack:
        resources = await stack.enter_async_context(open_resources(there, http=bool(there.memory_model)))
        account_id = (await resources.accounts.account_named(account)).id
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[now]}"),
        )
        with Progress(*columns, console=Console(stderr=True)) as progress:
            for file in files:
                try:
                    what = await anyio.to_thread.run_sync(_told, file, platform, me, memories)
                except Unreadable as error:
                    failed.append(error)
                    continue
                sent = await _send(resources, account_id, user, file, what)
                task = progress.add_task(file.name, total=100, now="waiting")
                body = await _follow(stack, resources, sent, progress, task)
                unnamed = memories and not me and what.platform in BETWEEN_PEOPLE
                ended.append(Ended(name=file.name, body=body, unnamed=unnamed))


def _told(file: Path, platform: str | None, me: str | None, memories: bool) -> Sent:
    """What a file is, by its bytes and its name. Raises Unreadable."""
    data = file.read_bytes()
    if not data:
        raise Unreadable("EMPTY", f"{file.name}: the file is empty")
    chats = {"form": "file", "me": me, "zone": None, "memories": memories}
    if platform in PLATFORMS:
        return Sent(type="chat", platform=platform, request=chats)
    if platform or (archive := detect_archive(data)):
        return Sent(type="social", platform=platform or archive or "", request={"by": "archive", "memories": memories})
    if found := detect(data, file.name):
        return Sent(type="chat", platform=found, request=chats)
    try:
        kind = kind_of(file.name, data)
    except Unreadable as error:
        known = ", ".join([*PLATFORMS, *SOCIAL])
        raise Unreadable(
            error.code, f"{file.name}: {error.message} If it is an export: --platform, of {known}"
        ) from None
    return Sent(type="file", platform=kind, request={"memories": memories})


async def _send(resources: Resources, account: str, user: str, file: Path, what: Sent) -> Integration:
    receiving = await receive(resources.database, account, user)
    await receiving.file(file.name)
    async with await anyio.open_file(file, "rb") as source:
        while data := await source.read(PART_BYTES):
            await receiving.write(data)
    sent = await receiving.ready(what.type, what.platform, what.request, name=file.name)
    await resources.hint(store.CHANNEL)  # without its id: who has it already would think it cancelled
    return sent


async def _follow(
    stack: AsyncExitStack, resources: Resources, sent: Integration, progress: Progress, task: TaskID
) -> StatusBody:
    """Shows how far it is until it has ended; the status then. Works on it where nobody else does."""
    began = anyio.current_time()
    here = False
    async with anyio.create_task_group() as group:
        while True:
            found = await store.find(resources.database, sent.id, account=sent.account)
            body = found.body()
            progress.update(task, completed=found.percentage, now=_now(body))
            if found.final:
                break
            if not here and found.status == "pending" and anyio.current_time() - began > ALONE_AFTER_S:
                here = True
                group.start_soon((await open_integrate(stack, resources)).run)
            await anyio.sleep(LOOK_S)
        group.cancel_scope.cancel()
    return await store.status_of(resources.database, found)


def _now(body: StatusBody) -> str:
    stats = body.stats
    errors = f", {stats.errors_count} errors" if stats.errors_count else ""
    step = body.progress.current_step.replace("_", " ")
    return f"{step}: {stats.items_processed} of {stats.items_total}, {stats.memories_created} memories{errors}"
