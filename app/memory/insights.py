"""What memories show when they are counted and read side by side: traits and insights, each with its evidence.

Choices:

1. A trait is a statement the person made of themselves, sorted by what kind it is. Nothing is concluded from it.
2. An insight is a count, a date or a change that stored memories prove; its ids say which.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Literal

import msgspec

from app.memory.bio import category_of
from app.memory.person import told
from app.memory.statements import bare
from app.memory.times import is_relative
from app.memory.types import Memory

RECENT = timedelta(days=30)
MOST_TRAITS = 20
MOST_CHANGES = 5
EVIDENCE = 5

TraitKind = Literal["likes", "dislikes", "prefers", "wants", "is", "habit"]
_KINDS: list[tuple[TraitKind, re.Pattern[str]]] = [
    (kind, re.compile(rf"^(?:i|we|they|the user)\b.{{0,24}}\b(?:{words})\b|{more}"))  # type: ignore[misc]
    for kind, words, more in (
        ("dislikes", "hates?|dislikes?|can't stand|cannot stand|don't like|doesn't like|do not like", r"^\b$"),
        ("prefers", "prefers?|rather", r"\bfavou?rite\b"),
        ("likes", "loves?|likes?|enjoys?|fan of|passionate about|fond of", r"^\b$"),
        (
            "wants",
            "wants? to|hopes? to|plans? to|dreams? of|would love to|'d love to|would like to|'d like to",
            r"\bgoal\b",
        ),
        ("habit", "always|usually|never|every (?:day|week|morning|evening|night|month|year|\\w+day)", r"^\b$"),
        ("is", "am|'m|is", r"^\b$"),
    )
]


class Trait(msgspec.Struct, frozen=True, kw_only=True):
    """Something stable of a person, in a sentence, with the memory that says it."""

    kind: TraitKind
    trait: str
    memory_id: str
    importance: float


class Insight(msgspec.Struct, frozen=True, kw_only=True):
    """Something counted. ``memory_ids`` prove it, at most a few of them."""

    kind: Literal["main_topics", "recent_focus", "changed"]
    text: str
    memory_ids: list[str]


def traits(memories: list[Memory], excluded: Collection[str]) -> list[Trait]:
    """The traits, strongest first."""
    found = []
    for memory in sorted(memories, key=lambda m: (-m.importance, -m.valid_from.timestamp(), m.id)):
        kind = _kind(memory.text)
        if kind and memory.type == "semantic" and category_of(memory, excluded) and not is_relative(memory.text):
            found.append(
                Trait(kind=kind, trait=told(memory.text), memory_id=memory.id, importance=round(memory.importance, 3))
            )
    return found[:MOST_TRAITS]


def _kind(text: str) -> TraitKind | None:
    plain = bare(text)
    if len(plain) > 200:
        return None
    wanted = [kind for kind, pattern in _KINDS if pattern.search(plain)]
    # "I would love to": a wish, not a liking
    return "wants" if "wants" in wanted else wanted[0] if wanted else None


def insights(
    memories: list[Memory], changes: list[tuple[Memory, Memory]], excluded: Collection[str], now: datetime
) -> list[Insight]:
    """``changes``: superseded memories with what superseded them, the newest first."""
    shown = [(name, memory) for memory in memories if (name := category_of(memory, excluded))]
    found = []
    if shown:
        found.append(_topics("main_topics", shown, f"Of {len(shown)} memories looked at, most are about"))
    recent = [(name, memory) for name, memory in shown if memory.created_at >= now - RECENT]
    if recent and len(recent) < len(shown):
        found.append(
            _topics("recent_focus", recent, f"Of the {len(recent)} of the last {RECENT.days} days, most are about")
        )
    for old, new in changes[:MOST_CHANGES]:
        if category_of(old, excluded) and category_of(new, excluded):
            day = f"{new.valid_from.day} {new.valid_from:%B %Y}"
            text = f"Changed on {day}: {_said(old.text)} gave way to {_said(new.text)}."
            found.append(Insight(kind="changed", text=text, memory_ids=[old.id, new.id]))
    return found


def _topics(kind: Literal["main_topics", "recent_focus"], shown: list[tuple[str, Memory]], lead: str) -> Insight:
    counts = Counter(name for name, _ in shown)
    top = sorted(counts, key=lambda name: (-counts[name], name))[:3]
    named = ", ".join(f"{name} ({counts[name]})" for name in top)
    ids = [memory.id for name, memory in shown if name == top[0]]
    return Insight(kind=kind, text=f"{lead} {named}.", memory_ids=ids[:EVIDENCE])


def _said(text: str) -> str:
    words = " ".join(text.split())
    return f"“{words[:160]}{'…' if len(words) > 160 else ''}”"
