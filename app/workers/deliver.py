"""Deliveries are sent: signed, a few at a time for each webhook, until the receiver takes them or a day is over.

Choices:

1. A status from 200 to 299 is all a receiver must say: what it answers beside is read within bounds, for the log of the
   attempt, and what goes wrong with it after the status changes nothing.
2. Everything else is a failure that is tried again: redirects too, which are never followed, and addresses that are
   refused once their name is resolved (`outbound`). Only 410 ends the webhook.
3. Pauses grow and are spread, so that a receiver that comes back is not met by all at once; a longer ``Retry-After`` is
   kept to, within `LONGEST_WAIT_S`.
"""

from __future__ import annotations

import random
import time
from contextlib import suppress
from datetime import UTC, datetime

import anyio
import msgspec
import structlog
from standardwebhooks import Webhook as Signer

from app.database import Database
from app.errors import OutboundFailed, RepriseError, Unavailable
from app.llm.failures import retry_after
from app.outbound import Outbound
from app.telemetry import Metrics
from app.webhooks.queue import Claimed, Outcome, Result, claim, drop, let_go, settle
from app.workers.upkeep import Signal

POLL_S = 1.0
RETRY_S = 1.0
LET_GO_S = 1.0
AT_ONCE = 64
"""Attempts of one process under way at a time."""
ANSWER_BYTES = 65_536
KEPT_CHARACTERS = 1_024
"""Of an answer, in the log."""
LONGEST_WAIT_S = 21_600.0
SPREAD = 0.1

log = structlog.get_logger(__name__)


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds. ``pauses_s``: before the second attempt, the third, …: a day in all. ``answer_s``: what an attempt may
    take as a whole; ``lease_s`` must be longer."""

    pauses_s: tuple[float, ...] = (5, 30, 120, 600, 1_800, 3_600, 7_200, 14_400, 28_800, 28_800)
    answer_s: float = 15.0
    lease_s: float = 30.0
    poll_s: float = POLL_S

    def pause(self, tries: int, asked: float | None) -> float | None:
        """Before the next attempt after so many; None when there is none."""
        if tries > len(self.pauses_s):
            return None
        pause = self.pauses_s[tries - 1] * random.uniform(1 - SPREAD, 1 + SPREAD)  # noqa: S311 - no secret
        return max(pause, min(asked or 0.0, LONGEST_WAIT_S))


class Sender:
    """Sends what is due. ``arrived`` is set when something may be; ``under_way``: attempts at this moment."""

    def __init__(self, database: Database, outbound: Outbound, metrics: Metrics, timing: Timing | None = None) -> None:
        self.arrived = Signal()
        self._database = database
        self._outbound = outbound
        self._metrics = metrics
        self._timing = timing or Timing()
        self.under_way = 0

    async def run(self) -> None:
        """For ever."""
        async with anyio.create_task_group() as group:
            while True:
                free = AT_ONCE - self.under_way
                try:
                    claimed = await claim(self._database, free, self._timing.lease_s) if free else []
                except Unavailable:
                    await anyio.sleep(RETRY_S)
                    continue
                self.under_way += len(claimed)
                for one in claimed:
                    group.start_soon(self._one, one)
                if not claimed:
                    await self.arrived.wait(self._timing.poll_s)

    async def _one(self, claimed: Claimed) -> None:
        try:
            await self.send(claimed)
        except Unavailable:
            pass  # due again when the lease is over
        except anyio.get_cancelled_exc_class():
            with anyio.move_on_after(LET_GO_S, shield=True), suppress(Unavailable):
                await let_go(self._database, claimed)
            raise
        except Exception:
            log.exception("webhook.broken", delivery=claimed.id)  # the outer edge: others go on
        finally:
            self.under_way -= 1
            self.arrived.set()

    async def send(self, claimed: Claimed) -> Outcome:
        """One attempt, settled. Raises Unavailable."""
        if not claimed.active:
            await drop(self._database, claimed)
            return "dead"
        result, asked = await self._attempt(claimed)
        outcome = await settle(self._database, claimed, result, self._timing.pause(claimed.tries, asked))
        self._metrics.webhook_attempted(outcome)
        line = log.info if outcome == "delivered" else log.warning
        line(
            f"webhook.{outcome}",
            webhook=claimed.webhook,
            delivery=claimed.id,
            status=result.status,
            error=result.error,
            ms=result.ms,
        )
        return outcome

    async def _attempt(self, claimed: Claimed) -> tuple[Result, float | None]:
        """What the receiver answers, and how long it asks to wait."""
        at, began = datetime.now(UTC), time.monotonic()
        status: int | None = None
        error: str | None = None
        asked: float | None = None
        answer = bytearray()
        try:
            async with self._outbound.open(
                "POST",
                claimed.url,
                headers=signed(claimed, at),
                content=claimed.body.encode(),
                most_bytes=ANSWER_BYTES,
                seconds=self._timing.answer_s,
                redirects=0,
            ) as response:
                status, asked = response.status, retry_after(response.headers.get("retry-after"))
                with suppress(OutboundFailed):
                    async for piece in response:
                        answer += piece
        except OutboundFailed as failure:
            error = readable(failure.message.encode("utf-8", "replace"))
        except RepriseError as failure:
            error = failure.code
        ms = round((time.monotonic() - began) * 1000)
        return Result(at=at, ms=ms, status=status, error=error, response=readable(bytes(answer))), asked


def signed(claimed: Claimed, at: datetime) -> dict[str, str]:
    """The headers of an attempt: Standard Webhooks 1.0, one signature for each secret that is good."""
    signatures = [Signer(secret).sign(claimed.event_id, at, claimed.body) for secret in claimed.secrets]
    return {
        "content-type": "application/json",
        "webhook-id": claimed.event_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": " ".join(signatures),
    }


def readable(answer: bytes) -> str:
    """The beginning of an answer as text that PostgreSQL can hold."""
    return answer[: KEPT_CHARACTERS * 4].decode("utf-8", "replace").replace("\x00", "\ufffd")[:KEPT_CHARACTERS]
