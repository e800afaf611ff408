"""Pages that neither repeat nor skip, and an export of any size."""

from __future__ import annotations

import tracemalloc
from datetime import timedelta

import pytest

from app.database import Database
from app.errors import ValidationFailed
from app.memory.listing import SORTS
from app.memory.memories import Memories
from app.memory.types import Draft, Filters, Memory, Owner
from tests.memory_rig import at, keep, new_owner


@pytest.fixture
def memories(database: Database) -> Memories:
    return Memories(database, None)


async def fill(database: Database, owner: Owner, count: int, *, text: str = "") -> None:
    """So many memories, ten by ten of the same time."""
    await database.execute(
        """INSERT INTO memories
            (id, owner, text, normal, type, extractor, importance, valid_from, created_at, updated_at)
        SELECT 'mem_' || md5($1::bigint || '.' || n), $1::bigint, 'memory ' || n || $4::text, n::text, 'semantic', 'x',
            (n % 3) / 2.0, at, at, at
        FROM generate_series(0, $2::int - 1) n,
            LATERAL (SELECT $3::timestamptz + n / 10 * interval '1 minute' AS at) t""",
        owner.id,
        count,
        at(0),
        text,
    )


@pytest.mark.parametrize("sort", SORTS)
async def test_pages_of_equal_times_neither_repeat_nor_skip(
    memories: Memories, database: Database, owner: Owner, sort: str
) -> None:
    await fill(database, owner, 55)
    found: list[Memory] = []
    for number in range(1, 9):
        rows, total = await memories.page(owner, Filters(), sort=sort, page=number, page_size=7)
        assert total == 55
        found += rows
    assert len({row.id for row in found}) == len(found) == 55
    field = sort.removeprefix("-")
    values = [getattr(row, field) for row in found]
    assert values == sorted(values, reverse=sort.startswith("-"))


async def test_pages_at_the_edges(memories: Memories, database: Database, owner: Owner) -> None:
    assert await memories.page(owner, Filters()) == ([], 0)
    await fill(database, owner, 20)
    for number, size, count in [(1, 20, 20), (2, 20, 0), (1, 19, 19), (2, 19, 1), (20, 1, 1), (21, 1, 0), (1, 100, 20)]:
        rows, total = await memories.page(owner, Filters(), page=number, page_size=size)
        assert (len(rows), total) == (count, 20)
    assert await memories.page(owner, Filters(), page=10**30, page_size=100) == ([], 20)


async def test_an_unknown_order_is_refused(memories: Memories, owner: Owner) -> None:
    with pytest.raises(ValidationFailed, match="sort"):
        await memories.page(owner, Filters(), sort="text; DROP TABLE memories")


async def test_filters_narrow_one_by_one_and_together(memories: Memories, database: Database, owner: Owner) -> None:
    tea = Draft(text="I like Tea", categories=["interests", "health"])
    (one,) = await keep(memories, database, owner, tea, agent_id="a", thread_id="t1", source="s")
    trip = Draft(text="I flew to Rome 100% alone", categories=["travel"], type="episodic")
    (two,) = await keep(memories, database, owner, trip, agent_id="b", thread_id="t2")

    async def ids(filters: Filters | None = None, **more: str) -> set[str]:
        rows, total = await memories.page(owner, filters or Filters(), **more)  # type: ignore[arg-type]
        assert len(rows) == total
        return {row.id for row in rows}

    both = {one.id, two.id}
    assert await ids() == both
    assert await ids(Filters(categories=["health", "travel"])) == both
    assert await ids(category="health") == await ids(Filters(types=["semantic"])) == await ids(q="tEa") == {one.id}
    assert await ids(type="episodic") == await ids(Filters(thread_id="t2")) == await ids(q="100%") == {two.id}
    assert await ids(Filters(agent_id="a")) == await ids(Filters(source="s")) == {one.id}
    assert await ids(q="%") == {two.id} and await ids(q="_") == set()
    assert await ids(Filters(since=two.created_at)) == await ids(Filters(since=one.created_at), category="travel")
    assert await ids(Filters(until=two.created_at - timedelta(microseconds=1))) == {one.id}
    assert await ids(Filters(agent_id="a", types=["episodic"])) == set()


async def test_a_superseded_memory_is_listed_only_where_asked_for(
    memories: Memories, database: Database, owner: Owner
) -> None:
    (lyon,) = await keep(memories, database, owner, "I live in Lyon")
    (porto,) = await keep(memories, database, owner, Draft(text="I moved to Porto", supersedes=lyon.id))
    assert [row.id for row in (await memories.page(owner, Filters()))[0]] == [porto.id]
    assert [row.id for row in (await memories.page(owner, Filters(latest_only=False)))[0]] == [porto.id, lyon.id]
    assert [row.id async for row in memories.export(owner)] == [lyon.id, porto.id]


async def test_ten_thousand_memories_are_exported_in_order_and_in_flat_memory(
    memories: Memories, database: Database, owner: Owner
) -> None:
    await fill(database, owner, 10_000, text="x" * 1_000)
    await fill(database, await new_owner(database, "bob", owner.account), 600)
    await database.execute("UPDATE memories SET deleted_at = now() WHERE owner = $1 AND importance = 1", owner.id)
    wanted = await database.fetchval("SELECT count(*) FROM memories WHERE owner = $1 AND deleted_at IS NULL", owner.id)
    last, count, seen = None, 0, set()
    tracemalloc.start()
    try:
        async for memory in memories.export(owner):
            assert last is None or (last.created_at, last.id) < (memory.created_at, memory.id)
            last, count = memory, count + 1
            seen.add(memory.id)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == len(seen) == wanted > 6_000
    assert peak < 6_000_000  # all of them together are more than 10 MB


async def test_what_comes_and_goes_during_an_export_breaks_nothing(
    memories: Memories, database: Database, owner: Owner
) -> None:
    await fill(database, owner, 1_200)
    found: list[str] = []
    async for memory in memories.export(owner):
        found.append(memory.id)
        if len(found) == 1:
            (new,) = await keep(memories, database, owner, "said meanwhile")
            _, last = await memories.page(owner, Filters(), page_size=1)
            assert last == 1_201
            rows, _ = await memories.page(owner, Filters(), page=2, page_size=1)
            await memories.delete(owner, [rows[0].id])
    assert len(found) == len(set(found)) == 1_200
    assert found[-1] == new.id and rows[0].id not in found


async def test_an_export_keeps_no_connection(memories: Memories, database: Database, owner: Owner) -> None:
    await fill(database, owner, 600)
    exports = [memories.export(owner) for _ in range(20)]  # twice as many as the pool has connections
    for export in exports:
        await anext(export)
    assert await database.fetchval("SELECT 1") == 1
