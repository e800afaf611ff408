"""A message's states and record: what its hash holds, how its status reads. Pure; `lifecycle` is its only writer.

::

    pending ──claim──▶ processing ──finish──▶ completed | error
       │                   │  ▲ │
       │                   │  └─┘ a worker is lost or hands back: same state, next attempt, message_restart
       └──cancel, deadline─┴────▶ cancelled | error

completed, cancelled and error are final: nothing ever leaves them.

A message past its retention is read from where it is remembered: `to_record` and `from_record` carry it there and back.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

Status = Literal["pending", "processing", "completed", "cancelled", "error"]
STATUSES: tuple[Status, ...] = ("pending", "processing", "completed", "cancelled", "error")
Storing = Literal["yes", "no", "partial"]
"""Whether a message is remembered; ``partial``: what was written of it too, when it is cancelled or fails."""

FINAL: frozenset[str] = frozenset({"completed", "cancelled", "error"})


def iso(ms: int) -> str:
    """Milliseconds since 1970 as ISO 8601 UTC with milliseconds and ``Z``."""
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Message(msgspec.Struct, kw_only=True):
    """The record of one message. Times in ms since 1970, durations in the unit their name ends in.

    ``recall``: how many memories are put before the model's eyes, 0 for none. ``remembered``: what became of it in
    memory (stored, skipped, failed), empty until it is known; ``given_up``: why its delivery stands among the dead
    letters. ``stored``: its content, in a message that is past its retention.
    """

    account: str
    id: str
    status: Status
    created: int
    updated: int
    done: int | None
    stream_type: str
    user: str
    thread: str
    key_id: str
    model: str
    message_count: int
    metadata: dict[str, Any]
    attempt: int
    losses: int
    last_seq: int
    deadline: int
    idle_s: int
    retention_s: int
    unseen_s: int
    on_worker_loss: Literal["restart", "error"]
    request_id: str
    token: str
    worker: str
    tokens: int
    queue_ms: int | None
    first_token_ms: int | None
    input_tokens: int | None
    output_tokens: int | None
    cost_usd: float | None
    stop_reason: str | None
    stop_sequence: str | None
    tools: list[str]
    error: dict[str, Any] | None
    cancelled_why: str
    store: Storing
    recall: int
    remembered: str
    memory_ids: list[str]
    memory_error: str | None
    given_up: str
    stored: list[dict[str, Any]] | None = None

    @property
    def final(self) -> bool:
        return self.status in FINAL

    @property
    def to_remember(self) -> bool:
        """Whether what the message says is to be stored, as far as its state tells by now."""
        return self.store == "partial" or (self.store == "yes" and self.status not in ("cancelled", "error"))

    @property
    def member(self) -> str:
        """The message as scripts and schedules name it."""
        return f"{self.account}/{self.id}"

    def status_object(self) -> dict[str, Any]:
        """The status as PROTOCOL.md, Messages gives it."""
        error = self.error["error"] if self.error else None
        return {
            "message_id": self.id,
            "status": self.status,
            "created_at": iso(self.created),
            "updated_at": iso(self.updated),
            "completed_at": iso(self.done) if self.done else None,
            "error_message": f"{error['detail']['explanation']} ({error['message']})" if error else None,
            "stream_type": self.stream_type,
            "metadata": self.metadata | self._measured(),
        }

    def _measured(self) -> dict[str, Any]:
        ms = self.done - self.created if self.done else None
        seconds = (self.done - self.created - (self.first_token_ms or 0)) / 1000 if self.done else 0
        tokens = self.output_tokens if self.output_tokens is not None else self.tokens
        known = self.input_tokens is not None and self.output_tokens is not None
        values: dict[str, Any] = {
            "model": self.model,
            "message_count": self.message_count,
            "attempt": self.attempt,
            "tokens_processed": self.tokens,
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "total_tokens": (self.input_tokens or 0) + (self.output_tokens or 0) if known else None,
            "tools_used": self.tools,
            "queue_ms": self.queue_ms,
            "time_to_first_token_ms": self.first_token_ms,
            "completion_time_ms": ms,
            "tokens_per_second": round(tokens / seconds, 1) if seconds > 0 and tokens else None,
            "last_seq": self.last_seq,
            "stop_reason": self.stop_reason,
            "memory": self._memory(),
        }
        if self.cost_usd is not None:
            values["cost_usd"] = self.cost_usd
        return values

    def _memory(self) -> dict[str, Any]:
        status = "failed" if self.given_up else self.remembered or ("queued" if self.to_remember else "skipped")
        return {"status": status, "memory_ids": self.memory_ids, "error": self.given_up or self.memory_error}


_LEFT_OUT = ("account", "id", "stored", "token", "worker", "remembered", "memory_ids", "memory_error", "given_up")
"""What a record leaves out: where it lies says it, or it is said elsewhere."""


def to_record(message: Message) -> bytes:
    """A final message as JSON, for as long as it is remembered."""
    fields = msgspec.structs.asdict(message)
    return msgspec.json.encode({name: value for name, value in fields.items() if name not in _LEFT_OUT})


def from_record(account: str, message_id: str, record: dict[str, Any]) -> Message:
    """The message of a record, also of one that an older version wrote."""
    known = {name: record[name] for name in Message.__struct_fields__ if name in record}
    return msgspec.structs.replace(from_hash(f"{account}/{message_id}", {}), **known)


_STORING: dict[bytes, Storing] = {b"y": "yes", b"n": "no", b"p": "partial"}


def from_hash(member: str, fields: dict[bytes, bytes]) -> Message:
    """The record from its Redis hash (see `lifecycle` for who sets which field)."""
    account, _, message_id = member.partition("/")

    def text(name: bytes) -> str:
        return fields.get(name, b"").decode()

    def number(name: bytes) -> int | None:
        value = fields.get(name)
        return int(value) if value else None

    return Message(
        account=account,
        id=message_id,
        status=text(b"s"),  # type: ignore[arg-type]  # only our scripts write it
        created=number(b"c") or 0,
        updated=number(b"u") or 0,
        done=number(b"d"),
        stream_type=text(b"st"),
        user=text(b"us"),
        thread=text(b"th"),
        key_id=text(b"ky"),
        model=text(b"mo"),
        message_count=number(b"mc") or 0,
        metadata=msgspec.json.decode(fields.get(b"md", b"{}")),
        attempt=number(b"a") or 0,
        losses=number(b"l") or 0,
        last_seq=number(b"n") or 0,
        deadline=number(b"p") or 0,
        idle_s=number(b"is") or 0,
        retention_s=number(b"rt") or 0,
        unseen_s=number(b"cu") or 0,
        on_worker_loss="error" if text(b"ow") == "e" else "restart",
        request_id=text(b"ri"),
        token=text(b"k"),
        worker=text(b"w"),
        tokens=number(b"tp") or 0,
        queue_ms=number(b"q"),
        first_token_ms=number(b"f"),
        input_tokens=number(b"it"),
        output_tokens=number(b"ot"),
        cost_usd=float(fields[b"$"]) if b"$" in fields else None,
        stop_reason=text(b"sr") or None,
        stop_sequence=text(b"ss") or None,
        tools=text(b"tu").split("\x1f") if fields.get(b"tu") else [],
        error=msgspec.json.decode(fields[b"er"]) if b"er" in fields else None,
        cancelled_why=text(b"cw"),
        store=_STORING[fields.get(b"me", b"n")[:1]],  # without it: from before there was a memory
        recall=int(fields.get(b"me", b"n0")[1:]),
        remembered=text(b"mw"),
        memory_ids=text(b"mi").split(" ") if fields.get(b"mi") else [],
        memory_error=text(b"mx") or None,
        given_up=text(b"x:remember"),
    )
