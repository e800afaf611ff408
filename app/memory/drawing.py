"""Memories drawn by rules in the transaction that stores the turns.

With their owner locked nobody else remembers in between: of two messages that come at once the second knows what the
first one said, and supersedes it where it has to. All that takes time, the categories by their vectors, is done before.
"""

from __future__ import annotations

from typing import Any

from app.memory import rules
from app.memory.rules import Statement
from app.memory.search import Search
from app.memory.types import Draft, Memory, Owner

MOST_PROBES, PROBED = 20, 12


async def draw(connection: Any, owner: Owner, said: list[Statement], categories: list[list[str]]) -> list[Draft]:
    """Drafts of what an owner said. To be called with the owner locked."""
    search = Search(connection, None)  # by keywords alone: so probes are meant
    existing: dict[str, Memory] = {}
    for probe in rules.probes(said)[:MOST_PROBES]:
        found = await search.search(owner, probe, limit=PROBED, kinds=frozenset({"memory"}))
        existing |= {hit.memory.id: hit.memory for hit in found.hits if hit.memory is not None}
    return rules.draft(said, categories, list(existing.values()))
