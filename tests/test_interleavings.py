"""Every order of steps: random interleavings of a message's whole life, each process liable to die between any two.

The steps are `Lifecycle`'s own. What each sends to Redis waits at a gate until the schedule lets it through, so that
all orders come up that several processes can produce. A schedule is drawn from a seed: it starts operations, lets one
of those under way do its next step, ends their process, loses a reply (the client sends the step a second time, or
gives up), has leases and deadlines run out, and declares workers dead that go on nevertheless. Afterwards the
survivors are let finish, one healthy worker takes what waits, and what PROTOCOL promises must hold.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, cast

import anyio
import msgspec
import pytest

from app import ids
from app.chat.events import ATTEMPT_SPAN, Entry
from app.chat.lifecycle import Claimed, Lifecycle
from app.chat.liveness import Sweeper
from app.chat.message import FINAL, Message
from app.chat.scripts import Redis, Scripts
from app.errors import Conflict, NotFound, Unavailable
from app.redis_keys import Keys
from app.settings import Settings
from tests.rig import entries, lifecycle_on, new_message

IDS = ("m1", "m2", "m3")
ENDS = {"message.completed": "completed", "message.cancelled": "cancelled", "message.error": "error"}
SEEDS = range(40)
STEPS = 120


class Step:
    """One command of an operation, held until the schedule says what becomes of it."""

    def __init__(self) -> None:
        self.fate: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def through(self, execute: Callable[[], Awaitable[Any]]) -> Any:
        fate = await self.fate
        if fate == "unsent":
            raise Unavailable("the connection broke before the command was sent")
        reply = await execute()
        if fate == "twice":
            return await execute()
        if fate == "unheard":
            raise Unavailable("the connection broke before the reply came")
        return reply


class Operation:
    """A task at work in some process: it waits at its ``step``, or it is over."""

    def __init__(self, name: str, work: Coroutine[Any, Any, None], worker: str = "") -> None:
        self.name = name
        self.worker = worker
        self.step: Step | None = None
        self._moved = anyio.Event()
        self.task = asyncio.get_running_loop().create_task(self._run(work))

    async def _run(self, work: Coroutine[Any, Any, None]) -> None:
        RUNNING.set(self)
        try:
            await work
        except (Conflict, NotFound, Unavailable):
            pass  # what its caller would be told
        finally:
            self._moved.set()

    async def pass_gate(self, execute: Callable[[], Awaitable[Any]]) -> Any:
        self.step = Step()
        self._moved.set()
        return await self.step.through(execute)

    async def settled(self) -> bool:
        """Waits until it stands at its next step; False when it is over."""
        await self._moved.wait()
        if self.task.done() or self.step is None:
            await asyncio.wait([self.task])
            self.task.result()
            return False
        return True

    async def advance(self, fate: str) -> bool:
        step, self.step = self.step, None
        assert step is not None
        self._moved = anyio.Event()
        step.fate.set_result(fate)
        return await self.settled()

    async def die(self) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])


class Running:
    """The operation whose task is asking."""

    def __init__(self) -> None:
        self._by_task: dict[asyncio.Task[Any], Operation] = {}

    def set(self, operation: Operation) -> None:
        self._by_task[cast(Any, asyncio.current_task())] = operation

    def get(self) -> Operation | None:
        return self._by_task.get(cast(Any, asyncio.current_task()))


RUNNING = Running()


class GatedScripts(Scripts):
    async def run(self, name: str, base: str, *args: Any) -> Any:
        operation = RUNNING.get()
        plain = super().run
        if operation is None:
            return await plain(name, base, *args)
        return await operation.pass_gate(lambda: plain(name, base, *args))


class GatedLifecycle(Lifecycle):
    def __init__(self, redis: Redis, keys: Keys, settings: Settings) -> None:
        super().__init__(redis, keys, settings)
        self.scripts = GatedScripts(redis)
        self.queue._scripts = self.scripts

    async def read(self, account: str, message_id: str) -> Any:
        operation = RUNNING.get()
        plain = super().read
        if operation is None:
            return await plain(account, message_id)
        return await operation.pass_gate(lambda: plain(account, message_id))


class World:
    """Three messages of one account, some workers, and a schedule."""

    def __init__(self, lifecycle: Lifecycle, seed: int) -> None:
        self.lifecycle = lifecycle
        self.random = random.Random(seed)
        self.operations: list[Operation] = []
        self.history: list[str] = []
        self.created: set[str] = set()
        self.finals: dict[str, str] = {}
        self.logs: dict[str, list[Entry]] = {}
        self.answers: list[tuple[str, str]] = []
        self.workers = 0
        self.sweepers = [Sweeper(lifecycle) for _ in range(2)]
        for sweeper in self.sweepers:
            sweeper._judge_from = 0.0

    # what processes do

    async def create(self, message_id: str) -> None:
        new = new_message(message_id, digest=self.random.choice(["", "same"]), max_running=2)
        await self.lifecycle.create(new)

    async def cancel(self, message_id: str) -> None:
        await self.lifecycle.cancel("acc", message_id)
        self.answers.append(("cancelled", message_id))

    async def delete(self, message_id: str) -> None:
        await self.lifecycle.delete("acc", message_id)
        self.answers.append(("deleted", message_id))

    async def sweep(self) -> None:
        for base in self.lifecycle.keys.bases:
            await self.random.choice(self.sweepers).sweep(base, lock_ms=1)

    async def work(self, worker: str, tokens: int, outcome: str) -> None:
        """What a generate worker does, in its order."""
        for base in self.lifecycle.keys.bases:
            token = ids.token()
            try:
                taken = await self.lifecycle.take(base, 1, worker, token)
            except Unavailable:
                taken = await insist(lambda base=base, token=token: self.lifecycle.taken(base, worker, token))
            for member, claimed in taken:
                if own := claimed or await self._claim(member, worker):
                    await self._generate(own[0], tokens, outcome)

    async def _claim(self, member: str, worker: str) -> Claimed | None:
        token = ids.token()
        return cast(Any, await insist(lambda: self.lifecycle.claim(*member.split("/"), worker, token)))

    async def _generate(self, message: Message, tokens: int, outcome: str) -> None:
        member, message_id, token = message.member, message.id, message.token
        base = self.lifecycle.keys.message_base(message.account, message_id)
        seq = message.last_seq
        for _ in range(tokens):
            args = (member, token, 1, 1, "", seq + 1, "t0", f"{message.attempt}")
            reply = await insist(lambda args=args: self.lifecycle.scripts.run("message_append", base, *args))
            if reply is None:
                await self._give_up(member, token)
                return
            assert reply == seq + 2, (reply, seq)
            seq += 1
        if outcome == "handback":
            await self._give_up(member, token)
            return
        last = [b"z", b""] if outcome == "completed" else [b"x", b'{"error":{}}']
        final = await insist(lambda: self.lifecycle.finish(message, token, cast(Any, outcome), [], seq + 1, last))
        if final is not None:
            self.answers.append((outcome, message_id))

    async def _give_up(self, member: str, token: str) -> None:
        await insist(lambda: self.lifecycle.hand_back(member, token))

    # what the schedule does

    async def start(self) -> None:
        kind = self.random.choices(["create", "work", "cancel", "delete", "sweep"], [5, 8, 2, 1, 4])[0]
        message_id = self.random.choice(IDS)
        if kind == "work":
            self.workers += 1
            worker = f"generate-{self.workers}"
            await self.beat(worker)
            outcome = self.random.choice(["completed", "completed", "error", "handback"])
            await self._enlist(kind, self.work(worker, self.random.randint(0, 3), outcome), worker)
        elif kind == "sweep":
            await self._enlist(kind, self.sweep())
        else:
            await self._enlist(f"{kind} {message_id}", getattr(self, kind)(message_id))

    async def _enlist(self, name: str, work: Coroutine[Any, Any, None], worker: str = "") -> None:
        self.history.append(f"start {name} {worker}")
        operation = Operation(name, work, worker)
        if await operation.settled():
            self.operations.append(operation)

    async def advance(self) -> None:
        operation = self.random.choice(self.operations)
        fate = self.random.choices(["go", "twice", "unheard", "unsent"], [12, 1, 1, 1])[0]
        self.history.append(f"{fate} {operation.name} {operation.worker}")
        if not await operation.advance(fate):
            self.operations.remove(operation)

    async def kill(self) -> None:
        operation = self.random.choice(self.operations)
        self.history.append(f"kill {operation.name} {operation.worker}")
        self.operations.remove(operation)
        await operation.die()
        if operation.worker:
            await self.silence(operation.worker)

    async def beat(self, worker: str) -> None:
        for base in self.lifecycle.keys.bases:
            await self.lifecycle.scripts.run("worker_renew", base, worker, 600_000)

    async def silence(self, worker: str) -> None:
        for base in self.lifecycle.keys.bases:
            await self.lifecycle.redis.delete(f"{base}alive:{worker}")

    async def take_for_dead(self) -> None:
        if workers := [o.worker for o in self.operations if o.worker]:
            worker = self.random.choice(workers)
            self.history.append(f"taken for dead {worker}")
            await self.silence(worker)

    async def pass_time(self, *names: str) -> None:
        """Every entry of these schedules is due."""
        for base in self.lifecycle.keys.bases:
            for name in names:
                for member, _ in await self.lifecycle.redis.zrange(f"{base}{name}", 0, -1, withscores=True):
                    await self.lifecycle.redis.zadd(f"{base}{name}", {member: 1}, xx=True)

    async def exceed_deadline(self) -> None:
        message_id = self.random.choice(IDS)
        key = self.lifecycle.keys.message("acc", message_id)
        base = self.lifecycle.keys.message_base("acc", message_id)
        if await self.lifecycle.redis.exists(key):
            self.history.append(f"deadline {message_id}")
            await self.lifecycle.redis.hset(key, "p", 1)
            await self.lifecycle.redis.zadd(f"{base}due", {f"acc/{message_id}": 1}, xx=True)

    async def run(self) -> None:
        for _ in range(STEPS):
            draw = self.random.random()
            if draw < 0.03:
                await self.exceed_deadline()
            elif draw < 0.09:
                self.history.append("time passes")
                await self.pass_time("leases", "check")
            elif draw < 0.12:
                await self.take_for_dead()
            elif self.operations and draw < 0.16:
                await self.kill()
            elif self.operations and draw < 0.8:
                await self.advance()
            else:
                await self.start()
            await self.check()
        await self.finish()

    async def finish(self) -> None:
        """The survivors come to their end, the dead are found, a healthy worker takes what waits."""
        while self.operations:
            operation = self.operations[0]
            if not await operation.advance("go"):
                self.operations.remove(operation)
            await self.check()
        for worker in range(1, self.workers + 1):
            await self.silence(f"generate-{worker}")
        await self.beat("generate-healthy")
        self.history.append("survivors are done")
        for _ in range(12):
            await self.pass_time("leases", "check")
            await self.sweep()
            for _ in IDS:
                await self.work("generate-healthy", 1, "completed")
            await self.check()
            await anyio.sleep(0.002)  # the sweeper's lock

    # what must hold

    async def check(self) -> None:
        """After every step: final stays final, events keep their numbers, and nothing follows the last."""
        for message_id in IDS:
            message = await self.lifecycle.read("acc", message_id)
            if message is not None:
                self.created.add(message_id)
                known = self.finals.get(message_id)
                assert known in (None, message.status), (message_id, known, message.status)
            if message is not None and message.status in FINAL:
                self.finals[message_id] = message.status
                assert message.done is not None
                assert not message.worker
            log = await entries(self.lifecycle, message_id)
            before = self.logs.get(message_id, [])
            assert log[: len(before)] == before, message_id
            self.logs[message_id] = log
            ends = [entry for entry in log if entry.terminal]
            assert len(ends) <= 1, message_id
            assert not ends or log[-1] is ends[0], message_id
            if message is not None:
                assert (message.status in FINAL) == bool(ends)
                assert message.last_seq == (log[-1].seq if log else 0)

    async def judge(self) -> None:
        """At the end of all: every message ended once, and nothing is held by anybody."""
        for message_id in self.created:
            log = self.logs[message_id]
            assert log[-1].terminal, f"{message_id} never ended"
            assert_dense(log)
        redis, keys = self.lifecycle.redis, self.lifecycle.keys
        names = [
            *(f"{b}{n}" for b in keys.bases for n in ("due", "check", "unseen", "leases", "ready")),
            *[f"{keys.account_base('acc')}{n}:acc" for n in ("wait", "run")],
        ]
        for name in names:
            assert not await redis.exists(name), f"{name} holds something"
        assert not [key async for key in redis.scan_iter(match=f"{keys.prefix}:*own:*")]
        for outcome, message_id in self.answers:
            message = await self.lifecycle.read("acc", message_id)
            if outcome == "deleted":
                assert message is None
            elif message is not None:
                assert message.status == outcome
        await self.judge_feed()

    async def judge_feed(self) -> None:
        rows = await self.lifecycle.redis.xrange(self.lifecycle.keys.feed("acc"))
        told: dict[str, list[str]] = {message_id: [] for message_id in IDS}
        for _, fields in rows:
            data = msgspec.json.decode(fields[b"d"])["data"]
            told[data["message_id"]].append(fields[b"k"].decode())
        for message_id, kinds in told.items():
            ends = [kind for kind in kinds if kind in ENDS]
            assert kinds.count("message.created") == len(ends) <= 1, (message_id, kinds)
            if ends:
                assert kinds[0] == "message.created", (message_id, kinds)
                assert kinds[-1] == ends[0], (message_id, kinds)
                assert ENDS[ends[0]] == self.finals.get(message_id, "cancelled"), (message_id, kinds)


async def insist(step: Callable[[], Awaitable[Any]]) -> Any:
    """A worker tries again while Redis does not answer."""
    while True:
        try:
            return await step()
        except Unavailable:
            continue


def assert_dense(log: list[Entry]) -> None:
    for before, entry in zip([None, *log], log, strict=False):
        if before is None or entry.seq != before.seq + 1:
            assert entry.seq % ATTEMPT_SPAN == 1, [e.seq for e in log]


@pytest.mark.parametrize("partitions", [1, 5])
@pytest.mark.parametrize("first", range(0, len(SEEDS), 10))
async def test_whatever_the_order_of_steps(settings: Settings, first: int, partitions: int):
    """PROTOCOL X2, D2, E1, E2, E3, A1."""
    for seed in SEEDS[first : first + 10]:
        changed = msgspec.structs.replace(
            settings, partitions=partitions, max_attempts=4, redis_prefix=f"{settings.redis_prefix}:{seed}"
        )
        async with lifecycle_on(changed) as plain:
            world = World(GatedLifecycle(plain.redis, plain.keys, changed), seed)
            try:
                await world.run()
                await world.judge()
            except AssertionError as error:
                error.add_note(f"seed {seed}:\n" + "\n".join(world.history))
                raise
            finally:
                for operation in world.operations:
                    await operation.die()
