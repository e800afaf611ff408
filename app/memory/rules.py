"""Memories drawn from turns without a language model: what the user says of themselves, kept word for word.

Choices:

1. Only turns of the user's own are read. What the assistant said before is not taken from the user who repeats it,
   recalled blocks are no words of anybody (`recall.without_recalled`), and what is already remembered is not drafted
   again: a conversation about memories makes no memories.
2. A draft is one sentence as it was written, without pronouns resolved or tenses changed: never false.
3. `existing` matters only for what is obviously superseded (`slots`), and for repetitions. `probes` says what to search
   for to have the right ones at hand.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime

import msgspec

from app.memory.sentences import own_sentences, sentences
from app.memory.slots import Slot, ends, fills, is_ended_by, slots
from app.memory.statements import bare, is_statement
from app.memory.times import When, when
from app.memory.types import Draft, Memory, Turn
from app.memory.words import normal

NAME = "rules"
"""What memories made here say of their extractor."""
MOST_PER_TURN = 40
"""Statements taken from one turn; a turn with more is somebody's text, and can be found as such."""

_ASKED_TO_KEEP = re.compile(r"\b(?:remember|don't forget|do not forget|keep in mind|note) (?:that|i|my|we|our)\b")
_VITAL = re.compile(
    r"\b(?:allerg\w+|anaphyla\w+|epilep\w+|diabet\w+|asthma|pregnan\w+|intoleran\w+|diagnosed|celiac|coeliac)\b"
)
_LIFE = re.compile(
    r"\b(?:married|divorced|engaged|born|died|passed away|graduated|moved|diagnosed|pregnant|hired|fired|laid off|"
    r"promoted|retired|new job|broke up|adopted|bought (?:a|our|my) (?:house|flat|apartment)|gave birth)\b"
)
_LASTING = re.compile(
    r"\b(?:love|hate|like|prefer|enjoy|favou?rite|can't stand|always|never|want to|plan to|hope to|dream of|goal|"
    r"learning|trying to|would love|'d love|wife|husband|son|daughter|mother|father|sister|brother|partner|children|"
    r"kids)\b"
)
_PASSING = re.compile(
    r"\b(?:today|tonight|right now|at the moment|this (?:morning|afternoon|evening)|just now)\b|^i(?:'m| am) \w+$"
)


class _Told(msgspec.Struct, kw_only=True):
    text: str
    slots: list[Slot]
    ending: bool
    """It says that something is no longer so; asked once, not for each pair."""


class Statement(_Told, kw_only=True):
    """One sentence in which a user says something of themselves."""

    said_at: datetime
    turn_keys: list[str]
    when: When


class _Held(_Told, kw_only=True):
    memory: Memory


def draft(said: list[Statement], categories: list[list[str]], existing: Sequence[Memory] = ()) -> list[Draft]:
    """The statements as memories, oldest turn first, each once.

    ``categories``: of each statement's text, by `categories.categorise`. ``existing``: memories of the same owner that
    may be repeated or superseded (see `probes`); others do no harm.
    """
    current = [memory for memory in existing if memory.valid_to is None]
    known = {normal(memory.text) for memory in current}
    held = [_Held(text=m.text, slots=slots(m.text), ending=ends(m.text), memory=m) for m in current]
    found: list[Statement] = []
    drafts: list[Draft] = []
    for one, names in zip(said, categories, strict=True):
        if _is_known(one.text, known) or _repeats(one, held):
            continue
        earlier = _replaced_draft(one, found)
        found.append(one)
        drafts.append(
            Draft(
                text=one.text,
                type="episodic" if one.when.event else "semantic",
                categories=names,
                importance=_importance(one),
                valid_from=one.when.at or one.said_at,
                turn_keys=one.turn_keys,
                supersedes=_replaced_memory(one, held) if earlier is None else None,
                supersedes_draft=earlier,
            )
        )
    return drafts


def probes(said: list[Statement]) -> list[str]:
    """What to search the owner's memories for before `draft`: mostly nothing. A dozen hits of each will do."""
    found: dict[str, None] = {}
    for one in said:
        found |= dict.fromkeys(slot.probe for slot in one.slots)
        if one.ending:
            found[one.text] = None
    return list(found)


def statements(turns: list[Turn]) -> list[Statement]:
    """What the user says of themselves in ``turns``, oldest turn first, each sentence once."""
    found: dict[str, Statement] = {}
    assistant: set[str] = set()
    for turn in turns:
        if turn.role == "assistant":
            assistant |= {normal(sentence) for sentence in sentences(turn.text)}
            continue
        if not turn.own:
            continue
        texts = [text for text in own_sentences(turn.text) if is_statement(text)]
        for text in texts[:MOST_PER_TURN]:
            key = normal(text)
            if key in found:
                found[key].turn_keys.append(turn.key)
            elif key and key not in assistant:
                found[key] = Statement(
                    text=text,
                    said_at=turn.said_at,
                    turn_keys=[turn.key],
                    when=when(text, turn.said_at),
                    slots=slots(text),
                    ending=ends(text),
                )
    return list(found.values())


def _is_known(text: str, known: set[str]) -> bool:
    """Word for word, or as a quotation: "I remember: …"."""
    return normal(text) in known or (":" in text and normal(text.rpartition(":")[2]) in known)


def _repeats(one: Statement, held: list[_Held]) -> bool:
    """Says in other words only what is known: the same value in the same slot."""
    if not one.slots or not all(slot.whole and slot.value for slot in one.slots):
        return False
    known = {(slot.name, slot.value) for other in held for slot in other.slots}
    return all((slot.name, slot.value) in known for slot in one.slots)


def _replaced_memory(one: Statement, held: list[_Held]) -> str | None:
    """The newest memory that is no longer so, if it was true before this is.

    Else the oldest one that was said after this and replaces it: what is read late takes its place in that chain.
    """
    since = one.when.at or one.said_at
    older = [h.memory for h in held if h.memory.valid_from <= since and _replaces(one, h)]
    if older:
        return max(older, key=lambda memory: memory.valid_from).id
    newer = [h.memory for h in held if h.memory.valid_from > since and _replaces(h, one)]
    return min(newer, key=lambda memory: memory.valid_from).id if newer else None


def _replaced_draft(one: Statement, earlier: list[Statement]) -> int | None:
    since = one.when.at or one.said_at
    for place in range(len(earlier) - 1, -1, -1):
        other = earlier[place]
        if (other.when.at or other.said_at) <= since and _replaces(one, other):
            return place
    return None


def _replaces(new: _Told, old: _Told) -> bool:
    if any(fills(slot, other) for slot in new.slots for other in old.slots):
        return True
    return new.ending and is_ended_by(old.text, new.text)


def _importance(one: Statement) -> float:
    """0 to 1, by kind: what a person is above what they like above what they did above what passes."""
    text = bare(one.text)
    names = {slot.name.partition(":")[0] for slot in one.slots}
    if _VITAL.search(text) or "name" in names or _ASKED_TO_KEEP.search(one.text.lower()):
        return 0.9
    if names - {"favourite"} or _LIFE.search(text):
        return 0.8
    if _PASSING.search(text):
        return 0.25
    if one.when.event:
        return 0.45
    return 0.6 if _LASTING.search(text) else 0.5
