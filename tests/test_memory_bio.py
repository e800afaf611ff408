"""A composed bio says what memories say and nothing else; traits and insights are proved by them."""

from __future__ import annotations

import itertools
import re
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from app.memory.bio import FORMATS, STYLES, compose, used
from app.memory.insights import insights, traits
from app.memory.person import told
from app.memory.types import Memory
from tests.test_memory_rules import memory

NOW = datetime(2026, 11, 21, tzinfo=UTC)


def held(text: str, *categories: str, importance: float = 0.5, kind: str = "semantic", days: int = 100) -> Memory:
    made = memory(text, name=f"mem_{text}", valid_from=NOW - timedelta(days=days))
    return msgspec.structs.replace(made, categories=list(categories), importance=importance, type=kind)


ANA = [
    held("I live in Lyon.", "identity", importance=0.8),
    held("My name is Ana Costa.", "identity", importance=0.7),
    held("I'm a data engineer and I don't like meetings.", "career", "productivity", importance=0.8),
    held("I work at Globex since 2019", "career", importance=0.7),
    held("I love hiking.", "interests", importance=0.6),
    held("My parents died when I was five.", "relationships", importance=0.6),
    held("I'm allergic to peanuts!", "health", importance=0.9),
    held("Yesterday I ran a marathon.", "health", kind="episodic", importance=0.9),
    held("I got married in 2010.", "relationships", kind="episodic"),
    held("Between us, I was in rehab.", "health", "private", importance=0.9),
    held("I own a lamp."),
]


def made(form: str, style: str, *excluded: str) -> str:
    return compose(ANA, form=form, style=style, excluded={"private", *excluded}, on=NOW)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("I live in Lyon.", "They live in Lyon."),
        ("Well, I'm a nurse and am proud of it", "They are a nurse and are proud of it."),
        ("I was born in Rome.", "They were born in Rome."),
        ("I still was a child!", "They still were a child!"),
        ("I've been to Rome and my wife loves me.", "They have been to Rome and their wife loves them."),
        ("My name's Bob", "Their name is Bob."),
        ("Call me Ana", "They go by Ana."),
        ("We have two kids.", "They have two kids."),
        ("Please remember that I'm allergic to nuts", "They are allergic to nuts."),
        ("I don't eat meat because I’m vegan.", "They don't eat meat because they are vegan."),
        ("Dr. Smith is my dentist. I like him.", "Dr. Smith is their dentist. They like him."),
        ("The user lives in Lyon.", "The user lives in Lyon."),
        ("My parents died when I was five.", 'In their own words: "My parents died when I was five."'),
        ("I told you that I swim", 'In their own words: "I told you that I swim."'),
        ('My wife said "no"!', "In their own words: \"My wife said 'no'!\""),
        ("I was in Rome and was happy.", 'In their own words: "I was in Rome and was happy."'),
    ],
)
def test_a_statement_is_told_or_quoted(said: str, expected: str) -> None:
    assert told(said) == expected


def test_a_full_narrative() -> None:
    assert made("full", "narrative") == (
        "Their name is Ana Costa. They live in Lyon.\n\n"
        "They are a data engineer and they don't like meetings. They work at Globex since 2019.\n\n"
        "They love hiking.\n\n"
        'In their own words: "My parents died when I was five." They got married in 2010.\n\n'
        "They are allergic to peanuts!"
    )


def test_a_short_bio_is_short_and_begins_with_the_name() -> None:
    assert made("short", "narrative") == (
        "Their name is Ana Costa. They are a data engineer and they don't like meetings. They love hiking. "
        'In their own words: "My parents died when I was five."'
    )


def test_bullets_are_a_line_each() -> None:
    assert made("bullets", "factual").splitlines() == [
        "What is known as of 21 November 2026:",
        "- Person: Their name is Ana Costa.",
        "- Person: They live in Lyon.",
        "- Career: They are a data engineer and they don't like meetings.",
        "- Career: They work at Globex since 2019.",
        "- Interests: They love hiking.",
        '- Family and friends: In their own words: "My parents died when I was five."',
        "- Family and friends: They got married in 2010.",
        "- Health: They are allergic to peanuts!",
    ]
    assert made("bullets", "casual").startswith("- Their name is Ana Costa.\n- They live in Lyon.")


def test_a_professional_bio_keeps_to_work() -> None:
    text = made("professional", "formal")
    assert "professional profile" in text
    assert "Career: They are a data engineer and they do not like meetings." in text
    for private in ("hiking", "parents", "peanuts"):
        assert private not in text


def test_styles_differ_in_words_and_never_in_facts() -> None:
    texts = {(f, s): made(f, s) for f, s in itertools.product(FORMATS, STYLES)}
    assert len(set(texts.values())) == len(texts)
    sayings = {re.sub(r"\W", "", told(m.text).lower()) for m in ANA}
    for (form, _), text in texts.items():
        said = re.sub(r"\W", "", text.lower().replace("they're", "they are").replace("do not", "don't"))
        assert sum(one in said for one in sayings) == len(used(ANA, form, {"private"}))  # type: ignore[arg-type]


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("style", STYLES)
def test_what_is_excluded_or_only_true_when_said_is_never_in_a_bio(form: str, style: str) -> None:
    text = made(form, style, "career")
    for word in ("rehab", "marathon", "lamp", "Globex", "meetings"):
        assert word not in text
    assert made(form, style, "identity", "career", "interests", "relationships", "health") == ""


def test_an_included_private_memory_is_shown() -> None:
    text = compose(ANA, form="full", style="narrative", excluded=frozenset(), on=NOW)
    assert "rehab" in text


def test_traits_are_statements_with_their_memory() -> None:
    found = traits([*ANA, held("I hate noise.", "interests"), held("I'd love to see Japan.", "travel")], {"private"})
    assert [(t.kind, t.trait) for t in found] == [
        ("is", "They are allergic to peanuts!"),
        ("is", "They are a data engineer and they don't like meetings."),
        ("likes", "They love hiking."),
        ("dislikes", "They hate noise."),
        ("wants", "They'd love to see Japan."),
    ]
    assert found[0].memory_id == "mem_I'm allergic to peanuts!"


def test_insights_are_counted_and_proved() -> None:
    new = held("I moved to Porto.", "identity", days=3)
    new.created_at = NOW - timedelta(days=3)
    changed = [(ANA[0], new), (held("I drink.", "private"), held("I'm sober.", "health"))]
    found = insights([*ANA, new], changed, {"private"}, NOW)
    assert [(one.kind, one.text) for one in found] == [
        ("main_topics", "Of 10 memories looked at, most are about identity (3), career (2), health (2)."),
        ("recent_focus", "Of the 1 of the last 30 days, most are about identity (1)."),
        ("changed", "Changed on 18 November 2026: “I live in Lyon.” gave way to “I moved to Porto.”."),
    ]
    assert found[2].memory_ids == [ANA[0].id, new.id]
    assert insights([], [], {"private"}, NOW) == []
