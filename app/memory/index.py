"""Writes what search reads: units, their postings, their vectors. Always in the caller's transaction.

A turn is one unit, or several when it is long; a memory likewise. The postings of a turn's unit hold its window: its
own terms and, weighted less, those of its neighbours, because a question often shares words with the turn before its
answer. A new turn so changes the postings of the two before it.

Windows of five, weighted 0.5, 0.7, 1, 0.7, 0.5, were measured best on LoCoMo: BM25 alone finds 0.73 of the evidence
among ten turns, with windows of three 0.69, without 0.60.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

import asyncpg
import structlog

from app.database import Database
from app.errors import Unavailable
from app.memory import settling
from app.memory.embedding import Embedder, Vector, open_embedder
from app.memory.types import Memory, Owner, StoredTurn, Turn
from app.memory.words import pieces, terms
from app.settings import Settings

WINDOW = (1.0, 0.7, 0.5)
"""The weight of a unit's own terms, of its neighbours', and of those one further."""

Vectors = Mapping[str, Vector]
"""Vectors by the unit's text."""

log = structlog.get_logger(__name__)


def texts_of(turn: Turn) -> list[str]:
    """The texts of a turn's units: what is embedded. With the speaker's name where the turn has one."""
    name = turn.metadata.get("name")
    return [f"{name}: {piece}" if name else piece for piece in pieces(turn.text)]


class Appended(NamedTuple):
    """Turns just written at the end of a conversation; ``position`` is the first one's."""

    owner: Owner
    conversation: str
    position: int
    turns: list[StoredTurn]


class _Unit(NamedTuple):
    """A unit to be written, of a turn or of a memory. ``window``: its terms and what they count."""

    owner: int
    turn: int | None
    memory: str | None
    piece: int
    text: str
    window: Mapping[str, float]


async def index_appended(
    connection: asyncpg.Connection, appended: Sequence[Appended], vectors: Vectors | None = None
) -> None:
    """Indexes turns that were appended, and refreshes the windows of those before them. Reads no more than these."""
    reach = len(WINDOW) - 1
    before = await _last_units(connection, [more for more in appended if more.position > 0], 2 * reach)
    new: list[_Unit] = []
    changed: list[_Window] = []
    for more in appended:
        old = before.get(more.conversation, [])
        units = [(stored.id, piece, text) for stored in more.turns for piece, text in enumerate(texts_of(stored.turn))]
        windows = _windows([text for _, text in old] + [text for _, _, text in units])
        changed += [
            _Window(more.owner.id, unit, window)
            for (unit, _), window in zip(old[-reach:], windows[max(0, len(old) - reach) : len(old)], strict=True)
        ]
        new += [
            _Unit(more.owner.id, turn, None, piece, text, window)
            for (turn, piece, text), window in zip(units, windows[len(old) :], strict=True)
        ]
    await _insert(connection, new, vectors)
    await _replace(connection, changed)


async def _last_units(
    connection: asyncpg.Connection, appended: Sequence[Appended], most: int
) -> dict[str, list[tuple[int, str]]]:
    """The last units (id and text) of each conversation before what was appended, in their order."""
    if not appended:
        return {}
    rows = await connection.fetch(
        """SELECT g.conversation, u.id, u.text FROM unnest($1::bigint[], $2::text[], $3::int[])
            AS g (owner, conversation, position)
        CROSS JOIN LATERAL (
            SELECT u.id, u.text, t.position, t.id AS turn, u.piece FROM turns t JOIN units u ON u.turn = t.id
            WHERE t.owner = g.owner AND t.conversation = g.conversation AND t.position < g.position
            ORDER BY t.position DESC, t.id DESC, u.piece DESC LIMIT $4) u
        ORDER BY u.position, u.turn, u.piece""",
        [more.owner.id for more in appended],
        [more.conversation for more in appended],
        [more.position for more in appended],
        most,
    )
    found: dict[str, list[tuple[int, str]]] = {}
    for row in rows:
        found.setdefault(row["conversation"], []).append((row["id"], row["text"]))
    return found


async def index_turns(connection: asyncpg.Connection, owner: Owner, turns: list[StoredTurn]) -> None:
    """Indexes these turns, wherever they stand, again if they were, and refreshes the windows of their neighbours."""
    if not turns:
        return
    ids = [stored.id for stored in turns]
    await connection.execute("DELETE FROM units WHERE owner = $1 AND turn = ANY($2)", owner.id, ids)
    units = [
        _Unit(owner.id, stored.id, None, piece, text, {})
        for stored in turns
        for piece, text in enumerate(texts_of(stored.turn))
    ]
    await _insert(connection, units)
    for conversation in await connection.fetch(
        "SELECT DISTINCT conversation FROM turns WHERE owner = $1 AND id = ANY($2)", owner.id, ids
    ):
        await _refresh(connection, owner, conversation["conversation"], set(ids))


