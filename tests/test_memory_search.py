"""Search: exact BM25 over windows, vectors, their fusion, filters, and what happens without an embedder."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from app.database import Database, migrate, open_pool
from app.errors import Unavailable
from app.memory import search as search_module
from app.memory.conversations import conversation_id
from app.memory.index import WINDOW, change_model, check_model, embed_missing, refresh_windows
from app.memory.memories import Memories
from app.memory.ranking import K1, KEYWORDS, B, Fused
from app.memory.search import BOTH, Search, add_indexes
from app.memory.types import Draft, Filters, Owner
from app.memory.words import terms
from app.settings import Settings
from tests.memory_rig import Directions, at, keep, new_owner, say

TALK = [
    "My sister Ada moved to Porto last spring.",
    "How does she like it there?",
    "She loves the river and the small cafés.",
    "And what about her work?",
    "She repairs violins in a workshop near the bridge.",
    "That is a rare trade.",
]


async def found(search: Search, owner: Owner, query: str, **more: Any) -> list[str]:
    return [hit.text for hit in (await search.search(owner, query, **more)).hits]


async def test_keywords_are_bm25_over_weighted_windows(database: Database, owner: Owner) -> None:
    await say(database, owner, *TALK)
    own = [Counter(terms(text)) for text in TALK]
    windows: list[dict[str, float]] = []
    for i in range(len(TALK)):
        window: dict[str, float] = {}
        for j in range(max(0, i - 2), min(len(TALK), i + 3)):
            for term, count in own[j].items():
                window[term] = window.get(term, 0.0) + WINDOW[abs(i - j)] * count
        windows.append(window)
    average = sum(sum(window.values()) for window in windows) / len(windows)

    def bm25(window: dict[str, float], query: str) -> float:
        score = 0.0
        for term in set(terms(query)):
            df = sum(term in other for other in windows)
            if term in window:
                tf, length = window[term], sum(window.values())
                idf = math.log(1 + (len(windows) - df + 0.5) / (df + 0.5))
                score += idf * tf * (K1 + 1) / (tf + K1 * (1 - B + B * length / average))
        return score

    answer = await Search(database, None).search(owner, "violins in Porto by the river")
    assert answer.legs == ["keyword"]
    got = {hit.text: hit.keyword_score for hit in answer.hits}
    expected = {text: bm25(window, "violins in Porto by the river") for text, window in zip(TALK, windows, strict=True)}
    assert got == pytest.approx({text: score for text, score in expected.items() if score}, abs=2e-4)
    assert [hit.text for hit in answer.hits] == sorted(got, key=lambda text: -(got[text] or 0))


async def test_what_others_store_changes_nothing(database: Database, owner: Owner) -> None:
    await say(database, owner, *TALK)
    search = Search(database, Directions())
    before = await search.search(owner, "sister in Porto")
    other = await new_owner(database, "bob", owner.account)
    await say(database, other, *["Porto and a sister"] * 1, *TALK)
    stranger = await new_owner(database)
    await say(database, stranger, "a sister, a sister in Porto")
    assert await search.search(owner, "sister in Porto") == before


async def test_a_new_turn_changes_the_windows_before_it(database: Database, owner: Owner) -> None:
    search = Search(database, None)
    await say(database, owner, *TALK[:2])
    assert await found(search, owner, "violins") == []
    await say(database, owner, *TALK)
    assert await found(search, owner, "violins") == [TALK[4], TALK[5], TALK[3], TALK[2]] or set(
        await found(search, owner, "violins")
    ) == {TALK[2], TALK[3], TALK[4], TALK[5]}
    assert (await found(search, owner, "violins"))[0] == TALK[4]


@pytest.mark.parametrize("sizes", [[1] * 9, [2, 1, 3, 3], [5, 4], [8, 1]])
async def test_a_conversation_that_grows_is_indexed_as_if_it_had_come_at_once(
    database: Database, owner: Owner, sizes: list[int]
) -> None:
    said = [*TALK, *(f"{text} again" for text in TALK[:2]), "word " * 900][:9]
    await say(database, owner, *said, thread="whole")
    length = 0
    for size in sizes:
        length += size
        await say(database, owner, *said[:length], thread="grown")
    statement = """SELECT t.position, u.piece, u.text, u.length, p.term, p.count FROM units u
        JOIN turns t ON t.id = u.turn JOIN conversations c ON c.id = t.conversation
        JOIN postings p ON p.unit = u.id WHERE u.owner = $1 AND c.external_id = $2 ORDER BY 1, 2, 5"""
    whole, grown = [await database.fetch(statement, owner.id, name) for name in ("whole", "grown")]
    assert whole and [tuple(row) for row in grown] == [tuple(row) for row in whole]
    async with database.transaction() as connection:
        await refresh_windows(connection, owner, conversation_id(owner, "reprise", "whole"))
    anew = await database.fetch(statement, owner.id, "whole")
    assert [tuple(row) for row in anew] == [tuple(row) for row in whole]


async def test_windows_are_right_after_turns_were_taken_out(database: Database, owner: Owner) -> None:
    search = Search(database, None)
    stored = await say(database, owner, *TALK)
    async with database.transaction() as connection:
        await connection.execute("DELETE FROM turns WHERE owner = $1 AND id = $2", owner.id, stored[4].id)
        await refresh_windows(connection, owner, conversation_id(owner, "reprise", "t"))
    assert await found(search, owner, "violins") == []
    assert set(await found(search, owner, "rare")) == {TALK[2], TALK[3], TALK[5]}


async def test_vectors_find_what_shares_no_word(database: Database, owner: Owner) -> None:
    space = Directions()
    space.put("Where is the luthier?", near=TALK[4], cosine=0.9)
    memories = Memories(database, space)
    await say(database, owner, *TALK)
    await keep(memories, database, owner, Draft(text="I own a grey cat"))
    while await embed_missing(database, space):
        pass
    answer = await Search(database, space).search(owner, "Where is the luthier?", limit=3)
    assert answer.legs == ["vector", "keyword"]
    assert answer.hits[0].text == TALK[4]
    assert answer.hits[0].vector_distance == pytest.approx(0.1, abs=1e-4)
    assert answer.hits[0].keyword_score is None


async def test_both_legs_are_scaled_and_added(database: Database, owner: Owner) -> None:
    space = Directions()
    space.put("grey cat", near="I play the violin", cosine=0.99)
    memories = Memories(database, space)
    for text in ("I own a grey cat", "I play the violin", "I like tea"):
        await keep(memories, database, owner, Draft(text=text))
    hits = (await Search(database, space).search(owner, "grey cat")).hits
    assert [hit.text for hit in hits[:2]] == ["I own a grey cat", "I play the violin"]
    assert hits[1].score == pytest.approx(1 - KEYWORDS, abs=1e-6)


class Away:
    name, dimension = "directions", 8

    async def embed(self, texts: list[str]) -> list[Any]:
        raise Unavailable("the embedding model does not answer")


async def test_without_the_embedder_keywords_go_on(database: Database, owner: Owner) -> None:
    await keep(Memories(database, Away()), database, owner, Draft(text="I live in Lyon"))
    answer = await Search(database, Away()).search(owner, "Lyon")
    assert [hit.text for hit in answer.hits] == ["I live in Lyon"]
    assert answer.legs == ["keyword"]
    assert await embed_missing(database, Directions()) == 1
    assert (await Search(database, Directions()).search(owner, "Lyon")).legs == ["vector", "keyword"]


async def test_filters_choose_before_anything_is_ranked(database: Database, owner: Owner) -> None:
    memories = Memories(database, None)
    await keep(memories, database, owner, Draft(text="tea one", categories=["health"]), agent_id="a", source="s")
    await keep(memories, database, owner, Draft(text="tea two", type="episodic"), thread_id="x")
    await say(database, owner, "tea three", thread="y", thread_id="y", agent_id="a")
    search = Search(database, None)

    async def with_filters(**fields: Any) -> set[str]:
        return set(await found(search, owner, "tea", filters=Filters(**fields)))

    assert await with_filters() == {"tea one", "tea two", "tea three"}
    assert await with_filters(categories=["health", "travel"]) == {"tea one"}
    assert await with_filters(types=["episodic"]) == {"tea two"}
    assert await with_filters(agent_id="a") == {"tea one", "tea three"}
    assert await with_filters(thread_id="x") == {"tea two"}
    assert await with_filters(source="s") == {"tea one"}
    assert await with_filters(until=at(0) + timedelta(days=1), thread_id="y") == {"tea three"}
    assert await with_filters(since=at(0) + timedelta(days=1), thread_id="y") == set()
    assert set(await found(search, owner, "tea", kinds=frozenset({"memory"}))) == {"tea one", "tea two"}
    assert await found(search, owner, "tea", kinds=frozenset({"turn"})) == ["tea three"]


async def test_superseded_memories_only_where_asked(database: Database, owner: Owner) -> None:
    memories = Memories(database, None)
    (old,) = await keep(memories, database, owner, Draft(text="I live in Lyon"))
    await keep(memories, database, owner, Draft(text="I moved to Porto", supersedes=old.id))
    search = Search(database, None)
    assert await found(search, owner, "Lyon Porto") == ["I moved to Porto"]
    both = await found(search, owner, "Lyon Porto", filters=Filters(latest_only=False))
    assert set(both) == {"I live in Lyon", "I moved to Porto"}


async def test_a_turn_gives_way_to_its_memory(database: Database, owner: Owner) -> None:
    (turn,) = await say(database, owner, "I live in Lyon")
    search = Search(database, None)
    assert [hit.kind for hit in (await search.search(owner, "Lyon")).hits] == ["turn"]
    await keep(Memories(database, None), database, owner, Draft(text="I live in Lyon", turn_keys=[turn.turn.key]))
    assert [hit.kind for hit in (await search.search(owner, "Lyon")).hits] == ["memory"]


async def test_the_turn_of_a_superseded_memory_is_not_found_either(database: Database, owner: Owner) -> None:
    memories = Memories(database, None)
    turn, _ = await say(database, owner, "I live in Lyon", "Nice town")
    (old,) = await keep(memories, database, owner, Draft(text="I live in Lyon", turn_keys=[turn.turn.key]))
    await keep(memories, database, owner, Draft(text="I moved to Porto", supersedes=old.id))
    search = Search(database, None)
    assert "I live in Lyon" not in await found(search, owner, "live in Lyon")
    everything = await search.search(owner, "live in Lyon", filters=Filters(latest_only=False))
    assert (everything.hits[0].kind, everything.hits[0].text) == ("memory", "I live in Lyon")


async def test_the_turn_of_a_corrected_memory_is_not_found_either(database: Database, owner: Owner) -> None:
    """PROTOCOL N11."""
    memories = Memories(database, None)
    wrong, _, right, _ = await say(database, owner, "I live in Lyon", "Nice town", "I live in style", "Indeed")
    drafts = [Draft(text=turn.turn.text, turn_keys=[turn.turn.key]) for turn in (wrong, right)]
    corrected, weighed = await keep(memories, database, owner, *drafts)
    await memories.edit(owner, corrected.id, text="My home is Porto")
    await memories.edit(owner, weighed.id, importance=1)
    search, turns = Search(database, None), frozenset({"turn"})
    current = await found(search, owner, "I live in Lyon or style", kinds=turns)
    assert "I live in style" in current and "I live in Lyon" not in current
    everything = await found(search, owner, "Lyon", kinds=turns, filters=Filters(latest_only=False))
    assert everything[0] == "I live in Lyon"


@pytest.mark.parametrize("backup", [True, False])
async def test_what_was_forgotten_does_not_come_back_as_a_turn(database: Database, owner: Owner, backup: bool) -> None:
    memories = Memories(database, None)
    turn, _ = await say(database, owner, "I own a grey parrot", "Good to know")
    (memory,) = await keep(memories, database, owner, Draft(text="I own a grey parrot", turn_keys=[turn.turn.key]))
    backup_id, _ = await memories.delete(owner, [memory.id], cascade=False, backup=backup)
    search = Search(database, None)
    assert await found(search, owner, "grey parrot") == []
    await say(database, owner, "I own a grey parrot", "Good to know")
    assert await found(search, owner, "grey parrot") == []
    if backup_id:
        await memories.restore(owner, backup_id)
        assert [hit.kind for hit in (await search.search(owner, "grey parrot")).hits] == ["memory", "turn"]


async def test_what_is_far_from_the_query_is_no_hit(database: Database, owner: Owner) -> None:
    space = Directions()
    space.put("violin", near="tea", cosine=0.1)
    await keep(Memories(database, space), database, owner, Draft(text="tea"))
    assert (await Search(database, space).search(owner, "violin")).hits == []
    space.put("violin", near="tea", cosine=0.3)
    assert await found(Search(database, space), owner, "violin") == ["tea"]


async def test_a_long_turn_is_found_by_any_of_its_pieces_once(database: Database, owner: Owner) -> None:
    filler = " ".join(f"Sentence {n} says nothing at all." for n in range(120))
    await say(database, owner, f"The key is under the amber stone. {filler} The lamp is behind the copper door.")
    hits = (await Search(database, None).search(owner, "copper lamp")).hits
    assert len(hits) == 1
    assert "copper door" in hits[0].text and "amber" not in hits[0].text


@pytest.mark.parametrize("query", ["", "   ", "the of", "?!", "狐", "x" * 5_000, "tea' OR 1=1 --"])
async def test_odd_queries_are_answered(database: Database, owner: Owner, query: str) -> None:
    await say(database, owner, *TALK)
    assert len((await Search(database, Directions()).search(owner, query)).hits) <= 10
    nobody = await new_owner(database)
    assert (await Search(database, Directions()).search(nobody, query)).hits == []


async def test_another_model_is_not_mixed_in(database: Database, owner: Owner) -> None:
    first, second = Directions(), Directions()
    second.name = "other"
    await keep(Memories(database, None), database, owner, Draft(text="I live in Lyon"))
    assert await embed_missing(database, first) == 1
    assert not await check_model(database, second)
    assert await embed_missing(database, second) == 0
    assert await change_model(database, second) == 1
    assert await embed_missing(database, second) == 1
    assert await check_model(database, second)


async def test_a_large_user_has_an_index_that_search_uses(
    database: Database, owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_module, "LARGE", 3)
    space = Directions()
    space.put("Where is the luthier?", near=TALK[4], cosine=0.9)
    await say(database, owner, *TALK)
    while await embed_missing(database, space):
        pass
    search = Search(database, space)
    exact = await search.search(owner, "Where is the luthier?")
    assert await add_indexes(database) == 1
    assert await add_indexes(database) == 0
    asked: list[Owner] = []
    nearest = search._nearest

    async def counted(owner: Owner, *more: Any) -> Any:
        asked.append(owner)
        return await nearest(owner, *more)

    monkeypatch.setattr(search, "_nearest", counted)
    assert await search.search(owner, "Where is the luthier?") == exact
    assert asked == [owner]


@pytest.fixture
async def by_index(settings: Settings) -> AsyncIterator[Database]:
    """A database that takes an index wherever it can: for a few rows it would not."""
    planned = "&" if "?" in settings.database_url else "?"
    planned += "enable_seqscan=off&enable_sort=off&enable_bitmapscan=off"
    await migrate(settings)
    async with open_pool(msgspec.structs.replace(settings, database_url=settings.database_url + planned)) as opened:
        yield opened


async def test_an_index_gives_all_that_is_wanted_and_nothing_of_others(
    by_index: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_module, "LARGE", 50)
    monkeypatch.setattr(search_module, "NEAREST", 60)
    owner, other = await new_owner(by_index), await new_owner(by_index)
    space = Directions()
    for person in (owner, other):
        await say(by_index, person, *(f"note {n} of {person.id}" for n in range(80)))
    while await embed_missing(by_index, space):
        pass
    assert await add_indexes(by_index) == 2
    search = Search(by_index, space)
    (vector,) = await space.embed([f"note 1 of {other.id}"])
    found, _ = await search._nearest(owner, vector, search_module._conditions(Filters(), BOTH, first=3))
    assert len(found) == 60  # an index gives 40 to who does not ask for more
    units = await by_index.fetch("SELECT DISTINCT owner FROM units WHERE id = ANY($1)", found.tolist())
    assert [row["owner"] for row in units] == [owner.id]
    statement = search_module._NEAREST.format(owner=owner.id, dimension=8, nearest=60, where="")
    plan = await by_index.fetch(f"EXPLAIN {statement}", owner.id, vector.tolist())
    assert any(f"units_nearest_{owner.id}" in row[0] for row in plan)


async def test_what_stands_behind_a_unit_is_read_for_its_owner_alone(database: Database, owner: Owner) -> None:
    other = await new_owner(database, "bob", owner.account)
    await say(database, other, "I live in Lyon")
    await keep(Memories(database, None), database, other, Draft(text="I like tea"))
    theirs = [
        Fused(1.0, row["id"], 1.0, None)
        for row in await database.fetch("SELECT id FROM units WHERE owner = $1", other.id)
    ]
    search = Search(database, None)
    assert await search._rows(owner, theirs) == []
    assert {row["unit_text"] for row in await search._rows(other, theirs)} == {"I live in Lyon", "I like tea"}


async def test_a_memory_corrected_while_it_is_searched_for_is_found(
    database: Database, owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    memories = Memories(database, None)
    (memory,) = await keep(memories, database, owner, Draft(text="I live in Lyon"))
    search = Search(database, None)
    legs = search._legs

    async def then_corrected(*args: Any) -> Any:
        seen = await legs(*args)
        monkeypatch.setattr(search, "_legs", legs)
        await memories.edit(owner, memory.id, text="I live in Lyon again")
        return seen

    monkeypatch.setattr(search, "_legs", then_corrected)
    assert await found(search, owner, "Lyon") == ["I live in Lyon again"]


async def test_without_postgresql_search_is_unavailable(settings: Settings, owner: Owner) -> None:
    async with open_pool(settings) as closed:
        search = Search(closed, Directions())
    with pytest.raises(Unavailable):
        await search.search(owner, "Lyon")
