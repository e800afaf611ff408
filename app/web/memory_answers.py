"""The answers of the memory routes: their shapes, and how a memory or a search hit becomes one."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from app.iso import iso
from app.memory.records import Event
from app.memory.types import Category, Hit, Memory, MemoryType


class Provenance(msgspec.Struct, kw_only=True):
    """What a memory was drawn from. ``message_ids`` are asynchronous messages, or the conversation's own ids."""

    message_id: str | None = None
    conversation_id: str | None = None
    message_ids: list[str] = []


class ShownMemory(msgspec.Struct, kw_only=True):
    """A memory. ``valid_to`` and ``superseded_by`` are set once something newer took its place."""

    id: str
    memory: str
    categories: list[Category]
    type: MemoryType
    importance: float
    source: str | None
    agent_id: str | None
    thread_id: str | None
    metadata: dict[str, Any]
    extractor: str
    created_at: str
    updated_at: str
    valid_from: str
    valid_to: str | None
    superseded_by: str | None
    provenance: Provenance


class CreatedMemory(msgspec.Struct, kw_only=True):
    id: str
    memory: str
    categories: list[Category]
    type: MemoryType
    created_at: str


class Creation(msgspec.Struct, kw_only=True):
    """What a creation made. ``extractor``: ``model``, ``rules`` or ``verbatim``."""

    success: bool
    memories_created: int
    processing_time: float
    categories_detected: list[Category]
    extractor: Literal["model", "rules", "verbatim"]
    conversation_id: str | None
    memories: list[CreatedMemory]


class FoundMemory(msgspec.Struct, kw_only=True):
    """A hit: a memory, or (``kind: turn``) something said, word for word. Scores that no leg gave are null."""

    id: str
    kind: Literal["memory", "turn"]
    memory: str
    categories: list[Category]
    type: MemoryType
    score: float
    vector_distance: float | None
    keyword_score: float | None
    rerank_score: float | None
    source: str | None
    agent_id: str | None
    thread_id: str | None
    created_at: str
    updated_at: str
    valid_from: str
    valid_to: str | None
    provenance: Provenance


class SearchAnswer(msgspec.Struct, kw_only=True):
    """``legs`` says what ran: without an embedder ``vector`` is missing and the search was by keywords alone."""

    user_bio: str | None
    memories: list[FoundMemory]
    legs: list[Literal["vector", "keyword"]]


class HistoryEntry(msgspec.Struct, kw_only=True):
    """One change: the memory's text and other fields before and after it."""

    memory_id: str
    event: Literal["created", "updated", "superseded", "deleted", "restored"]
    at: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None


class History(msgspec.Struct, kw_only=True):
    """``versions``: what it says and what it replaced, oldest first, each with the time it was true."""

    memory_id: str
    versions: list[ShownMemory]
    events: list[HistoryEntry]


class Outcome(msgspec.Struct, kw_only=True):
    """``cascaded``: it went with another one that was asked for."""

    id: str
    status: Literal["deleted", "cascaded", "not_found"]


class Deletion(msgspec.Struct, kw_only=True):
    """``backup_id`` restores it within 30 days; null when it was asked not to."""

    id: str
    deleted: bool
    backup_id: str | None
    results: list[Outcome]


class BatchDeletion(msgspec.Struct, kw_only=True):
    """``results`` in the order asked for, each id once, then what was cascaded to."""

    deleted: int
    backup_id: str | None
    results: list[Outcome]


class Restored(msgspec.Struct, kw_only=True):
    """``replaced``: it was remembered anew meanwhile; ``gone``: it was deleted again, or for good."""

    id: str
    status: Literal["restored", "replaced", "gone"]


class Restoration(msgspec.Struct, kw_only=True):
    backup_id: str
    restored: int
    memory_ids: list[str]
    results: list[Restored]


def entry(event: Event) -> HistoryEntry:
    return HistoryEntry(
        memory_id=event.memory_id, event=event.event, at=iso(event.at), before=event.before, after=event.after
    )


def detected(memories: list[Memory]) -> list[Category]:
    """Every category the memories have, each once."""
    return list(dict.fromkeys(name for memory in memories for name in memory.categories))  # type: ignore[misc]


def shown(memory: Memory, sources: list[str] | None = None) -> ShownMemory:
    """A memory as the wire has it. ``sources``: the messages whose turns said it, where they were asked for."""
    return ShownMemory(
        id=memory.id,
        memory=memory.text,
        categories=memory.categories,  # type: ignore[arg-type]  # the table holds nothing else
        type=memory.type,
        importance=round(memory.importance, 4),
        source=memory.source,
        agent_id=memory.agent_id,
        thread_id=memory.thread_id,
        metadata=memory.metadata,
        extractor=memory.extractor,
        created_at=iso(memory.created_at),
        updated_at=iso(memory.updated_at),
        valid_from=iso(memory.valid_from),
        valid_to=iso(memory.valid_to) if memory.valid_to else None,
        superseded_by=memory.superseded_by,
        provenance=provenance(memory, sources),
    )


def provenance(memory: Memory, sources: list[str] | None) -> Provenance:
    own = [memory.message_id] if memory.message_id else []
    return Provenance(
        message_id=memory.message_id,
        conversation_id=memory.conversation,
        message_ids=own if sources is None else sources,
    )


def created(memory: Memory) -> CreatedMemory:
    return CreatedMemory(
        id=memory.id,
        memory=memory.text,
        categories=memory.categories,  # type: ignore[arg-type]
        type=memory.type,
        created_at=iso(memory.created_at),
    )


def found(hit: Hit, sources: dict[str, list[str]]) -> FoundMemory:
    """A search hit as the wire has it: turns have no categories and are episodes by nature."""
    scores: dict[str, Any] = {
        "score": hit.score,
        "vector_distance": hit.vector_distance,
        "keyword_score": hit.keyword_score,
        "rerank_score": hit.rerank_score,
    }
    if hit.memory is not None:
        whole = msgspec.structs.asdict(shown(hit.memory, sources.get(hit.memory.id)))
        fields = {name: whole[name] for name in FoundMemory.__struct_fields__ if name in whole}
        return FoundMemory(kind="memory", **fields, **scores)
    assert hit.turn is not None, "a hit is a memory or a turn"
    said = hit.turn.turn
    message_id = said.message_id or said.external_id
    return FoundMemory(
        id=f"turn_{hit.turn.id}",
        kind="turn",
        memory=hit.text,
        categories=[],
        type="episodic",
        source=None,
        agent_id=None,
        thread_id=None,
        created_at=iso(said.said_at),
        updated_at=iso(said.said_at),
        valid_from=iso(said.said_at),
        valid_to=None,
        provenance=Provenance(
            message_id=said.message_id,
            conversation_id=hit.conversation,
            message_ids=[message_id] if message_id else [],
        ),
        **scores,
    )
