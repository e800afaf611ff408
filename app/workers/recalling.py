"""Recall in a generate process: memories put before the model's eyes, without ever holding a message up.

The memory store is opened beside the work, and again until it is there: a generate process starts, and answers, with
PostgreSQL down. Vectors come at the first quiet moment, but soon in any case: reading 90 MB and building a network of
them takes a core for most of a second, which messages under way feel. Until then words alone are searched, and
``memory_recall`` says so.
What a message waits for its memories is bounded as a whole, whatever is slow or broken; then it goes
on without them, and its ``memory_recall`` says why.

A first search takes longer than that: connections are opened, the server reads its catalogues, the model's weights are
touched. So one is made when the store opens, and again now and then: idle connections are closed, PostgreSQL restarts.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from time import monotonic
from typing import Any, TypeVar

import anyio
import asyncpg
import msgspec
import structlog

from app.chat.message import Message
from app.database import Database, open_pool
from app.errors import RecallFailed, RepriseError, StartFailed, Unavailable
from app.llm.types import Request, TextBlock
from app.memory.conversations import find_owner
from app.memory.embedding import Embedder
from app.memory.index import open_matching
from app.memory.recall import RECALL_S, Recall, quoted
from app.memory.search import Search
from app.memory.types import Hit, Owner
from app.settings import Settings

RETRY_S = 1.0
QUIET_S = 0.5
"""How long no message must have been under way before vectors are loaded."""
PATIENCE_S = 2.0
"""The longest they wait for that."""
LOADING = "searched by words alone: the embedding model is being loaded"
LOOK_S = 0.05
WARM_S = 60.0
"""Between searches for nobody. Less than a pool keeps an idle connection."""
NOBODY = Owner(0, "", "")

T = TypeVar("T")

log = structlog.get_logger(__name__)


class Recaller:
    """Recalls for the messages of one process once `run` has opened the store."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._database: Database | None = None
        self._recall: Recall | None = None
        self._loading = True

    async def run(self, busy: Callable[[], bool]) -> None:
        """Opens the store as soon as it can be had, vectors once nothing is ``busy``, and keeps it until cancelled."""
        async with AsyncExitStack() as stack:
            database = self._database = await _insist(lambda: stack.enter_async_context(open_pool(self._settings)))
            self._recall = Recall(await _warmed(Search(database, None)))
            await _quiet(busy)
            search = await _warmed(Search(database, await _insist(lambda: self._embedder(database))))
            self._recall = Recall(search)
            self._loading = False
            while True:
                await anyio.sleep(WARM_S)
                await _warmed(search)

    async def _embedder(self, database: Database) -> Embedder | None:
        try:
            return await open_matching(database, self._settings)
        except StartFailed as error:
            log.warning("recall.without_vectors", reason=error.message)
            return None

    async def recall(self, message: Message, request: Request) -> tuple[Request, bytes]:
        """The request with what was recalled, and the value of its ``memory_recall``. Takes `RECALL_S` at most."""
        try:
            with anyio.fail_after(RECALL_S):
                hits = await self._hits(message, request)
        except TimeoutError:
            return request, _failed(message, f"recalling took longer than {RECALL_S * 1000:.0f} ms")
        except RepriseError as error:
            return request, _failed(message, error.message)
        except Exception as error:
            log.exception("recall.crashed", message_id=message.id)  # no fault of the memory store stops a message
            return request, _failed(message, f"recalling failed: {type(error).__name__}")
        value: dict[str, Any] = {"memories": [{"id": _id(hit), "memory": hit.text} for hit in hits]}
        if self._loading:
            value |= {"error": LOADING}
        return _with(request, quoted(hits)), msgspec.json.encode(value)

    async def _hits(self, message: Message, request: Request) -> list[Hit]:
        if self._database is None or self._recall is None:
            raise RecallFailed("the memory store is not open yet")
        owner = await find_owner(self._database, message.account, message.user)
        return [] if owner is None else await self._recall.recall(owner, request.messages, limit=message.recall)


async def _insist(opening: Callable[[], Awaitable[T]]) -> T:
    while True:
        try:
            return await opening()
        except (Unavailable, StartFailed, asyncpg.UndefinedTableError):  # the last: not migrated yet
            await anyio.sleep(RETRY_S)


async def _quiet(busy: Callable[[], bool]) -> None:
    began = heard = monotonic()
    while monotonic() - heard < QUIET_S and monotonic() - began < PATIENCE_S:
        await anyio.sleep(LOOK_S)
        if busy():
            heard = monotonic()


async def _warmed(search: Search) -> Search:
    try:
        await search.search(NOBODY, "warm")
    except Unavailable:
        pass
    except Exception:  # whatever it is: no message is behind it
        log.exception("recall.cold")
    return search


def _failed(message: Message, reason: str) -> bytes:
    log.warning("recall.failed", message_id=message.id, reason=reason)
    return msgspec.json.encode({"memories": [], "error": reason})


def _id(hit: Hit) -> str:
    if hit.memory is not None:
        return hit.memory.id
    assert hit.turn is not None
    return f"turn_{hit.turn.id}"


def _with(request: Request, block: str) -> Request:
    """The request with the block behind its own system prompt."""
    if not block:
        return request
    if isinstance(request.system, list):
        return msgspec.structs.replace(request, system=[*request.system, TextBlock(block)])
    return msgspec.structs.replace(request, system=f"{request.system}\n\n{block}" if request.system else block)
