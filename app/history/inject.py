"""What was said elsewhere, for a prompt: the turns that answer best, within a budget of tokens, each with its source.

Choices:

1. Nothing is written anew: what is given is quoted, so that it can be looked up. A turn that does not fit is cut at a
   word and says so.
2. The budget holds for the whole text, numbers and dates included, counted as it is given.
3. What the conversation at hand says already is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import anyio
import msgspec

from app.history.search import HistorySearch, Result
from app.history.tokens import count
from app.memory.types import Owner
from app.memory.words import normal

CANDIDATES = 20
"""Turns looked at for each query."""
LEAST_TOKENS = 24
"""What a cut turn must be given at least, to be worth its place."""


class Injection(msgspec.Struct, frozen=True, kw_only=True):
    """A text of ``tokens`` tokens and the turns in it, in its order."""

    content: str
    sources: list[Result]
    tokens: int
    legs: list[str]


async def inject(
    search: HistorySearch,
    owner: Owner,
    queries: Sequence[str],
    *,
    budget: int,
    platform: str | None = None,
    known: Sequence[str] = (),
) -> Injection:
    """Quotations for these queries of at most ``budget`` tokens, the best first; none for none found.

    ``known``: texts that are in the conversation already. Raises Unavailable.
    """
    best: dict[tuple[str, str], Result] = {}
    legs: dict[str, None] = {}
    for query in dict.fromkeys(queries):
        found = await search.search(owner, query, limit=CANDIDATES, platform=platform, context=0)
        legs |= dict.fromkeys(found.legs)
        for result in found.results:
            name = (result.conversation_id, result.message_id)
            if name not in best or best[name].score < result.score:
                best[name] = result
    told = {normal(text) for text in known}
    ranked = sorted((one for one in best.values() if normal(one.text) not in told), key=lambda one: -one.score)
    content, sources, tokens = await anyio.to_thread.run_sync(partial(_filled, ranked, budget))
    return Injection(content=content, sources=sources, tokens=tokens, legs=list(legs))


def _filled(ranked: list[Result], budget: int) -> tuple[str, list[Result], int]:
    """As many quotations as the budget holds."""
    content, tokens = "", 0
    sources: list[Result] = []
    for result in ranked:
        head = f"{content}\n" if content else ""
        whole = f"{head}{_quoted(result, len(sources) + 1, result.text)}"
        used = count(whole)
        if used > budget:
            if budget - tokens < LEAST_TOKENS:
                break
            cut = _cut(result, head, len(sources) + 1, budget)
            if cut is None:
                continue
            whole, used = cut, count(cut)
        content, tokens = whole, used
        sources.append(result)
    return content, sources, tokens


def _cut(result: Result, head: str, number: int, budget: int) -> str | None:
    """The text with as many of the result's words as the budget holds; None for hardly any."""
    words = result.text.split()
    least, most = 0, len(words)
    while least < most:  # the most words that fit
        middle = (least + most + 1) // 2
        if count(f"{head}{_quoted(result, number, ' '.join(words[:middle]) + ' …')}") <= budget:
            least = middle
        else:
            most = middle - 1
    return f"{head}{_quoted(result, number, ' '.join(words[:least]) + ' …')}" if least >= LEAST_TOKENS // 2 else None


def _quoted(result: Result, number: int, text: str) -> str:
    title = f", {result.title}" if result.title else ""
    return f"[{number}] {result.timestamp:%Y-%m-%d}{title}. {result.sender}: {' '.join(text.split())}"
