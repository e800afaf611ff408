"""Forgetting reaches everything, bringing back overrules nothing, and after thirty days it is over."""

from __future__ import annotations

import anyio
import pytest

from app.database import Database
from app.errors import NotFound
from app.memory.memories import Memories
from app.memory.remembered import Name, Remembered, decided
from app.memory.search import Search
from app.memory.types import Draft, Filters, Memory, Owner
from tests.memory_rig import at, dump, keep, new_owner, say


@pytest.fixture
def memories(database: Database) -> Memories:
    return Memories(database, None)


async def listed(memories: Memories, owner: Owner) -> list[str]:
    rows, _ = await memories.page(owner, Filters(latest_only=False), sort="created_at")
    return [row.text for row in rows]


async def found(database: Database, owner: Owner, word: str) -> int:
    """How often the word stands in any index, text, history or backup of the owner."""
    rows = await dump(database, owner)
    return sum(word.casefold() in row.casefold() for table in rows.values() for row in map(str, table))


async def moved(memories: Memories, database: Database, owner: Owner) -> tuple[Memory, Memory]:
    """Lyon, then Porto: each from its own message of one thread."""
    first = await say(database, owner, "I live in Lyon", "Nice place", message="msg_1")
    (lyon,) = await keep(
        memories,
        database,
        owner,
        Draft(text="I live in Lyon", valid_from=at(0), turn_keys=[first[0].turn.key]),
        message_id="msg_1",
    )
    then = await say(database, owner, "I live in Lyon", "Nice place", "I moved to Porto", message="msg_2")
    (porto,) = await keep(
        memories,
        database,
        owner,
        Draft(text="I moved to Porto", valid_from=at(2), turn_keys=[then[2].turn.key], supersedes=lyon.id),
        message_id="msg_2",
    )
    return lyon, porto


async def remembered(database: Database, owner: Owner, message_id: str) -> None:
    await database.execute(
        """INSERT INTO remembered (account, message_id, created_ms, owner, status, record, content)
        VALUES ($1, $2, 0, $3, 'stored', '{}', '{}')""",
        owner.account,
        message_id,
        owner.id,
    )


async def age(database: Database, owner: Owner, days: int) -> None:
    for table, column in (("memories", "deleted_at"), ("memory_backups", "created_at")):
        await database.execute(
            f"UPDATE {table} SET {column} = {column} - make_interval(days => $2) WHERE owner = $1", owner.id, days
        )


async def test_a_deleted_memory_is_found_nowhere(memories: Memories, database: Database, owner: Owner) -> None:
    one, two = await keep(memories, database, owner, "I like tea", "I like coffee")
    backup, outcome = await memories.delete(owner, [one.id])
    assert backup is not None and backup.startswith("bak_") and outcome == {one.id: "deleted"}
    for call in (memories.get(owner, one.id), memories.history(owner, one.id), memories.edit(owner, one.id, text="a")):
        with pytest.raises(NotFound, match="no such memory"):
            await call
    assert await listed(memories, owner) == ["I like coffee"]
    assert [row.id async for row in memories.export(owner)] == [two.id]
    assert await database.fetchval("SELECT count(*) FROM units WHERE owner = $1", owner.id) == 1
    assert await database.fetchval("SELECT count(*) FROM postings WHERE owner = $1 AND term = 'tea'", owner.id) == 0


async def test_deleting_twice_finds_nothing_the_second_time(
    memories: Memories, database: Database, owner: Owner
) -> None:
    (made,) = await keep(memories, database, owner, "I like tea")
    await memories.delete(owner, [made.id])
    before = await dump(database, owner)
    assert await memories.delete(owner, [made.id]) == (None, {made.id: "not_found"})
    assert await dump(database, owner) == before


async def test_a_batch_tells_what_became_of_each(memories: Memories, database: Database, owner: Owner) -> None:
    one, two = await keep(memories, database, owner, "I like tea", "I like coffee")
    backup, outcome = await memories.delete(owner, [one.id, "mem_none", two.id, one.id, ""])
    assert outcome == {one.id: "deleted", "mem_none": "not_found", two.id: "deleted", "": "not_found"}
    assert backup is not None
    assert await memories.restore(owner, backup) == {one.id: "restored", two.id: "restored"}


