"""Search over one user's units: BM25 and vectors, side by side and fused.

Choices:

1. Both legs rank the same units and are exact: BM25 over the postings of that user alone, so that what others store
   changes nothing of its weights, and vectors compared one by one. A user who outgrows that (``LARGE`` units) has an
   HNSW index of their own (`add_indexes`), and vectors then rank only the ``NEAREST`` it gives.
2. Scores are fused, not ranks: each leg is scaled to 0–1 over all units looked at, then 0.65 of the keywords' and 0.35
   of the vectors'. Measured on LoCoMo, recall at 10: keywords 0.73, vectors 0.44, fused 0.76; ranks fused lose to
   keywords alone.
3. Filters say which units take part, before anything is counted or ranked.
4. A turn is left out when a memory made of it is among the results, or has been superseded where only the latest is
   asked for: "I live in Lyon" must not come back as a quotation after the move to Porto.
5. What no word of the query leads to must be nearer to it than two texts are by chance (``FAR``): a search that finds
   nothing says so.
6. The second stage (`rerank`) looks at the best hundred again, for what neither words nor vectors say. Measured as
   above: 0.80.
7. The keywords are looked up while the query is embedded, so the legs are two statements and what stands behind the
   best a third. Each of them asks for the owner by itself: none trusts the ids another brought.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import anyio
import numpy as np
import structlog
from numpy.typing import NDArray

from app.database import Database
from app.errors import Unavailable, ours_alone
from app.memory.embedding import Embedder, Vector
from app.memory.index import as_text
from app.memory.records import to_memory
from app.memory.rerank import POOL, reranked
from app.memory.types import Filters, Found, Hit, Memory, Owner, StoredTurn, Turn
from app.memory.words import normal, terms

K1 = 1.2
B = 0.5
KEYWORDS = 0.65
"""Share of the keyword leg in the fused score; the vectors have the rest."""
LARGE = 50_000
"""Units. One by one, 25,000 take 16 ms; by the index 14, and what is left out of its ``NEAREST`` is not ranked."""
NEAREST = 400
MOST_TERMS = 64
FAR = 0.85
"""The cosine distance of texts that have nothing to do with each other, and beyond. Of MiniLM's; others' are alike."""
SPARE = 20
"""Results fetched beyond the wanted ones: some turns are left out for their memories or as repeats."""
TRIES = 2
"""Searches again when units it found are gone when it reads them: a memory being corrected is a new unit."""

Kind = Literal["memory", "turn"]
_Narrowing = tuple[str, list[Any]]
"""A condition on units and its parameters."""
BOTH: frozenset[str] = frozenset({"memory", "turn"})

log = structlog.get_logger(__name__)


class Leg(NamedTuple):
    """Units, each once, and their scores or distances."""

    units: NDArray[np.int64]
    scores: NDArray[np.float64]


class Fused(NamedTuple):
    """A unit as both legs saw it; None where one did not find it."""

    score: float
    unit: int
    keyword: float | None
    distance: float | None


class Search:
    """Searches for one owner at a time. Without an embedder, and while it does not answer, by keywords alone.

    Without an embedder ``database`` may be a connection: what its transaction wrote is then found.
    """

    def __init__(self, database: Database, embedder: Embedder | None) -> None:
        self._database = database
        self._embedder = embedder

    async def search(
        self,
        owner: Owner,
        query: str,
        *,
        limit: int = 10,
        filters: Filters = Filters(),  # noqa: B008  # frozen
        kinds: frozenset[str] = BOTH,
        rerank: bool = False,
    ) -> Found:
        """The best ``limit`` hits, best first. Raises Unavailable."""
        if filters.categories or filters.types:
            kinds = kinds - {"turn"}
        if not kinds or not query.strip():
            return Found(hits=[], legs=[])
        wanted = list(dict.fromkeys(terms(query)))[:MOST_TERMS]
        looked_at = max(limit, POOL) if rerank else limit
        narrowing = _conditions(filters, kinds, first=3)
        for _ in range(TRIES):
            keyword, vector = await self._legs(owner, query, wanted, narrowing)
            best = fused(keyword, vector, KEYWORDS, looked_at + limit + SPARE)
            rows = await self._rows(owner, best)
            if len(rows) == len(best):
                break
        legs: list[Literal["vector", "keyword"]] = ["vector", "keyword"] if len(vector.units) else ["keyword"]
        near = [row for row in rows if row["keyword"] or (row["distance"] is not None and row["distance"] < FAR)]
        hits = _without_doubles([_hit(row) for row in near])
        if rerank:
            hits = reranked(query, hits[:looked_at])
        return Found(hits=hits[:limit], legs=legs)

    async def _vector(self, query: str) -> Vector | None:
        if self._embedder is None:
            return None
        try:
            (vector,) = await self._embedder.embed([query])
        except Unavailable as error:
            log.warning("search.without_vectors", reason=error.message)
            return None
        return vector

    async def _legs(self, owner: Owner, query: str, wanted: list[str], narrowing: _Narrowing) -> tuple[Leg, Leg]:
        """What the keywords and what the vectors find; the keywords are looked up while the query is embedded."""
        where, values = narrowing
        statement = _KEYWORD.format(where=where, k1=K1, b=B)
        vector = _NOTHING

        async def by_vector() -> None:
            nonlocal vector
            made = await self._vector(query)
            if made is not None:
                vector = await self._nearest(owner, made, narrowing)

        if self._embedder is None:
            return _leg(await self._database.fetchrow(statement, owner.id, wanted, *values)), vector
        try:
            async with anyio.create_task_group() as legs:
                legs.start_soon(by_vector)
                keyword = _leg(await self._database.fetchrow(statement, owner.id, wanted, *values))
        except BaseExceptionGroup as failures:
            raise ours_alone(failures) or failures from None
        return keyword, vector

    async def _nearest(self, owner: Owner, vector: Vector, narrowing: _Narrowing) -> Leg:
        where, values = narrowing
        if not await self._is_large(owner):
            return _leg(await self._database.fetchrow(_ALL.format(where=where), owner.id, as_text(vector), *values))
        statement = _NEAREST.format(owner=int(owner.id), dimension=len(vector), nearest=NEAREST, where=where)
        async with self._database.transaction() as connection:
            await connection.execute(f"SET LOCAL hnsw.ef_search = {NEAREST}")  # 40 else, and no more are found
            return _leg(await connection.fetchrow(statement, owner.id, as_text(vector), *values))

    async def _rows(self, owner: Owner, best: list[Fused]) -> list[dict[str, Any]]:
        """What stands behind the best units, in their order; units deleted since they were found are left out."""
        rows = await self._database.fetch(_ROWS, owner.id, [one.unit for one in best])
        known = {row["unit"]: row for row in rows}
        return [
            {**known[one.unit], "score": one.score, "keyword": one.keyword, "distance": one.distance}
            for one in best
            if one.unit in known
        ]

    async def _is_large(self, owner: Owner) -> bool:
        return bool(await self._database.fetchval("SELECT to_regclass($1)", _index_name(owner.id)))


async def add_indexes(database: Database) -> int:
    """Gives users who outgrew comparing vector by vector an index of their own; how many it made."""
    dimension = await database.fetchval("SELECT dimension FROM embedding_model")
    rows = await database.fetch("SELECT owner FROM units GROUP BY owner HAVING count(*) > $1", LARGE)
    made = 0
    for row in rows if dimension else ():
        name = _index_name(row["owner"])
        if await database.fetchval("SELECT to_regclass($1)", name) is None:
            async with database.connection() as connection:
                await connection.execute(
                    f"CREATE INDEX CONCURRENTLY IF NOT EXISTS {name} ON units "
                    f"USING hnsw ((embedding::vector({int(dimension)})) vector_cosine_ops) "
                    f"WHERE owner = {int(row['owner'])}",
                    timeout=3_600,
                )
            made += 1
    return made


def _index_name(owner: int) -> str:
    return f"units_nearest_{int(owner)}"


_KEYWORD = """
WITH eligible AS MATERIALIZED (
    SELECT u.id, u.length FROM units u WHERE u.owner = $1 {where}
), size AS (
    SELECT count(*)::float8 AS n, greatest(avg(length), 1e-9) AS average FROM eligible
), matches AS MATERIALIZED (
    SELECT p.unit, p.term, p.count, e.length
    FROM postings p JOIN eligible e ON e.id = p.unit
    WHERE p.owner = $1 AND p.term = ANY($2::text[])
), rarity AS (
    SELECT term, ln(1 + (s.n - count(*) + 0.5) / (count(*) + 0.5)) AS idf
    FROM matches CROSS JOIN size s GROUP BY term, s.n
), keyword AS (
    SELECT m.unit,
        sum(r.idf * m.count * ({k1} + 1) / (m.count + {k1} * (1 - {b} + {b} * m.length / s.average)))::float8 AS score
    FROM matches m JOIN rarity r USING (term) CROSS JOIN size s GROUP BY m.unit
)
SELECT array_agg(unit) AS units, array_agg(score) AS scores FROM keyword
"""

# The vector is read in a SELECT of its own: where a plan is kept, its text would else be parsed anew for every unit.
_ALL = """
SELECT array_agg(u.id) AS units, array_agg(u.embedding <=> (SELECT $2::text::vector)) AS scores
FROM units u WHERE u.owner = $1 AND u.embedding IS NOT NULL {where}
"""

# The owner as a literal: a plan that is kept could not use a partial index for a parameter.
_NEAREST = """
SELECT array_agg(u.id) AS units, array_agg(near.distance) AS scores FROM (
    SELECT id, embedding::vector({dimension}) <=> (SELECT $2::text::vector({dimension})) AS distance FROM units
    WHERE owner = {owner} AND embedding IS NOT NULL
    ORDER BY distance LIMIT {nearest}
) near JOIN units u ON u.id = near.id WHERE u.owner = $1 {where}
"""

_ROWS = """
SELECT u.id AS unit, u.text AS unit_text, u.turn AS turn_row,
    t.key AS turn_key, t.role, t.text AS turn_text, t.said_at, t.message_id AS turn_message, t.external_id,
    t.metadata AS turn_metadata, t.conversation AS turn_conversation, m.*
