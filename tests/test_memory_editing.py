"""Memories corrected: what is given changes, is written down and is found; what is wrong is refused."""

from __future__ import annotations

import pytest

from app.database import Database
from app.errors import NotFound, ValidationFailed
from app.memory import words
from app.memory.memories import Memories
from app.memory.types import Draft, Owner
from tests.memory_rig import Directions, dump, keep


@pytest.fixture
def space() -> Directions:
    return Directions()


@pytest.fixture
def memories(database: Database, space: Directions) -> Memories:
    return Memories(database, space)


async def test_editing_changes_what_is_given_and_is_written_down(
    memories: Memories, database: Database, owner: Owner, space: Directions
) -> None:
    (made,) = await keep(memories, database, owner, Draft(text="I live in Lyon", metadata={"a": 1, "b": 2, "c": None}))
    edited = await memories.edit(
        owner,
        made.id,
        text="I live in Berlin",
        categories=["travel"],
        type="episodic",
        importance=1,
        metadata={"b": None, "d": 4},
    )
    assert edited == await memories.get(owner, made.id)
    assert (edited.text, edited.categories, edited.type, edited.importance, edited.metadata) == (
        "I live in Berlin",
        ["travel"],
        "episodic",
        1.0,
        {"a": 1, "c": None, "d": 4},
    )
    assert edited.updated_at > made.updated_at and edited.created_at == made.created_at
    event = (await memories.history(owner, made.id)).events[-1]
    assert event.event == "updated" and event.before is not None and event.after is not None
    assert (event.before["text"], event.after["text"]) == ("I live in Lyon", "I live in Berlin")
    assert "valid_from" not in event.after
    units = await database.fetch("SELECT text, embedding IS NULL AS bare FROM units WHERE owner = $1", owner.id)
    assert [(unit["text"], unit["bare"]) for unit in units] == [("I live in Berlin", False)]
    terms = {row["term"] for row in await database.fetch("SELECT term FROM postings WHERE owner = $1", owner.id)}
    assert terms == set(words.terms("I live in Berlin"))


async def test_an_edit_that_changes_nothing_is_not_written_down(
    memories: Memories, database: Database, owner: Owner
) -> None:
    (made,) = await keep(memories, database, owner, "I live in Lyon")
    before = await dump(database, owner)
    assert await memories.edit(owner, made.id, text=" I live in Lyon ", metadata={}) == made
    assert await dump(database, owner) == before


async def test_a_wrong_edit_is_refused(memories: Memories, database: Database, owner: Owner) -> None:
    (made,) = await keep(memories, database, owner, Draft(text="I live in Lyon", metadata={"a": "x" * 40_000}))
    with pytest.raises(ValidationFailed, match="text"):
        await memories.edit(owner, made.id, text="\x00")
    with pytest.raises(ValidationFailed, match="metadata"):
        await memories.edit(owner, made.id, metadata={"b": "x" * 40_000})
    with pytest.raises(NotFound):
        await memories.edit(owner, "mem_none", text="a")
    assert await memories.get(owner, made.id) == made


async def test_the_same_add_after_an_edit_changes_nothing(memories: Memories, database: Database, owner: Owner) -> None:
    (made,) = await keep(memories, database, owner, "I live in Lyon", key="msg_1")
    edited = await memories.edit(owner, made.id, text="I live in Berlin")
    assert await keep(memories, database, owner, "I live in Lyon", key="msg_1") == [edited]
