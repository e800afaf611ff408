"""One way to draw memories from turns: read outside of a transaction, added in one, the same however often."""

from __future__ import annotations

from datetime import datetime

from app.database import Database
from app.memory.drawing import MOST_PROBES, Added, Drawer, Material
from app.memory.memories import Memories
from app.memory.rules import probes, statements
from app.memory.search import Search
from app.memory.types import Draft, Memory, Origin, Owner, StoredTurn, Turn
from tests.memory_rig import Directions, at, keep

THINGS = (
    "colour food drink book film song band city season animal tree flower game sport car "
    "dish fruit cheese wine tea bird painter writer actor month"
)


def drawer(database: Database, embedder: Directions | None = None, reader: Reader | None = None) -> Drawer:
    return Drawer(database, Memories(database, embedder), Search(database, embedder), embedder, reader)  # type: ignore[arg-type]


def turn(text: str, key: str = "", said_at: datetime | None = None) -> Turn:
    return Turn(key=key or text, role="user", text=text, said_at=said_at or at(0))


class Reader:
    """Stands for the extractor, whose own tests are elsewhere: one memory of each turn it is given."""

    def __init__(self) -> None:
        self.known: list[list[str]] = []

    async def extract(self, turns: list[StoredTurn], existing: list[Memory]) -> list[Draft]:
        self.known.append([memory.text for memory in existing])
        return [Draft(text=f"Said: {one.turn.text}", turn_keys=[one.turn.key]) for one in turns]


async def add(database: Database, owner: Owner, made: Drawer, material: Material, source: str = "s") -> Added:
    async with database.transaction() as connection:
        return await made.add(
            connection, owner, material, origin=Origin(source="bot"), source_key=source, metadata={"from": "test"}
        )


async def test_what_is_added_again_is_not_new_and_what_was_deleted_does_not_come_back(
    database: Database, owner: Owner
) -> None:
    made = drawer(database, Directions())
    material = await made.read(owner.account, owner.user, [turn("I live in Lyon. My dog is called Rex.")])
    assert material.extractor == "rules"
    assert set(material.vectors) == {"I live in Lyon.", "My dog is called Rex."}
    first = await add(database, owner, made, material)
    assert [one.text for one in first.memories] == ["I live in Lyon.", "My dog is called Rex."]
    assert first.new == [one.id for one in first.memories]
    assert [(one.source, one.metadata) for one in first.memories] == [("bot", {"from": "test"})] * 2
    await Memories(database, None).delete(owner, first.new[:1])
    again = await add(database, owner, made, material)
    assert ([one.id for one in again.memories], again.new) == (first.new[1:], [])


async def test_what_another_source_said_already_is_neither_made_nor_new(database: Database, owner: Owner) -> None:
    made = drawer(database)
    await keep(Memories(database, None), database, owner, "I live in Lyon.")
    material = await made.read(owner.account, owner.user, [turn("I live in Lyon.")])
    assert await add(database, owner, made, material) == Added(memories=[], new=[])


async def test_a_change_of_mind_is_found_behind_any_number_of_statements(database: Database, owner: Owner) -> None:
    """Of a long history too: what the last of its portions says supersedes what the first one said."""
    made = drawer(database)
    (old,) = await keep(Memories(database, None), database, owner, Draft(text="I live in Lyon.", valid_from=at(-9)))
    facts = [f"My favourite {thing} is number {n}." for n, thing in enumerate(THINGS.split())]
    assert len(probes(statements([turn(text) for text in facts]))) > MOST_PROBES
    said = [
        turn(text, said_at=at(n))
        for n, text in enumerate(["My name is Ada.", *facts, "I moved to Porto.", "My name is Eva."])
    ]
    await add(database, owner, made, await made.read(owner.account, owner.user, said))
    current = await database.fetch("SELECT text FROM memories WHERE owner = $1 AND valid_to IS NULL", owner.id)
    texts = {row["text"] for row in current}
    assert {"I moved to Porto.", "My name is Eva."} <= texts
    assert not {"I live in Lyon.", "My name is Ada."} & texts
    history = await Memories(database, None).history(owner, old.id)
    assert [one.text for one in history.chain] == ["I live in Lyon.", "I moved to Porto."]


async def test_a_model_reads_where_there_is_one_and_is_shown_what_is_known(database: Database, owner: Owner) -> None:
    reader = Reader()
    made = drawer(database, reader=reader)
    await keep(Memories(database, None), database, owner, "I live in Lyon.")
    material = await made.read(owner.account, owner.user, [turn("Where in Lyon do I live?", "a"), turn("Tea.", "b")])
    assert reader.known == [["I live in Lyon."]]
    added = await add(database, owner, made, material.only({"b"}))
    assert [(one.text, one.extractor) for one in added.memories] == [("Said: Tea.", "model")]


async def test_only_keeps_what_the_turns_bear_out_and_what_no_turn_does() -> None:
    material = Material(
        extractor="model",
        drafts=[
            Draft(text="a", turn_keys=["1"]),
            Draft(text="b", turn_keys=["1", "2"], supersedes_draft=0),
            Draft(text="c"),
        ],
    )
    kept = material.only({"2"}).drafts
    assert [(one.text, one.turn_keys, one.supersedes_draft) for one in kept] == [("b", ["2"], None), ("c", [], None)]
    assert material.only({"1", "2"}) == material
