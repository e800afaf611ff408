"""Webhooks as their account manages them. Owns the table ``webhooks``.

Choices:

1. A secret must be kept as it is: it signs. It is shown when it is made, and under the same Idempotency-Key again; so
   one made under such a key is not random but derived from the key, the webhook's id and a secret of the database.
2. Rotating makes another secret. The one before signs as well until the overlap ends, so that a receiver can change to
   the new one at any moment in between.
3. A disabled webhook is sent nothing. What was on its way to it is dead, and can be redelivered once it is active
   again.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import Any, Literal

import msgspec

from app import ids
from app.database import Database
from app.errors import Conflict, NotFound, OutboundFailed
from app.outbound import checked_url
from app.outbound.addresses import is_public

MOST = 100
"""Webhooks of one account."""
SECRET_BYTES = 32
IDEMPOTENCY = timedelta(hours=24)
Status = Literal["active", "disabled"]


class Webhook(msgspec.Struct, frozen=True, kw_only=True):
    """A webhook as its owner may see it: without its secrets. ``user_id``: whose events it gets, None for all."""

    id: str
    account: str
    user_id: str | None
    url: str
    events: list[str]
    description: str
    status: Status
    reason: str | None
    failing_since: datetime | None
    rotated_at: datetime | None
    previous_until: datetime | None
    created_at: datetime
    updated_at: datetime


_COLUMNS = ", ".join(Webhook.__struct_fields__)


def refusal(url: str, *, allow_private: bool) -> str | None:
    """Why no webhook can have this address, as far as that can be told without resolving its name; else None."""
    try:
        parsed = checked_url(url)
    except OutboundFailed as failure:
        return failure.message
    if allow_private:
        return None
    if parsed.scheme != "https":
        return "must begin with https://"
    return "must not lead to a private network" if _is_private(parsed.host) else None


def _is_private(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return host.rstrip(".").lower() == "localhost"
    return not is_public(host)


class Webhooks:
    """The webhooks of one database. Methods raise NotFound for one that is not ``account``'s, or not ``user``'s where
    one is given."""

    def __init__(self, database: Database) -> None:
        self._db = database

    async def create(
        self,
        account: str,
        url: str,
        events: list[str],
        *,
        user_id: str | None = None,
        description: str = "",
        once: str | None = None,
        body: bytes = b"",
    ) -> tuple[Webhook, str]:
        """A new webhook and its secret. ``once``: an Idempotency-Key, ``body``: what came with it. Raises Conflict."""
        webhook_id = ids.new_id("wh")
        key = _hash(f"{account}\x00{once}") if once else None
        async with self._db.transaction() as connection:
            await connection.execute("SELECT FROM accounts WHERE id = $1 FOR NO KEY UPDATE", account)
            if key is not None and (first := await self._first(connection, key)) is not None:
                if first["body_hash"] != _hash(body):
                    raise Conflict("this Idempotency-Key was used with another body")
                return _webhook(first), await self._derived(connection, first["id"], key)
            if await connection.fetchval("SELECT count(*) FROM webhooks WHERE account = $1", account) >= MOST:
                raise Conflict(f"an account can have {MOST} webhooks")
            secret = await self._derived(connection, webhook_id, key) if key else _random()
            row = await connection.fetchrow(
                f"""INSERT INTO webhooks
                (id, account, user_id, url, events, description, secret, idempotency_hash, body_hash)
                VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) RETURNING {_COLUMNS}""",  # noqa: S608 - constants
                webhook_id,
                account,
                user_id,
                url,
                events,
                description,
                secret,
                key,
                _hash(body) if key else None,
            )
        return _webhook(row), secret

    async def page(
        self, account: str, *, user: str | None, status: str | None, limit: int, offset: int
    ) -> tuple[list[Webhook], int]:
        """A page of the account's webhooks, newest first, and how many there are."""
        found = """FROM webhooks WHERE account = $1 AND ($2::text IS NULL OR user_id = $2)
            AND ($3::text IS NULL OR status = $3)"""
        rows = await self._db.fetch(
            f"SELECT {_COLUMNS} {found} ORDER BY created_at DESC, id DESC LIMIT $4 OFFSET $5",
            account,
            user,
            status,
            limit,
            offset,
        )
        total = await self._db.fetchval(f"SELECT count(*) {found}", account, user, status)
        return [_webhook(row) for row in rows], total

    async def find(self, account: str, webhook_id: str, *, user: str | None) -> Webhook:
        """One webhook."""
        row = await self._db.fetchrow(
            f"SELECT {_COLUMNS} FROM webhooks WHERE {_OURS}",  # noqa: S608 - constants
            webhook_id,
            account,
            user,
        )
        return _webhook(row, webhook_id)

    async def edit(
        self,
        account: str,
        webhook_id: str,
        *,
        user: str | None,
        url: str | None = None,
        events: list[str] | None = None,
        description: str | None = None,
        status: Status | None = None,
    ) -> Webhook:
        """Changes what is given. An active one begins without a past: nothing counts as failing before."""
        async with self._db.transaction() as connection:
            row = await connection.fetchrow(
                f"""UPDATE webhooks SET url = coalesce($4, url), events = coalesce($5, events),
                description = coalesce($6, description), status = coalesce($7, status), updated_at = now(),
                reason = CASE $7 WHEN 'active' THEN NULL WHEN 'disabled' THEN 'by its owner' ELSE reason END,
                failing_since = CASE WHEN $7 = 'active' OR $4 <> url THEN NULL ELSE failing_since END
                WHERE {_OURS} RETURNING {_COLUMNS}""",  # noqa: S608 - constants
                webhook_id,
                account,
                user,
                url,
                events,
                description,
                status,
            )
            found = _webhook(row, webhook_id)
            if status == "disabled":
                await drop_waiting(connection, webhook_id)
        return found

    async def delete(self, account: str, webhook_id: str, *, user: str | None) -> None:
        """Removes it with all its deliveries; what is being sent at this moment may still arrive."""
        tag = await self._db.execute(f"DELETE FROM webhooks WHERE {_OURS}", webhook_id, account, user)  # noqa: S608
        if tag == "DELETE 0":
            raise missing(webhook_id)

    async def rotate(
        self,
        account: str,
        webhook_id: str,
        *,
        user: str | None,
        overlap_s: int,
        once: str | None = None,
        body: bytes = b"",
    ) -> tuple[Webhook, str]:
        """Gives it another secret; the one before signs as well for ``overlap_s`` seconds. ``once`` as in `create`."""
        key = _hash(f"{account}\x00rotate\x00{webhook_id}\x00{once}") if once else None
        async with self._db.transaction() as connection:
            row = await connection.fetchrow(
                f"SELECT * FROM webhooks WHERE {_OURS} FOR UPDATE",  # noqa: S608 - a constant
                webhook_id,
                account,
                user,
            )
            before = _webhook(row, webhook_id)
            secret = await self._derived(connection, webhook_id, key) if key else _random()
            rotated = before.rotated_at is not None and before.rotated_at > datetime.now(UTC) - IDEMPOTENCY
            if key is not None and row["idempotency_hash"] == key and rotated:
                if row["body_hash"] != _hash(body):
                    raise Conflict("this Idempotency-Key was used with another body")
                return before, secret
            row = await connection.fetchrow(
                f"""UPDATE webhooks SET secret = $2, previous_secret = secret, rotated_at = now(), updated_at = now(),
                previous_until = now() + make_interval(secs => $3), idempotency_hash = $4, body_hash = $5
                WHERE id = $1 RETURNING {_COLUMNS}""",  # noqa: S608 - constants
                webhook_id,
                secret,
                overlap_s,
                key,
                _hash(body) if key else None,
            )
        return _webhook(row), secret

    async def _first(self, connection: Any, key: bytes) -> Any:
        """What was made under the same Idempotency-Key within a day."""
        await connection.execute(
            """UPDATE webhooks SET idempotency_hash = NULL, body_hash = NULL
            WHERE idempotency_hash = $1 AND created_at < $2""",
            key,
            datetime.now(UTC) - IDEMPOTENCY,
        )
        return await connection.fetchrow("SELECT * FROM webhooks WHERE idempotency_hash = $1", key)

    async def _derived(self, connection: Any, webhook_id: str, key: bytes) -> str:
        own = await connection.fetchval("SELECT value FROM secrets WHERE name = 'webhooks'")
        return _shown(hmac.digest(own, webhook_id.encode() + key, "sha256"))


