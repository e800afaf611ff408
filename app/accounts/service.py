"""Accounts and API keys: who is calling, with what rights, at no database round trip a request.

Owns the tables ``accounts``, ``api_keys``, ``key_version`` and ``secrets``. A key is stored as its SHA-256 only: it
has 160 random bits, so a slow hash would buy nothing.

Choices:

1. Every answer of the database about a key carries the number in ``key_version``, which each change of a key moves on
   in its own transaction. An answer is kept only while its number is the latest seen, so a read that began before a
   revocation and ended after it is never kept.
2. `Accounts.watch` asks for that number every second: a revocation holds in every process within two. While PostgreSQL
   is down known keys go on for ``GRACE_S``; unknown ones are told that the service is unavailable, never that their
   key is wrong.
3. A key created under an Idempotency-Key is not random but an HMAC of its id and the request: the first answer can be
   given again without keeping the key. The Idempotency-Key itself is kept as a hash only, so that the table and the
   signing secret together do not give keys away.
4. Rotating gives a key another text under the same id: its stream tokens and its history stay. The text before is good
   until the overlap ends; the one before that is good no more.
5. Of those that remove keys of one account at the same time one waits for the other, so that the last key that may
   administrate an account cannot go by two of them removing each other.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import msgspec
import structlog

from app import ids
from app.accounts import tokens
from app.accounts.keyring import ALL_SCOPES, Caller, Entry, Keyring
from app.database import Database
from app.errors import Conflict, Forbidden, NotFound, Unauthorized, Unavailable, ValidationFailed

WATCH_S = 1.0
GRACE_S = 60.0
"""How long known keys are trusted without having heard from PostgreSQL."""
LOOKUP_S = 5.0
MAX_KEY = 512
KEY_PREFIX = "rp_live_"
SHOWN = 12
"""Characters of a key that stay visible."""
IDEMPOTENCY = "24 hours"
STREAM_SECRET = "stream-tokens"  # noqa: S105 - the name of a row
KEY_SECRET = "derived-keys"  # noqa: S105

log = structlog.get_logger(__name__)

_CALLER = """
    SELECT k.*, a.max_running, a.max_queued, (SELECT version FROM key_version) AS version
    FROM api_keys k JOIN accounts a ON a.id = k.account WHERE """
_BY_HASH = "(k.hash = $1 OR k.previous_hash = $1 AND k.previous_until > now())"


class Account(msgspec.Struct, frozen=True):
    """``max_running`` and ``max_queued`` are None where the settings' limits hold."""

    id: str
    name: str
    max_running: int | None
    max_queued: int | None
    created_at: datetime


class ApiKey(msgspec.Struct, frozen=True):
    """A key as its owner may see it: without the key itself."""

    id: str
    account: str
    name: str
    prefix: str
    scopes: list[str]
    user_id: str | None
    root: bool
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
    rotated_at: datetime | None
    previous_until: datetime | None
    """Until when the text it had before it was rotated is good."""

    @property
    def status(self) -> str:
        """``active``, ``expired`` or ``revoked``."""
        if self.revoked_at is not None:
            return "revoked"
        if self.expires_at is not None and self.expires_at <= datetime.now(UTC):
            return "expired"
        return "active"


class TokenGrant(msgspec.Struct, frozen=True):
    """What the bearer of a verified stream token may see: observe and cancel, nothing else."""

    caller: Caller
    """The key the token was made with; its scopes, account and user bound the token too."""
    digests: frozenset[bytes]
    integration_id: str
    feed: bool
    expires_at: float
    """Unix seconds."""

    @property
    def account(self) -> str:
        return self.caller.account

    @property
    def key_id(self) -> str:
        return self.caller.key_id

    @property
    def user_id(self) -> str | None:
        return self.caller.user_id

    def covers(self, message_id: str) -> bool:
        """Whether the token was made for this message."""
        return tokens.digest(message_id) in self.digests


