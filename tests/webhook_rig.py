"""Webhooks without HTTP routes: made in the database, told by the parts of a background process, really sent."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from standardwebhooks import Webhook as Verifier

from app.chat.groups import Groups
from app.chat.lifecycle import Lifecycle
from app.database import Database
from app.feeds import TOLD_TO_WEBHOOKS
from app.memory.types import Owner
from app.outbound import open_outbound
from app.telemetry import Metrics
from app.webhooks.deliveries import Attempt, Deliveries, Delivery
from app.webhooks.queue import claim
from app.webhooks.store import Webhook, Webhooks
from app.workers.deliver import Sender, Timing
from app.workers.notify import GROUP, Notifier, Relay
from tests.site_rig import Asked, Reply

QUICK = Timing(pauses_s=(0.0, 0.0, 0.0), answer_s=0.5, lease_s=5.0, poll_s=0.02)
"""Four tries, one right after the other."""


class Hooks:
    """The webhooks of one database: what makes them, tells them and sends to them."""

    def __init__(self, database: Database, lifecycle: Lifecycle, sender: Sender) -> None:
        self.database = database
        self.lifecycle = lifecycle
        self.sender = sender
        self.store = Webhooks(database)
        self.deliveries = Deliveries(database)
        self.relay = Relay(lifecycle, database, sender.arrived.set)
        self.notifier = Notifier(lifecycle, database, sender.arrived.set)
        self.groups = Groups(lifecycle.scripts, lifecycle.keys)

    async def hook(
        self, owner: Owner | str, url: str, events: Sequence[str] = TOLD_TO_WEBHOOKS, user: str | None = None
    ) -> tuple[Webhook, str]:
        """A webhook of an account, and its secret."""
        account = owner if isinstance(owner, str) else owner.account
        return await self.store.create(account, url, list(events), user_id=user)

    async def tell(self) -> None:
        """Empties the outbox, and takes all messages that ended."""
        while await self.relay.tell():
            pass
        for base in self.lifecycle.keys.bases:
            while batch := await self.groups.take(GROUP, "t", base, 16):
                await self.notifier(batch)
                await self.groups.done(GROUP, batch)

    async def send(self, rounds: int = 1) -> list[str]:
        """Sends what is due, so many times; what became of each attempt."""
        outcomes: list[str] = []
        for _ in range(rounds):
            outcomes += [await self.sender.send(claimed) for claimed in await claim(self.database, 100, 5.0)]
        return outcomes

    async def of(self, hook: Webhook) -> list[Delivery]:
        """Its deliveries, oldest first."""
        found, _ = await self.deliveries.page(hook, status=None, limit=1_000, offset=0)
        return found[::-1]

    async def attempts(self, hook: Webhook, number: int = 0) -> list[Attempt]:
        """The attempts of one of its deliveries."""
        _, _, attempts = await self.deliveries.find(hook, (await self.of(hook))[number].id)
        return attempts

    async def again(self, hook: Webhook) -> Webhook:
        """As it is now."""
        return await self.store.find(hook.account, hook.id, user=None)


@asynccontextmanager
async def hooks_on(
    database: Database, lifecycle: Lifecycle, timing: Timing = QUICK, *, private: bool = True, **net: Any
) -> AsyncIterator[Hooks]:
    """The parts of a background process that webhooks need. ``private``: receivers may be on this machine."""
    async with open_outbound(allow_private=private, **net) as outbound:
        made = Hooks(database, lifecycle, Sender(database, outbound, Metrics(), timing))
        await made.groups.add(GROUP)
        yield made


def verified(asked: Asked, secret: str) -> dict[str, Any]:
    """The body of a request, verified by the official library. Raises WebhookVerificationError."""
    return dict(Verifier(secret).verify(asked.body, asked.headers))


def events_of(asked: Sequence[Asked]) -> list[str]:
    return [msgspec.json.decode(one.body)["event"] for one in asked]


def always(status: int, **headers: str) -> Any:
    """Answers every request alike."""
    return lambda _: Reply(status, b"ok", {name.replace("_", "-"): value for name, value in headers.items()})
