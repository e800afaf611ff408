"""Who a caller is, and the bounded cache of callers that a process keeps. Knows no database."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import msgspec

ALL_SCOPES = (
    "messages:write",
    "messages:read",
    "memories:write",
    "memories:read",
    "profile:read",
    "profile:write",
    "history:write",
    "history:read",
    "integrations:write",
    "integrations:read",
    "webhooks:write",
    "keys:write",
    "admin",
)
MOST_KEYS = 20_000
MOST_MISSES = 20_000
MISS_S = 1.0
"""How long an unknown key stays unknown without asking again."""
USED_EVERY_S = 30.0
"""How often at most a key's last use is written down."""


class Caller(msgspec.Struct, frozen=True):
    """The bearer of a valid API key."""

    account: str
    key_id: str
    scopes: frozenset[str]
    user_id: str | None = None
    """The end user the key is bound to; None sees the whole account."""
    root: bool = False
    max_running: int | None = None
    """The account's own limit; None where the settings' holds."""
    max_queued: int | None = None
    expires_at: float = float("inf")
    """Unix seconds."""


class Entry:
    """What is known of one key. ``caller`` is None for one that does not exist."""

    __slots__ = ("_used", "caller", "until", "version")

    def __init__(self, caller: Caller | None, version: int, until: float) -> None:
        self.caller = caller
        self.version = version
        self.until = until
        self._used = float("-inf")

    def use(self) -> bool:
        """Notes a use; True when it is time to write one down."""
        now = time.monotonic()
        if now - self._used < USED_EVERY_S:
            return False
        self._used = now
        return True


class Keyring:
    """Entries by key hash or key id, all of them as of one version of the keys.

    Unknown keys have a cache of their own: a flood of guesses must not push the real ones out.
    """

    def __init__(self) -> None:
        self._version = 0
        self._hits: dict[bytes | str, Entry] = {}
        self._misses: dict[bytes | str, Entry] = {}
        self._loading: dict[bytes | str, anyio.Event] = {}

    def at(self, version: int) -> None:
        """Forgets everything when the keys have moved on to a later version."""
        if version > self._version:
            self._version = version
            self.clear()

    def clear(self) -> None:
        self._hits.clear()
        self._misses.clear()

    def get(self, what: bytes | str) -> Entry | None:
        if entry := self._hits.get(what):
            return entry
        entry = self._misses.get(what)
        return entry if entry is not None and entry.until > time.monotonic() else None

    def hit(self, what: bytes | str, caller: Caller, version: int) -> Entry:
        """Keeps the caller, unless the keys have moved on since ``version``."""
        entry = Entry(caller, version, float("inf"))
        if version == self._version:
            _bound(self._hits, MOST_KEYS)
            self._hits[what] = entry
        return entry

    def miss(self, what: bytes | str) -> Entry:
        _bound(self._misses, MOST_MISSES)
        entry = self._misses[what] = Entry(None, 0, time.monotonic() + MISS_S)
        return entry

    @asynccontextmanager
    async def one_at_a_time(self, what: bytes | str) -> AsyncIterator[None]:
        """Lets one caller at a time look a key up; the others wait, and find it in the cache."""
        while (loading := self._loading.get(what)) is not None:
            await loading.wait()
        done = self._loading[what] = anyio.Event()
        try:
            yield
        finally:
            del self._loading[what]
            done.set()


def _bound(entries: dict[bytes | str, Entry], most: int) -> None:
    while len(entries) >= most:
        del entries[next(iter(entries))]