async def test_adding_it_again_from_the_same_source_does_not_bring_it_back(
    memories: Memories, database: Database, owner: Owner
) -> None:
    (made,) = await keep(memories, database, owner, "I like tea", key="msg_1")
    await memories.delete(owner, [made.id])
    before = await dump(database, owner)
    assert await keep(memories, database, owner, "I like tea", key="msg_1") == []
    assert await dump(database, owner) == before


async def test_restoring_brings_back_all_of_it(memories: Memories, database: Database, owner: Owner) -> None:
    (made,) = await keep(memories, database, owner, Draft(text="I like tea", metadata={"a": 1}))
    before = await dump(database, owner)
    backup, _ = await memories.delete(owner, [made.id])
    assert backup is not None
    assert await memories.restore(owner, backup) == {made.id: "restored"}
    assert await memories.get(owner, made.id) == made
    after = await dump(database, owner)
    assert after["memories"] == before["memories"]
    assert len(after["postings"]) == len(before["postings"]) > 0
    events = (await memories.history(owner, made.id)).events
    assert [event.event for event in events] == ["created", "deleted", "restored"]
    assert await memories.restore(owner, backup) == {made.id: "restored"}
    assert await dump(database, owner) == after


async def test_restoring_never_overrules_what_was_said_since(
    memories: Memories, database: Database, owner: Owner
) -> None:
    one, two = await keep(memories, database, owner, "I like tea", "I like coffee")
    backup, _ = await memories.delete(owner, [one.id, two.id])
    (again,) = await keep(memories, database, owner, "I like tea!")
    assert backup is not None
    assert await memories.restore(owner, backup) == {one.id: "replaced", two.id: "restored"}
    assert sorted(await listed(memories, owner)) == ["I like coffee", "I like tea!"]
    assert await memories.get(owner, again.id) == again


async def test_a_restored_memory_is_superseded_by_what_came_meanwhile(
    memories: Memories, database: Database, owner: Owner
) -> None:
    lyon, porto = await moved(memories, database, owner)
    backup, _ = await memories.delete(owner, [porto.id])
    rome = Draft(text="I moved to Rome", valid_from=at(9), supersedes=lyon.id)
    (new,) = await keep(memories, database, owner, rome)
    assert backup is not None
    assert await memories.restore(owner, backup) == {porto.id: "restored"}
    chain = (await memories.history(owner, new.id)).chain
    assert [(row.text, row.valid_to) for row in chain] == [
        ("I live in Lyon", at(2)),
        ("I moved to Porto", at(9)),
        ("I moved to Rome", None),
    ]


async def test_what_was_deleted_again_is_not_restored_by_the_first_backup(
    memories: Memories, database: Database, owner: Owner
) -> None:
    (made,) = await keep(memories, database, owner, "I like tea")
    first, _ = await memories.delete(owner, [made.id])
    assert first is not None
    await memories.restore(owner, first)
    second, _ = await memories.delete(owner, [made.id])
    assert await memories.restore(owner, first) == {made.id: "gone"}
    assert second is not None and await memories.restore(owner, second) == {made.id: "restored"}


async def test_thirty_days_are_the_end(memories: Memories, database: Database, owner: Owner) -> None:
    (made,) = await keep(memories, database, owner, "I like pineapple")
    (kept,) = await keep(memories, database, owner, "I like tea")
    backup, _ = await memories.delete(owner, [made.id])
    assert backup is not None
    await age(database, owner, 29)
    assert await memories.purge() == 0
    await age(database, owner, 1)
    with pytest.raises(NotFound) as caught:
        await memories.restore(owner, backup)
    assert caught.value.code == "BACKUP_NOT_FOUND"
    assert await memories.purge() == 1
    assert await memories.purge() == 0
    assert await found(database, owner, "pineapple") == 0
    assert await database.fetchval("SELECT count(*) FROM memory_history WHERE memory = $1", made.id) == 0
    assert (await memories.get(owner, kept.id)) == kept


