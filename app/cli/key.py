"""`reprise key create|list|rotate|revoke`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TypeVar

import anyio
import click
import msgspec

from app.accounts import ALL_SCOPES, DEFAULT_ACCOUNT, Account, Accounts, ApiKey
from app.cli import options
from app.cli.table import print_table
from app.database import migrate, open_pool
from app.engines.embedded import reachable
from app.errors import NotFound
from app.settings import Settings, load
from app.telemetry import configure_logging

USUAL_SCOPES = [scope for scope in ALL_SCOPES if scope not in ("admin", "keys:write")]
PAGE = 100

T = TypeVar("T")

account_option = click.option("--account", default=DEFAULT_ACCOUNT, show_default=True, help="The account's name.")


@click.group(epilog="Example: reprise key create --account acme --name backend")
def command() -> None:
    """Create, list, rotate and revoke API keys."""


@command.command(epilog="Example: reprise key create --account acme --scope messages:write --scope messages:read")
@account_option
@click.option("--name", default="", help="What the key is for.")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    type=click.Choice(ALL_SCOPES),
    metavar="SCOPE",
    help="What it may do, as messages:read; several times. [default: all but admin and keys:write]",
)
@click.option("--user", "user_id", help="Bind the key to this end user.")
@click.option("--expires-days", type=click.IntRange(1, 36_500), help="Days until it expires. [default: never]")
@options.data_dir
def create(
    account: str,
    name: str,
    scopes: tuple[str, ...],
    user_id: str | None,
    expires_days: int | None,
    data_dir: str | None,
) -> None:
    """Create a key, and the account where it is missing. Prints the key, which is never shown again."""
    expires_at = datetime.now(UTC) + timedelta(days=expires_days) if expires_days else None

    async def act(accounts: Accounts) -> tuple[ApiKey, str]:
        try:
            owner = await accounts.account_named(account)
        except NotFound:
            owner = await accounts.create_account(account)
        return await accounts.create_key(owner.id, name, scopes or USUAL_SCOPES, user_id=user_id, expires_at=expires_at)

    key, text = anyio.run(_with_accounts, load({"data_dir": data_dir}), act, True)
    click.echo(f"Key {key.id} of account {account}; keep it now, it is not shown again:", err=True)
    click.echo(text)


@command.command("list", epilog="Example: reprise key list --account acme")
@account_option
@options.data_dir
def list_(account: str, data_dir: str | None) -> None:
    """List an account's keys."""
    keys = anyio.run(_with_accounts, load({"data_dir": data_dir}), partial(_all_keys, account))
    columns = ("id", "name", "starts with", "status", "user", "scopes", "created", "expires", "last used")
    print_table(columns, map(_row, keys))


@command.command(epilog="Example: reprise key rotate --account acme key_01k0zq3v8m5x2c7d9f1g4h6j8k --overlap-hours 2")
@click.argument("key_id")
@account_option
@click.option(
    "--overlap-hours",
    type=click.FloatRange(0, 720),
    default=24.0,
    show_default=True,
    help="How long the key as it was goes on being good.",
)
@options.data_dir
def rotate(key_id: str, account: str, overlap_hours: float, data_dir: str | None) -> None:
    """Give a key a new text under the same id. Prints it, and it is never shown again."""

    async def act(accounts: Accounts) -> tuple[ApiKey, str]:
        owner = await accounts.account_named(account)
        return await accounts.rotate_key(owner.id, key_id, overlap_s=round(overlap_hours * 3_600))

    key, text = anyio.run(_with_accounts, load({"data_dir": data_dir}), act)
    until = _day(key.previous_until)
    click.echo(
        f"Key {key.id} as it was is good until {until} UTC; keep the new one now, it is not shown again:", err=True
    )
    click.echo(text)


@command.command(epilog="Example: reprise key revoke --account acme key_01k0zq3v8m5x2c7d9f1g4h6j8k")
@click.argument("key_id")
@account_option
@options.data_dir
def revoke(key_id: str, account: str, data_dir: str | None) -> None:
    """End a key, within two seconds in every process."""

    async def act(accounts: Accounts) -> ApiKey:
        return await accounts.revoke_key((await accounts.account_named(account)).id, key_id)

    key = anyio.run(_with_accounts, load({"data_dir": data_dir}), act)
    click.echo(f"{key.id} is revoked")


async def _all_keys(account: str, accounts: Accounts) -> list[ApiKey]:
    owner: Account = await accounts.account_named(account)
    found: list[ApiKey] = []
    while True:
        page, total = await accounts.list_keys(owner.id, limit=PAGE, offset=len(found))
        found += page
        if not page or len(found) >= total:
            return found


async def _with_accounts(settings: Settings, act: Callable[[Accounts], Awaitable[T]], create: bool = False) -> T:
    async with _accounts(settings, create) as accounts:
        return await act(accounts)


@asynccontextmanager
async def _accounts(settings: Settings, create: bool) -> AsyncIterator[Accounts]:
    configure_logging(msgspec.structs.replace(settings, log_level="warning"))
    async with reachable(settings, create=create) as there:
        await migrate(there)
        async with open_pool(there) as database:
            yield await Accounts.open(database)


def _row(key: ApiKey) -> list[str]:
    times = (key.created_at, key.expires_at, key.last_used_at)
    return [key.id, key.name, key.prefix, key.status, key.user_id or "", _in_short(key.scopes), *map(_day, times)]


def _in_short(scopes: list[str]) -> str:
    if set(scopes) == set(ALL_SCOPES):
        return "all"
    return "usual" if set(scopes) == set(USUAL_SCOPES) else " ".join(scopes)


def _day(time: datetime | None) -> str:
    return "" if time is None else f"{time:%Y-%m-%d %H:%M}"
