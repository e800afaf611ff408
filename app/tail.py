"""The tail of many Redis Streams for one process: whoever follows a stream registers here, nobody blocks on their own.

Choices:

1. One blocked XREAD covers up to `PER_READER` keys of one partition (a cluster's XREAD needs one slot). A reader
   blocked per observer would cost Redis 10 µs for each of them on every token.
2. A reader also reads a small stream of its own, ``wake:R``, so that a stream registered while it is blocked is picked
   up at once. Cancelling the blocked command instead would cost a new connection every time.
3. Positions are explicit ids, never ``$``: after a lost connection the reader goes on exactly where it was. A repeated
   read cannot double anything, for the position moves only with what was delivered.
4. A reader of many streams rests a moment between two reads (`REST_S`): twenty answers with a token every 20 ms each
   would else cost a read, 70 µs and more, for every single token. One stream alone is never delayed.
5. A reader without streams ends within `BLOCK_MS`.
"""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

import anyio
import structlog
from anyio.abc import TaskGroup, TaskStatus

from app import ids
from app.errors import Unavailable
from app.redis_connections import PromptRedis, packed
from app.redis_door import FAILURES, Redis, redis_door

PER_READER = 200
"""Streams per connection; the next reader takes the rest."""

BLOCK_MS = 2_000
"""Longest blocked read. It must stay below the client's socket timeout."""

BATCH = 500
"""Entries of one stream taken by one read."""

REST_S = (0.000_05, 0.004)
"""Pause after a read, for each stream beyond the first and at most."""

WAKE_KEPT_MS = 60_000
BACKOFF_S = (0.02, 1.0)
"""First and longest pause before a lost Redis is asked again."""

RawEntry = tuple[bytes, dict[bytes, bytes]]

log = structlog.get_logger(__name__)


class Waiter(Protocol):
    """Somebody who wants to know when something comes. `ring` must not block, nor change who else waits."""

    def ring(self) -> bool:
        """Whether to ring again the next time."""


class Bell:
    """Wakes one reader, once: rung by what it waits for, by a ping that is due, and by the drain."""

    __slots__ = ("_rung", "_waiting")

    def __init__(self) -> None:
        self._waiting: asyncio.Future[None] | None = None
        self._rung = False

    def ring(self) -> bool:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)
        self._rung = True
        return False

    async def wait(self) -> None:
        """Returns at once when it was rung since the last wait. One task may wait."""
        if not self._rung:
            # a bare future: an event object for every wait of every observer is a tenth of what a send costs
            self._waiting = asyncio.get_running_loop().create_future()
            try:
                await self._waiting
            finally:
                self._waiting = None
        self._rung = False


class Follower(Protocol):
    """Follows one stream. ``base`` is the key prefix of its partition, ``position`` the id of the last entry taken."""

    base: str
    key: str
    position: str

    def deliver(self, entries: list[RawEntry]) -> None:
        """Takes entries after ``position`` and moves it. Must not block."""


