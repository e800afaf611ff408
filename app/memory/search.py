"""Search over one user's units: BM25 and vectors, side by side and fused.

Choices:

1. Both legs rank the same units and are exact: BM25 over the postings of that user alone, so that what others store
   changes nothing of its weights, and vectors compared one by one. A user who outgrows that (``LARGE`` units) has an
   HNSW index of their own (`add_indexes`), and vectors then rank only the ``NEAREST`` it gives.
2. Filters say which units take part, before anything is counted or ranked (`ranking`).
3. A turn is left out when a memory made of it is among the results, or has been superseded or corrected where only the
   latest is asked for: "I live in Lyon" must not come back as a quotation after the move to Porto.
4. What no word of the query leads to must be nearer to it than two texts are by chance (``FAR``): a search that finds
   nothing says so.
5. The second stage (`rerank`) looks at the best hundred again, for what neither words nor vectors say. Measured on
   LoCoMo, recall at 10: 0.80, without it 0.76.
6. One statement reads what is ranked, another what stands behind the best. Each of them asks for the owner by itself:
   none trusts the ids another brought. Numbers come as bytes: decoding them one by one took as long as finding them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec
import numpy as np
import structlog

from app.database import Database
from app.errors import Unavailable
from app.memory import ranking
from app.memory.embedding import Embedder, Vector
from app.memory.ranking import Fused, Ids, Numbers, Postings, Units, bm25, fused
from app.memory.records import to_memory
from app.memory.rerank import POOL, reranked
from app.memory.types import Filters, Found, Hit, Memory, Owner, StoredTurn, Turn
from app.memory.words import normal, terms

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
        vector = await self._vector(query)
        for _ in range(TRIES):
            units, scores, distances = await self._legs(owner, wanted, vector, filters, kinds)
            best = fused(units.ids, scores, distances, ranking.KEYWORDS, looked_at + limit + SPARE)
            rows = await self._rows(owner, best)
            if len(rows) == len(best):
                break
        by_vector = not np.isnan(distances).all()
        legs: list[Literal["vector", "keyword"]] = ["vector", "keyword"] if by_vector else ["keyword"]
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

    async def _legs(
        self, owner: Owner, wanted: list[str], vector: Vector | None, filters: Filters, kinds: frozenset[str]
    ) -> tuple[Units, Numbers, Numbers]:
        """All units that take part, their keyword scores and their distances; see `fused`."""
        where, values = _conditions(filters, kinds, first=5)
        statement = _UNITS.format(where=where, distances=_NO_DISTANCES if vector is None else _DISTANCES)
        row = await self._database.fetchrow(
            statement, owner.id, wanted, _index_name(owner.id), None if vector is None else vector.tolist(), *values
        )
        units = Units(_ids(row["ids"]), _numbers(row["lengths"], ">f4"))
        postings = Postings(_ids(row["terms"], ">i4"), _ids(row["units"]), _numbers(row["counts"], ">f4"))
        distances = np.full(len(units.ids), np.nan) if row["distances"] is None else _numbers(row["distances"], ">f8")
        if vector is not None and row["large"]:
            ids, nearest = await self._nearest(owner, vector, _conditions(filters, kinds, first=3))
            places, known = units.places(ids)
            distances[places[known]] = nearest[known]
        return units, bm25(units, postings), distances

    async def _nearest(self, owner: Owner, vector: Vector, narrowing: _Narrowing) -> tuple[Ids, Numbers]:
        """The ``NEAREST`` units by the owner's index, and their distances."""
        where, values = narrowing
        statement = _NEAREST.format(owner=int(owner.id), dimension=len(vector), nearest=NEAREST, where=where)
        async with self._database.transaction() as connection:
            await connection.execute(f"SET LOCAL hnsw.ef_search = {NEAREST}")  # 40 else, and no more are found
            row = await connection.fetchrow(statement, owner.id, vector.tolist(), *values)
        return _ids(row["ids"]), _numbers(row["distances"], ">f8")

    async def _rows(self, owner: Owner, best: list[Fused]) -> list[dict[str, Any]]:
        """What stands behind the best units, in their order; units deleted since they were found are left out."""
        rows = await self._database.fetch(_ROWS, owner.id, [one.unit for one in best])
        known = {row["unit"]: row for row in rows}
        return [
            {**known[one.unit], "score": one.score, "keyword": one.keyword, "distance": one.distance}
            for one in best
            if one.unit in known
        ]


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


