"""Watching an integration: its events from a cursor on, live, for any number of watchers of a process.

The cursor rules are those of a message's stream: a cursor beyond the last event of one that ended, or before the first
that is kept, is answered by a gap and then by all there is; beyond the last of one that goes on, it is waited for.

Hints come over Redis; whoever missed one is found by one look a second at all that is watched.
"""

from __future__ import annotations

from typing import Any

import anyio
import msgspec

from app.chat.control import Channels, listen
from app.database import Database
from app.errors import NotFound, Unavailable
from app.integrations import store
from app.integrations.integration import Integration
from app.integrations.store import TOLD_CHANNEL, Event
from app.redis_keys import Keys
from app.tail import Bell

LOOK_S = 1.0
"""How long a lost hint can delay an event."""
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
        """Hears hints over ``client``, and looks by itself, for ever."""
        async with anyio.create_task_group() as group:
            group.start_soon(listen, client, lambda: self._channels)
            while True:
                await anyio.sleep(LOOK_S)
                await self._look()

    async def _look(self) -> None:
        """Rings whoever is behind: one question for all of them, where a hint was lost."""
        if not self._watchers:
            return
        try:
            newest = await store.newest(self.database, list(self._watchers))
        except Unavailable:
            newest = {}  # they find out themselves, and end
        for name, watchers in self._watchers.items():
            for watcher in watchers:
                if watcher.cursor != newest.get(name):
                    watcher.bell.ring()

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
        self.account = integration.account
        self.bell = Bell()
        self.over = False
        self.ended = False
        """The last event was given; else the integration is gone, or the process stops."""
        self._hub = hub
        self.cursor = cursor
        self._ahead = cursor > integration.last_seq
        self._began = False

    async def read(self) -> list[Event | Gap]:
        """The next events, waiting for one; none when it is over. Raises Unavailable."""
        while not (found := await self.look()) and not self.over:
            await self.wait()
        return found

    async def look(self) -> list[Event | Gap]:
        """The next events that are there; none when there are none now, or when it is over. Raises Unavailable."""
        while not (self.over or self._hub.draining):
            found = await store.events(self._hub.database, self.id, self.cursor, BATCH)
            if found and (self._began or found[0].seq == self.cursor + 1):
                return self._given(found)
            try:
                integration = await store.find(self._hub.database, self.id, account=self.account)
            except NotFound:
                break
            if not found and integration.last_seq > self.cursor:
                continue  # it came meanwhile
            if not found and not integration.final:
                return []
            if not found and self.cursor == integration.last_seq and not self._ahead:
                self.ended = True
                break
            found = found or await store.events(self._hub.database, self.id, 0, BATCH)
            if found:
                return [Gap(self.cursor, found[0].seq, integration.last_seq), *self._given(found)]
        self.over = True
        return []

    async def wait(self) -> None:
        """Returns when there may be something."""
        await self.bell.wait()

    def close(self) -> None:
        self._hub.part(self)

    def _given(self, found: list[Event]) -> list[Event | Gap]:
        self.cursor, self._ahead, self._began = found[-1].seq, False, True
        return list(found)