_OURS = "id = $1 AND account = $2 AND ($3::text IS NULL OR user_id = $3)"


async def disable(connection: Any, webhook_id: str, reason: str) -> None:
    """Nothing more is sent to it, for this reason."""
    await connection.execute(
        "UPDATE webhooks SET status = 'disabled', reason = $2, updated_at = now() WHERE id = $1 AND status = 'active'",
        webhook_id,
        reason,
    )
    await drop_waiting(connection, webhook_id)


async def drop_waiting(connection: Any, webhook_id: str) -> None:
    """What waits for a webhook that is disabled is dead. What is being sent settles itself."""
    await connection.execute(
        """UPDATE deliveries SET status = 'dead', ended_at = now()
        WHERE webhook = $1 AND status = 'pending' AND claim IS NULL""",
        webhook_id,
    )


def missing(webhook_id: str) -> NotFound:
    return NotFound("webhook", "there is no such webhook", webhook_id=webhook_id)


def _webhook(row: Any, webhook_id: str = "") -> Webhook:
    if row is None:
        raise missing(webhook_id)
    return Webhook(**{name: row[name] for name in Webhook.__struct_fields__})


def _random() -> str:
    return _shown(secrets.token_bytes(SECRET_BYTES))


def _shown(secret: bytes) -> str:
    return f"whsec_{base64.b64encode(secret).decode()}"


def _hash(text: str | bytes) -> bytes:
    return hashlib.sha256(text.encode() if isinstance(text, str) else text).digest()
