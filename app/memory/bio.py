"""A bio put together from memories without a model: their own sentences, ordered and framed, nothing added.

Choices:

1. A bio says only what a memory says: told in the third person where that is safe (`person`), else quoted. Style and
   format choose sentences, order, frame and contractions; they never choose facts that were not stored.
2. What is only understood from when it was said ("yesterday") is left out, and so is what is too long for a bio.
3. A memory stands under one category, its first that is shown; one that has an excluded category stands nowhere.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from datetime import datetime
from typing import Literal, get_args

from app.memory.person import told
from app.memory.slots import slots
from app.memory.times import is_relative
from app.memory.types import CATEGORIES, Memory

Format = Literal["full", "short", "bullets", "professional"]
Style = Literal["narrative", "factual", "casual", "formal"]
FORMATS: tuple[str, ...] = get_args(Format)
STYLES: tuple[str, ...] = get_args(Style)

PER_CATEGORY = {"full": 5, "short": 1, "bullets": 4, "professional": 4}
SHORT_SENTENCES = 4
SENTENCE_CHARACTERS = 300
PROFESSIONAL = ("career", "learning", "productivity")

_LABELS = {
    "identity": "Person",
    "career": "Career",
    "interests": "Interests",
    "relationships": "Family and friends",
    "health": "Health",
    "finance": "Finances",
    "learning": "Learning",
    "travel": "Travel",
    "productivity": "Ways of working",
    "private": "Private",
}
_CASUAL = {
    "identity": "First things first.",
    "career": "Work-wise:",
    "interests": "For fun:",
    "relationships": "The people (and animals) around them:",
    "health": "Health-wise:",
    "finance": "Money matters:",
    "learning": "Always learning:",
    "travel": "Out and about:",
    "productivity": "Getting things done:",
    "private": "Just between us:",
}
_CONTRACTIONS = [
    (re.compile(rf"\b{long}\b(?!\.)", re.IGNORECASE), short)
    for long, short in (
        ("(they) are", r"\1're"),
        ("(they) have (?=been|\\w+ed)", r"\1've "),
        ("(they) will", r"\1'll"),
        ("(do|does|did|is|are|was|were|has|have) not", r"\1n't"),
    )
]
_EXPANSIONS = [
    (re.compile(pattern, re.IGNORECASE), long)
    for pattern, long in (
        (r"\bcan't\b", "cannot"),
        (r"\bwon't\b", "will not"),
        (r"\b(do|does|did|is|are|was|were|has|have|had|could|would|should)n't\b", r"\1 not"),
        (r"\bthey'd(?= (?:love|like|prefer|rather)\b)", "they would"),
    )
]


def category_of(memory: Memory, excluded: Collection[str]) -> str | None:
    """The category a memory is shown under; None where it may not be shown or has none."""
    shown = [name for name in memory.categories if name in CATEGORIES]
    return shown[0] if shown and not set(shown) & set(excluded) else None


def compose(memories: list[Memory], *, form: Format, style: Style, excluded: Collection[str], on: datetime) -> str:
    """The bio; "" where no memory may stand in one. ``on`` is the day it is made."""
    chosen = _chosen(memories, form, excluded)
    if not chosen:
        return ""
    groups = {name: [_worded(told(m.text), style) for m in group] for name, group in chosen.items()}
    if form == "bullets":
        return _bullets(groups, style, on)
    if form == "short":
        text = " ".join(text for texts in groups.values() for text in texts)
        return f"As of {_day(on)}: {text}" if style in ("factual", "formal") else text
    return _prose(groups, style, on, professional=form == "professional")


def used(memories: list[Memory], form: Format, excluded: Collection[str]) -> list[str]:
    """The ids of the memories that `compose` would put in."""
    return [memory.id for group in _chosen(memories, form, excluded).values() for memory in group]


def _chosen(memories: list[Memory], form: Format, excluded: Collection[str]) -> dict[str, list[Memory]]:
    """What stands in a bio of that form by category, strongest first."""
    found: dict[str, list[Memory]] = {name: [] for name in CATEGORIES}
    for memory in sorted(memories, key=_strength):
        category = category_of(memory, excluded)
        if category and len(memory.text) <= SENTENCE_CHARACTERS and not is_relative(memory.text):
            found[category].append(memory)
    names = ("identity", *PROFESSIONAL) if form == "professional" else CATEGORIES
    groups = {name: found[name][: PER_CATEGORY[form]] for name in names if found[name]}
    return dict(list(groups.items())[:SHORT_SENTENCES]) if form == "short" else groups


def _strength(memory: Memory) -> tuple[bool, float, float]:
    """Names first, then what matters most, then what is newest."""
    named = "identity" in memory.categories and any(slot.name == "name" for slot in slots(memory.text))
    return (not named, -memory.importance, -memory.valid_from.timestamp())


def _worded(text: str, style: Style) -> str:
    """Contracted for the casual style, written out for the formal one. Quotations stay as they are."""
    if '"' in text or style not in ("casual", "formal"):
        return text
    for pattern, other in _CONTRACTIONS if style == "casual" else _EXPANSIONS:
        text = pattern.sub(other, text)
    return text[:1].upper() + text[1:]


def _bullets(groups: dict[str, list[str]], style: Style, on: datetime) -> str:
    rows = [f"What is known as of {_day(on)}:"] if style in ("factual", "formal") else []
    for name, texts in groups.items():
        label = "" if style in ("narrative", "casual") else f"{_LABELS[name]}: "
        rows += [f"- {label}{text}" for text in texts]
    return "\n".join(rows)


def _prose(groups: dict[str, list[str]], style: Style, on: datetime, *, professional: bool) -> str:
    parts = {name: " ".join(texts) for name, texts in groups.items()}
    if style == "casual":
        return "\n\n".join(f"{_CASUAL[name]} {text}" for name, text in parts.items())
    if style == "narrative":
        return "\n\n".join(parts.values())
    body = "\n".join(f"{_LABELS[name]}: {text}" for name, text in parts.items())
    if style == "factual":
        return f"As of {_day(on)}.\n{body}"
    kind = "professional profile" if professional else "profile"
    return (
        f"The following {kind} rests on statements made by the person concerned, as recorded by {_day(on)}.\n\n{body}"
    )


def _day(on: datetime) -> str:
    return f"{on.day} {on:%B %Y}"