class Tail:
    """All tail readers of a process. ``blocking`` is a client whose socket timeout is above `BLOCK_MS`."""

    def __init__(self, redis: Redis, blocking: Redis) -> None:
        self._redis = redis
        self._blocking = blocking
        self._readers: dict[str, list[_Reader]] = {}
        self._homes: dict[str, _Reader] = {}
        self._group: TaskGroup | None = None

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Hosts the readers until cancelled."""
        async with anyio.create_task_group() as group:
            self._group = group
            task_status.started()
            try:
                await anyio.sleep_forever()
            finally:
                self._group = None
                group.cancel_scope.cancel()

    @property
    def readers(self) -> int:
        """Connections that are blocked on Redis now."""
        return sum(len(found) for found in self._readers.values())

    def add(self, follower: Follower) -> None:
        """Starts following; at most one follower per key, the last one wins."""
        if self._group is None:
            raise Unavailable("this process is starting or stopping")
        home = self._homes.get(follower.key)
        if home is None:
            home = self._reader_for(follower.base)
            self._homes[follower.key] = home
        home.followers[follower.key] = follower
        if home.blocked and not home.waking:
            home.waking = True
            self._group.start_soon(self._wake, home)

    def remove(self, follower: Follower) -> None:
        """Stops following; nothing is delivered to it any more."""
        home = self._homes.get(follower.key)
        if home is not None and home.followers.get(follower.key) is follower:
            del home.followers[follower.key], self._homes[follower.key]

    def _reader_for(self, base: str) -> _Reader:
        readers = self._readers.setdefault(base, [])
        for reader in readers:
            if len(reader.followers) < PER_READER:
                return reader
        reader = _Reader(f"{base}wake:{ids.token(64)}")
        readers.append(reader)
        assert self._group is not None
        self._group.start_soon(self._read, base, reader)
        return reader

    async def _wake(self, reader: _Reader) -> None:
        try:
            with redis_door():
                async with self._redis.pipeline(transaction=False) as pipe:
                    pipe.xadd(reader.wake_key, {"w": ""}, maxlen=1, approximate=False)
                    pipe.pexpire(reader.wake_key, WAKE_KEPT_MS)
                    await pipe.execute()
        except (Unavailable, *FAILURES):
            reader.waking = False  # it looks again when its own read fails, and within BLOCK_MS in any case

    async def _read(self, base: str, reader: _Reader) -> None:
        pause = BACKOFF_S[0]
        while reader.followers:
            try:
                await self._read_once(reader)
                pause = BACKOFF_S[0]
                if len(reader.followers) > 1:
                    await anyio.sleep(min(REST_S[1], REST_S[0] * (len(reader.followers) - 1)))
            except FAILURES as error:
                if pause == BACKOFF_S[0]:
                    log.warning("tail.redis_lost", error=type(error).__name__, streams=len(reader.followers))
                await anyio.sleep(pause)
                pause = min(pause * 2, BACKOFF_S[1])
        self._readers[base].remove(reader)

    async def _read_once(self, reader: _Reader) -> None:
        asked = dict(reader.followers)
        reader.blocked = True
        reader.waking = (
            False  # a wake that is under way was for those who are asked for now: who comes later needs another
        )
        try:
            reply = await self._xread(reader, [*(one.position for one in asked.values()), reader.wake_position])
        finally:
            reader.blocked = False
        for raw_key, entries in _by_stream(reply):
            key = raw_key.decode()
            if key == reader.wake_key:
                reader.wake_position = entries[-1][0].decode()
                continue
            follower = reader.followers.get(key)
            # one that was replaced meanwhile stands elsewhere: what was read is not what it asked for
            if follower is None or follower is not asked[key]:
                continue
            try:
                follower.deliver(entries)
            except Exception:  # one unreadable stream must not stop the others
                log.exception("tail.unreadable", key=key)
                self.remove(follower)

    async def _xread(self, reader: _Reader, positions: list[str]) -> Any:
        # not `xread`: it looks through the whole reply to record how late each entry is
        keys = [*reader.followers, reader.wake_key]
        if not isinstance(self._blocking, PromptRedis):
            return await self._blocking.execute_command(*_XREAD, *keys, *positions, keys=keys)
        if reader.packed_for != keys:
            reader.packed_for, reader.packed = keys, packed([*_XREAD, *keys])
        head = b"*%d\r\n" % (len(_XREAD) + 2 * len(keys))
        return await self._blocking.execute_packed(head + reader.packed + packed(positions))


_XREAD = ("XREAD", "BLOCK", str(BLOCK_MS), "COUNT", str(BATCH), "STREAMS")


class _Reader:
    """One blocked connection and the streams it covers. ``packed``: its command up to the positions."""

    def __init__(self, wake_key: str) -> None:
        self.packed_for: list[str] = []
        self.packed = b""
        self.wake_key = wake_key
        self.wake_position = "0-0"
        self.followers: dict[str, Follower] = {}
        self.blocked = False
        self.waking = False


def _by_stream(reply: Any) -> list[tuple[bytes, list[RawEntry]]]:
    """XREAD's reply as (key, entries) pairs. redis-py gives lists of entries, of RESP3 lists of such lists; in what
    Redis itself sends an entry is its id and a flat list of fields and values."""
    pairs = reply.items() if isinstance(reply, dict) else reply or ()
    return [(key, _entries(found)) for key, found in pairs]


def _entries(found: list[Any]) -> list[RawEntry]:
    if found and isinstance(found[0], list) and found[0] and isinstance(found[0][0], bytes):
        return [(entry_id, dict(zip(flat[::2], flat[1::2], strict=True))) for entry_id, flat in found]
    return found[0] if found and isinstance(found[0], list) else found
