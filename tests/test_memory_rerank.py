"""The second stage of search: who speaks, when, and that a question is seldom an answer."""

from __future__ import annotations

from datetime import datetime

import pytest

from app.database import Database
from app.memory import rerank as rerank_module
from app.memory import search as search_module
from app.memory.rerank import DATED, QUESTION, SPEAKER, WHEN, asked, evidence
from app.memory.search import Search
from app.memory.types import Owner
from tests.memory_rig import NOON, say


@pytest.mark.parametrize(
    ("query", "better", "worse"),
    [
        ("What does Ann paint?", "Ann: I paint boats", "Bob: I paint boats"),
        ("When did Ann paint?", "Ann: I paint since 2019", "Ann: I paint boats"),
        ("paint boats", "I do paint my boats", "Do I paint boats?"),
    ],
)
async def test_the_second_stage_looks_at_who_speaks_when_and_at_questions(
    database: Database, owner: Owner, query: str, better: str, worse: str
) -> None:
    await say(database, owner, better, thread="a")
    await say(database, owner, worse, thread="b")
    search = Search(database, None)
    hits = (await search.search(owner, query, rerank=True)).hits
    assert [hit.text for hit in hits] == [better, worse]
    assert (hits[0].rerank_score or 0.0) > (hits[1].rerank_score or 0.0)
    assert {hit.rerank_score for hit in (await search.search(owner, query)).hits} == {None}


async def test_only_the_best_of_the_first_stage_are_looked_at_again(
    database: Database, owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_module, "POOL", 2)
    monkeypatch.setattr(rerank_module, "WHEN", 1.0)
    texts = ["boats, boats, boats", "boats, boats and tea", "some boats and tea and more last week"]
    for n, text in enumerate(texts):
        await say(database, owner, text, thread=str(n))
    search = Search(database, None)
    assert [hit.text for hit in (await search.search(owner, "When boats?")).hits] == texts
    assert [hit.text for hit in (await search.search(owner, "When boats?", limit=2, rerank=True)).hits] == texts[:2]
    assert (await search.search(owner, "When boats?", limit=3, rerank=True)).hits[0].text == texts[2]


@pytest.mark.parametrize(
    ("query", "months", "years"),
    [
        ("What happened in May 2023?", {5}, {2023}),
        ("Who may come in March or april", {3, 4}, set()),
        ("on 7 may", {5}, set()),
        ("room 2019b, 12345", set(), set()),
    ],
)
def test_months_and_years_are_read_from_a_query(query: str, months: set[int], years: set[int]) -> None:
    found = asked(query)
    assert (found.months, found.years) == (months, years)


@pytest.mark.parametrize(
    ("query", "text", "said_at", "score"),
    [
        ("What did she buy in March 2026?", "a lamp", NOON, DATED),
        ("What did she buy in March 2026?", "a lamp", NOON.replace(month=2), 0),
        ("What did she buy in March 2026?", "a lamp", NOON.replace(year=2024), 0),
        ("What did Ann's sister buy?", "Ann Lee: a lamp", NOON, SPEAKER),
        ("What did Anna buy?", "Ann: a lamp", NOON, 0),
        ("What is the plan?", "What I did: the plan", NOON, 0),
        ("What did Ann buy?", "I met Ann and she said: a lamp", NOON, 0),
        ("Did Ann buy it at 10:30?", "Ann:30", NOON, 0),
        ("What did ann buy, when?", "Ann: did I buy it last week?", NOON, SPEAKER + WHEN + QUESTION),
        ("Was hat Ann gekauft?", "eine Lampe", NOON, 0),
    ],
)
def test_what_is_added_to_a_score(query: str, text: str, said_at: datetime, score: float) -> None:
    assert evidence(asked(query), text, said_at) == pytest.approx(score)