async def test_without_a_backup_it_is_gone_at_once_with_its_history(
    memories: Memories, database: Database, owner: Owner
) -> None:
    (made,) = await keep(memories, database, owner, "I like pineapple")
    await memories.edit(owner, made.id, text="I like pineapple pizza")
    assert await memories.delete(owner, [made.id], backup=False) == (None, {made.id: "deleted"})
    assert await found(database, owner, "pineapple") == 0
    assert await database.fetchval("SELECT count(*) FROM memory_history WHERE memory = $1", made.id) == 0


async def test_a_chain_closes_over_what_is_gone(memories: Memories, database: Database, owner: Owner) -> None:
    lyon, porto = await moved(memories, database, owner)
    (rome,) = await keep(
        memories, database, owner, Draft(text="I moved to Rome", valid_from=at(9), supersedes=porto.id)
    )
    (oslo,) = await keep(
        memories, database, owner, Draft(text="I moved to Oslo", valid_from=at(12), supersedes=rome.id)
    )
    await memories.delete(owner, [porto.id, rome.id], backup=False)
    assert (await memories.get(owner, lyon.id)).superseded_by == oslo.id
    await memories.delete(owner, [oslo.id], backup=False)
    closed = await memories.get(owner, lyon.id)
    assert (closed.superseded_by, closed.valid_to) == (None, at(2))


async def test_what_was_superseded_stays_so_when_what_superseded_it_is_forgotten(
    memories: Memories, database: Database, owner: Owner
) -> None:
    _, porto = await moved(memories, database, owner)
    await memories.delete(owner, [porto.id], backup=False)
    assert await memories.page(owner, Filters()) == ([], 0)
    search = Search(database, None)
    only = frozenset({"memory"})
    assert (await search.search(owner, "live in Lyon", kinds=only)).hits == []
    found = await search.search(owner, "live in Lyon", kinds=only, filters=Filters(latest_only=False))
    assert [hit.text for hit in found.hits] == ["I live in Lyon"]


async def test_a_cascade_takes_the_chain_and_the_turns_and_restoring_brings_them_back(
    memories: Memories, database: Database, owner: Owner
) -> None:
    lyon, porto = await moved(memories, database, owner)
    (other,) = await keep(memories, database, owner, "I like tea")
    before = await dump(database, owner)
    backup, outcome = await memories.delete(owner, [porto.id], cascade=True)
    assert outcome == {porto.id: "deleted", lyon.id: "cascaded"} and backup is not None
    assert await listed(memories, owner) == [other.text]
    turns = await database.fetch("SELECT text FROM turns WHERE owner = $1", owner.id)
    assert [row["text"] for row in turns] == ["Nice place"]
    words = {row["term"] for row in await database.fetch("SELECT term FROM postings WHERE owner = $1", owner.id)}
    assert not words & {"lyon", "porto"}
    assert [turn.new for turn in await say(database, owner, "I live in Lyon", "Nice place")] == [False]
    assert await memories.restore(owner, backup) == {porto.id: "restored", lyon.id: "restored"}
    after = await dump(database, owner)
    for table in ("turns", "memories", "conversations"):
        assert after[table] == before[table]
    words = {row["term"] for row in await database.fetch("SELECT term FROM postings WHERE owner = $1", owner.id)}
    assert {"lyon", "porto"} <= words
    assert len(await say(database, owner, "I live in Lyon", "Nice place")) == 2


@pytest.mark.parametrize("backup", [False, True])
async def test_a_cascade_is_final_at_its_time_and_the_turns_stay_forgotten(
    memories: Memories, database: Database, owner: Owner, backup: bool
) -> None:
    (turn,) = await say(database, owner, "I like pineapple")
    draft = Draft(text="I like pineapple", turn_keys=[turn.turn.key])
    (made,) = await keep(memories, database, owner, draft)
    await memories.delete(owner, [made.id], cascade=True, backup=backup)
    if backup:
        await age(database, owner, 30)
        assert await memories.purge() == 1
    assert await found(database, owner, "pineapple") == 0
    assert await database.fetchval("SELECT count(*) FROM conversations WHERE owner = $1", owner.id) == 0
    assert await say(database, owner, "I like pineapple") == []
    assert await keep(memories, database, owner, draft) == []
    assert await found(database, owner, "pineapple") == 0