FROM units u
LEFT JOIN memories m ON m.id = u.memory AND m.owner = $1 AND m.deleted_at IS NULL
LEFT JOIN turns t ON t.id = u.turn AND t.owner = $1
WHERE u.owner = $1 AND u.id = ANY($2::bigint[]) AND (m.id IS NOT NULL OR t.id IS NOT NULL)
"""


def _leg(row: Any) -> Leg:
    return Leg(np.array(row["units"] or (), np.int64), np.array(row["scores"] or (), np.float64))


_NOTHING = Leg(np.empty(0, np.int64), np.empty(0))


def fused(keyword: Leg, vector: Leg, share: float, most: int) -> list[Fused]:
    """The best units of both legs: ``share`` of the keywords' scores and the rest of the vectors', each 0 to 1."""
    units = np.union1d(keyword.units, vector.units)
    scores, distances = np.full(len(units), np.nan), np.full(len(units), np.nan)
    scores[np.searchsorted(units, keyword.units)] = keyword.scores
    distances[np.searchsorted(units, vector.units)] = vector.scores
    totals = np.zeros(len(units))
    if len(keyword.units):
        totals += np.nan_to_num(scores) * (share if len(vector.units) else 1.0) / (keyword.scores.max() or 1.0)
    if len(vector.units):
        far, near = vector.scores.max(), vector.scores.min()
        totals += np.nan_to_num(far - distances) * (1 - share) / ((far - near) or 1.0)
    best = np.lexsort((-units, -totals))[:most]
    columns = (totals[best], units[best], scores[best], distances[best])
    return [
        Fused(total, unit, None if math.isnan(score) else score, None if math.isnan(distance) else distance)
        for total, unit, score, distance in zip(*(column.tolist() for column in columns), strict=True)
    ]


def _conditions(filters: Filters, kinds: frozenset[str], first: int) -> _Narrowing:
    """What a unit ``u`` must fulfil, as SQL from parameter ``first`` on, and the parameters."""
    parts: list[str] = []
    values: list[Any] = []

    def place(value: Any) -> str:
        values.append(value)
        return f"${first + len(values) - 1}"

    named = {"agent_id": filters.agent_id, "thread_id": filters.thread_id, "source": filters.source}
    names = [(name, place(value)) for name, value in named.items() if value is not None]
    times = [(sign, place(time)) for sign, time in ((">=", filters.since), ("<", filters.until)) if time is not None]
    memories = [f"{name} = {value}" for name, value in names] + [f"created_at {sign} {time}" for sign, time in times]
    turns = [f"c.{name} = {value}" for name, value in names] + [f"t.said_at {sign} {time}" for sign, time in times]
    if filters.categories:
        memories.append(f"categories && {place(filters.categories)}::text[]")
    if filters.types:
        memories.append(f"type = ANY({place(filters.types)}::text[])")
    if kinds != BOTH:
        parts.append("u.turn IS NULL" if "memory" in kinds else "u.memory IS NULL")
    if "memory" in kinds and memories:
        parts.append(_MEMORIES.format(" AND ".join(memories)))
    if "turn" in kinds and turns:
        parts.append(_TURNS.format(" AND ".join(turns)))
    if filters.latest_only:
        parts += [_CURRENT] * ("memory" in kinds) + [_STILL_SO] * ("turn" in kinds)
    return "".join(f" AND {part}" for part in parts), values


_MEMORIES = """(u.memory IS NULL OR u.memory IN (
    SELECT id FROM memories WHERE owner = $1 AND deleted_at IS NULL AND {}))"""

_TURNS = """(u.turn IS NULL OR u.turn IN (
    SELECT t.id FROM turns t JOIN conversations c ON c.id = t.conversation
    WHERE t.owner = $1 AND c.owner = $1 AND {}))"""

# By units: those of an owner are then read from an index alone.
_CURRENT = """u.id NOT IN (
    SELECT x.id FROM memories s JOIN units x ON x.memory = s.id AND x.owner = $1
    WHERE s.owner = $1 AND s.deleted_at IS NULL AND s.valid_to IS NOT NULL)"""

_STILL_SO = """u.id NOT IN (
    SELECT x.id FROM memories s CROSS JOIN unnest(s.turn_keys) AS said
    JOIN turns t ON t.owner = $1 AND t.key = said JOIN units x ON x.turn = t.id AND x.owner = $1
    WHERE s.owner = $1 AND s.deleted_at IS NULL AND (s.valid_to IS NOT NULL OR s.updated_at > s.created_at)
        AND (s.valid_to IS NOT NULL OR EXISTS (
            SELECT FROM memory_history h WHERE h.memory = s.id AND h.event = 'updated' AND h.before ? 'text')))"""
"""No turn whose memory was superseded or corrected since: word for word it would say what is no longer so."""


def _hit(row: Any) -> Hit:
    memory: Memory | None = None
    turn: StoredTurn | None = None
    if row["id"] is not None:
        memory = to_memory(row)
    else:
        said = Turn(
            key=row["turn_key"],
            role=row["role"],
            text=row["turn_text"],
            said_at=row["said_at"],
            message_id=row["turn_message"],
            external_id=row["external_id"],
        )
        turn = StoredTurn(id=row["turn_row"], turn=said, new=False)
    return Hit(
        kind="memory" if memory else "turn",
        memory=memory,
        turn=turn,
        conversation=memory.conversation if memory else row["turn_conversation"],
        text=memory.text if memory else row["unit_text"],
        score=round(float(row["score"]), 6),
        vector_distance=None if row["distance"] is None else round(float(row["distance"]), 6),
        keyword_score=None if row["keyword"] is None else round(float(row["keyword"]), 4),
    )


def _without_doubles(hits: Sequence[Hit]) -> list[Hit]:
    """Each memory and turn once, by its best piece; no turn said twice, or that one of the memories repeats."""
    told = {key for hit in hits if hit.memory for key in hit.memory.turn_keys}
    seen: set[str] = set()
    found = []
    for hit in hits:
        names = {hit.memory.id} if hit.memory else set()
        if hit.turn:
            names = {hit.turn.turn.key, normal(hit.text)}
        if not seen.isdisjoint(names) or (hit.turn and hit.turn.turn.key in told):
            continue
        seen |= names
        found.append(hit)
    return found
