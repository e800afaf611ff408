"""Who is sent what next: due deliveries are claimed under leases, and settled by what became of the attempt.

Choices:

1. A claim is a random token and a lease, by which the delivery is due again: whoever dies with it, another sends it
   once the lease is over. Who lost a claim settles nothing.
2. A webhook has a few deliveries under way at a time, one that fails a single one: however slow a receiver is, and
   however much waits for it, the others' turn comes. Of those the one that waits longest comes first.
3. Whether a webhook is given up (`GIVE_UP_S` of nothing but failures) is decided with the failure that shows it.
4. Whoever needs a webhook's row and its deliveries' locks the webhook's first, as deleting it does.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

import msgspec

from app import ids
from app.database import Database
from app.webhooks.store import disable

EACH, FAILING = 4, 1
"""Deliveries under way for one webhook, and for one whose last attempt failed."""
LONGEST_ERROR = 300
GIVE_UP_S = 5 * 86_400.0
"""A webhook that failed for so long is disabled."""
NOT_ANY_MORE = 410
"""The receiver says that it is gone for good."""

Outcome = Literal["delivered", "failed", "dead", "lost"]


class Claimed(msgspec.Struct, frozen=True, kw_only=True):
    """A delivery that is to be sent now. ``secrets``: all that sign it. ``tries``: with this one."""

    id: str
    token: str
    webhook: str
    active: bool
    url: str
    secrets: list[str]
    event_id: str
    body: str
    attempts: int
    tries: int


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What became of an attempt: a status and the beginning of an answer, or an error."""

    at: datetime
    ms: int
    status: int | None = None
    error: str | None = None
    response: str = ""

    @property
    def delivered(self) -> bool:
        return self.status is not None and 200 <= self.status < 300


# `waiting` hops from webhook to webhook along the index: its cost grows with them, not with what waits for each
_CLAIM = """
WITH RECURSIVE waiting AS (
    (SELECT webhook FROM deliveries WHERE status = 'pending' ORDER BY webhook LIMIT 1)
    UNION ALL
    SELECT (SELECT d.webhook FROM deliveries d WHERE d.status = 'pending' AND d.webhook > w.webhook
        ORDER BY d.webhook LIMIT 1)
    FROM waiting w WHERE w.webhook IS NOT NULL
), due AS (
    SELECT next.id FROM waiting w JOIN webhooks h ON h.id = w.webhook CROSS JOIN LATERAL (
        SELECT d.id, d.next_at FROM deliveries d
        WHERE d.webhook = h.id AND d.status = 'pending' AND d.next_at <= now() ORDER BY d.next_at, d.id
        LIMIT greatest(0, CASE WHEN h.failing_since IS NULL THEN $4::int ELSE $5::int END - (
            SELECT count(*) FROM deliveries b WHERE b.webhook = h.id AND b.claim IS NOT NULL AND b.next_at > now()))
        FOR UPDATE OF d SKIP LOCKED) next
    ORDER BY next.next_at LIMIT $1
)
UPDATE deliveries d SET claim = $2, next_at = now() + make_interval(secs => $3), attempts = d.attempts + 1,
    tries = d.tries + 1
FROM due, webhooks h WHERE d.id = due.id AND h.id = d.webhook
RETURNING d.id, d.webhook, h.status = 'active' AS active, h.url, d.event_id, d.body, d.attempts, d.tries,
    CASE WHEN h.previous_until > now() THEN ARRAY[h.secret, h.previous_secret] ELSE ARRAY[h.secret] END AS secrets"""


async def claim(database: Database, most: int, lease_s: float) -> list[Claimed]:
    """Up to ``most`` due deliveries, to be sent and settled within ``lease_s``."""
    token = ids.token()
    rows = await database.fetch(_CLAIM, most, token, lease_s, EACH, FAILING)
    return [Claimed(token=token, **dict(row)) for row in rows]


async def settle(database: Database, claimed: Claimed, result: Result, pause_s: float | None) -> Outcome:
    """Notes an attempt. ``pause_s``: until the next one should it have failed, None when it was the last."""
    delivered = result.delivered
    if result.status == NOT_ANY_MORE:
        pause_s = None
    async with database.transaction() as connection:
        hook = await connection.fetchval("SELECT status FROM webhooks WHERE id = $1 FOR NO KEY UPDATE", claimed.webhook)
        outcome: Outcome = "delivered" if delivered else "dead" if pause_s is None or hook != "active" else "failed"
        settled = await connection.execute(
            """UPDATE deliveries SET claim = NULL, status = $3, next_at = now() + make_interval(secs => $4),
            ended_at = CASE WHEN $3 <> 'pending' THEN now() END
            WHERE id = $1 AND claim = $2 AND status = 'pending'""",
            claimed.id,
            claimed.token,
            "pending" if outcome == "failed" else outcome,
            pause_s or 0.0,
        )
        if settled == "UPDATE 0":
            return "lost"
        await connection.execute(
            """INSERT INTO delivery_attempts (delivery, number, at, ms, status, error, response)
            VALUES ($1, $2, $3, $4, $5, $6, $7)""",
            claimed.id,
            claimed.attempts,
            result.at,
            result.ms,
            result.status,
            result.error and result.error[:LONGEST_ERROR],
            result.response,
        )
        await _judge(connection, claimed.webhook, result)
    return outcome


async def let_go(database: Database, claimed: Claimed) -> None:
    """The attempt was broken off: another may make it at once."""
    await database.execute(
        "UPDATE deliveries SET claim = NULL, next_at = now() WHERE id = $1 AND claim = $2", claimed.id, claimed.token
    )


async def drop(database: Database, claimed: Claimed) -> None:
    """Its webhook was disabled meanwhile."""
    await database.execute(
        """UPDATE deliveries SET claim = NULL, status = 'dead', ended_at = now(), attempts = attempts - 1
        WHERE id = $1 AND claim = $2""",
        claimed.id,
        claimed.token,
    )


async def _judge(connection: Any, webhook: str, result: Result) -> None:
    """What an attempt means for its webhook."""
    if result.delivered:
        await connection.execute(
            "UPDATE webhooks SET failing_since = NULL WHERE id = $1 AND failing_since IS NOT NULL", webhook
        )
        return
    given_up = await connection.fetchval(
        """UPDATE webhooks SET failing_since = coalesce(failing_since, now()) WHERE id = $1
        RETURNING failing_since < now() - make_interval(secs => $2)""",
        webhook,
        GIVE_UP_S,
    )
    if result.status == NOT_ANY_MORE:
        await disable(connection, webhook, "its receiver answered 410 Gone")
    elif given_up:
        await disable(connection, webhook, "nothing could be delivered for 5 days")
