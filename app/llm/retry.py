"""Another try for calls that failed before their first delta: one rule for both paths.

1. Only failures marked retryable (429, 500, 502, 503, 504, 529, a connection that broke or never came) are tried
   again, three tries in all, after 0.25 s and 0.5 s, jittered; a ``Retry-After`` is honoured up to 10 s.
2. Nothing is retried after the first delta: the observers already have it.
3. Every attempt is closed in a shielded scope of one second, so that neither a cancelled task nor a peer that does
   not answer keeps an upstream connection.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

from app.errors import UpstreamFailed
from app.llm.types import Call, Delta, Door, Request, Target

TRIES = 3
BACKOFF_S = 0.25
RETRY_AFTER_S = 10.0
CLOSE_S = 1.0


class RetryingModel:
    """A `Model` over a door."""

    def __init__(self, target: Target, door: Door) -> None:
        self.name = target.name
        self._target = target
        self._door = door

    @asynccontextmanager
    async def stream(self, request: Request) -> AsyncIterator[AsyncIterator[list[Delta]]]:
        """Entering returns when the first delta is there (or the answer's end), after as many tries as it took."""
        call = self._door(self._target, request)
        try:
            tries = 1
            while True:
                try:
                    first = await call.read()
                    break
                except UpstreamFailed as error:
                    if not error.retryable or tries == TRIES:
                        raise
                    pause = pause_s(tries, error.retry_after)
                await _close(call)
                await anyio.sleep(pause)
                tries += 1
                call = self._door(self._target, request)
            yield _Answer(call, first)
        finally:
            await _close(call)


class _Answer:
    """The deltas of one call, the first read already done."""

    def __init__(self, call: Call, first: list[Delta] | None) -> None:
        self._call = call
        self._first = first
        self._begun = False

    def __aiter__(self) -> _Answer:
        return self

    async def __anext__(self) -> list[Delta]:
        if self._begun:
            deltas = await self._call.read()
        else:
            self._begun, deltas = True, self._first
        if deltas is None:
            raise StopAsyncIteration
        return deltas


def pause_s(tries: int, retry_after: float | None = None) -> float:
    """Seconds to wait after ``tries`` failed tries: exponential and jittered, at least ``retry_after``."""
    pause: float = BACKOFF_S * 2.0 ** (tries - 1) * random.uniform(0.5, 1.5)  # noqa: S311 - spreads load, guards nothing
    return max(pause, min(retry_after or 0.0, RETRY_AFTER_S))


async def _close(call: Call) -> None:
    with anyio.move_on_after(CLOSE_S, shield=True):
        await call.aclose()
