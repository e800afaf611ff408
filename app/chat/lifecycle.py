"""The life of a message: the only writer of its state. Every step is one Lua script.

Choices:

1. A step that also moves the account's queue is two scripts, the message's first. What dies between them is found by
   `liveness` (a lapsed lease or a check that is due) and finished from the message's own state. What a first token
   waits for is one script of both where one partition holds both: a round trip less, and nothing to die between them.
2. The caller of a step is answered only after both scripts; a message whose creation the queue refuses is taken back.
   A twin that arrives under the same Idempotency-Key between two scripts may be told of a message that is gone.
3. The account's feed event is posted in the script that frees the message's place, so a repair repeats nothing.

Who wins: the first script to put a final state. Afterwards append, finish, cancel, expire and abandon change nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, cast

import msgspec
import structlog

from app import ids
from app.chat.events import error_value
from app.chat.message import Message, Storing, from_hash
from app.chat.queue import LEASE_MS, Queue
from app.chat.scripts import Redis, Scripts, pairs, redis_door
from app.errors import Conflict, NotFound, RateLimited, Unavailable
from app.redis_keys import Keys
from app.settings import Settings

TAKEN = "this message_id is already in use"
TAKEN_ONCE = "this Idempotency-Key was used with another request, or this message_id is already in use"
OBSERVERS_GRACE_MS = 10_000
"""How long the log of a deleted message stays for observers that are still reading it."""

DEADLINE_ERROR = error_value(
    "timeout_error", "deadline exceeded", "DEADLINE_EXCEEDED", "The answer was not finished before its deadline."
)
WORKER_LOST_ERROR = error_value(
    "api_error", "the worker was lost", "WORKER_LOST", "The process generating the answer was lost."
)


log = structlog.get_logger(__name__)


class NewMessage(msgspec.Struct, kw_only=True):
    """What initiate asks for, checked and completed with defaults. ``request`` is the models' request as JSON."""

    id: str
    account: str
    user: str
    key_id: str
    request_id: str
    model: str
    message_count: int
    request: bytes
    metadata: dict[str, Any]
    thread: str = ""
    stream_type: str = "default"
    deadline_s: int
    idle_s: int
    retention_s: int
    unseen_s: int = 0
    on_worker_loss: Literal["restart", "error"] = "restart"
    store: Storing = "yes"
    recall: int = 0
    digest: str = ""
    max_running: int
    max_queued: int