# Units and postings are read apart: joined here they would be hashed and sorted for sums that arrays do at once. The
# vector is read in a SELECT of its own: where a plan is kept, it would else be made anew for every unit.
_UNITS = """
WITH place AS (SELECT to_regclass($3::text) IS NOT NULL AS large),
ranked AS (
    SELECT string_agg(int8send(u.id), '') AS ids, string_agg(float4send(u.length), '') AS lengths,
        {distances} AS distances
    FROM units u WHERE u.owner = $1 {where}
), found AS (
    SELECT string_agg(int8send(p.unit), '') AS units, string_agg(float4send(p.count), '') AS counts,
        string_agg(int4send(array_position($2::text[], p.term) - 1), '') AS terms
    FROM postings p WHERE p.owner = $1 AND p.term = ANY($2::text[])
)
SELECT * FROM place CROSS JOIN ranked CROSS JOIN found
"""
_DISTANCES = """string_agg(float8send(coalesce(u.embedding <=> (SELECT $4::float4[]::vector), 'NaN')), '')
            FILTER (WHERE NOT (SELECT large FROM place))"""
_NO_DISTANCES = "CASE WHEN $4::float4[] IS NOT NULL THEN ''::bytea END"

# The owner as a literal: a plan that is kept could not use a partial index for a parameter.
_NEAREST = """
SELECT string_agg(int8send(u.id), '') AS ids, string_agg(float8send(near.distance), '') AS distances FROM (
    SELECT id, embedding::vector({dimension}) <=> (SELECT $2::float4[]::vector({dimension})) AS distance FROM units
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


def _numbers(raw: bytes | None, sent: str) -> Numbers:
    """What PostgreSQL's ``…send`` functions wrote one after the other; NULL for none."""
    return np.frombuffer(raw or b"", sent).astype(np.float64)


def _ids(raw: bytes | None, sent: str = ">i8") -> Ids:
    return np.frombuffer(raw or b"", sent).astype(np.int64)


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
    if filters.platform is not None:
        platform = place(filters.platform)
        turns.append(f"c.platform = {platform}")
        memories.append(f"conversation IN ({_OF_PLATFORM.format(platform)})")
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


_OF_PLATFORM = "SELECT id FROM conversations WHERE owner = $1 AND platform = {}"

_MEMORIES = """(u.memory IS NULL OR u.memory IN (
    SELECT id FROM memories WHERE owner = $1 AND deleted_at IS NULL AND {}))"""

_TURNS = """(u.turn IS NULL OR u.turn IN (
    SELECT t.id FROM turns t JOIN conversations c ON c.id = t.conversation
    WHERE t.owner = $1 AND c.owner = $1 AND {}))"""

# Keys are collected before rows are looked up by them: joined, a table without statistics yet is gone through once for
# every row of the other. By units, because those of an owner are then read from an index alone.
_CURRENT = """u.id NOT IN (SELECT id FROM units WHERE memory = ANY(ARRAY(
    SELECT s.id FROM memories s WHERE s.owner = $1 AND s.deleted_at IS NULL AND s.valid_to IS NOT NULL)))"""

_STILL_SO = """u.id NOT IN (SELECT id FROM units WHERE turn = ANY(ARRAY(
    SELECT t.id FROM turns t WHERE t.owner = $1 AND t.key = ANY(ARRAY(
        SELECT unnest(s.turn_keys) FROM memories s
        WHERE s.owner = $1 AND s.deleted_at IS NULL AND (s.valid_to IS NOT NULL OR s.updated_at > s.created_at)
            AND (s.valid_to IS NOT NULL OR EXISTS (
                SELECT FROM memory_history h
                WHERE h.memory = s.id AND h.event = 'updated' AND h.before ? 'text')))))))"""
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
            metadata=msgspec.json.decode(row["turn_metadata"]),
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
