"""Generating answers: take a waiting message, ask its model, write every event, finish it.

The path of one message through `GenerateWorker`: take it from the queue, claimed under a fresh token, put
memories before the model's eyes where that is asked for, open the model, turn its deltas into events, hand them to
the writer, and put the final state in one step with the last event.

Who ends a generation, and what it then does:

==================  =========================================  ==========================================
ended by            how it is noticed                          what is written
==================  =========================================  ==========================================
the model           the stream ends                            the rest, message_stop, ``completed``
an upstream error   `UpstreamFailed`                           the rest, ``error``
cancel, deletion,   a hint, a refused append, or the heart's   nothing: the message is no longer ours
another owner       renewal
silence             the watch, ``idle_seconds``                the rest, ``error``
the deadline        the sweep of any process                   nothing: the sweep has ended it
too much output     counting                                   the rest, ``error``
this worker stops   `GenerateWorker.stop` after the drain      the message is handed back and restarts
==================  =========================================  ==========================================

The upstream connection is closed in every case when `Model.stream` is left.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Literal

import anyio
import msgspec
import structlog
from anyio.abc import TaskGroup

from app import ids
from app.chat.events import Assembler, error_value, with_request_id
from app.chat.lifecycle import Claimed, Lifecycle, Taken
from app.chat.liveness import Heart
from app.chat.message import Message
from app.chat.writer import RETRY_S, Outbox, Writer
from app.errors import Unavailable, UpstreamFailed
from app.llm.types import Model, Request
from app.settings import Settings
from app.telemetry import Metrics
from app.workers.recalling import Recaller

POLL_S = 1.0
"""How long waiting work can be overlooked when a wake-up hint is lost."""

WATCH_S = 0.5

log = structlog.get_logger(__name__)

Why = Literal["", "lost", "silent", "stopping"]


class Generation:
    """One attempt under way in this process."""

    def __init__(self, member: str) -> None:
        self.member = member
        self.scope = anyio.CancelScope()
        self.why: Why = ""
        self.message: Message | None = None
        self.complete = False
        self.heard = time.monotonic()

    def stop(self, why: Why) -> None:
        if not self.why:
            self.why = why
            self.scope.cancel()


class GenerateWorker:
    """Runs up to ``settings.worker_slots`` generations at once in one process."""

    def __init__(
        self,
        lifecycle: Lifecycle,
        open_model: Callable[[str], Model],
        settings: Settings,
        metrics: Metrics,
        recaller: Recaller | None = None,
    ) -> None:
        self._lifecycle = lifecycle
        self._open_model = open_model
        self._settings = settings
        self._metrics = metrics
        self._recaller = recaller
        self._running: dict[str, Generation] = {}
        self._wake = anyio.Event()
        self._ended = anyio.Event()
        self._stopping = False
        self._full = False
        self._until_idle = False
        self._unheard: tuple[str, str, str] | None = None  # what was asked for last, while no answer has come
        self._turn = 0
        self.writer = Writer(lifecycle)
        self.heart = Heart(lifecycle, "generate", self._owned, self._on_lost)

    @property
    def channels(self) -> dict[str, Callable[[bytes], None]]:
        """The hints this worker listens to."""
        keys = self._lifecycle.keys
        return {
            keys.channel("wake"): lambda _: self._wake.set(),
            keys.channel(f"ctl:{self.heart.name}"): lambda member: self._on_lost(member.decode()),
        }

    @property
    def busy(self) -> bool:
        """Whether messages are under way."""
        return bool(self._running)

    async def run(self, *, until_idle: bool = False) -> None:
        """Claims and generates until `stop`, or until nothing waits any more; returns when the last one has ended."""
        self._until_idle = until_idle
        await self._first_beat()
        async with anyio.create_task_group() as background:
            background.start_soon(self.writer.run)
            background.start_soon(self.heart.run)
            background.start_soon(self._watch)
            async with anyio.create_task_group() as generations:
                await self._claim_loop(generations)
            background.cancel_scope.cancel()
        with anyio.CancelScope(shield=True), anyio.move_on_after(1):
            await self._goodbye()

    async def stop(self) -> None:
        """Claims nothing more, lets running messages go on for ``drain_s``, then hands them back."""
        self._stopping = True
        self._wake.set()
        if self._running:
            log.info("worker.finishing", messages=len(self._running), at_most_s=self._settings.drain_s)
        with anyio.move_on_after(self._settings.drain_s):
            while self._running:
                self._ended = anyio.Event()
                await self._ended.wait()
        self.writer.patient = False
        for generation in list(self._running.values()):
            generation.stop("stopping")

    async def _first_beat(self) -> None:
        tries = 0
        while True:
            try:
                return await self.heart.beat()
            except Unavailable:
                await anyio.sleep(RETRY_S[min(tries, len(RETRY_S) - 1)])
                tries += 1

    async def _goodbye(self) -> None:
        try:
            await self.heart.stop()
        except Unavailable:
            log.warning("worker.goodbye_failed", worker=self.heart.name)

    async def _claim_loop(self, generations: TaskGroup) -> None:
        while not self._stopping:
            self._wake = anyio.Event()
            wake = self._wake
            try:
                taken = await self._claim()
            except Unavailable as error:
                self._metrics.unavailable(error)
                await anyio.sleep(0.3)
                continue
            for member, claimed in taken:
                if lost := self._running.get(member):
                    lost.stop("lost")  # it was taken from us and comes back before we have learned of it
                generation = self._running[member] = Generation(member)
                generations.start_soon(self._generate, generation, claimed)
            # a slot that comes free is news only where more may wait than there was room for
            self._full = len(self._running) >= self._settings.worker_slots
            if self._until_idle and not self._running:
                return
            with anyio.move_on_after(POLL_S):
                await wake.wait()

    async def _claim(self) -> list[Taken]:
        taken = [] if self._unheard is None else await self._lifecycle.taken(*self._unheard)
        self._unheard = None
        bases = self._lifecycle.keys.bases
        self._turn += 1
        for i in range(len(bases)):
            free = self._settings.worker_slots - len(self._running) - len(taken)
            if free <= 0:
                break
            base, worker, token = bases[(self._turn + i) % len(bases)], self.heart.name, ids.token()
            self._unheard = (base, worker, token)
            try:
                taken += await self._lifecycle.take(base, free, worker, token)
            except Unavailable:
                if not taken:
                    raise
                break
            self._unheard = None
        if self._stopping:
            await self._put_back(taken)
            return []
        return taken

    async def _put_back(self, taken: list[Taken]) -> None:
        """What was taken while `stop` was called waits again; nobody else would see to it or stop it."""
        for member, claimed in taken:
            try:
                if claimed is None:
                    await self._lifecycle.put_back(member)
                else:
                    await self._lifecycle.hand_back(member, claimed[0].token)
            except Unavailable:
                return  # the leases run out, or this worker is found dead

    def _owned(self) -> list[str]:
        return [g.member for g in self._running.values() if g.message is not None and g.why != "lost"]

    def _on_lost(self, member: str) -> None:
        if generation := self._running.get(member):
            generation.stop("lost")

    async def _watch(self) -> None:
        """Ends generations whose model has been silent for too long."""
        while True:
            await anyio.sleep(WATCH_S)
            now = time.monotonic()
            for generation in list(self._running.values()):
                if generation.message and now - generation.heard > generation.message.idle_s:
                    generation.stop("silent")

    async def _generate(self, generation: Generation, claimed: Claimed | None) -> None:
        try:
            claimed = claimed or await self._claim_message(generation.member)
            if claimed is not None:
                with self._metrics.generating():
                    await self._attempt(generation, *claimed)
        finally:
            if self._running[generation.member] is generation:
                del self._running[generation.member]
            self._ended.set()
            if self._full or self._until_idle:
                self._wake.set()

    async def _claim_message(self, member: str) -> Claimed | None:
        """Asks until it is answered: were only the reply lost, the message would be with a worker that is alive and
        does not know of it. A stopping worker may leave it: it is found when the worker's liveness has ended."""
        account, _, message_id = member.partition("/")
        name, token, tries = self.heart.name, ids.token(), 0
        while True:
            try:
                return await self._lifecycle.claim(account, message_id, name, token)
            except Unavailable:
                if self._stopping:
                    return None
                await anyio.sleep(RETRY_S[min(tries, len(RETRY_S) - 1)])
                tries += 1

    async def _attempt(self, generation: Generation, message: Message, request: bytes, restart: bytes) -> None:
        generation.message = message
        generation.heard = time.monotonic()
        opening = self._lifecycle.queue.started(message) if message.attempt == 1 else None
        outbox = Outbox(message, message.token, restart, lambda: generation.stop("lost"), opening)
        assembler = Assembler(message.id, message.model)
        failure: UpstreamFailed | None = None
        with generation.scope:
            failure = await self._try(generation, outbox, assembler, request)
        with anyio.CancelScope(shield=True):
            await self._conclude(generation, outbox, assembler, failure)

    async def _try(
        self, generation: Generation, outbox: Outbox, assembler: Assembler, request: bytes
    ) -> UpstreamFailed | None:
        """Streams the answer; what failed, if anything did."""
        try:
            await self._stream(generation, outbox, assembler, request)
            generation.complete = True
            return None
        except UpstreamFailed as error:
            return error
        except msgspec.ValidationError:
            return _failed("invalid_request_error", "INVALID_REQUEST", "The stored request cannot be read.")
        except Exception:
            log.exception("generation.crashed", message_id=outbox.message.id)
            return _failed("api_error", "INTERNAL_ERROR", "The answer could not be generated.")

    async def _stream(self, generation: Generation, outbox: Outbox, assembler: Assembler, request: bytes) -> None:
        message = outbox.message
        # both clocks meet here: `updated` is Redis's time of the claim that has just been answered
        began = time.monotonic() - (message.updated - message.created) / 1000
        self.writer.put(outbox, assembler.start())
        wanted = msgspec.json.decode(request, type=Request)
        if message.recall and self._recaller is not None:
            wanted, recalled = await self._recaller.recall(message, wanted)
            self.writer.put(outbox, [(b"y", recalled)])
        async with self._open_model(wanted.model).stream(wanted) as batches:
            async for batch in batches:
                generation.heard = time.monotonic()
                if not (drafts := assembler.feed(batch)):
                    continue
                if outbox.first_token_ms is None and assembler.deltas:
                    outbox.first_token_ms = round((time.monotonic() - began) * 1000)
                    self._metrics.first_token(outbox.first_token_ms / 1000)
                outbox.tokens = assembler.deltas
                self.writer.put(outbox, drafts)
                self._check_output(outbox, assembler)

    def _check_output(self, outbox: Outbox, assembler: Assembler) -> None:
        settings = self._settings
        if assembler.output_bytes > settings.max_output_bytes or outbox.count > settings.max_output_events:
            raise _failed(
                "invalid_request_error",
                "OUTPUT_LIMIT",
                f"The answer grew past {settings.max_output_bytes} bytes or {settings.max_output_events} events.",
            )

    async def _conclude(
        self, generation: Generation, outbox: Outbox, assembler: Assembler, failure: UpstreamFailed | None
    ) -> None:
        message = outbox.message
        if generation.why == "lost":
            # a hint may be older than the claim: what is still ours after all goes on elsewhere
            await self._hand_back(message, outbox, "abandoned")
            return
        if generation.why == "stopping" and failure is None and not generation.complete:
            await self._hand_back(message, outbox, "handed_back")
            return
        if generation.why == "silent" and not generation.complete:
            failure = _failed(
                "timeout_error", "IDLE_TIMEOUT", f"The model was silent for more than {message.idle_s} seconds."
            )
        if failure is None:
            status: Literal["completed", "error"] = "completed"
            drafts, values = assembler.end(), _values(assembler)
        else:
            status = "error"
            explanation = failure.explanation
            value = with_request_id(
                error_value(failure.type, str(failure), failure.code, explanation), message.request_id
            )
            drafts, values = [(b"x", value)], _values(assembler) | {"er": value}
        final = await self.writer.finish(outbox, drafts, status, values)
        self._say(final or message, final.status if final else "abandoned", outbox, failure)

    async def _hand_back(self, message: Message, outbox: Outbox, outcome: str) -> None:
        outbox.lost = True
        with anyio.move_on_after(2):
            try:
                await self._lifecycle.hand_back(message.member, outbox.token)
            except Unavailable:
                log.warning("message.hand_back_failed", message_id=message.id)  # the sweep finds it
        self._say(message, outcome, outbox)

    def _say(self, message: Message, outcome: str, outbox: Outbox, failure: UpstreamFailed | None = None) -> None:
        self._metrics.generation_ended(outcome, outbox.tokens)
        say = log.warning if failure else log.info
        say(
            f"{'message' if message.final else 'generation'}.{outcome}",
            message_id=message.id,
            account=message.account,
            model=message.model,
            attempt=message.attempt,
            tokens=outbox.tokens,
            first_token_ms=outbox.first_token_ms,
            error=failure.code if failure else None,
            reason=failure.explanation if failure else None,
        )


def _failed(kind: str, code: str, explanation: str) -> UpstreamFailed:
    return UpstreamFailed(explanation, type=kind, code=code, explanation=explanation)


def _values(assembler: Assembler) -> dict[str, Any]:
    values: dict[str, Any] = {}
    if assembler.usage:
        values |= {"it": assembler.usage.input_tokens, "ot": assembler.usage.output_tokens}
        if assembler.usage.cost_usd is not None:
            values["$"] = assembler.usage.cost_usd
    if assembler.stop:
        values["sr"] = assembler.stop.reason
        if assembler.stop.sequence is not None:
            values["ss"] = assembler.stop.sequence
    if assembler.tools:
        values["tu"] = "\x1f".join(assembler.tools)
    return values
