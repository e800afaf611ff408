"""What the background process does beside remembering: gives units their vectors, removes what was deleted long ago."""

from __future__ import annotations

import os
import time
from pathlib import Path

import anyio
import structlog

from app.database import Database
from app.errors import Unavailable
from app.integrations import store as integrations
from app.memory.embedding import Embedder
from app.memory.index import embed_missing
from app.memory.memories import Memories
from app.memory.remembered import Remembered
from app.memory.search import add_indexes
from app.memory.settling import settle_all
from app.webhooks import deliveries

EMBED_POLL_S = 5.0
EMBED_PAUSE_S = 0.1
"""Between storing and embedding: what comes together is stored first."""
EMBEDDED_AT_ONCE, EMBEDDED_CHARACTERS = 64, 2_000
"""Units, and what they say, embedded before their vectors are stored and newer ones looked for: a tenth of a second of
work. Looking costs PostgreSQL more with each unit that was embedded before: short ones must not come few at a time."""
BUSY_S = 0.5
"""While messages were stored this recently, more of them are to be expected."""
BUSY_SHARE, BUSY_REST = 0.1, 9.0
"""While others use more than this share of the cores, so many times as long as a batch took is rested after it."""
TIDY_S = 3_600.0
RETRY_S = 1.0

logger = structlog.get_logger(__name__)


class Signal:
    """Something was stored: wakes who waits, or lets the next who would wait go on at once."""

    def __init__(self) -> None:
        self._event = anyio.Event()
        self._at = float("-inf")

    def set(self) -> None:
        self._at = anyio.current_time()
        self._event.set()

    @property
    def busy(self) -> bool:
        """Whether it was set within the last ``BUSY_S``."""
        return anyio.current_time() - self._at < BUSY_S

    async def wait(self, seconds: float) -> None:
        """Returns when it was set since the last wait, or after so many seconds."""
        with anyio.move_on_after(seconds):
            await self._event.wait()
        self._event = anyio.Event()


class Machine:
    """How busy the other processes of this machine are, where the kernel tells it as Linux does."""

    def __init__(self, stat: Path = Path("/proc/stat")) -> None:
        self._stat = stat
        self._before = self._read()
        self._others = 0.0

    def others(self) -> float:
        """The share of all cores' time (0 to 1) that others used since the last call; 0 where that is unknown."""
        now = self._read()
        busy, whole, own = (new - old for new, old in zip(now, self._before, strict=True))
        if whole > 0:
            self._before = now
            self._others = max(0.0, busy - own) / whole
        return self._others

    def _read(self) -> tuple[float, float, float]:
        """Seconds of all cores: spent working, in all, and working for this process."""
        try:
            ticks = [int(field) for field in self._stat.read_text().partition("\n")[0].split()[1:9]]
        except OSError:
            return 0.0, 0.0, 0.0
        hertz = os.sysconf("SC_CLK_TCK")
        return (sum(ticks) - ticks[3] - ticks[4]) / hertz, sum(ticks) / hertz, time.process_time()


async def keep_embedded(database: Database, embedder: Embedder, stored: Signal, machine: Machine) -> None:
    """Gives every unit its vector, for ever: when something was stored, and now and then.

    While others work it takes a tenth of a core: two cores are often two halves of one, and a token waits longer for a
    core whose other half is busy, whatever the priority of what keeps it so. What has no vector yet is found by its
    words.
    """
    while True:
        try:
            while True:
                began = anyio.current_time()
                if not await embed_missing(database, embedder, EMBEDDED_AT_ONCE, EMBEDDED_CHARACTERS):
                    break
                if machine.others() > BUSY_SHARE:
                    await anyio.sleep(BUSY_REST * (anyio.current_time() - began))
            await settle_all(database)
        except Unavailable:
            await anyio.sleep(RETRY_S)
            continue
        except Exception:
            logger.exception("embedding.failed")  # the outer edge of a loop that must not end
            await anyio.sleep(EMBED_POLL_S)
            continue
        await stored.wait(EMBED_POLL_S)
        await anyio.sleep(EMBED_PAUSE_S)


async def keep_tidy(database: Database, memories: Memories, kept: Remembered) -> None:
    """Removes for good what was deleted long enough ago, and gives large users their index, for ever."""
    while True:
        try:
            await memories.purge()
            await kept.purge()
            await integrations.purge(database)
            await deliveries.purge(database)
            await add_indexes(database)
        except Unavailable:
            await anyio.sleep(RETRY_S)
            continue
        except Exception:
            logger.exception("tidying.failed")  # the outer edge of a loop that must not end
        await anyio.sleep(TIDY_S)
