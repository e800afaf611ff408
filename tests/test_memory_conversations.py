"""Turns stored word for word, each once, whatever is sent again, at once or broken off."""

from __future__ import annotations

import anyio
import pytest

from app.database import Database
from app.errors import ValidationFailed
from app.memory.conversations import NewTurns, conversation_id, ensure_owner, find_owner, keyed, store_turns, turns_of
from app.memory.types import Owner, Turn
from tests.memory_rig import at, dump, new_owner, say


async def read(database: Database, owner: Owner, thread: str = "t") -> list[str]:
    async with database.connection() as connection:
        turns = await turns_of(connection, owner, conversation_id(owner, "reprise", thread))
    return [stored.turn.text for stored in turns]


async def test_an_owner_is_made_once_by_many_at_once(database: Database) -> None:
    first = await new_owner(database)
    found: set[int] = set()

    async def make() -> None:
        async with database.transaction() as connection:
            found.add((await ensure_owner(connection, first.account, "bob")).id)

    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(make)
    bob = await find_owner(database, first.account, "bob")
    assert bob is not None and found == {bob.id}
    assert await find_owner(database, first.account, "eve") is None


async def test_turns_are_kept_as_they_were_said(database: Database, owner: Owner) -> None:
    stored = await say(database, owner, "I live in Lyon.", "A fine city.", agent_id="a1")
    assert [turn.new for turn in stored] == [True, True]
    async with database.connection() as connection:
        again = await turns_of(connection, owner, conversation_id(owner, "reprise", "t"))
        later = await turns_of(connection, owner, conversation_id(owner, "reprise", "t"), after=stored[0].id)
    assert [turn.turn for turn in again] == [turn.turn for turn in stored]
    assert [turn.id for turn in later] == [stored[1].id]
    row = await database.fetchrow("SELECT * FROM conversations WHERE owner = $1", owner.id)
    assert (row["agent_id"], row["created_at"], row["updated_at"]) == ("a1", at(0), at(1))


async def test_the_same_call_twice_changes_nothing(database: Database, owner: Owner) -> None:
    first = await say(database, owner, "one", "two")
    before = await dump(database, owner)
    again = await say(database, owner, "one", "two")
    assert [(turn.id, turn.new) for turn in again] == [(turn.id, False) for turn in first]
    assert await dump(database, owner) == before


async def test_a_client_that_sends_its_history_adds_only_what_is_new(database: Database, owner: Owner) -> None:
    await say(database, owner, "hello", "hi", message="msg_1")
    stored = await say(database, owner, "hello", "hi  \n", "hello", "hi", message="msg_2")
    assert [turn.new for turn in stored] == [False, False, True, True]
    assert [turn.turn.message_id for turn in stored] == ["msg_1", "msg_1", "msg_2", "msg_2"]
    assert await read(database, owner) == ["hello", "hi", "hello", "hi"]


async def test_two_transactions_at_once_store_each_turn_once_in_order(database: Database, owner: Owner) -> None:
    said = [f"turn {n}" for n in range(6)]

    async def one(count: int) -> None:
        await say(database, owner, *said[:count])

    async with anyio.create_task_group() as group:
        for count in (2, 4, 6, 6):
            group.start_soon(one, count)
    assert await read(database, owner) == said
    positions = await database.fetch("SELECT position FROM turns WHERE owner = $1 ORDER BY 1", owner.id)
    assert [row["position"] for row in positions] == list(range(6))


async def test_a_transaction_that_breaks_off_leaves_nothing(database: Database, owner: Owner) -> None:
    before = await dump(database, owner)
    turn = Turn(key="k", role="user", text="lost", said_at=at(0))
    with pytest.raises(RuntimeError):
        async with database.transaction() as connection:
            await store_turns(connection, [NewTurns(owner=owner, platform="reprise", external_id="t", turns=[turn])])
            raise RuntimeError("killed")
    assert await dump(database, owner) == before


async def test_keys_differ_by_conversation_role_text_and_count(owner: Owner) -> None:
    pairs = [("user", "ok"), ("assistant", "ok"), ("user", "ok"), ("user", "no")]
    one, other = keyed(pairs, "conv_1"), keyed(pairs, "conv_2")
    assert len({*one, *other}) == 8
    assert keyed(pairs[:2], "conv_1") == one[:2]


@pytest.mark.parametrize(
    "text", ["nul \x00 here", "half \ud83d a pair", "huge " * 40_000, "🧑‍🚀 e\u0301 \u202eabc", " "]
)
async def test_odd_text_is_stored_and_stored_once(database: Database, owner: Owner, text: str) -> None:
    (first,) = await say(database, owner, text)
    (again,) = await say(database, owner, text)
    assert (first.new, again.new) == (True, False)
    assert (await read(database, owner)) == [text.replace("\x00", "\ufffd").replace("\ud83d", "\ufffd")]


async def test_metadata_too_large_or_no_json_is_refused(database: Database, owner: Owner) -> None:
    deep: list[object] = []
    for _ in range(32):
        deep = [deep]
    for wrong in ({"a": "x" * 1_000_000}, {"a": "\x00"}, {"a": "\ud83d"}, {"a": object()}, {"a": deep}):
        with pytest.raises(ValidationFailed, match="metadata"):
            async with database.transaction() as connection:
                await store_turns(
                    connection, [NewTurns(owner=owner, platform="p", external_id="t", turns=[], metadata=wrong)]
                )
    async with database.transaction() as connection:
        right = {"a": "\\u0000 spelled out"}
        await store_turns(connection, [NewTurns(owner=owner, platform="p", external_id="t", turns=[], metadata=right)])