async def test_a_message_takes_its_turns_and_memories_with_it(
    memories: Memories, database: Database, owner: Owner
) -> None:
    lyon, _ = await moved(memories, database, owner)
    await remembered(database, owner, "msg_2")
    await bury(database, owner, "msg_2", memories=True)
    assert await listed(memories, owner) == [lyon.text]
    assert await found(database, owner, "porto") == 0
    assert await database.fetchval("SELECT count(*) FROM remembered WHERE message_id = 'msg_2'") == 0
    before = await dump(database, owner)
    await bury(database, owner, "msg_2", memories=True)
    assert await dump(database, owner) == before


async def test_a_message_without_its_memories_leaves_them(memories: Memories, database: Database, owner: Owner) -> None:
    await moved(memories, database, owner)
    await remembered(database, owner, "msg_2")
    before = await dump(database, owner)
    await bury(database, owner, "msg_2", memories=False)
    assert await dump(database, owner) == before
    await bury(database, owner, "msg_2", memories=True)
    await bury(database, owner, "msg_2", memories=False)
    assert await found(database, owner, "porto") == 0


async def test_a_memory_that_two_messages_said_outlives_the_second(
    memories: Memories, database: Database, owner: Owner
) -> None:
    (one,) = await say(database, owner, "I like tea", thread="a", message="msg_1")
    (two,) = await say(database, owner, "I like tea", thread="b", message="msg_2")
    for message, turn in (("msg_1", one), ("msg_2", two)):
        draft = Draft(text="I like tea", turn_keys=[turn.turn.key])
        await keep(memories, database, owner, draft, key=message, message_id=message)
    async with database.transaction() as connection:
        assert await memories.remove_message(connection, owner, "msg_2") == 0
    (row,) = (await memories.page(owner, Filters()))[0]
    assert row.turn_keys == [one.turn.key]
    async with database.transaction() as connection:
        assert await memories.remove_message(connection, owner, "msg_1") == 1
    assert await found(database, owner, "tea") == 0


async def test_a_removed_message_is_in_no_backup_either(memories: Memories, database: Database, owner: Owner) -> None:
    _, porto = await moved(memories, database, owner)
    backup, _ = await memories.delete(owner, [porto.id], cascade=True)
    async with database.transaction() as connection:
        await memories.remove_message(connection, owner, "msg_2")
    assert await found(database, owner, "porto") == 0
    assert backup is not None
    await memories.restore(owner, backup)
    assert await listed(memories, owner) == ["I live in Lyon"]


async def test_a_tombstone_is_seen_by_its_account_alone(database: Database, owner: Owner) -> None:
    other = await new_owner(database)
    await bury(database, owner, "msg_1", memories=False)
    async with database.transaction() as connection:
        names = [Name(owner.account, "msg_1", 1), Name(owner.account, "msg_1", 2), Name(owner.account, "msg_2", 1)]
        assert await decided(connection, [*names, Name(other.account, "msg_1", 1)]) == {names[0]: None}


async def bury(database: Database, owner: Owner, message_id: str, *, memories: bool) -> None:
    """Deletes a message that was created in millisecond 1."""
    store = Remembered(database, Memories(database, None))
    await store.delete(owner.account, owner.user, message_id, 1, memories=memories)


async def test_two_deleting_the_same_memory_make_one_backup(
    memories: Memories, database: Database, owner: Owner
) -> None:
    (made,) = await keep(memories, database, owner, "I like tea")
    results: list[str | None] = []

    async def one() -> None:
        results.append((await memories.delete(owner, [made.id]))[0])

    async with anyio.create_task_group() as group:
        group.start_soon(one)
        group.start_soon(one)
    assert sorted(result is None for result in results) == [False, True]
    assert await database.fetchval("SELECT count(*) FROM memory_backups WHERE owner = $1", owner.id) == 1
