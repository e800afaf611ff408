"""Watching an integration: its events from a cursor on, live, for any number of watchers of a process.

The cursor rules are those of a message's stream: a cursor beyond the last event of one that ended, or before the first
that is kept, is answered by a gap and then by all there is; beyond the last of one that goes on, it is waited for.

Hints come over Redis; without them watchers look once a second.
"""

from __future__ import annotations

from typing import Any

import anyio
import msgspec

from app.chat.control import Channels, listen
from app.database import Database
from app.errors import NotFound
from app.integrations import store
from app.integrations.integration import Integration
from app.integrations.store import TOLD_CHANNEL, Event
from app.redis_keys import Keys
from app.tail import Bell

LOOK_S = 1.0
BATCH = 200


class Gap(msgspec.Struct, frozen=True):
    """Events before ``earliest`` are not kept, or the cursor is none of this integration's."""

    requested: int
    earliest: int
    latest: int


class Hub:
    """Who watches what in this process."""

    def __init__(self, database: Database, keys: Keys) -> None:
        self.database = database
        self.draining = False
        self._channels: Channels = {keys.channel(TOLD_CHANNEL): self._told}
        self._watchers: dict[str, set[Watcher]] = {}

    async def run(self, client: Any) -> None:
        """Hears hints over ``client``, for ever."""
        await listen(client, lambda: self._channels)

    def drain(self) -> None:
        """Ends every watcher's stream."""
        self.draining = True
        for watchers in self._watchers.values():
            for watcher in watchers:
                watcher.bell.ring()

    def watch(self, integration: Integration, cursor: int) -> Watcher:
        """A watcher from ``cursor`` on. Close it."""
        watcher = Watcher(self, integration, cursor)
        self._watchers.setdefault(integration.id, set()).add(watcher)
        return watcher

    def part(self, watcher: Watcher) -> None:
        watchers = self._watchers.get(watcher.id, set())
        watchers.discard(watcher)
        if not watchers:
            self._watchers.pop(watcher.id, None)

    def __len__(self) -> int:
        return sum(map(len, self._watchers.values()))

    def _told(self, payload: bytes) -> None:
        for watcher in self._watchers.get(payload.decode(errors="replace"), ()):
            watcher.bell.ring()


class Watcher:
    """One watcher. ``over`` once there is nothing more to come."""

    def __init__(self, hub: Hub, integration: Integration, cursor: int) -> None:
        self.id = integration.id
        self.bell = Bell()
        self.over = False
        self.ended = False
        """The last event was given; else the integration is gone, or the process stops."""
        self._hub = hub
        self._account = integration.account
        self._cursor = cursor

    async def read(self) -> list[Event | Gap]:
        """The next events, waiting for one; none when it is over. Raises Unavailable."""
        while not (self.over or self._hub.draining):
            found = await store.events(self._hub.database, self.id, self._cursor, BATCH)
            if found:
                gap = Gap(self._cursor, found[0].seq, found[-1].seq) if found[0].seq > self._cursor + 1 else None
                self._cursor = found[-1].seq
                return [gap, *found] if gap else list(found)
            try:
                integration = await store.find(self._hub.database, self.id, account=self._account)
            except NotFound:
                break
            if integration.last_seq > self._cursor:
                continue
            if integration.final:
                if self._cursor == integration.last_seq:
                    self.ended = True
                    break
                gap = Gap(self._cursor, 1, integration.last_seq)
                self._cursor = 0
                return [gap]
            with anyio.move_on_after(LOOK_S):
                await self.bell.wait()
        self.over = True
        return []

    def close(self) -> None:
        self._hub.part(self)