async def refresh_windows(connection: asyncpg.Connection, owner: Owner, conversation: str) -> None:
    """Counts the windows of a whole conversation anew: after turns were taken out of it."""
    await _refresh(connection, owner, conversation, None)


async def unindex_turns(connection: asyncpg.Connection, owner: Owner, keys: list[str]) -> None:
    """Takes turns out of every index, and their words out of their neighbours' windows. They stay where they are."""
    rows = await connection.fetch(
        "DELETE FROM units u USING turns t WHERE u.owner = $1 AND t.owner = $1 AND u.turn = t.id AND t.key = ANY($2) "
        "RETURNING t.conversation",
        owner.id,
        keys,
    )
    for conversation in {row["conversation"] for row in rows}:
        await _refresh(connection, owner, conversation, None)


async def index_memories(
    connection: asyncpg.Connection,
    owner: Owner,
    memories: list[Memory],
    vectors: Vectors | None = None,
    *,
    new: bool = False,
) -> None:
    """Indexes these memories, again if they were; ``new``: they were not."""
    if not new:
        await unindex_memories(connection, owner, [memory.id for memory in memories])
    units = [
        _Unit(owner.id, None, memory.id, piece, text, _floats(Counter(terms(text))))
        for memory in memories
        for piece, text in enumerate(pieces(memory.text))
    ]
    await _insert(connection, units, vectors)


async def unindex_memories(connection: asyncpg.Connection, owner: Owner, ids: list[str]) -> None:
    """Takes memories out of every index."""
    await connection.execute("DELETE FROM units WHERE owner = $1 AND memory = ANY($2)", owner.id, ids)


async def open_matching(database: Database, settings: Settings, *, patient: bool = False) -> Embedder | None:
    """The settings' embedder if what is stored was embedded by it, else None: `reprise reindex` mends it.

    Raises StartFailed for a damaged model file, Unavailable without the database.
    """
    embedder = await open_embedder(settings, patient=patient)
    if embedder is None:
        return None
    try:
        if await check_model(database, embedder):
            return embedder
    except Unavailable as error:
        if error.details.get("engine") == "postgresql":
            raise
        log.warning("embedding.unavailable", model=embedder.name, reason=error.message)
        return embedder
    log.warning("embedding.other_model", model=embedder.name, hint="run `reprise reindex`; search goes by keywords")
    return None


async def check_model(database: Database, embedder: Embedder) -> bool:
    """Whether what is stored was embedded by this model; a database without vectors takes the model as its own."""
    if embedder.dimension == 0:
        await embedder.embed(["dimension"])
    await database.execute(
        "INSERT INTO embedding_model (name, dimension) VALUES ($1, $2) ON CONFLICT DO NOTHING",
        embedder.name,
        embedder.dimension,
    )
    return bool(await database.fetchval("SELECT name = $1 FROM embedding_model", embedder.name))


async def change_model(database: Database, embedder: Embedder) -> int:
    """Drops every vector of another model, for `embed_missing` to make anew; answers how many units lack one now."""
    if not await check_model(database, embedder):
        async with database.transaction() as connection:
            await connection.execute(
                "UPDATE embedding_model SET name = $1, dimension = $2", embedder.name, embedder.dimension
            )
            await connection.execute("UPDATE units SET embedding = NULL WHERE embedding IS NOT NULL", timeout=600)
    return int(await database.fetchval("SELECT count(*) FROM units WHERE embedding IS NULL"))


async def embed_missing(database: Database, embedder: Embedder, most: int = 256, characters: int | None = None) -> int:
    """Gives up to ``most`` units their vectors; how many it gave. Newest first: they are asked for first.

    ``characters``: no more than so many, one unit at least.

    Does nothing while what is stored is another model's: vectors of two spaces must not stand side by side.
    """
    if not await check_model(database, embedder):
        return 0
    rows = await database.fetch("SELECT id, text FROM units WHERE embedding IS NULL ORDER BY id DESC LIMIT $1", most)
    if not rows:
        return 0
    if characters is not None:
        upto = list(accumulate(len(row["text"]) for row in rows))
        rows = rows[: max(1, bisect_right(upto, characters))]
    vectors = await embedder.embed([row["text"] for row in rows])
    await database.execute(
        "UPDATE units u SET embedding = given.vector::vector "
        "FROM unnest($1::bigint[], $2::text[]) AS given (id, vector) WHERE u.id = given.id AND u.embedding IS NULL "
        "AND EXISTS (SELECT 1 FROM embedding_model WHERE name = $3)",
        [row["id"] for row in rows],
        [as_text(vector) for vector in vectors],
        embedder.name,
    )
    await settling.settle_units(database, [row["id"] for row in rows])
    return len(rows)


