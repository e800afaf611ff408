"""Searching what was said anywhere: one result a turn, with the turns around it.

Every turn counts here, whatever became of memories drawn from it: this is the record. Turns that were removed are in no
index.
"""

from __future__ import annotations

from datetime import datetime

import msgspec

from app.database import Database
from app.memory.conversations import TURN_COLUMNS, to_turn
from app.memory.search import Search
from app.memory.types import Filters, Owner, Turn

LONGEST_TEXT = 8_000
"""Characters of a turn that are shown whole; of a longer one, the piece that was found."""


class Around(msgspec.Struct, frozen=True, kw_only=True):
    """A turn beside a result."""

    message_id: str
    text: str
    sender: str
    timestamp: datetime


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """A turn that was found. ``message_id``: what its platform calls it. ``context``: its neighbours in order."""

    conversation_id: str
    message_id: str
    title: str | None
    platform: str
    text: str
    score: float
    timestamp: datetime
    sender: str
    context: list[Around]


class Results(msgspec.Struct, frozen=True, kw_only=True):
    results: list[Result]
    legs: list[str]


class HistorySearch:
    """Searches one owner's conversations. Raises Unavailable."""

    def __init__(self, database: Database, search: Search) -> None:
        self._database = database
        self._search = search

    async def search(
        self,
        owner: Owner,
        query: str,
        *,
        limit: int,
        platform: str | None = None,
        context: int = 4,
        rerank: bool = True,
    ) -> Results:
        """The best ``limit`` turns, best first, each with up to ``context`` of its neighbours."""
        filters = Filters(platform=platform, latest_only=False)
        found = await self._search.search(
            owner, query, limit=limit, filters=filters, kinds=frozenset({"turn"}), rerank=rerank
        )
        hits = [(hit, hit.turn) for hit in found.hits if hit.turn is not None]
        placed = await self._placed(owner, [turn.id for _, turn in hits], context)
        results = []
        for hit, turn in hits:
            if (place := placed.get(turn.id)) is None:
                continue  # removed since
            whole = len(turn.turn.text) <= LONGEST_TEXT
            results.append(
                Result(
                    conversation_id=place.conversation,
                    message_id=name_of(turn.turn),
                    title=place.title,
                    platform=place.platform,
                    text=turn.turn.text if whole else hit.text,
                    score=hit.score if hit.rerank_score is None else hit.rerank_score,
                    timestamp=turn.turn.said_at,
                    sender=sender_of(turn.turn),
                    context=place.around,
                )
            )
        return Results(results=results, legs=list(found.legs))

    async def _placed(self, owner: Owner, turns: list[int], context: int) -> dict[int, _Place]:
        """Where these turns stand, and what stands around them."""
        before, after = context // 2, context - context // 2
        rows = await self._database.fetch(
            f"""SELECT h.id AS found, h.conversation, c.title, c.platform, {TURN_COLUMNS} FROM turns h
            JOIN conversations c ON c.id = h.conversation AND c.owner = $1
            LEFT JOIN turns t ON t.owner = $1 AND t.conversation = h.conversation AND t.id <> h.id
                AND t.position BETWEEN h.position - $3 AND h.position + $4
            WHERE h.owner = $1 AND h.id = ANY($2) ORDER BY t.position, t.id""",  # noqa: S608 - constants
            owner.id,
            turns,
            before,
            after,
        )
        places: dict[int, _Place] = {}
        for row in rows:
            place = places.setdefault(row["found"], _Place(row["conversation"], row["title"], row["platform"], []))
            if row["id"] is not None:
                place.around.append(_around(to_turn(row).turn))
        return places


class _Place(msgspec.Struct):
    conversation: str
    title: str | None
    platform: str
    around: list[Around]


def _around(turn: Turn) -> Around:
    text = turn.text if len(turn.text) <= LONGEST_TEXT else f"{turn.text[:LONGEST_TEXT]}…"
    return Around(message_id=name_of(turn), text=text, sender=sender_of(turn), timestamp=turn.said_at)


def name_of(turn: Turn) -> str:
    """What a turn's platform calls it: a message's id, here the asynchronous message's that brought it."""
    return turn.external_id or turn.message_id or turn.key


def sender_of(turn: Turn) -> str:
    """Who said it: a name where the platform knows one, else ``human`` or ``assistant``."""
    name = turn.metadata.get("name")
    if isinstance(name, str) and name:
        return name
    return "assistant" if turn.role == "assistant" else "human"
