"""Accounts, keys and tokens: cached, revoked everywhere within two seconds, and honest when PostgreSQL is away."""

from __future__ import annotations

import stat
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import msgspec
import pytest

from app.accounts import ALL_SCOPES, Account, Accounts, Caller, ensure_root_key, keyring, tokens
from app.accounts.service import GRACE_S
from app.database import Database
from app.errors import Conflict, Forbidden, NotFound, StartFailed, Unauthorized, Unavailable, ValidationFailed
from app.settings import Settings

READ = ["messages:read"]


class Counted:
    """A database that counts what is asked of it, and can be down."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.asked = 0
        self.down = False

    def __getattr__(self, name: str) -> object:
        if self.down:
            raise Unavailable("PostgreSQL does not answer: test")
        if not name.startswith("_"):
            self.asked += 1
        return getattr(self._database, name)


@pytest.fixture
async def accounts(database: Database) -> Accounts:
    return await Accounts.open(database)


@pytest.fixture
async def account(accounts: Accounts) -> Account:
    return await accounts.create_account("acme", max_running=3)


@asynccontextmanager
async def watching(accounts: Accounts) -> AsyncIterator[None]:
    async with anyio.create_task_group() as group:
        group.start_soon(accounts.watch)
        yield
        group.cancel_scope.cancel()


async def until(fact: Callable[[], Awaitable[bool]], seconds: float = 2.0) -> None:
    with anyio.fail_after(seconds):
        while not await fact():
            await anyio.sleep(0.02)


async def test_a_key_says_who_calls(accounts: Accounts, account: Account) -> None:
    made, text = await accounts.create_key(account.id, "mine", ["messages:read", "keys:write"], user_id="ann")
    assert text.startswith("rp_live_") and len(text) == 40
    assert (made.prefix, made.status) == (text[:12], "active")
    caller = await accounts.authenticate(text)
    assert caller == Caller(
        account.id, made.id, frozenset({"messages:read", "keys:write"}), user_id="ann", max_running=3
    )


async def test_a_key_is_stored_as_a_hash_only(accounts: Accounts, account: Account, database: Database) -> None:
    _, text = await accounts.create_key(account.id, "mine", READ)
    for table in ("api_keys", "accounts", "secrets"):
        rows = await database.fetch(f"SELECT {table}::text AS row FROM {table}")
        assert not any(text in row["row"] or text[12:] in row["row"] for row in rows)


@pytest.mark.parametrize("key", ["", "rp_live_nothing", "x" * 600, "ä", "\x00"])
async def test_an_unknown_key_is_refused(accounts: Accounts, key: str) -> None:
    with pytest.raises(Unauthorized):
        await accounts.authenticate(key)


async def test_a_known_key_costs_no_round_trip(account: Account, accounts: Accounts, database: Database) -> None:
    _, text = await accounts.create_key(account.id, "mine", READ)
    counted = Counted(database)
    reader = await Accounts.open(counted)  # type: ignore[arg-type]
    await reader.authenticate(text)
    asked = counted.asked
    for _ in range(50):
        await reader.authenticate(text)
    assert counted.asked == asked


async def test_a_crowd_with_one_unknown_key_asks_once(account: Account, accounts: Accounts, database: Database) -> None:
    _, text = await accounts.create_key(account.id, "mine", READ)
    counted = Counted(database)
    reader = await Accounts.open(counted)  # type: ignore[arg-type]
    before = counted.asked

    async def guess() -> None:
        with pytest.raises(Unauthorized):
            await reader.authenticate("rp_live_guess")

    async with anyio.create_task_group() as group:
        for _ in range(30):
            group.start_soon(reader.authenticate, text)
            group.start_soon(guess)
    assert counted.asked == before + 2


async def test_revoking_here_holds_at_once(accounts: Accounts, account: Account) -> None:
    made, text = await accounts.create_key(account.id, "mine", READ)
    await accounts.authenticate(text)
    assert (await accounts.revoke_key(account.id, made.id)).status == "revoked"
    with pytest.raises(Unauthorized):
        await accounts.authenticate(text)
    assert (await accounts.revoke_key(account.id, made.id)).status == "revoked"


async def test_revoking_elsewhere_holds_within_two_seconds(
    accounts: Accounts, account: Account, database: Database
) -> None:
    made, text = await accounts.create_key(account.id, "mine", READ)
    other = await Accounts.open(database)
    await other.authenticate(text)
    token = other.issue_token(await other.authenticate(text), expires_at=time.time() + 60, message_ids=["m"])
    await other.read_token(token)

    async def refused() -> bool:
        try:
            await other.authenticate(text)
        except Unauthorized:
            return True
        return False

    async with watching(other):
        await accounts.revoke_key(account.id, made.id)
        await until(refused)
        with pytest.raises(Unauthorized):
            await other.read_token(token)


async def test_a_read_overtaken_by_a_revocation_is_not_kept(accounts: Accounts, account: Account) -> None:
    made, text = await accounts.create_key(account.id, "mine", READ)
    ring = keyring.Keyring()
    ring.at(5)
    ring.at(6)
    ring.hit("key", await accounts.authenticate(text), 5)
    assert ring.get("key") is None
    assert made.status == "active"


async def test_limits_changed_by_hand_are_seen(accounts: Accounts, account: Account, database: Database) -> None:
    _, text = await accounts.create_key(account.id, "mine", READ)
    assert (await accounts.authenticate(text)).max_running == 3
    await database.execute("UPDATE accounts SET max_running = 9")

    async def seen() -> bool:
        return (await accounts.authenticate(text)).max_running == 9

    async with watching(accounts):
        await until(seen)


async def test_a_key_expires_in_the_cache_too(accounts: Accounts, account: Account) -> None:
    soon = datetime.now(UTC) + timedelta(milliseconds=400)
    made, text = await accounts.create_key(account.id, "mine", READ, expires_at=soon)
    await accounts.authenticate(text)

    async def refused() -> bool:
        try:
            await accounts.authenticate(text)
        except Unauthorized:
            return True
        return False

    await until(refused)
    listed, _ = await accounts.list_keys(account.id, status="expired")
    assert [key.id for key in listed] == [made.id]


async def test_while_postgresql_is_down_known_keys_work_and_others_are_not_called_wrong(
    accounts: Accounts, account: Account, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, text = await accounts.create_key(account.id, "mine", READ)
    counted = Counted(database)
    reader = await Accounts.open(counted)  # type: ignore[arg-type]
    await reader.authenticate(text)
    counted.down = True
    await reader.authenticate(text)
    with pytest.raises(Unavailable):
        await reader.authenticate("rp_live_unknown")
    began = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: began + GRACE_S + 1)
    with pytest.raises(Unavailable):
        await reader.authenticate(text)
    counted.down = False
    await reader.authenticate(text)


async def test_the_last_use_is_written_later(accounts: Accounts, account: Account) -> None:
    made, text = await accounts.create_key(account.id, "mine", READ)
    await accounts.authenticate(text)
    assert (await accounts.list_keys(account.id))[0][0].last_used_at is None

    async def written() -> bool:
        (key,), _ = await accounts.list_keys(account.id)
        return key.last_used_at is not None and key.id == made.id

    async with watching(accounts):
        await until(written, 3)


async def test_writing_the_last_use_does_not_empty_the_caches(
    accounts: Accounts, account: Account, database: Database
) -> None:
    await accounts.create_key(account.id, "mine", READ)
    before = await database.fetchval("SELECT version FROM key_version")
    await database.execute("UPDATE api_keys SET last_used_at = now()")
    assert await database.fetchval("SELECT version FROM key_version") == before


async def test_the_same_idempotency_key_gives_the_first_answer_again(accounts: Accounts, account: Account) -> None:
    answers: list[tuple[str, str]] = []

    async def create() -> None:
        made, text = await accounts.create_key(account.id, "mine", READ, idempotency_key="once", body=b"b")
        answers.append((made.id, text))

    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(create)
    assert len(set(answers)) == 1
    assert (await accounts.authenticate(answers[0][1])).key_id == answers[0][0]
    with pytest.raises(Conflict):
        await accounts.create_key(account.id, "mine", READ, idempotency_key="once", body=b"other")
    other = await accounts.create_account("other")
    assert (await accounts.create_key(other.id, "mine", READ, idempotency_key="once", body=b"b"))[1] != answers[0][1]


async def test_an_idempotency_key_is_forgotten_after_a_day(
    accounts: Accounts, account: Account, database: Database
) -> None:
    first = await accounts.create_key(account.id, "mine", READ, idempotency_key="once", body=b"b")
    await database.execute("UPDATE api_keys SET created_at = now() - interval '25 hours'")
    second = await accounts.create_key(account.id, "mine", READ, idempotency_key="once", body=b"b")
    assert first[0].id != second[0].id
    assert first[1] != second[1]


async def test_keys_are_listed_per_account_user_and_status(accounts: Accounts, account: Account) -> None:
    other = await accounts.create_account("other")
    await accounts.create_key(other.id, "theirs", READ)
    made = [(await accounts.create_key(account.id, f"k{i}", READ, user_id="u" if i else None))[0] for i in range(3)]
    await accounts.revoke_key(account.id, made[0].id)
    listed, total = await accounts.list_keys(account.id, limit=2)
    assert ([key.name for key in listed], total) == (["k2", "k1"], 3)
    assert await accounts.list_keys(account.id, limit=2, offset=10) == ([], 3)
    assert [key.name for key in (await accounts.list_keys(account.id, status="revoked"))[0]] == ["k0"]
    assert [key.name for key in (await accounts.list_keys(account.id, user_id="u"))[0]] == ["k2", "k1"]


async def test_others_keys_cannot_be_revoked(accounts: Accounts, account: Account, settings: Settings) -> None:
    other = await accounts.create_account("other")
    theirs, _ = await accounts.create_key(other.id, "theirs", READ)
    unbound, _ = await accounts.create_key(account.id, "unbound", READ)
    _, text = await accounts.create_key(account.id, "bound", ["keys:write"], user_id="ann")
    bound = await accounts.authenticate(text)
    with pytest.raises(NotFound):
        await accounts.revoke_key(account.id, theirs.id)
    with pytest.raises(NotFound):
        await accounts.revoke_key(account.id, unbound.id, by=bound)


async def test_the_root_key_is_revoked_only_by_itself(
    accounts: Accounts, settings: Settings, database: Database
) -> None:
    root_text = await ensure_root_key(database, settings)
    assert root_text
    root = await accounts.authenticate(root_text)
    _, text = await accounts.create_key(root.account, "helper", ["keys:write"])
    with pytest.raises(Forbidden):
        await accounts.revoke_key(root.account, root.key_id, by=await accounts.authenticate(text))
    with pytest.raises(Conflict, match="last key"):
        await accounts.revoke_key(root.account, root.key_id, by=root)
    await accounts.create_key(root.account, "second", ["admin"])
    await accounts.revoke_key(root.account, root.key_id, by=root)


@pytest.mark.parametrize("scopes", [[], ["messages:read", "all"]])
async def test_scopes_are_of_the_known_list(accounts: Accounts, account: Account, scopes: list[str]) -> None:
    with pytest.raises(ValidationFailed, match="scopes"):
        await accounts.create_key(account.id, "mine", scopes)


async def test_account_names_are_unique(accounts: Accounts, account: Account) -> None:
    assert await accounts.account_named("acme") == account
    with pytest.raises(Conflict):
        await accounts.create_account("acme")
    with pytest.raises(NotFound):
        await accounts.account_named("nobody")


async def test_a_token_covers_what_it_names(accounts: Accounts, account: Account) -> None:
    made, text = await accounts.create_key(account.id, "mine", READ, user_id="ann")
    caller = await accounts.authenticate(text)
    grant = await accounts.read_token(accounts.issue_token(caller, expires_at=time.time() + 60, message_ids=["a", "b"]))
    assert (grant.account, grant.key_id, grant.user_id, grant.feed) == (account.id, made.id, "ann", False)
    assert grant.covers("a") and grant.covers("b") and not grant.covers("c")
    feed = await accounts.read_token(accounts.issue_token(caller, expires_at=time.time() + 60, feed=True))
    assert feed.feed and not feed.covers("a") and not feed.covers("")


async def test_a_token_for_a_hundred_messages_fits_a_url(accounts: Accounts, account: Account) -> None:
    _, text = await accounts.create_key(account.id, "mine", READ)
    ids = [f"msg_{i:026}" for i in range(100)]
    token = accounts.issue_token(await accounts.authenticate(text), expires_at=2**33, message_ids=ids)
    assert len(token) < 1_800
    grant = await accounts.read_token(token)
    assert all(grant.covers(message_id) for message_id in ids)


async def test_a_bad_token_is_refused(accounts: Accounts, account: Account) -> None:
    _, text = await accounts.create_key(account.id, "mine", READ)
    caller = await accounts.authenticate(text)
    good = accounts.issue_token(caller, expires_at=time.time() + 60, message_ids=["a"])
    old = accounts.issue_token(caller, expires_at=time.time() - 1, message_ids=["a"])
    foreign = tokens.seal(b"another secret", tokens.Token(caller.key_id, 2**40))
    altered = [good[:i] + ("A" if good[i] != "A" else "B") + good[i + 1 :] for i in range(0, len(good) - 1, 3)]
    for bad in ["", "x", "ä", "=" * 40, "A" * 5000, old, foreign, good + "AAAA", good[:-4], *altered]:
        with pytest.raises(Unauthorized):
            await accounts.read_token(bad)
    await accounts.read_token(good)


async def test_tokens_of_one_process_are_read_by_another(
    accounts: Accounts, account: Account, database: Database
) -> None:
    _, text = await accounts.create_key(account.id, "mine", READ)
    token = accounts.issue_token(await accounts.authenticate(text), expires_at=time.time() + 60, message_ids=["a"])
    assert (await (await Accounts.open(database)).read_token(token)).covers("a")


async def test_the_root_key_is_made_once(settings: Settings, database: Database, accounts: Accounts) -> None:
    found: list[str | None] = []

    async def start() -> None:
        found.append(await ensure_root_key(database, settings))

    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(start)
    assert len(set(found)) == 1 and found[0]
    file = Path(settings.data_dir) / "root-key"
    assert file.read_text().strip() == found[0]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    caller = await accounts.authenticate(found[0])
    assert caller.root and caller.scopes == set(ALL_SCOPES)
    assert (await accounts.account_named("default")).id == caller.account


async def test_a_preset_replaces_the_root_key(settings: Settings, database: Database, accounts: Accounts) -> None:
    first = await ensure_root_key(database, settings)
    assert first
    preset = msgspec.structs.replace(settings, root_key="a-key-of-my-own-choosing")
    assert await ensure_root_key(database, preset) == "a-key-of-my-own-choosing"
    assert (await accounts.authenticate("a-key-of-my-own-choosing")).root
    with pytest.raises(Unauthorized):
        await (await Accounts.open(database)).authenticate(first)
    again = msgspec.structs.replace(settings, root_key=first)
    assert await ensure_root_key(database, again) == first
    assert (await (await Accounts.open(database)).authenticate(first)).root
    assert await database.fetchval("SELECT count(*) FROM api_keys WHERE root AND revoked_at IS NULL") == 1


async def test_elsewhere_the_root_key_is_left_alone(settings: Settings, database: Database) -> None:
    assert await ensure_root_key(database, settings)
    elsewhere = msgspec.structs.replace(settings, data_dir=f"{settings.data_dir}/elsewhere")
    assert await ensure_root_key(database, elsewhere) is None
    assert not Path(elsewhere.data_dir).exists()


async def test_an_emptied_database_takes_the_key_in_the_file(settings: Settings, database: Database) -> None:
    first = await ensure_root_key(database, settings)
    await database.execute("DELETE FROM accounts")
    assert await ensure_root_key(database, settings) == first


@pytest.mark.parametrize("preset", ["short", "with space in the middle of it", "ümlaut-is-no-header-value"])
async def test_a_preset_that_is_no_key_is_refused(settings: Settings, database: Database, preset: str) -> None:
    with pytest.raises(StartFailed, match="REPRISE_ROOT_KEY"):
        await ensure_root_key(database, msgspec.structs.replace(settings, root_key=preset))


async def test_a_rotated_key_has_two_texts_until_the_overlap_ends(
    accounts: Accounts, account: Account, database: Database
) -> None:
    key, first = await accounts.create_key(account.id, "mine", ["messages:read"])
    token = accounts.issue_token(await accounts.authenticate(first), expires_at=time.time() + 60, message_ids=["m"])
    rotated, second = await accounts.rotate_key(account.id, key.id, overlap_s=60)
    assert (rotated.id, rotated.scopes) == (key.id, key.scopes)
    assert rotated.previous_until is not None
    assert {(await accounts.authenticate(text)).key_id for text in (first, second)} == {key.id}
    assert (await accounts.read_token(token)).key_id == key.id
    _, third = await accounts.rotate_key(account.id, key.id, overlap_s=60)
    with pytest.raises(Unauthorized):
        await accounts.authenticate(first)
    await database.execute("UPDATE api_keys SET previous_until = now() - interval '1 s', name = 'x'")
    other = await Accounts.open(database)
    with pytest.raises(Unauthorized):
        await other.authenticate(second)
    assert (await other.authenticate(third)).key_id == key.id


async def test_the_overlap_ends_in_the_cache_too(accounts: Accounts, account: Account) -> None:
    key, first = await accounts.create_key(account.id, "mine", ["messages:read"])
    await accounts.rotate_key(account.id, key.id, overlap_s=1)
    assert (await accounts.authenticate(first)).expires_at < time.time() + 2
    with anyio.fail_after(10):
        with pytest.raises(Unauthorized):
            while True:
                await accounts.authenticate(first)
                await anyio.sleep(0.05)


async def test_two_that_remove_each_other_leave_one_admin(accounts: Accounts, account: Account) -> None:
    made = [await accounts.create_key(account.id, name, ["admin", "keys:write"]) for name in "ab"]
    callers = [await accounts.authenticate(text) for _, text in made]
    outcomes: list[str] = []

    async def remove_oneself(caller: Caller) -> None:
        try:
            await accounts.revoke_key(account.id, caller.key_id, by=caller)
            outcomes.append("removed")
        except Conflict:
            outcomes.append("kept")

    async with anyio.create_task_group() as group:
        for caller in callers:
            group.start_soon(remove_oneself, caller)
    assert sorted(outcomes) == ["kept", "removed"]