class Accounts:
    """The keys of one database, as one process sees them. Open it with `Accounts.open`."""

    def __init__(self, database: Database, stream_secret: bytes, key_secret: bytes) -> None:
        self._db = database
        self._stream_secret = stream_secret
        self._key_secret = key_secret
        self._keys = Keyring()
        self._heard = time.monotonic()
        self._used: dict[str, float] = {}

    @classmethod
    async def open(cls, database: Database) -> Accounts:
        """Reads, or at first use makes, the secrets that sign tokens and derive keys. Raises Unavailable."""
        return cls(database, await _secret(database, STREAM_SECRET), await _secret(database, KEY_SECRET))

    async def watch(self) -> None:
        """Keeps the cache true and writes down when keys were last used, for ever. Run one per process."""
        while True:
            await anyio.sleep(WATCH_S)
            try:
                self._hear(await self._db.fetchval("SELECT version FROM key_version", timeout=LOOKUP_S))
                await self._write_used()
            except Unavailable:
                log.warning("accounts.watch_failed", silent_s=round(time.monotonic() - self._heard, 1))

    async def authenticate(self, key: str) -> Caller:
        """Who holds this key. Raises Unauthorized, or Unavailable when PostgreSQL must be asked and is down."""
        if not 0 < len(key) <= MAX_KEY:
            raise Unauthorized("the API key is not valid")
        return self._admit(await self._find(hash_of(key)), "the API key")

    async def read_token(self, text: str) -> TokenGrant:
        """What a stream token allows. Raises Unauthorized unless it is ours, in time, and its key still valid."""
        token = tokens.unseal(self._stream_secret, text)
        if token.expires <= time.time():
            raise Unauthorized("the stream token has expired")
        caller = self._admit(await self._find(token.key_id), "the stream token's API key")
        joined, size = token.messages, tokens.DIGEST_BYTES
        digests = frozenset(joined[i : i + size] for i in range(0, len(joined), size))
        return TokenGrant(caller, digests, token.integration_id, token.feed, token.expires)

    def issue_token(
        self,
        caller: Caller,
        *,
        expires_at: float,
        message_ids: Iterable[str] = (),
        integration_id: str = "",
        feed: bool = False,
    ) -> str:
        """A token that lets its bearer observe and cancel these, until ``expires_at`` (Unix seconds)."""
        joined = b"".join(tokens.digest(message_id) for message_id in message_ids)
        return tokens.seal(
            self._stream_secret, tokens.Token(caller.key_id, int(expires_at), joined, integration_id, feed)
        )

    async def create_account(
        self, name: str, *, max_running: int | None = None, max_queued: int | None = None
    ) -> Account:
        """A new account. Raises Conflict when the name is taken."""
        row = await self._db.fetchrow(
            """INSERT INTO accounts (id, name, max_running, max_queued) VALUES ($1, $2, $3, $4)
            ON CONFLICT (name) DO NOTHING RETURNING *""",
            ids.new_id("acc"),
            name,
            max_running,
            max_queued,
        )
        if row is None:
            raise Conflict(f"there is already an account named {name}")
        return msgspec.convert(dict(row), Account)

    async def account_named(self, name: str) -> Account:
        """Raises NotFound."""
        row = await self._db.fetchrow("SELECT * FROM accounts WHERE name = $1", name)
        if row is None:
            raise NotFound("account", f"there is no account named {name}")
        return msgspec.convert(dict(row), Account)

    async def create_key(
        self,
        account: str,
        name: str,
        scopes: Iterable[str],
        *,
        user_id: str | None = None,
        expires_at: datetime | None = None,
        idempotency_key: str | None = None,
        body: bytes = b"",
    ) -> tuple[ApiKey, str]:
        """A new key of the account (by id) and its text, which cannot be had again.

        Under an ``idempotency_key`` the same ``body`` gives the first answer again for a day; another raises Conflict.
        """
        listed = check_scopes(scopes)
        key_id = ids.new_id("key")
        once = hash_of(f"{account}\x00{idempotency_key}") if idempotency_key else None
        text = self._derived(key_id, once, body) if once else new_key()
        row = await self._insert_key(key_id, account, name, text, listed, user_id, expires_at, once, hash_of(body))
        if row["id"] != key_id:
            if row["body_hash"] != hash_of(body):
                raise Conflict("this Idempotency-Key was used with another body")
            text = self._derived(row["id"], once or b"", body)
        return _api_key(row), text

    async def list_keys(
        self, account: str, *, status: str | None = None, user_id: str | None = None, limit: int = 20, offset: int = 0
    ) -> tuple[list[ApiKey], int]:
        """A page of the account's keys, newest first, and how many there are; a ``user_id`` shows only that user's."""
        rows = await self._db.fetch(
            """SELECT *, count(*) OVER () AS total FROM api_keys
            WHERE account = $1 AND ($2::text IS NULL OR user_id = $2) AND ($3::text IS NULL OR $3 = CASE
                WHEN revoked_at IS NOT NULL THEN 'revoked' WHEN expires_at <= now() THEN 'expired' ELSE 'active' END)
            ORDER BY created_at DESC, id DESC LIMIT $4 OFFSET $5""",
            account,
            user_id,
            status,
            limit,
            offset,
        )
        if not rows and offset:
            _, total = await self.list_keys(account, status=status, user_id=user_id, limit=1)
            return [], total
        return [_api_key(row) for row in rows], rows[0]["total"] if rows else 0

    async def revoke_key(self, account: str, key_id: str, *, by: Caller | None = None) -> ApiKey:
        """Ends a key at once here, within two seconds elsewhere; again changes nothing. Raises NotFound.

        ``by`` may revoke what it may see: a bound key its user's, and only the root key itself.
        """
        async with self._db.transaction() as connection:
            row = await _changeable(connection, account, key_id, by)
            if by is not None and row["root"] and not by.root:
                raise Forbidden("the root key can be revoked only with itself", key_id=key_id)
            if by is not None and key_id == by.key_id and await _is_last_admin(connection, account, key_id):
                raise Conflict(
                    "the last key with the scope admin cannot remove itself: create another one first", key_id=key_id
                )
            if row["revoked_at"] is None:
                row = await connection.fetchrow(
                    "UPDATE api_keys SET revoked_at = now() WHERE id = $1 RETURNING *", key_id
                )
        self._keys.clear()
        return _api_key(row)

    async def rotate_key(
        self,
        account: str,
        key_id: str,
        *,
        overlap_s: int,
        by: Caller | None = None,
        idempotency_key: str | None = None,
        body: bytes = b"",
    ) -> tuple[ApiKey, str]:
        """Gives a key another text; the one before is good for another ``overlap_s`` seconds, here and elsewhere.

        ``by`` may rotate what it may see and could have made. Raises NotFound, Forbidden, and Conflict for a key that
        is not active or is the root key. Under an ``idempotency_key`` the same ``body`` gives the first answer again
        for a day; another raises Conflict.
        """
        once = hash_of(f"{account}\x00rotate\x00{key_id}\x00{idempotency_key}") if idempotency_key else None
        text = self._derived(key_id, once, body) if once else new_key()
        async with self._db.transaction() as connection:
            row = await _changeable(connection, account, key_id, by)
            if by is not None and (lacking := set(row["scopes"]) - by.scopes):
                raise Forbidden(
                    f"a key cannot have the text of one that may do more: {', '.join(sorted(lacking))}", key_id=key_id
                )
            recent = row["rotated_at"] is not None and row["rotated_at"] > datetime.now(UTC) - timedelta(hours=24)
            if once and row["idempotency_hash"] == once and recent:
                if row["body_hash"] != hash_of(body):
                    raise Conflict("this Idempotency-Key was used with another body")
                return _api_key(row), text
            if row["root"]:
                raise Conflict("the root key is set by REPRISE_ROOT_KEY, or by the file root-key", key_id=key_id)
            if (status := _api_key(row).status) != "active":
                raise Conflict(f"the API key is {status}: only an active one can be rotated", key_id=key_id)
            row = await connection.fetchrow(
                """UPDATE api_keys SET hash = $2, prefix = $3, previous_hash = hash, rotated_at = now(),
                previous_until = now() + make_interval(secs => $4), idempotency_hash = $5, body_hash = $6
                WHERE id = $1 RETURNING *""",
                key_id,
                hash_of(text),
                text[:SHOWN],
                overlap_s,
                once,
                hash_of(body) if once else None,
            )
        self._keys.clear()
        return _api_key(row), text

    async def _insert_key(
        self,
        key_id: str,
        account: str,
        name: str,
        text: str,
        scopes: list[str],
        user_id: str | None,
        expires_at: datetime | None,
        once: bytes | None,
        body_hash: bytes,
    ) -> dict[str, Any]:
        """The new row, or the one that a twin under the same Idempotency-Key has made."""
        async with self._db.transaction() as connection:
            if once:
                await connection.execute(
                    f"""UPDATE api_keys SET idempotency_hash = NULL, body_hash = NULL
                    WHERE idempotency_hash = $1 AND created_at < now() - interval '{IDEMPOTENCY}'""",  # noqa: S608
                    once,
                )
            row = await connection.fetchrow(
                """INSERT INTO api_keys
                (id, account, name, hash, prefix, scopes, user_id, expires_at, idempotency_hash, body_hash)
                VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
                ON CONFLICT (idempotency_hash) DO NOTHING RETURNING *""",
                key_id,
                account,
                name,
                hash_of(text),
                text[:SHOWN],
                scopes,
                user_id,
                expires_at,
                once,
                body_hash if once else None,
            )
            if row is None:
                row = await connection.fetchrow("SELECT * FROM api_keys WHERE idempotency_hash = $1", once)
        return dict(row)

    def _derived(self, key_id: str, once: bytes, body: bytes) -> str:
        parts = key_id.encode() + once + body
        return KEY_PREFIX + ids.base32(int.from_bytes(hmac.digest(self._key_secret, parts, "sha256")[:20]), 32)

    def _admit(self, entry: Entry, what: str) -> Caller:
        caller = entry.caller
        if caller is None or caller.expires_at <= time.time():
            raise Unauthorized(f"{what} is not valid: unknown, revoked or expired")
        if entry.use():
            self._used[caller.key_id] = time.time()
        return caller

    async def _find(self, what: bytes | str) -> Entry:
        """The cached or fetched entry of a key, by its hash or its id."""
        entry = self._keys.get(what)
        if entry is not None and time.monotonic() - self._heard < GRACE_S:
            return entry
        async with self._keys.one_at_a_time(what):
            entry = self._keys.get(what)
            if entry is not None and time.monotonic() - self._heard < GRACE_S:
                return entry
            which = _BY_HASH if isinstance(what, bytes) else "k.id = $1"
            row = await self._db.fetchrow(f"{_CALLER} {which} AND k.revoked_at IS NULL", what, timeout=LOOKUP_S)
            if row is None:
                return self._keys.miss(what)
            self._hear(row["version"])
            return self._keys.hit(what, _caller(row, what), row["version"])

    def _hear(self, version: int) -> None:
        self._heard = time.monotonic()
        self._keys.at(version)

    async def _write_used(self) -> None:
        if not self._used:
            return
        used, self._used = self._used, {}
        await self._db.execute(
            """UPDATE api_keys k SET last_used_at = greatest(k.last_used_at, u.at)
            FROM unnest($1::text[], $2::timestamptz[]) AS u (id, at) WHERE k.id = u.id""",
            list(used),
            [datetime.fromtimestamp(at, UTC) for at in used.values()],
        )


