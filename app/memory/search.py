"""Search over one user's units: BM25 and vectors, fused, in one statement.

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
6. The second stage (``rerank``) looks at the best hundred again, for what neither words nor vectors say. Measured as
   above: 0.79.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import structlog

from app.database import Database
from app.errors import Unavailable
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
LARGE = 20_000
NEAREST = 400
MOST_TERMS = 64
FAR = 0.85
"""The cosine distance of texts that have nothing to do with each other, and beyond. Of MiniLM's; others' are alike."""
SPARE = 20
"""Results fetched beyond the wanted ones: some turns are left out for their memories or as repeats."""

Kind = Literal["memory", "turn"]
BOTH: frozenset[str] = frozenset({"memory", "turn"})

log = structlog.get_logger(__name__)


class Search:
    """Searches for one owner at a time. Without an embedder, and while it does not answer, by keywords alone."""

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
        vector = await self._vector(query)
        wanted = list(dict.fromkeys(terms(query)))[:MOST_TERMS]
        count = max(limit, POOL if rerank else 0) + limit + SPARE
        rows = await self._rank(owner, wanted, vector, filters, kinds, count)
        legs: list[Literal["vector", "keyword"]] = ["keyword"]
        if vector is not None and any(row["distance"] is not None for row in rows):
            legs.insert(0, "vector")
        near = [row for row in rows if row["keyword"] or (row["distance"] is not None and row["distance"] < FAR)]
        hits = _without_doubles([_hit(row) for row in near])
        if rerank:
            hits = reranked(query, hits)
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

    async def _rank(
        self,
        owner: Owner,
        wanted: list[str],
        vector: Vector | None,
        filters: Filters,
        kinds: frozenset[str],
        count: int,
    ) -> list[Any]:
        large = vector is not None and await self._is_large(owner)
        where, values = _conditions(filters, kinds, first=5)
        nearest = _ALL
        if large and vector is not None:
            nearest = _NEAREST.format(owner=int(owner.id), dimension=len(vector), nearest=NEAREST)
        statement = _STATEMENT.format(
            where=where,
            nearest=nearest,
            k1=K1,
            b=B,
            keywords=KEYWORDS if vector is not None else 1.0,
        )
        if nearest is _ALL:
            return await self._database.fetch(statement, owner.id, wanted, as_text(vector), count, *values)
        async with self._database.transaction() as connection:
            await connection.execute(f"SET LOCAL hnsw.ef_search = {NEAREST}")  # 40 else, and no more are found
            return list(await connection.fetch(statement, owner.id, wanted, as_text(vector), count, *values))

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


_STATEMENT = """
WITH eligible AS (
    SELECT u.id, u.length
    FROM units u
    LEFT JOIN memories m ON m.id = u.memory AND m.owner = $1 AND m.deleted_at IS NULL
    LEFT JOIN turns t ON t.id = u.turn AND t.owner = $1
    LEFT JOIN conversations c ON c.id = t.conversation AND c.owner = $1
    WHERE u.owner = $1 AND (u.memory IS NULL OR m.id IS NOT NULL) {where}
), size AS (
    SELECT count(*)::float8 AS n, greatest(avg(length), 1e-9) AS average FROM eligible
), matches AS (
    SELECT p.unit, p.term, p.count, e.length
    FROM postings p JOIN eligible e ON e.id = p.unit
    WHERE p.owner = $1 AND p.term = ANY($2::text[])
), rarity AS (
    SELECT term, ln(1 + (s.n - count(*) + 0.5) / (count(*) + 0.5)) AS idf
    FROM matches CROSS JOIN size s GROUP BY term, s.n
), keyword AS (
    SELECT m.unit,
        sum(r.idf * m.count * ({k1} + 1) / (m.count + {k1} * (1 - {b} + {b} * m.length / s.average))) AS score
    FROM matches m JOIN rarity r USING (term) CROSS JOIN size s GROUP BY m.unit
), vector AS ({nearest}
), bounds AS (
    SELECT (SELECT max(score) FROM keyword) AS best, (SELECT min(distance) FROM vector) AS near,
        (SELECT max(distance) FROM vector) AS far
), fused AS (
    SELECT coalesce(k.unit, v.unit) AS unit, k.score AS keyword, v.distance,
        {keywords} * coalesce(k.score / nullif(b.best, 0), 0)
        + (1 - {keywords}) * coalesce((b.far - v.distance) / nullif(b.far - b.near, 0), 0) AS score
    FROM keyword k FULL JOIN vector v ON v.unit = k.unit CROSS JOIN bounds b
), best AS (
    SELECT * FROM fused ORDER BY score DESC, unit DESC LIMIT $4
)
SELECT best.score, best.keyword, best.distance, u.text AS unit_text, u.turn AS turn_row,
    t.key AS turn_key, t.role, t.text AS turn_text, t.said_at, t.message_id AS turn_message, t.external_id,
    t.metadata AS turn_metadata, t.conversation AS turn_conversation, m.*
FROM best JOIN units u ON u.id = best.unit AND u.owner = $1
LEFT JOIN memories m ON m.id = u.memory AND m.owner = $1
LEFT JOIN turns t ON t.id = u.turn AND t.owner = $1
ORDER BY best.score DESC, best.unit DESC
"""

# The vector is read in a SELECT of its own: where a plan is kept, its text would else be parsed anew for every unit.
_ALL = """
    SELECT u.id AS unit, u.embedding <=> (SELECT $3::text::vector) AS distance
    FROM eligible e JOIN units u ON u.id = e.id AND u.owner = $1
    WHERE u.embedding IS NOT NULL AND $3::text IS NOT NULL"""

# The owner as a literal: a plan that is kept could not use a partial index for a parameter.
_NEAREST = """
    SELECT near.id AS unit, near.distance FROM (
        SELECT id, embedding::vector({dimension}) <=> (SELECT $3::text::vector({dimension})) AS distance FROM units
        WHERE owner = {owner} AND embedding IS NOT NULL
        ORDER BY distance LIMIT {nearest}
    ) near JOIN eligible ON eligible.id = near.id"""


def _conditions(filters: Filters, kinds: frozenset[str], first: int) -> tuple[str, list[Any]]:
    """What a unit must fulfil, as SQL from parameter ``first`` on, and the parameters."""
    parts: list[str] = []
    values: list[Any] = []

    def place(value: Any) -> str:
        values.append(value)
        return f"${first + len(values) - 1}"

    if kinds != BOTH:
        parts.append("u.turn IS NULL" if "memory" in kinds else "u.memory IS NULL")
    if "memory" in kinds and filters.latest_only:
        parts.append("m.valid_to IS NULL")
    if "turn" in kinds and filters.latest_only:
        parts.append(
            "(t.id IS NULL OR t.key NOT IN (SELECT unnest(s.turn_keys) FROM memories s "
            "WHERE s.owner = $1 AND s.valid_to IS NOT NULL AND s.deleted_at IS NULL))"
        )
    if filters.categories:
        parts.append(f"m.categories && {place(filters.categories)}::text[]")
    if filters.types:
        parts.append(f"m.type = ANY({place(filters.types)}::text[])")
    named = {"agent_id": filters.agent_id, "thread_id": filters.thread_id, "source": filters.source}
    parts += [f"coalesce(m.{name}, c.{name}) = {place(value)}" for name, value in named.items() if value is not None]
    if filters.since is not None:
        parts.append(f"coalesce(m.created_at, t.said_at) >= {place(filters.since)}")
    if filters.until is not None:
        parts.append(f"coalesce(m.created_at, t.said_at) < {place(filters.until)}")
    return "".join(f" AND {part}" for part in parts), values


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
