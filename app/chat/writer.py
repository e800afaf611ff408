"""Writing tokens: one pipeline in flight carries the appends of all messages of a worker process.

There is no timer. What arrives while a pipeline is under way waits, adjacent deltas of a block merging into one event,
and goes with the next: idle, each token is written at once; under load batches form by themselves.

Choices:

1. An `Outbox` keeps every event of its attempt until the end. Events get their numbers when they are first sent and
   keep them: a repeat is recognised by its number, and what a failover took from Redis is sent again from memory.
2. While Redis is down events wait here; the caps on output bound them. Nothing is dropped and nothing is raised.
3. What opens a message for the account's feed goes with the first events. It may be lost; an end never overtakes it.
4. `finish` carries what is still unsent together with the terminal event, in one script. An append that is under way
   meanwhile is either the same events (skipped) or refused as late.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, Literal

import anyio
import structlog

from app.chat.events import ATTEMPT_SPAN, Draft, is_content
from app.chat.lifecycle import Lifecycle
from app.chat.message import Message
from app.chat.scripts import Call
from app.errors import Unavailable

MERGE_BYTES = 4_096
"""A waiting delta longer than this takes no more text: joining for ever would cost quadratic time."""

RETRY_S = (0.05, 0.1, 0.2, 0.5, 1.0)
"""Pauses between attempts while Redis does not answer; the last one repeats."""

log = structlog.get_logger(__name__)


class Outbox:
    """The events of one attempt on their way into its log. ``opening`` goes with the first of them."""

    def __init__(
        self, message: Message, token: str, restart: bytes, on_lost: Callable[[], None], opening: Call | None = None
    ) -> None:
        self.message = message
        self.token = token
        self.opening = opening
        self.tokens = 0
        self.first_token_ms: int | None = None
        self.lost = False
        self._on_lost = on_lost
        self._first = (message.attempt - 1) * ATTEMPT_SPAN + 1
        self._events: list[Draft] = [(b"r", restart)] if message.attempt > 1 else []
        self._sent = len(self._events)  # events that have their number: never merged into again
        self._acked = len(self._events)  # events that Redis said it holds
        self._content = False

    @property
    def count(self) -> int:
        """Events of this attempt so far."""
        return len(self._events)

    @property
    def dirty(self) -> bool:
        return self._acked < len(self._events) and not self.lost

    def add(self, drafts: list[Draft]) -> None:
        """Takes events; a delta joins the one before it when both wait for the same block."""
        events = self._events
        for draft in drafts:
            field, value = draft
            if is_content(field):
                self._content = True
                if len(events) > self._sent and events[-1][0] == field and len(events[-1][1]) < MERGE_BYTES:
                    events[-1] = (field, events[-1][1] + value)
                    continue
            events.append(draft)

    def unsent(self) -> tuple[int, list[bytes]]:
        """The number of the first event that Redis has not acknowledged, and all from it on, flat."""
        self._sent = len(self._events)
        flat = [part for event in self._events[self._acked :] for part in event]
        return self._first + self._acked, flat

    def append_arguments(self) -> tuple[Any, ...]:
        first, flat = self.unsent()
        first_token = "" if self.first_token_ms is None else self.first_token_ms
        return (self.message.member, self.token, self.tokens, int(self._content), first_token, first, *flat)

    def settle(self, sent: int, reply: int | None) -> None:
        """Takes note of an append's reply: ``last + 1``, its negative when earlier events are missing, or lost."""
        if reply is None:
            self.lose()
        elif reply > 0:
            self._acked = max(self._acked, min(sent, reply - self._first))
        else:
            self.refill(-reply - 1)

    def refill(self, last: int) -> None:
        """Redis holds the log only up to ``last``: the rest is sent again."""
        self._acked = max(0, last - self._first + 1)
        log.warning("log.refill", message_id=self.message.id, last_seq=last, events=len(self._events) - self._acked)

    def lose(self) -> None:
        """The claim is another's: write nothing any more."""
        if not self.lost:
            self.lost = True
            self._on_lost()


class Writer:
    """The one pipeline. Run `run` in the worker's task group; `put` and `finish` from its generations."""

    def __init__(self, lifecycle: Lifecycle) -> None:
        self._lifecycle = lifecycle
        self._waiting: dict[str, Outbox] = {}
        self._work = anyio.Event()
        self.patient = True  # False when the process is stopping: `finish` then tries once, and the sweep does the rest

    def put(self, outbox: Outbox, drafts: list[Draft]) -> None:
        """Takes events for ``outbox`` and returns at once."""
        outbox.add(drafts)
        self._mark(outbox)

    async def finish(
        self, outbox: Outbox, drafts: list[Draft], status: Literal["completed", "error"], values: dict[str, Any]
    ) -> Message | None:
        """Writes what is left and the final state; None when the claim was lost. Waits while Redis is down."""
        outbox.add(drafts)
        fields = [part for pair in values.items() for part in pair] + ["tp", outbox.tokens]
        if outbox.first_token_ms is not None:
            fields += ["f", outbox.first_token_ms]
        tries = 0
        if calls := _openings([outbox]):
            with suppress(Unavailable):
                await self._lifecycle.scripts.run_many(calls)
        # once sent it may have been done, which refuses a late append of ours too: only its own answer tells
        while tries or not outbox.lost:
            self._waiting.pop(outbox.message.member, None)
            first, flat = outbox.unsent()
            try:
                reply = await self._lifecycle.finish(outbox.message, outbox.token, status, fields, first, flat)
            except Unavailable:
                if not self.patient:
                    return None
                await anyio.sleep(RETRY_S[min(tries, len(RETRY_S) - 1)])
                tries += 1
                continue
            if isinstance(reply, int):
                outbox.refill(reply)
                continue
            return reply
        return None

    async def run(self) -> None:
        """Sends what waits, all messages in one round trip, for ever."""
        failures = 0
        while True:
            await self._work.wait()
            self._work = anyio.Event()
            batch = [outbox for outbox in self._waiting.values() if outbox.dirty]
            self._waiting = {}
            if not batch:
                continue
            try:
                failures = 0 if await self._send(batch) else failures + 1
            except Unavailable:
                failures += 1
            if failures:
                for outbox in batch:
                    self._mark(outbox)
                await anyio.sleep(RETRY_S[min(failures - 1, len(RETRY_S) - 1)])

    async def _send(self, batch: list[Outbox]) -> bool:
        keys = self._lifecycle.keys
        calls = [
            ("message_append", keys.message_base(o.message.account, o.message.id), o.append_arguments()) for o in batch
        ]
        counts = [outbox.count for outbox in batch]
        replies = await self._lifecycle.scripts.run_many(calls + _openings(batch))
        well = True
        for outbox, sent, reply in zip(batch, counts, replies, strict=False):
            if isinstance(reply, Exception):
                well = False
                log.warning("log.append_failed", message_id=outbox.message.id, error=type(reply).__name__)
                continue
            outbox.settle(sent, reply)
            if outbox.dirty:
                self._mark(outbox)
        return well

    def _mark(self, outbox: Outbox) -> None:
        if not outbox.lost:
            self._waiting[outbox.message.member] = outbox
            self._work.set()


def _openings(batch: list[Outbox]) -> list[Call]:
    """What has yet to be sent first, taken from the outboxes."""
    calls = [outbox.opening for outbox in batch if outbox.opening is not None]
    for outbox in batch:
        outbox.opening = None
    return calls