def hash_of(text: str | bytes) -> bytes:
    """SHA-256: how a key is stored and found."""
    return hashlib.sha256(text.encode() if isinstance(text, str) else text).digest()


def new_key() -> str:
    """A key's text: ``rp_live_`` and 160 random bits in base 32."""
    return KEY_PREFIX + ids.token(160)


def check_scopes(scopes: Iterable[str]) -> list[str]:
    """The scopes without repeats. Raises ValidationFailed naming each that is unknown, or that there is none."""
    listed = list(dict.fromkeys(scopes))
    errors = [
        (f"scopes[{i}]", f"unknown scope; one of {', '.join(ALL_SCOPES)}")
        for i, scope in enumerate(listed)
        if scope not in ALL_SCOPES
    ]
    if errors or not listed:
        raise ValidationFailed(errors or [("scopes", "must name at least one scope")])
    return listed


async def _secret(database: Database, name: str) -> bytes:
    await database.execute(
        "INSERT INTO secrets (name, value) VALUES ($1, $2) ON CONFLICT DO NOTHING", name, secrets.token_bytes(32)
    )
    return bytes(await database.fetchval("SELECT value FROM secrets WHERE name = $1", name))


def _api_key(row: dict[str, Any]) -> ApiKey:
    return msgspec.convert({name: row[name] for name in ApiKey.__struct_fields__}, ApiKey)