async def vectors_for(embedder: Embedder | None, texts: Iterable[str]) -> dict[str, Vector]:
    """Vectors by text, none without an embedder or while it does not answer: the texts are embedded later then."""
    wanted = list(dict.fromkeys(texts))
    if embedder is None or not wanted:
        return {}
    try:
        return dict(zip(wanted, await embedder.embed(wanted), strict=True))
    except Unavailable as error:
        log.warning("embedding.unavailable", model=embedder.name, reason=error.message)
        return {}


def as_text(vector: Vector | None) -> str | None:
    """A vector as PostgreSQL reads it."""
    return None if vector is None else f"[{','.join(map(repr, vector.tolist()))}]"


async def _insert(connection: asyncpg.Connection, units: Sequence[_Unit], vectors: Vectors | None = None) -> None:
    """Writes units and their postings."""
    if not units:
        return
    rows = await connection.fetch(
        "INSERT INTO units (owner, turn, memory, piece, text, length, embedding) "
        "SELECT r.owner, r.turn, r.memory, r.piece, r.text, r.length, r.vector::vector FROM unnest("
        "$1::bigint[], $2::bigint[], $3::text[], $4::int[], $5::text[], $6::real[], $7::text[]"
        ") AS r (owner, turn, memory, piece, text, length, vector) RETURNING id, turn, memory, piece",
        [unit.owner for unit in units],
        [unit.turn for unit in units],
        [unit.memory for unit in units],
        [unit.piece for unit in units],
        [unit.text for unit in units],
        [sum(unit.window.values()) for unit in units],
        [as_text((vectors or {}).get(unit.text)) for unit in units],
    )
    ids = {(row["turn"], row["memory"], row["piece"]): row["id"] for row in rows}
    await _post(connection, [_Window(u.owner, ids[u.turn, u.memory, u.piece], u.window) for u in units])


class _Window(NamedTuple):
    """What a written unit is found by."""

    owner: int
    unit: int
    terms: Mapping[str, float]


def _windows(texts: Sequence[str], wanted: Iterable[int] | None = None) -> list[dict[str, float]]:
    """The windows of neighbouring units: of all, or of those at the places wanted."""
    reach = len(WINDOW) - 1
    places = list(range(len(texts)) if wanted is None else wanted)
    near = {i: range(max(0, i - reach), min(len(texts), i + reach + 1)) for i in places}
    own = {j: Counter[str](terms(texts[j])) for j in {j for i in places for j in near[i]}}
    windows = []
    for i in places:
        window: dict[str, float] = {}
        for j in near[i]:
            for term, count in own[j].items():
                window[term] = window.get(term, 0.0) + WINDOW[abs(i - j)] * count
        windows.append(window)
    return windows


async def _refresh(connection: asyncpg.Connection, owner: Owner, conversation: str, changed: set[int] | None) -> None:
    """Writes the windows of the units within reach of the changed turns (None: of all) in one conversation."""
    rows = await connection.fetch(
        "SELECT u.id, u.turn, u.text FROM units u JOIN turns t ON t.id = u.turn "
        "WHERE u.owner = $1 AND t.owner = $1 AND t.conversation = $2 ORDER BY t.position, t.id, u.piece",
        owner.id,
        conversation,
    )
    reach = len(WINDOW) - 1
    places = [i for i, row in enumerate(rows) if changed is None or row["turn"] in changed]
    due = sorted({j for i in places for j in range(max(0, i - reach), min(len(rows), i + reach + 1))})
    windows = _windows([row["text"] for row in rows], due)
    await _replace(
        connection, [_Window(owner.id, rows[i]["id"], window) for i, window in zip(due, windows, strict=True)]
    )


async def _replace(connection: asyncpg.Connection, windows: Sequence[_Window]) -> None:
    """Replaces the postings and lengths of units."""
    if not windows:
        return
    owners, units = [window.owner for window in windows], [window.unit for window in windows]
    await connection.execute(
        "DELETE FROM postings p USING unnest($1::bigint[], $2::bigint[]) AS g (owner, unit) "
        "WHERE p.unit = g.unit AND p.owner = g.owner",
        owners,
        units,
    )
    await _post(connection, windows)
    await connection.execute(
        "UPDATE units u SET length = g.length FROM unnest($1::bigint[], $2::bigint[], $3::real[]) "
        "AS g (owner, id, length) WHERE u.owner = g.owner AND u.id = g.id",
        owners,
        units,
        [sum(window.terms.values()) for window in windows],
    )


async def _post(connection: asyncpg.Connection, windows: Sequence[_Window]) -> None:
    """Writes postings of units that have none."""
    flat = [(w.owner, term, w.unit, count) for w in windows for term, count in w.terms.items()]
    await connection.execute(
        "INSERT INTO postings (owner, term, unit, count) "
        "SELECT * FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::real[])",
        [owner for owner, _, _, _ in flat],
        [term for _, term, _, _ in flat],
        [unit for _, _, unit, _ in flat],
        [count for _, _, _, count in flat],
    )


def _floats(count: Counter[str]) -> dict[str, float]:
    return {term: float(number) for term, number in count.items()}
