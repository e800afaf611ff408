"""The second stage: the first stage's best looked at again, for what neither words nor vectors say.

No model and no training; every weight is a share of the best first-stage score. Measured on LoCoMo, where each adds to
evidence recall: who speaks, when, and that a question is no answer.
"""

from __future__ import annotations

import re
from datetime import datetime

import msgspec

from app.memory.types import Hit

POOL = 100
"""How many of the first stage's best are looked at."""

SPEAKER = 0.2
"""The query names the one who speaks, in texts that begin with a name and a colon."""
WHEN = 0.1
"""The query asks when, and the text has an expression of time."""
DATED = 0.1
"""The query names a month or year, and it was said then."""
QUESTION = -0.1
"""The text ends as a question."""

MONTHS = (
    "january february march april may june july august september october november december".split()  # noqa: SIM905
)
_SPEAKER = re.compile(r"\s*([^\W\d_][\w.'’ -]{0,39}):\s")
_WHEN = re.compile(r"\b(?:when|how long|(?:what|which) (?:date|day|month|year))\b", re.IGNORECASE)
_TIME = re.compile(
    rf"\b(?:yesterday|to(?:day|night|morrow)|last|next|ago|since|recently|morning|week(?:end)?s?|months?|years?|"
    rf"(?:mon|tues|wednes|thurs|fri|satur|sun)day|{'|'.join(MONTHS)}|\d{{4}})\b",
    re.IGNORECASE,
)
_YEAR = re.compile(r"\b(?:19|20)\d\d\b")
_MONTH = re.compile(rf"\b({'|'.join(MONTHS)})\b", re.IGNORECASE)
_MAY = re.compile(r"\b(?:in|of|during|since|until|last|next|this|early|late|mid|\d+(?:st|nd|rd|th)?) may\b|\bmay,? \d")


class Asked(msgspec.Struct, frozen=True):
    """What a query asks for besides its words."""

    words: frozenset[str]
    when: bool
    months: frozenset[int]
    years: frozenset[int]


def asked(query: str) -> Asked:
    folded = query.casefold()
    months = {MONTHS.index(name) + 1 for name in _MONTH.findall(folded)}
    if 5 in months and not _MAY.search(folded):  # the verb
        months.discard(5)
    return Asked(
        words=frozenset(re.findall(r"\w+", folded)),
        when=_WHEN.search(folded) is not None,
        months=frozenset(months),
        years=frozenset(int(year) for year in _YEAR.findall(folded)),
    )


def evidence(want: Asked, text: str, said_at: datetime) -> float:
    """What is added to the first stage's score of a text."""
    score = 0.0
    speaker = _SPEAKER.match(text)
    if speaker and re.findall(r"\w+", speaker[1].casefold())[0] in want.words:
        score += SPEAKER
    if want.when and _TIME.search(text):
        score += WHEN
    if (
        (want.months or want.years)
        and (not want.months or said_at.month in want.months)
        and (not want.years or said_at.year in want.years)
    ):
        score += DATED
    if text.rstrip().endswith(("?", "？")):
        score += QUESTION
    return score


def reranked(query: str, hits: list[Hit]) -> list[Hit]:
    """The hits in their new order, each with its ``rerank_score``."""
    want = asked(query)
    for hit in hits:
        when = hit.memory.valid_from if hit.memory else hit.turn.turn.said_at if hit.turn else None
        assert when is not None
        hit.rerank_score = hit.score + evidence(want, hit.text, when)
    return sorted(hits, key=lambda hit: -(hit.rerank_score or 0.0))