async def _changeable(connection: Any, account: str, key_id: str, by: Caller | None) -> Any:
    """The row of a key that ``by`` may see, the account's keys locked. Raises NotFound."""
    await connection.execute("SELECT FROM accounts WHERE id = $1 FOR NO KEY UPDATE", account)
    row = await connection.fetchrow(
        "SELECT * FROM api_keys WHERE account = $1 AND id = $2 AND ($3::text IS NULL OR user_id = $3) FOR UPDATE",
        account,
        key_id,
        by.user_id if by else None,
    )
    if row is None:
        raise NotFound("api_key", "there is no such API key", key_id=key_id)
    return row


async def _is_last_admin(connection: Any, account: str, key_id: str) -> bool:
    return bool(
        await connection.fetchval(
            """SELECT bool_or(id = $2) AND count(*) = 1 FROM api_keys WHERE account = $1 AND 'admin' = ANY(scopes)
            AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())""",
            account,
            key_id,
        )
    )


def _caller(row: dict[str, Any], what: bytes | str) -> Caller:
    """Who holds the key. By the text it had before it was rotated only until the overlap ends."""
    fields = {name: row[name] for name in ("account", "scopes", "user_id", "root", "max_running", "max_queued")}
    ends = [row["expires_at"], row["previous_until"] if what == row["previous_hash"] else None]
    at = min((end.timestamp() for end in ends if isinstance(end, datetime)), default=float("inf"))
    return msgspec.convert({"key_id": row["id"], "expires_at": at, **fields}, Caller)
