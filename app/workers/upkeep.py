"""What the background process does beside remembering: gives units their vectors, removes what was deleted long ago."""

from __future__ import annotations

import anyio
import structlog

from app.database import Database
from app.errors import Unavailable
from app.memory.embedding import Embedder
from app.memory.index import embed_missing
from app.memory.memories import Memories
from app.memory.remembered import Remembered
from app.memory.search import add_indexes

EMBED_POLL_S = 5.0
EMBED_PAUSE_S = 0.1
"""Between storing and embedding: what comes together is stored first."""
EMBEDDED_AT_ONCE = 4
"""Units embedded before their vectors are stored and newer ones looked for: half a second of work."""
BUSY_S, BUSY_REST = 0.5, 9.0
"""While messages were stored this recently, so many times as long as a batch took is rested before the next."""
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


async def keep_embedded(database: Database, embedder: Embedder, stored: Signal) -> None:
    """Gives every unit its vector, for ever: when something was stored, and now and then.

    While messages come it takes a tenth of a core: two cores are often two halves of one, and a token waits
    longer for a core whose other half is busy. What has no vector yet is found by its words.
    """
    while True:
        try:
            while True:
                began = anyio.current_time()
                if not await embed_missing(database, embedder, EMBEDDED_AT_ONCE):
                    break
                if stored.busy:
                    await anyio.sleep(BUSY_REST * (anyio.current_time() - began))
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
            await add_indexes(database)
        except Unavailable:
            await anyio.sleep(RETRY_S)
            continue
        except Exception:
            logger.exception("tidying.failed")  # the outer edge of a loop that must not end
        await anyio.sleep(TIDY_S)
