"""What has happened is told: to the account's feed, and to the webhooks that want it.

Two sources. What PostgreSQL makes true comes from the outbox (`Relay`); how messages end from the feed of finished
messages, of which this is the consumer group ``notify`` (`Notifier`): their account's feed was told by the script that
ended them.

Choices:

1. An event leaves the outbox in the transaction that makes its deliveries: whatever dies, it is told at least once, and
   a webhook has it once. The feed takes an id once as well, so that a repeat is not seen there either.
2. One process at a time empties the outbox: the feed has a user's events in the order in which they came true.
3. An account without webhooks costs one look at an index for each batch of its messages.
4. A message's event has an id made of the message and its end: it is the same however often it is delivered. Of a
   message that is deleted before that, no webhook is told.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import anyio
import structlog

from app import ids, outbox
from app.chat.groups import Delivery
from app.chat.lifecycle import Lifecycle
from app.chat.message import Message
from app.database import Database
from app.errors import Unavailable
from app.outbox import Telling, event_body
from app.webhooks.deliveries import make, wanted

GROUP = "notify"
POLL_S = 0.5
RETRY_S = 1.0
TOLD_AT_ONCE = 200
STALLED_S = 30
"""A process that stands still with the outbox in its hands loses it after so long."""

log = structlog.get_logger(__name__)


class Notifier:
    """The handler of the consumer group. ``made``: there are deliveries to be sent."""

    def __init__(self, lifecycle: Lifecycle, database: Database, made: Callable[[], None]) -> None:
        self._lifecycle = lifecycle
        self._database = database
        self._made = made

    async def __call__(self, deliveries: Sequence[Delivery]) -> None:
        """Makes deliveries of messages that ended. Raises Unavailable."""
        async with self._database.transaction() as connection:
            webhooks = await wanted(connection, [one.member.partition("/")[0] for one in deliveries])
            accounts = {webhook["account"] for webhook in webhooks}
            members = [one.member for one in deliveries if one.member.partition("/")[0] in accounts]
            if not members:
                return
            messages = await self._lifecycle.read_many(members)
            events = [_ended(message) for message in messages if message is not None and message.final]
            count = await make(connection, webhooks, events)
        if count:
            self._made()


def _ended(message: Message) -> Telling:
    kind = f"message.{message.status}"
    at = datetime.fromtimestamp((message.done or message.updated) / 1000, UTC)
    return Telling(
        event_id=ids.derived_id("evt", message.account, message.id, str(message.created), kind),
        account=message.account,
        user=message.user,
        kind=kind,
        body=event_body(kind, message.status_object(), at),
    )


class Relay:
    """Empties the outbox. ``made`` as above."""

    def __init__(self, lifecycle: Lifecycle, database: Database, made: Callable[[], None]) -> None:
        self._scripts = lifecycle.scripts
        self._keys = lifecycle.keys
        self._database = database
        self._made = made

    async def run(self) -> None:
        """For ever."""
        while True:
            try:
                while await self.tell():
                    pass
            except Unavailable:
                await anyio.sleep(RETRY_S)
            except Exception:
                log.exception("telling.failed")  # the outer edge of a loop that must not end
                await anyio.sleep(RETRY_S)
            await anyio.sleep(POLL_S)

    async def tell(self) -> int:
        """Tells of the oldest events; of how many. Raises Unavailable."""
        if not await self._database.fetchval("SELECT EXISTS (SELECT FROM outbox)"):
            return 0
        async with self._database.transaction() as connection:
            await connection.execute(f"SET LOCAL idle_in_transaction_session_timeout = '{STALLED_S}s'")
            events = await outbox.take(connection, TOLD_AT_ONCE)
            if not events:
                return 0
            webhooks = await wanted(connection, [event.account for event in events])
            count = await make(connection, webhooks, events) if webhooks else 0
            await outbox.remove(connection, events)
            await self._post(events)
        if count:
            self._made()
        return len(events)

    async def _post(self, events: list[Telling]) -> None:
        """Has the accounts' feeds say it, in the order given."""
        calls = [
            (
                "feed_post",
                self._keys.account_base(event.account),
                (event.account, event.kind, event.user, event.body, event.event_id),
            )
            for event in events
        ]
        await self._scripts.run_all(calls)
