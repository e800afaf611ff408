"""P12 and P15: how fast memory search is, and how much of what answers a question it finds."""

from __future__ import annotations

import random
import re
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import msgspec

from app.database import Database, open_pool
from app.memory import ranking
from app.memory.conversations import NewTurns, conversation_id, ensure_owner, keyed, store_turns
from app.memory.embedding import Embedder, open_embedder
from app.memory.index import embed_missing, index_memories
from app.memory.search import Search
from app.memory.types import Draft, Memory, Origin, Owner, Turn
from app.settings import Settings
from tests.bench.harness import Gateway, Upstream, gateway
from tests.bench.options import Options, say
from tests.bench.report import Figure, median, number, percentile

STORED, MINE = 100_000, 2_000
QUERIES = 300
AT = 10
_EVIDENCE = re.compile(r"D:?(\d+):(\d+)")
_BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
_NOUNS = """
river window garden engine letter winter market doctor bridge kitchen violin mountain ticket painter harbour breakfast
lesson cousin train jacket coffee journal concert village budget tennis lamp orchard museum bicycle
"""
_WORDS = _NOUNS.split()


def p12(upstream: Upstream, options: Options) -> list[Figure]:
    """Memory search by its module, the query embedded too: 100,000 memories stored, 2,000 of them the user's."""
    stored = STORED // 10 if options.quick else STORED
    with gateway(upstream, ["t3"]) as run:
        times, legs = anyio.run(_timed, _settings(run), stored)
    wrong = "" if legs == ["vector", "keyword"] else f"it ran on {' and '.join(legs)} only"
    name = f"memory search, {stored:,} stored, {MINE:,} of them the user's, p95"
    note = f"p50 {number(median(times))}; {len(times)} queries one after the other, each embedded"
    return [Figure(measure="P12", name=name, value=percentile(times, 0.95), unit="ms", bar=15, wrong=wrong, note=note)]


def p15(upstream: Upstream, options: Options) -> list[Figure]:
    """Evidence found among ten turns, on LoCoMo-shaped conversations (--data FILE), categories 1 to 4, no model."""
    if options.data is None:
        say("P15: not measured: it needs --data FILE")
        return []
    conversations = msgspec.json.decode(options.data.read_bytes())
    with gateway(upstream, ["t3"]) as run:
        found, count = anyio.run(_recalled, _settings(run), conversations)
    note = f"{count} questions; evidence recall at {AT}, turns as units"
    return [
        Figure(measure="P15", name=f"retrieval, {name}", value=value * 100, unit="%", bar=bar, at_least=True, note=note)
        for name, value, bar in (
            ("both legs", found["both"], 75.0),
            ("keywords alone", found["keyword"], None),
            ("vectors alone", found["vector"], None),
            ("both and the second stage", found["rerank"], None),
        )
    ]


def _settings(run: Gateway) -> Settings:
    return Settings(database_url=run.engines()["database_url"], data_dir=str(run.data_dir))


async def _account(database: Database) -> str:
    return str(await database.fetchval("SELECT id FROM accounts LIMIT 1"))


async def _embedder(settings: Settings) -> Embedder:
    embedder = await open_embedder(settings)
    if embedder is None:
        raise RuntimeError("there is no embedder")
    return embedder


