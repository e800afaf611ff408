"""What a social API is to whoever pulls from it, whatever the platform."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Protocol

import anyio
import msgspec

from app.integrations.social.types import Item, ItemKind
from app.integrations.types import Problem

LONGEST_CURSOR = 1_000
MOST_PAGES = 5_000

Waiting = Callable[[float], Awaitable[None]]
"""Told of each pause before it is made, in seconds."""


class Found(msgspec.Struct, frozen=True):
    """What an account has of one kind; ``total`` where the platform counts it."""

    kind: ItemKind
    total: int | None


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """``cursor`` is where the next page begins, None after the last one."""

    items: list[Item]
    problems: list[Problem]
    cursor: str | None


class Pauses(msgspec.Struct, frozen=True, kw_only=True):
    """How long to wait for what: ``retry_s`` after the first failure, twice as long after each further one."""

    retry_s: float = 1.0
    tries: int = 5
    most_wait_s: float = 900.0
    most_waits: int = 4  # for one request that is over the limit time and again
    sleep: Callable[[float], Awaitable[None]] = anyio.sleep
    clock: Callable[[], float] = time.monotonic


class SocialApi(Protocol):
    """One account of one platform, seen with one token. All raise OutboundFailed when the platform is out of reach."""

    async def authenticate(self) -> str:
        """Whose account it is. Raises `Unreadable`: UNAUTHORIZED, FORBIDDEN or BAD_ANSWER."""

    async def discover(self) -> list[Found]:
        """What there is to pull."""

    def pages(self, cursor: str | None = None) -> AsyncIterator[Page]:
        """All pages from the beginning, or from the ``cursor`` of the last page that was kept."""
