"""P13: from the end of a message to what it says being found."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from anyio.from_thread import BlockingPortal, start_blocking_portal

from app.database import Database, open_pool
from app.memory.conversations import find_owner
from app.memory.search import Search
from app.memory.types import Hit
from app.settings import Settings
from tests.bench.harness import Gateway, Upstream, gateway
from tests.bench.options import Options
from tests.bench.report import Figure, median, number, percentile
from tests.bench.wire import Caller

MODEL = "t20"
ALONE = 40
AT_ONCE = 20
LIMIT_S = 30.0
POLL_S = 0.004


class _Finder:
    """Searches by words as a web process does, in this process: no request's time is in the figure."""

    def __init__(self, portal: BlockingPortal, database: Database, account: str) -> None:
        self._portal = portal
        self._database = database
        self._search = Search(database, None)
        self._account = account

    def finds(self, message_id: str, word: str) -> bool:
        return bool(self._portal.call(self._finds, message_id, word))

    async def _finds(self, message_id: str, word: str) -> bool:
        owner = await find_owner(self._database, self._account, "default")
        if owner is None:
            return False
        found = await self._search.search(owner, word, limit=5, kinds=frozenset({"turn"}))
        return any(_of(hit) == message_id for hit in found.hits)


def _of(hit: Hit) -> str | None:
    return hit.turn.turn.message_id if hit.turn else None


@contextmanager
def _finder(run: Gateway) -> Iterator[_Finder]:
    settings = Settings(database_url=run.engines()["database_url"])
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(open_pool(settings)) as database:
        account = portal.call(database.fetchval, "SELECT id FROM accounts WHERE name = 'default'")
        yield _Finder(portal, database, account)


def p13(upstream: Upstream, options: Options) -> list[Figure]:
    """A completed message to its words being found, one at a time and twenty at once."""
    alone: list[float] = []
    together: list[float] = []
    with gateway(upstream, [MODEL]) as run, _finder(run) as finder:
        caller = run.caller()
        _round(caller, finder, ["warmingup"])
        for round_ in range(options.runs):
            for n in range(ALONE // 4 if options.quick else ALONE):
                alone += _round(caller, finder, [f"alone{round_}x{n}"])
            together += _round(caller, finder, [f"together{round_}x{n}" for n in range(AT_ONCE)])
        caller.close()
    figures = []
    for name, found in (("one at a time", alone), (f"{AT_ONCE} at once", together)):
        wrong = "" if all(found) else f"{found.count(0)} messages were not found within {LIMIT_S:.0f} s"
        note = f"p50 {number(median(found))}; {len(found)} messages, looked for every {POLL_S * 1000:.0f} ms"
        figures.append(
            Figure(measure="P13", name=f"completed message to found, {name}, p95", value=percentile(found, 0.95),
                   unit="ms", bar=500, wrong=wrong, note=note)
        )  # fmt: skip
    return figures


def _round(caller: Caller, finder: _Finder, words: list[str]) -> list[float]:
    """Milliseconds from each message's ``completed_at`` to its being found; 0 for one that never was.

    They are looked for one after the other, in the order they were started: looking for all of them all the time would
    keep PostgreSQL busier than storing them does.
    """
    waiting = {caller.start(MODEL, f"My favourite word is {word}."): word for word in words}
    found: dict[str, float] = {}
    give_up = time.monotonic() + LIMIT_S
    while waiting and time.monotonic() < give_up:
        message_id, word = next(iter(waiting.items()))
        if finder.finds(message_id, word):
            found[message_id] = time.time()
            del waiting[message_id]
        else:
            time.sleep(POLL_S)
    times = [1000 * (at - _completed(caller, message_id)) for message_id, at in found.items()]
    return [max(ms, 0.1) for ms in times] + [0.0] * len(waiting)


def _completed(caller: Caller, message_id: str) -> float:
    """When the message completed, in seconds since 1970."""
    status: dict[str, Any] = caller.wait_status(message_id, lambda status: status["status"] == "completed", 10)
    return datetime.fromisoformat(status["completed_at"]).timestamp()