async def _timed(settings: Settings, stored: int) -> tuple[list[float], list[str]]:
    """Milliseconds of each query, and the legs of the last one."""
    rng = random.Random(1)
    async with open_pool(settings) as database:
        embedder = await _embedder(settings)
        account = await _account(database)
        async with database.transaction() as connection:
            mine = await ensure_owner(connection, account, "mine")
        await _fill(database, mine, MINE, rng)
        for n in range((stored - MINE) // MINE):
            async with database.transaction() as connection:
                other = await ensure_owner(connection, account, f"other-{n}")
            await _fill(database, other, MINE, rng)
        # what the server does by itself with time: it would else do it while the searches are timed
        for settle in ("VACUUM ANALYZE", "CHECKPOINT"):
            await database.execute(settle, timeout=300)
        search = Search(database, embedder)
        times, legs = [], []
        for n in range(QUERIES + 20):
            query = f"what about the {' and the '.join(rng.sample(_WORDS, 3))} number {n}?"
            began = time.perf_counter()
            found = await search.search(mine, query)
            if n >= 20:  # the first ones warm what any server has warm
                times.append((time.perf_counter() - began) * 1e3)
            legs = list(found.legs)
        return times, legs


async def _fill(database: Database, owner: Owner, count: int, rng: random.Random) -> None:
    """Memories of twelve words each, with random vectors: embedding 100,000 texts would take hours and tell nothing."""
    import numpy as np

    generator = np.random.default_rng(rng.randrange(2**32))
    drafts = [Draft(text=f"{' '.join(rng.choices(_WORDS, k=12))} {owner.id} {n}") for n in range(count)]
    rows = generator.normal(size=(count, 384)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    async with database.transaction() as connection:
        ids = [f"mem_{owner.id}_{n}" for n in range(count)]
        await connection.execute(
            "INSERT INTO memories (id, owner, text, normal, type, extractor, valid_from) "
            "SELECT id, $1, text, id, 'semantic', 'bench', now() FROM unnest($2::text[], $3::text[]) AS r (id, text)",
            owner.id,
            ids,
            [draft.text for draft in drafts],
        )
        memories = [_memory(one, draft) for one, draft in zip(ids, drafts, strict=True)]
        vectors = {draft.text: row for draft, row in zip(drafts, rows, strict=True)}
        await index_memories(connection, owner, memories, vectors, new=True)


def _memory(memory_id: str, draft: Draft) -> Memory:
    nothing: dict[str, Any] = dict.fromkeys(
        ("agent_id", "thread_id", "source", "conversation", "message_id", "valid_to", "superseded_by")
    )
    return Memory(
        id=memory_id,
        text=draft.text,
        type="semantic",
        categories=[],
        importance=0.5,
        turn_keys=[],
        extractor="bench",
        metadata={},
        valid_from=_BEGAN,
        created_at=_BEGAN,
        updated_at=_BEGAN,
        **nothing,
    )


async def _recalled(settings: Settings, conversations: list[Any]) -> tuple[dict[str, float], int]:
    """Mean evidence recall by kind of search, and the number of questions."""
    shares: dict[str, list[float]] = {"both": [], "keyword": [], "vector": [], "rerank": []}
    async with open_pool(settings) as database:
        embedder = await _embedder(settings)
        account = await _account(database)
        for number_, one in enumerate(conversations):
            async with database.transaction() as connection:
                owner = await ensure_owner(connection, account, f"person-{number_}")
            known = await _store(database, owner, one["conversation"])
            while await embed_missing(database, embedder):
                pass
            search = Search(database, embedder)
            for question in one["qa"]:
                wanted = evidence_of(question) & known
                if question["category"] == 5 or not wanted:
                    continue
                for kind, values in shares.items():
                    got = await _found(search, owner, question["question"], kind)
                    values.append(len(got & wanted) / len(wanted))
            say(f"P15: conversation {number_ + 1} of {len(conversations)}: {len(shares['both'])} questions")
    return {kind: sum(values) / max(1, len(values)) for kind, values in shares.items()}, len(shares["both"])


def evidence_of(question: dict[str, Any]) -> set[str]:
    """The ids of the turns that answer a question."""
    return {f"D{a}:{int(b)}" for text in question["evidence"] for a, b in _EVIDENCE.findall(text)}


async def _found(search: Search, owner: Owner, query: str, kind: str) -> set[str]:
    """The ids of the first ten turns."""
    share = ranking.KEYWORDS
    try:
        ranking.KEYWORDS = {"keyword": 1.0, "vector": 0.0}.get(kind, share)
        answer = await search.search(owner, query, limit=AT, rerank=kind == "rerank")
    finally:
        ranking.KEYWORDS = share
    return {hit.turn.turn.external_id or "" for hit in answer.hits if hit.turn}


async def _store(database: Database, owner: Owner, conversation: dict[str, Any]) -> set[str]:
    """Stores each session as a conversation of its own; the ids of its turns."""
    known: set[str] = set()
    session = 0
    while f"session_{session + 1}" in conversation:
        session += 1
        rows = conversation[f"session_{session}"]
        texts = [" ".join(filter(None, (row["text"], row.get("blip_caption")))) for row in rows]
        began = datetime.strptime(conversation[f"session_{session}_date_time"], "%I:%M %p on %d %B, %Y")
        keys = keyed([("user", text) for text in texts], conversation_id(owner, "locomo", str(session)))
        turns = [
            Turn(
                key=key,
                role="user",
                text=text,
                said_at=began.replace(tzinfo=UTC) + timedelta(minutes=n),
                external_id=row["dia_id"],
                metadata={"name": row["speaker"]},
            )
            for n, (key, text, row) in enumerate(zip(keys, texts, rows, strict=True))
        ]
        origin = Origin(source="locomo")
        said = NewTurns(owner=owner, platform="locomo", external_id=str(session), turns=turns, origin=origin)
        async with database.transaction() as connection:
            await store_turns(connection, [said])
        known |= {row["dia_id"] for row in rows}
    return known
