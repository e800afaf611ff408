"""Questions to a platform's API: its rate limits kept, passing failures tried again, final ones told plainly.

Choices:

1. Whoever is over the limit waits until the platform says, by the platform's own clock where its answer tells it.
   The last request of a window is followed by the wait only when another request comes.
2. The token goes to the configured address alone: redirects are not followed, links of answers not taken.
3. No error holds a path, a query or a header.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar
from urllib.parse import urlencode

import httpx
import msgspec

from app.errors import OutboundFailed
from app.integrations.exports.fields import Malformed, Raw, anything, members
from app.integrations.social.api.types import Pauses, Waiting
from app.integrations.types import Unreadable
from app.outbound import Fetched, Outbound

MOST_BYTES = 16_000_000
ANSWER_S = 60.0
ROUNDING_S = 1.0
"""Platforms tell whole seconds, cut or rounded."""

Limit = Callable[[httpx.Headers, float], float | None]
"""Seconds until the next request is allowed, told from headers and the platform's time; None when it is already."""

BAD = (msgspec.MsgspecError, Malformed)
"""What `shaped` raises for a value that has not the shape."""

T = TypeVar("T")

_TOKEN = re.compile(r"[\x21-\x7e]{1,8000}")
_BROKEN = frozenset({408, 425, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529})


class Asker:
    """``called`` is the platform's name to people. Raises `Unreadable` and OutboundFailed, see `SocialApi`."""

    def __init__(
        self,
        outbound: Outbound,
        called: str,
        base: str,
        token: str,
        *,
        headers: Mapping[str, str],
        limit: Limit,
        pauses: Pauses,
        waiting: Waiting | None,
    ) -> None:
        if not _TOKEN.fullmatch(token.strip()):
            raise Unreadable("UNAUTHORIZED", f"This is no access token of {called}.")
        self.called = called
        self._outbound = outbound
        self._base = base.rstrip("/")
        self._headers = {"authorization": f"Bearer {token.strip()}", "accept": "application/json"} | dict(headers)
        self._limit = limit
        self._pauses = pauses
        self._waiting = waiting
        self._allowed_at = 0.0

    async def ask(self, path: str, query: Mapping[str, str] | None = None) -> dict[str, Raw]:
        """The JSON object at ``path``."""
        found = await self.look(path, query)
        if found is None:
            raise self.bad_answer("status 404")
        return found

    async def look(self, path: str, query: Mapping[str, str] | None = None) -> dict[str, Raw] | None:
        """As `ask`; None where the platform has nothing (404)."""
        url = f"{self._base}{path}?{urlencode(query)}" if query else f"{self._base}{path}"
        failures = waits = 0
        while True:
            failure: Unreadable | OutboundFailed
            await self._wait(self._allowed_at - self._pauses.clock())
            try:
                answer = await self._outbound.fetch(
                    "GET", url, headers=self._headers, most_bytes=MOST_BYTES, seconds=ANSWER_S, redirects=0
                )
            except OutboundFailed as broken:
                if not broken.retryable:
                    raise
                failure = broken
            else:
                now = _their_time(answer.headers)
                allowed_in = self._limit(answer.headers, now)
                self._allowed_at = 0.0 if allowed_in is None else self._pauses.clock() + allowed_in + ROUNDING_S
                if answer.status == 429:
                    waits += 1
                    if waits > self._pauses.most_waits:
                        raise OutboundFailed(
                            "RATE_LIMITED",
                            f"{self.called} allows no more requests for now.",
                            retryable=True,
                            http_status=429,
                        )
                    named = _retry_after(answer.headers, now)
                    named = allowed_in if named is None else named
                    self._allowed_at = 0.0
                    await self._wait(self._growing(waits) if named is None else named + ROUNDING_S)
                    continue
                read = self._read(answer)
                if not isinstance(read, Unreadable | OutboundFailed):
                    return read
                failure = read
            failures += 1
            if failures == self._pauses.tries:
                raise failure
            await self._wait(self._growing(failures))

    def bad_answer(self, what: str) -> Unreadable:
        return Unreadable("BAD_ANSWER", f"{self.called} answered with {what}.")

    def _read(self, answer: Fetched) -> dict[str, Raw] | Unreadable | OutboundFailed | None:
        """The object; None for 404; a failure that may pass. Raises one that does not."""
        if answer.status == 401:
            raise Unreadable("UNAUTHORIZED", f"{self.called} does not accept the access token. It may have expired.")
        if answer.status == 403:
            raise Unreadable("FORBIDDEN", f"The access token does not permit reading this from {self.called}.")
        if answer.status == 404:
            return None
        if answer.status in _BROKEN:
            status = answer.status
            told = f"{self.called} answered with status {status}."
            return OutboundFailed("HTTP_STATUS", told, retryable=True, http_status=status)
        if not 200 <= answer.status < 300:
            raise self.bad_answer(f"status {answer.status}")
        try:
            return members(answer.body)
        except Malformed:  # often the page of a gateway whose service is away
            return self.bad_answer("something that is not a JSON object")

    def _growing(self, failures: int) -> float:
        return float(self._pauses.retry_s * 2.0 ** (failures - 1) * random.uniform(0.5, 1.5))  # noqa: S311 - spreads load

    async def _wait(self, seconds: float) -> None:
        seconds = min(seconds, self._pauses.most_wait_s)
        if seconds > 0:
            self._allowed_at = 0.0
            if self._waiting is not None:
                await self._waiting(seconds)
            await self._pauses.sleep(seconds)


def number(written: str | None) -> float | None:
    """The number a header holds; None without one."""
    try:
        value = float(written or "")
    except ValueError:
        return None
    return value if abs(value) < 1e12 else None


def shaped(raw: bytes | Raw, shape: type[T]) -> T:
    """A JSON value in the shape of a struct. Platforms write null for what is missing as often as nothing."""
    return msgspec.convert(_without_nulls(anything(raw)), shape)


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}
    return [_without_nulls(inner) for inner in value] if isinstance(value, list) else value


def _their_time(headers: httpx.Headers) -> float:
    try:
        return parsedate_to_datetime(headers["date"]).timestamp()
    except (KeyError, ValueError, OverflowError):
        return time.time()


def _retry_after(headers: httpx.Headers, now: float) -> float | None:
    written = headers.get("retry-after")
    if written is None:
        return None
    if (seconds := number(written)) is not None:
        return max(0.0, seconds)
    try:
        return max(0.0, parsedate_to_datetime(written).timestamp() - now)
    except (ValueError, OverflowError):
        return None
