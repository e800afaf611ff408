"""The vocabulary of memory: the structs its modules hand each other."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal, get_args

import msgspec

MemoryType = Literal["semantic", "episodic"]
Category = Literal[
    "identity",
    "career",
    "interests",
    "relationships",
    "health",
    "finance",
    "learning",
    "travel",
    "productivity",
    "private",
]
TYPES: tuple[str, ...] = get_args(MemoryType)
CATEGORIES: tuple[str, ...] = get_args(Category)


class Owner(msgspec.Struct, frozen=True):
    """One end user of one account. ``id`` is the key of every row that belongs to them."""

    id: int
    account: str
    user: str


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """Where turns and memories come from; kept with them as provenance."""

    agent_id: str | None = None
    thread_id: str | None = None
    source: str | None = None
    conversation: str | None = None
    message_id: str | None = None


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """One turn as it was said. ``key`` is the same for the same turn, however often it is stored."""

    key: str
    role: Literal["user", "assistant"]
    text: str
    said_at: datetime
    message_id: str | None = None
    external_id: str | None = None
    metadata: dict[str, Any] = {}

    @property
    def own(self) -> bool:
        """Whether they are the owner's words: no model's, and of no other person in a chat between people."""
        return self.role == "user" and self.metadata.get("mine") is not False


class StoredTurn(msgspec.Struct, frozen=True, kw_only=True):
    """A turn with its row id; ``new`` when this call stored it."""

    id: int
    turn: Turn
    new: bool


class Draft(msgspec.Struct, frozen=True, kw_only=True):
    """A memory as an extractor proposes it. ``supersedes`` names an existing memory of the same owner it replaces,
    ``supersedes_draft`` the place of an earlier draft of the same list. ``message_id``: the message it was said in,
    where the drafts come from several."""

    text: str
    type: MemoryType = "semantic"
    categories: list[str] = []
    importance: float = 0.5
    valid_from: datetime | None = None
    turn_keys: list[str] = []
    supersedes: str | None = None
    supersedes_draft: int | None = None
    message_id: str | None = None
    metadata: dict[str, Any] = {}


class Memory(msgspec.Struct, kw_only=True):
    """One memory as stored. ``valid_to`` is set when something newer superseded it."""

    id: str
    text: str
    type: MemoryType
    categories: list[str]
    importance: float
    agent_id: str | None
    thread_id: str | None
    source: str | None
    conversation: str | None
    message_id: str | None
    turn_keys: list[str]
    extractor: str
    metadata: dict[str, Any]
    valid_from: datetime
    valid_to: datetime | None
    superseded_by: str | None
    created_at: datetime
    updated_at: datetime


class Privacy(msgspec.Struct, kw_only=True):
    """What of a person stays out of their profile, and what may be remembered of them.

    ``include_private`` shows the category ``private``; ``memories_from_history`` has memories drawn from the
    conversations that are brought from elsewhere."""

    include_private: bool = False
    exclude_categories: list[str] = []
    memories_from_history: bool = False

    def excluded(self) -> frozenset[str]:
        return frozenset(self.exclude_categories) | (frozenset() if self.include_private else {"private"})


class Filters(msgspec.Struct, frozen=True, kw_only=True):
    """What a search or a list is narrowed to; an empty field does not narrow. Times bound ``created_at``."""

    categories: list[str] = []
    types: list[str] = []
    agent_id: str | None = None
    thread_id: str | None = None
    source: str | None = None
    platform: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    latest_only: bool = True


class Hit(msgspec.Struct, kw_only=True):
    """One search result: a memory, or a turn that said it. ``score`` is the fused one, 0 to 1."""

    kind: Literal["memory", "turn"]
    memory: Memory | None = None
    turn: StoredTurn | None = None
    conversation: str | None = None
    text: str
    score: float
    vector_distance: float | None = None
    keyword_score: float | None = None
    rerank_score: float | None = None


class Found(msgspec.Struct, kw_only=True):
    """A search's answer. ``legs`` tells what ran: "vector" is missing when no embedder could be had."""

    hits: list[Hit]
    legs: list[Literal["vector", "keyword"]]
