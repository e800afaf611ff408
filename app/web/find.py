"""Finding a message or an integration for whoever asks.

A message is its record, or, past its retention, what is remembered of it. The record is one look into Redis. PostgreSQL
is asked only where there is none and the message was not deleted, so that the status of a message within its retention
never waits for it.
"""

from __future__ import annotations

from litestar.types import Scope

from app.accounts import TokenGrant
from app.chat.lifecycle import Lifecycle, missing
from app.chat.message import Message, from_record
from app.database import Database
from app.integrations import store
from app.integrations.integration import Integration
from app.memory.conversations import find_owner
from app.memory.remembered import Kept, Remembered
from app.web.guard import Bearer, bearer_of, may_see
from app.web.memory_bodies import whose


class Finder:
    """Messages as their bearers may see them. Every method raises Unavailable when an engine does not answer."""

    def __init__(self, lifecycle: Lifecycle, remembered: Remembered | None = None) -> None:
        self._lifecycle = lifecycle
        self._remembered = remembered

    async def visible(self, bearer: Bearer, message_id: str) -> Message:
        """The message if its bearer may know of it. Raises NotFound, the same for all that it may not."""
        message = await self._lifecycle.read(bearer.account, message_id)
        if message is None:
            message = (await self._past(bearer.account, [message_id])).get(message_id)
        if message is None or not may_see(bearer, message_id, message.user):
            raise missing(message_id)
        return message

    async def visible_many(self, bearer: Bearer, message_ids: list[str]) -> list[Message]:
        """Those of several messages that the bearer may know of, in the order asked."""
        found = dict(
            zip(
                message_ids,
                await self._lifecycle.read_many([f"{bearer.account}/{one}" for one in message_ids]),
                strict=True,
            )
        )
        gone = [message_id for message_id, message in found.items() if message is None]
        rows = {**found, **(await self._past(bearer.account, gone))} if gone else found
        return [row for row in rows.values() if row is not None and may_see(bearer, row.id, row.user)]

    async def _past(self, account: str, message_ids: list[str]) -> dict[str, Message]:
        if self._remembered is None:
            return {}
        asked = [one for one in message_ids if not await self._lifecycle.deleted(account, one)]
        if not asked:
            return {}
        return {
            one: _message(account, one, kept) for one, kept in (await self._remembered.find(account, asked)).items()
        }


async def find_integration(
    database: Database, scope: Scope, integration_id: str, user: str | None = None
) -> Integration:
    """The integration of the user a request is about, ``user`` where its body names one; with a token the token's.

    Raises NotFound, the same for all that the bearer may not see, Forbidden for another user than the key's.
    """
    bearer = bearer_of(scope)
    if isinstance(bearer, TokenGrant):
        if bearer.integration_id != integration_id:
            raise store.missing(integration_id)
        found = await store.find(database, integration_id, account=bearer.account)
        if bearer.user_id not in (None, found.user):
            raise store.missing(integration_id)
        return found
    owner = await find_owner(database, bearer.account, whose(scope, user))
    if owner is None:
        raise store.missing(integration_id)
    return await store.find(database, integration_id, owner=owner)


def _message(account: str, message_id: str, kept: Kept) -> Message:
    message = from_record(account, message_id, kept.record)
    message.stored = kept.content
    message.remembered = kept.outcome.status
    message.memory_ids = kept.outcome.memory_ids
    message.memory_error = kept.outcome.reason
    return message
