"""The body of initiate: its fields, bounds and defaults, and how it becomes a message. Pure; PROTOCOL.md, Messages."""

from __future__ import annotations

import hashlib
import re
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from app.chat.message import Storing
from app.errors import ValidationFailed
from app.llm.types import Request, TextBlock, Turn
from app.settings import Settings

MESSAGE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}\Z")
RESERVED_IDS = frozenset({"stream"})
MAX_NAME = 256
MAX_METADATA_BYTES = 65_536
"""As JSON. Every status, every list entry and every event of the feed carries it."""

Probability = Annotated[float, Meta(ge=0, le=1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
PositiveInt = Annotated[int, Meta(ge=1)]


class MemoryOptions(msgspec.Struct, kw_only=True):
    """Whether the message is remembered, and whether memories are recalled before it."""

    store: bool | Literal["partial"] = True
    recall: bool = False
    limit: Annotated[int, Meta(ge=1, le=50)] = 8

    @property
    def storing(self) -> Storing:
        return "partial" if self.store == "partial" else "yes" if self.store else "no"


class Initiate(msgspec.Struct, kw_only=True):
    """The request body. Unknown fields are ignored and named in a `Warning` header."""

    model: Annotated[str, Meta(min_length=1, max_length=MAX_NAME)] = "default"
    messages: Annotated[list[Turn], Meta(min_length=1, max_length=10_000)]
    max_tokens: PositiveInt | None = None
    system: str | list[TextBlock] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Probability | None = None
    top_k: PositiveInt | None = None
    stop_sequences: Annotated[list[Annotated[str, Meta(min_length=1)]], Meta(max_length=16)] = []
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    tools: Annotated[list[dict[str, Any]], Meta(max_length=512)] = []
    tool_choice: dict[str, Any] | str | None = None
    thinking: dict[str, Any] | None = None
    response_format: dict[str, Any] | None = None
    metadata: dict[str, Any] = {}
    stream_type: Annotated[str, Meta(min_length=1, max_length=64)] = "default"
    memory: MemoryOptions = msgspec.field(default_factory=MemoryOptions)
    on_worker_loss: Literal["restart", "error"] = "restart"
    deadline_seconds: PositiveInt | None = None
    idle_seconds: PositiveInt | None = None
    cancel_after_unobserved: PositiveInt | None = None
    retention_seconds: PositiveInt | None = None

    def name(self, key: str) -> str:
        """A reserved key of ``metadata`` (user_id, thread_id, agent_id, source), or the empty string."""
        return self.metadata.get(key) or ""

    def request(self, ceiling: int) -> bytes:
        """The models' request as JSON, ``max_tokens`` within the model's ceiling."""
        return msgspec.json.encode(
            Request(
                model=self.model,
                messages=self.messages,
                system=self.system,
                max_tokens=min(self.max_tokens or ceiling, ceiling),
                temperature=self.temperature,
                top_p=self.top_p,
                top_k=self.top_k,
                stop_sequences=self.stop_sequences,
                seed=self.seed,
                presence_penalty=self.presence_penalty,
                frequency_penalty=self.frequency_penalty,
                tools=self.tools,
                tool_choice=self.tool_choice,
                thinking=self.thinking,
                response_format=self.response_format,
            )
        )


def problems(body: Initiate, settings: Settings) -> list[tuple[str, str]]:
    """What types and bounds alone cannot say: ``(field, reason)`` for each."""
    found: list[tuple[str, str]] = []
    for i, turn in enumerate(body.messages):
        if not turn.content:
            found.append((f"messages[{i}].content", "must not be empty"))
    if all(turn.role == "system" for turn in body.messages):
        found.append(("messages", "needs at least one message of role user or assistant"))
    for key in ("user_id", "thread_id", "agent_id", "source"):
        value = body.metadata.get(key)
        if value is not None and not (isinstance(value, str) and 0 < len(value) <= MAX_NAME and "\x00" not in value):
            found.append((f"metadata.{key}", f"must be a string of 1 to {MAX_NAME} characters, none of them NUL"))
    if len(msgspec.json.encode(body.metadata)) > MAX_METADATA_BYTES:
        found.append(("metadata", f"may have at most {MAX_METADATA_BYTES} bytes as JSON"))
    for i, tool in enumerate(body.tools):
        if not isinstance(tool.get("name") or tool.get("function", {}), str | dict):
            found.append((f"tools[{i}].name", "must be a string"))
    if (body.deadline_seconds or 0) > settings.max_deadline_s:
        found.append(("deadline_seconds", f"must be at most {settings.max_deadline_s}"))
    if (body.idle_seconds or 0) > settings.max_deadline_s:
        found.append(("idle_seconds", f"must be at most {settings.max_deadline_s}"))
    if (body.retention_seconds or 0) > settings.max_retention_s:
        found.append(("retention_seconds", f"must be at most {settings.max_retention_s}"))
    if (body.cancel_after_unobserved or 0) > settings.max_deadline_s:
        found.append(("cancel_after_unobserved", f"must be at most {settings.max_deadline_s}"))
    return found


def check_message_id(message_id: str) -> None:
    """Raises ValidationFailed unless a caller may choose this id."""
    if not MESSAGE_ID.match(message_id):
        reason = "must be 1 to 128 letters, digits, `_`, `.` or `-`, a letter or digit first"
        raise ValidationFailed([("message_id", reason)])
    if message_id in RESERVED_IDS:
        raise ValidationFailed([("message_id", f"`{message_id}` is reserved")])


def digest_of(raw: bytes, message_id: str) -> str:
    """What tells a repeat under one Idempotency-Key from another request: the body's bytes and the chosen id."""
    return hashlib.sha256(raw + b"\x00" + message_id.encode()).hexdigest()[:32]