Why = Literal["user", "unobserved", "deleted"]
"""Why a message is cancelled, as its ``message_cancelled`` says."""


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one message in memory. ``created``: of the message that is meant, for an id may come again."""

    account: str
    message_id: str
    created: int
    status: Literal["stored", "skipped", "failed"]
    memory_ids: list[str] = []
    error: str | None = None


Claimed = tuple[Message, bytes, bytes]
"""A claimed message, its request as JSON, and the value of the restart event its attempt began with (or empty)."""

Taken = tuple[str, Claimed | None]
"""A message that was taken from the queue, and its claim unless that is yet to be made."""


class Lifecycle:
    """Steps of messages in one Redis. Every method raises `Unavailable` when Redis does not answer."""

    def __init__(
        self, redis: Redis, keys: Keys, settings: Settings, on_end: Callable[[str], None] = lambda _: None
    ) -> None:
        self._on_end = on_end  # told the status of every message that this process ends
        self.redis = redis
        self.keys = keys
        self.settings = settings
        self.scripts = Scripts(redis, (settings.wait_replicas, settings.wait_ms))
        self.queue = Queue(self.scripts, keys, settings)
        self._channels = f"{keys.prefix}:"

    async def create(self, new: NewMessage) -> int:
        """Creates the message and puts it in its account's queue; answers the time of creation in ms.

        Raises Conflict when the id is taken, RateLimited when the account's queue is full (nothing remains then).
        """
        base, member = self.keys.message_base(new.account, new.id), f"{new.account}/{new.id}"
        nonce = ids.token()
        create = (
            *(member, nonce, new.retention_s, new.deadline_s * 1000, new.unseen_s, new.digest, new.request),
            *_creation_fields(new),
        )
        message = _as_created(new)
        _, queue_base, enter = self.queue.enter(message, new.max_running, new.max_queued)
        if queue_base == base:
            reply = await self.scripts.run_durably("message_create_enter", base, len(create), *create, *enter)
        else:
            reply = await self.scripts.run_durably("message_create", base, *create)
            if reply[0] == b"created":
                message.created = int(reply[1])
                name, queue_base, enter = self.queue.enter(message, new.max_running, new.max_queued)
                if not await self.scripts.run(name, queue_base, *enter):
                    await self.scripts.run("message_undo", base, member, nonce)
                    reply = [b"full"]
        if reply[0] == b"taken":
            raise Conflict(TAKEN_ONCE if new.digest else TAKEN, message_id=new.id)
        if reply[0] == b"full":
            raise RateLimited(f"the account already has {new.max_queued} messages waiting", retry_after=1)
        return int(reply[1])

    async def read(self, account: str, message_id: str) -> Message | None:
        """The message, or None when it never was, is deleted, or is past its retention."""
        with redis_door():
            fields = await self.redis.hgetall(self.keys.message(account, message_id))
        return from_hash(f"{account}/{message_id}", cast(dict[bytes, bytes], fields)) if fields else None

    async def read_many(self, members: Sequence[str]) -> list[Message | None]:
        """`read` for several (``<account>/<id>``), in one round trip, in the order asked."""
        with redis_door():
            async with self.redis.pipeline(transaction=False) as pipe:
                for member in members:
                    account, _, message_id = member.partition("/")
                    pipe.hgetall(self.keys.message(account, message_id))
                rows = await pipe.execute()
        return [from_hash(member, row) if row else None for member, row in zip(members, rows, strict=True)]

    async def take(self, base: str, most: int, worker: str, token: str) -> list[Taken]:
        """Takes up to ``most`` waiting messages of the partition, accounts in turn, each with a running slot.

        They are claimed by the same step where there is one partition; elsewhere each is yet to be claimed. After
        Unavailable `taken` must be asked what it took.
        """
        if len(self.keys.bases) > 1:
            return [(member, None) for member in await self.queue.claim(base, most)]
        return await self._take(base, most, worker, token, again=0)

    async def taken(self, base: str, worker: str, token: str) -> list[Taken]:
        """What a `take` whose answer was lost has claimed; it takes nothing more, should it only run now."""
        return [] if len(self.keys.bases) > 1 else await self._take(base, 0, worker, token, again=1)

    async def claim(self, account: str, message_id: str, worker: str, token: str) -> Claimed | None:
        """Takes the message for ``worker`` under ``token``; None when there is nothing to do (its place is freed)."""
        member = f"{account}/{message_id}"
        reply = await self.scripts.run(
            "message_claim", self.keys.message_base(account, message_id), member, worker, token
        )
        return await self._claimed(member, reply)

    async def finish(
        self,
        message: Message,
        token: str,
        status: Literal["completed", "error"],
        values: list[str | bytes | int | float],
        first: int,
        events: list[bytes],
    ) -> Message | int | None:
        """The worker's last word. The final record, or the seq after which events must be sent again, or None: lost."""
        reply = await self.scripts.run_durably(
            "message_finish",
            self.keys.message_base(message.account, message.id),
            message.member,
            token,
            status,
            len(values),
            *values,
            first,
            *events,
        )
        if reply[0] == b"done":
            final = from_hash(message.member, pairs(reply[1:]))
            self._on_end(final.status)
            await self.queue.leave(final)
            return final
        return int(reply[1]) if reply[0] == b"refill" else None

    async def cancel(self, account: str, message_id: str, why: Why = "user") -> Message:
        """Cancels a pending or processing message; a cancelled one answers the same again.

        Raises NotFound, or Conflict (with ``status``) when it has completed or failed already.
        """
        member = f"{account}/{message_id}"
        value = msgspec.json.encode({"reason": why})
        reply = await self.scripts.run_durably(
            "message_cancel", self.keys.message_base(account, message_id), member, self._channels, why, value
        )
        if reply[0] == b"gone":
            raise missing(message_id)
        message = from_hash(member, pairs(reply[1:]))
        if reply[0] == b"cancelled":
            self._say_ended(message, reason=why)
        if reply[0] in (b"cancelled", b"already"):  # or cancelled by one that died before it freed the place
            await self.queue.leave(message)
        elif reply[0] == b"final":
            raise ended_already(message)
        return message

    async def delete(self, account: str, message_id: str) -> Message:
        """Deletes the message, cancelling it first when it is active; its last record. Raises NotFound."""
        message = await self.read(account, message_id)
        if message is not None and not message.final:
            try:
                message = await self.cancel(account, message_id, "deleted")
            except Conflict:
                message = await self.read(account, message_id)
        if message is None or not message.final:
            raise missing(message_id)
        # the list and the feed first: with the record goes all that a repair could learn of the message's end
        await self.queue.leave(message, unlist=True)
        reply = await self.scripts.run_durably(
            "message_delete",
            self.keys.message_base(account, message_id),
            message.member,
            self._channels,
            msgspec.json.encode({"reason": "deleted"}),
            OBSERVERS_GRACE_MS,
            ids.token(),
        )
        if reply == b"gone":
            raise missing(message_id)
        return message

    async def deleted(self, account: str, message_id: str) -> bool:
        """Whether the message was deleted, for as long as its retention would have lasted."""
        with redis_door():
            return bool(await self.redis.exists(self.keys.tombstone(account, message_id)))

    async def note_remembered(self, notes: Iterable[Note]) -> None:
        """Has statuses tell what became of their messages in memory. Messages that are gone are passed over."""
        calls: list[tuple[str, str, tuple[Any, ...]]] = []
        for note in notes:
            member = f"{note.account}/{note.message_id}"
            args = (member, note.created, note.status, " ".join(note.memory_ids), note.error or "")
            calls.append(("message_remembered", self._base(member), args))
        await self.scripts.run_all(calls)

    async def expire(self, member: str) -> Message | None:
        """Ends a message whose deadline has passed; None when it has not, or has ended."""
        reply = await self.scripts.run("message_expire", self._base(member), member, self._channels, DEADLINE_ERROR)
        if reply[0] == b"none":
            return None
        message = from_hash(member, pairs(reply[1:]))
        if reply[0] == b"failed":
            self._say_ended(message, reason="deadline")
        await self.queue.leave(message)
        return message if reply[0] == b"failed" else None

    async def take_from_dead(self, member: str, worker: str) -> Message | None:
        """Takes the message from a worker found dead: it restarts, or ends with an error. None: nothing to take."""
        return await self._abandon(member, "dead", worker, "worker_lost")

    async def hand_back(self, member: str, token: str) -> Message | None:
        """A stopping worker gives up its claim; the message restarts elsewhere, and it does not count as a loss."""
        return await self._abandon(member, "handback", token, "worker_stopped")

    async def put_back(self, member: str) -> None:
        """A worker took the message's place in the queue and will not claim it: it waits again, at its old place."""
        account, _, message_id = member.partition("/")
        message = await self.read(account, message_id)
        if message is not None and not message.final and not message.worker:
            await self.queue.requeue(message)

    async def seen(self, messages: Iterable[Message]) -> None:
        """Renews the observed-lease of messages that are cancelled when nobody watches them (``unseen_s`` > 0)."""
        by_base: dict[str, list[str | int]] = {}
        for message in messages:
            by_base.setdefault(self._base(message.member), []).extend((message.member, message.unseen_s))
        replies = await self.scripts.run_many([("message_seen", base, tuple(args)) for base, args in by_base.items()])
        for reply in replies:
            if isinstance(reply, Exception):
                raise Unavailable("Redis refused to renew an observed-lease") from reply

    async def repair(self, member: str) -> None:
        """Finishes what a dead process left between the two scripts of a step, from the message's own state."""
        account, _, message_id = member.partition("/")
        message = await self.read(account, message_id)
        if message is None:
            await self.queue.forget(account, message_id)
        elif message.final:
            await self.queue.leave(message)
        elif message.worker:
            await self.queue.renew([member])
        else:
            await self.queue.offer(message)
        with redis_door():
            await self.redis.zrem(f"{self._base(member)}check", member)

    async def _take(self, base: str, most: int, worker: str, token: str, again: int) -> list[Taken]:
        flat = await self.scripts.run("message_take", base, most, LEASE_MS, worker, token, again)
        replies = [(member.decode(), reply) for member, reply in zip(flat[::2], flat[1::2], strict=True)]
        claims = [(member, await self._claimed(member, reply)) for member, reply in replies]
        return [(member, claimed) for member, claimed in claims if claimed is not None]

    async def _claimed(self, member: str, reply: list[Any]) -> Claimed | None:
        if reply[0] == b"claimed":
            return from_hash(member, pairs(reply[5:])), reply[3], reply[4]
        if reply[0] == b"final":
            await self.queue.leave(from_hash(member, pairs(reply[1:])))
        elif reply[0] == b"gone":
            await self.queue.forget(*member.split("/", 1))
        return None

    async def _abandon(self, member: str, how: str, who: str, reason: str) -> Message | None:
        reply = await self.scripts.run(
            "message_abandon",
            self._base(member),
            member,
            how,
            who,
            self.settings.max_attempts,
            self._channels,
            WORKER_LOST_ERROR,
            reason,
        )
        if reply[0] == b"none":
            return None
        message = from_hash(member, pairs(reply[1:]))
        if reply[0] == b"requeue":
            await self.queue.requeue(message)
        else:
            self._say_ended(message, reason=reason)
            await self.queue.leave(message)
        return message

    def _say_ended(self, message: Message, reason: str) -> None:
        """One line for an end that no worker wrote."""
        self._on_end(message.status)
        log.info(
            f"message.{message.status}",
            message_id=message.id,
            account=message.account,
            attempt=message.attempt,
            tokens=message.tokens,
            reason=reason,
        )

    def _base(self, member: str) -> str:
        account, _, message_id = member.partition("/")
        return self.keys.message_base(account, message_id)


def missing(message_id: str) -> NotFound:
    """The one answer for a message that never was, is deleted, is past its retention, or is another's."""
    return NotFound("message", f"there is no message {message_id!r}", message_id=message_id)


def ended_already(message: Message) -> Conflict:
    """Too late to cancel."""
    said = f"the message has ended already: {message.status}"
    return Conflict(said, details={"status": message.status}, message_id=message.id)


def _creation_fields(new: NewMessage) -> list[str | bytes | int]:
    return [
        *("st", new.stream_type, "us", new.user, "th", new.thread, "ky", new.key_id, "mo", new.model),
        *("mc", new.message_count, "md", msgspec.json.encode(new.metadata), "is", new.idle_s),
        *("ow", new.on_worker_loss[0], "ri", new.request_id, "me", f"{new.store[0]}{new.recall}"),
    ]


def _as_created(new: NewMessage) -> Message:
    """The message but for its time."""
    fields = _creation_fields(new)
    named = {
        str(k).encode(): v if isinstance(v, bytes) else str(v).encode()
        for k, v in zip(fields[::2], fields[1::2], strict=True)
    }
    return from_hash(f"{new.account}/{new.id}", named | {b"s": b"pending"})
