"""Rate limits: so many requests in a window of time, per account and user and class of routes, whatever the processes.

Choices:

1. One script counts, or refuses: it is exact, and what it answers is what the headers say. The strategies of the
   library whose notation this is (``100/minute``) answer yes or no; what remains is another question there, and by then
   another number.
2. Windows are those of the clock: all processes know when one ends without asking.
3. A request may be of several classes. One that is refused counts in none of them.
4. While Redis does not answer nothing is limited: what needs Redis is refused by itself, and what does not is better
   served than not.
"""

from __future__ import annotations

import time
from typing import Any, Protocol

import msgspec
import structlog
from limits import RateLimitItem, parse

from app.errors import StartFailed, Unavailable
from app.redis_keys import Keys
from app.settings import Settings

CLASSES = {"requests": ("requests",), "search": ("search", "requests"), "integrations": ("integrations",)}
CLASSES["messages"] = ("messages",)
"""Of which limits a request of a class takes its part."""

log = structlog.get_logger(__name__)


class Runs(Protocol):
    """What runs a script in a partition."""

    async def run(self, name: str, base: str, *args: str | bytes | int | float) -> Any: ...


class Taken(msgspec.Struct, frozen=True):
    """What is left of the tightest limit after a request. ``reset`` in Unix seconds; ``refused``: it was none."""

    limit: int
    remaining: int
    reset: int
    refused: bool = False


class Limits:
    """The limits of one deployment. Raises StartFailed for a setting that cannot be read."""

    def __init__(self, scripts: Runs, keys: Keys, settings: Settings) -> None:
        self._scripts = scripts
        self._keys = keys
        self._rates: dict[str, RateLimitItem] = {}
        for name in ("requests", "search", "integrations", "messages"):
            text = getattr(settings, f"rate_{name}")
            try:
                if text:
                    self._rates[name] = parse(text)
            except ValueError:
                raise StartFailed(
                    f"setting rate_{name} (REPRISE_RATE_{name.upper()}) must be as 100/minute: {text}"
                ) from None

    async def take(self, account: str, user: str, kind: str) -> Taken | None:
        """Counts a request of this class; None where nothing limits it."""
        rates = [(name, self._rates[name]) for name in CLASSES[kind] if name in self._rates]
        if not rates:
            return None
        now = time.time()
        ends = [(int(now) // rate.get_expiry() + 1) * rate.get_expiry() for _, rate in rates]
        counters: list[str | int] = []
        for (name, rate), end in zip(rates, ends, strict=True):
            counters += [f"{name}:{end}:{account}/{user}", rate.amount]
        longest = max(rate.get_expiry() for _, rate in rates)
        try:
            full, *counts = await self._scripts.run(
                "limit_take", self._keys.account_base(account), longest * 1_000, *counters
            )
        except Unavailable:
            log.warning("limits.off", account=account)
            return None
        left: list[Taken] = [
            Taken(rate.amount, max(0, rate.amount - count), end)
            for (_, rate), end, count in zip(rates, ends, counts, strict=True)
        ]
        if full:
            tightest: Taken = left[full - 1]
            return Taken(tightest.limit, 0, tightest.reset, refused=True)
        return min(left, key=lambda one: one.remaining)
