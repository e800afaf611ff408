"""What the memory routes are asked: bodies, bounds, what types alone cannot say, and whom it is about.

Pure. PROTOCOL.md, Memories.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
from litestar.types import Scope
from msgspec import Meta

from app.errors import ValidationFailed
from app.llm.types import Turn
from app.memory.listing import SORTS
from app.memory.recall import text_of
from app.memory.records import MEMORY_CHARS, wrong_metadata
from app.memory.types import CATEGORIES, TYPES, Category, Filters, MemoryType
from app.web.guard import caller_of, user_of
from app.web.parse import Query, moment

MOST_MESSAGES = 1_000
MOST_CHARACTERS = 32_000
"""Of one creation, all its messages together. It is answered when all has been read and compared with what is known:
at the densest that is 250 memories in six seconds, at three times the length a minute."""
LONGEST_QUERY = 2_000
MOST_DELETED = 1_000
SORTED = tuple(SORTS)
NUL = "must not contain the NUL character"

Errors = list[tuple[str, str]]
Name = Annotated[str, Meta(min_length=1, max_length=256, pattern=r"^[^\x00]*$")]
MemoryText = Annotated[str, Meta(min_length=1, max_length=MEMORY_CHARS, pattern=r"^[^\x00]*$")]
When = Annotated[str, Meta(description="ISO 8601; a date alone is its midnight, UTC where no zone is named")]
MemoryId = Annotated[str, Meta(min_length=1, max_length=128, pattern=r"^[^\x00]*$")]


class NewMemories(msgspec.Struct, kw_only=True):
    """Either ``messages`` or ``text``. ``infer: false`` keeps every text word for word as a memory of its own."""

    messages: Annotated[list[Turn], Meta(min_length=1, max_length=MOST_MESSAGES)] | None = None
    text: Annotated[str, Meta(min_length=1, max_length=MOST_CHARACTERS, pattern=r"^[^\x00]*$")] | None = None
    agent_id: Name | None = None
    thread_id: Name | None = None
    source: Name | None = None
    user_id: Name | None = None
    metadata: dict[str, Any] = {}
    infer: bool = True

    def said(self) -> list[tuple[str, str]]:
        """What was said: ``(role, text)`` of each turn that has text; system turns are no memories of anybody."""
        if self.text is not None:
            return [("user", self.text.strip())]
        turns = [(turn.role, text_of(turn).strip()) for turn in self.messages or [] if turn.role != "system"]
        return [(role, text) for role, text in turns if text]

    def at(self) -> datetime | None:
        """When it was said: ``metadata.timestamp``. Raises ValueError for one that is no time."""
        given = self.metadata.get("timestamp")
        if given is None:
            return None
        if isinstance(given, int | float) and not isinstance(given, bool):
            try:
                return datetime.fromtimestamp(given, UTC)
            except (OverflowError, OSError):
                raise ValueError(given) from None
        return moment(given if isinstance(given, str) else "")


class SearchMemories(msgspec.Struct, kw_only=True):
    """Empty filters do not narrow."""

    query: Annotated[str, Meta(min_length=1, max_length=LONGEST_QUERY, pattern=r"^[^\x00]*$")]
    limit: Annotated[int, Meta(ge=1, le=100)] = 10
    categories: Annotated[list[Category], Meta(max_length=len(CATEGORIES))] = []
    types: Annotated[list[MemoryType], Meta(max_length=len(TYPES))] = []
    agent_id: Name | None = None
    thread_id: Name | None = None
    source: Name | None = None
    user_id: Name | None = None
    since: When | None = None
    until: When | None = None
    rerank: bool = False
    include_bio: bool = True
    latest_only: bool = True

    def filters(self) -> Filters:
        return Filters(
            categories=list(self.categories),
            types=list(self.types),
            agent_id=self.agent_id,
            thread_id=self.thread_id,
            source=self.source,
            since=moment(self.since) if self.since else None,
            until=moment(self.until) if self.until else None,
            latest_only=self.latest_only,
        )


class EditMemory(msgspec.Struct, kw_only=True):
    """What is given is changed: ``metadata`` key by key, null takes one away; ``category`` is ``categories`` of one."""

    content: MemoryText | None = None
    metadata: dict[str, Any] | None = None
    category: Category | None = None
    categories: Annotated[list[Category], Meta(max_length=len(CATEGORIES))] | None = None
    type: MemoryType | None = None
    importance: Annotated[float, Meta(ge=0, le=1)] | None = None
    user_id: Name | None = None

    def wanted(self) -> list[str] | None:
        """The categories asked for, without repeats."""
        given = [self.category] if self.category else self.categories
        return None if given is None else list(dict.fromkeys(given))


class DeleteMemories(msgspec.Struct, kw_only=True):
    """``cascade`` takes all they superseded or were superseded by, and the turns all came from."""

    memory_ids: Annotated[list[MemoryId], Meta(min_length=1, max_length=MOST_DELETED)]
    cascade: bool = False
    backup: bool = True
    user_id: Name | None = None


class RestoreMemories(msgspec.Struct, kw_only=True):
    backup_id: MemoryId
    user_id: Name | None = None


def whose(scope: Scope, given: str | None = None) -> str:
    """The user a request is about, by its query, its body (``given``) and its key.

    Raises ValidationFailed where the two differ, Forbidden for another user than the key's.
    """
    query = Query(scope)
    asked = query.text("user_id")
    query.check()
    if asked and given and asked != given:
        raise ValidationFailed([("user_id", "differs between the query and the body")])
    return user_of(caller_of(scope), asked or given)


def new_problems(body: NewMemories) -> Errors:
    """What is wrong with a creation whose types and bounds are right."""
    found: Errors = []
    if (body.messages is None) == (body.text is None):
        found.append(("messages", "give either messages or text"))
    if body.text is not None and not body.text.strip():
        found.append(("text", "must not be blank"))
    texts = [text_of(turn).strip() for turn in body.messages or []]
    for i, text in enumerate(texts):
        if not text:
            found.append((f"messages[{i}].content", "must have text"))
        elif "\x00" in text:
            found.append((f"messages[{i}].content", NUL))
    if body.messages and all(turn.role == "system" for turn in body.messages):
        found.append(("messages", "needs at least one message of role user or assistant"))
    if sum(map(len, texts)) > MOST_CHARACTERS:
        found.append(("messages", f"may have at most {MOST_CHARACTERS} characters in all"))
    found += metadata_problems(body.metadata)
    try:
        body.at()
    except ValueError:
        found.append(("metadata.timestamp", "must be a time in ISO 8601, or Unix seconds"))
    return found


def search_problems(body: SearchMemories) -> Errors:
    found: Errors = [] if body.query.strip() else [("query", "must not be blank")]
    for name in ("since", "until"):
        given = getattr(body, name)
        try:
            moment(given or "2000-01-01")
        except ValueError:
            found.append((name, "must be a time in ISO 8601"))
    return found


def edit_problems(body: EditMemory) -> Errors:
    found: Errors = []
    if body.content is not None and not body.content.strip():
        found.append(("content", "must not be blank"))
    if body.category is not None and body.categories is not None:
        found.append(("category", "give either category or categories"))
    given = (body.content, body.metadata, body.category, body.categories, body.type, body.importance)
    if all(value is None for value in given):
        found.append(("body", "give content, metadata, category, categories, type or importance"))
    return found + metadata_problems(body.metadata or {})


def metadata_problems(metadata: dict[str, Any]) -> Errors:
    reason = wrong_metadata(metadata)
    return [("metadata", reason)] if reason else []


def filters_of(query: Query) -> Filters:
    """A list's filters from its query; what is wrong is told by the query's `check`."""
    category = query.choice("category", CATEGORIES)
    kind = query.choice("type", TYPES)
    return Filters(
        categories=[category] if category else [],
        types=[kind] if kind else [],
        agent_id=query.text("agent_id"),
        thread_id=query.text("thread_id"),
        source=query.text("source"),
        since=query.parsed("since", moment, "must be a time in ISO 8601"),
        until=query.parsed("until", moment, "must be a time in ISO 8601"),
        latest_only=query.flag("latest_only", True),
    )
