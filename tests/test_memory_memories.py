"""Memories: added once, superseded but never destroyed, corrected, forgotten and brought back."""

from __future__ import annotations

import anyio
import pytest

from app.database import Database
from app.errors import NotFound, ValidationFailed
from app.memory.memories import Memories
from app.memory.types import Draft, Filters, Memory, Origin, Owner
from tests.memory_rig import Directions, at, dump, keep, new_owner, say, until_one_waits


@pytest.fixture
def space() -> Directions:
    return Directions()


@pytest.fixture
def memories(database: Database, space: Directions) -> Memories:
    return Memories(database, space)


async def test_a_memory_is_read_as_it_was_added(memories: Memories, database: Database, owner: Owner) -> None:
    draft = Draft(
        text="I live in Lyon",
        type="episodic",
        categories=["travel", "identity"],
        importance=0.7,
        valid_from=at(0),
        turn_keys=["turn_1"],
        metadata={"a": [1, {"b": "é"}]},
    )
    (made,) = await keep(memories, database, owner, draft, agent_id="a", thread_id="t", source="s", message_id="msg_1")
    assert made == await memories.get(owner, made.id)
    assert (made.text, made.type, made.categories, made.importance) == (
        draft.text,
        "episodic",
        ["travel", "identity"],
        0.7,
    )
    assert (made.valid_from, made.valid_to, made.metadata) == (at(0), None, draft.metadata)
    assert (made.agent_id, made.thread_id, made.source, made.message_id) == ("a", "t", "s", "msg_1")


async def test_an_unknown_memory_is_not_found(memories: Memories, owner: Owner) -> None:
    with pytest.raises(NotFound) as caught:
        await memories.get(owner, "mem_none")
    assert (caught.value.code, caught.value.ids) == ("MEMORY_NOT_FOUND", {"memory_id": "mem_none"})


async def test_the_same_add_twice_changes_nothing(memories: Memories, database: Database, owner: Owner) -> None:
    first = await keep(memories, database, owner, "I live in Lyon", "I have two cats", key="msg_1")
    before = await dump(database, owner)
    assert await keep(memories, database, owner, "I live in Lyon", "I have two cats", key="msg_1") == first
    assert await dump(database, owner) == before


async def test_superseding_keeps_both_with_their_intervals(
    memories: Memories, database: Database, owner: Owner
) -> None:
    (lyon,) = await keep(memories, database, owner, Draft(text="I live in Lyon", valid_from=at(0)))
    (porto,) = await keep(
        memories, database, owner, Draft(text="I moved to Porto", valid_from=at(9), supersedes=lyon.id)
    )
    rows, total = await memories.page(owner, Filters())
    assert ([row.text for row in rows], total) == (["I moved to Porto"], 1)
    rows, total = await memories.page(owner, Filters(latest_only=False))
    assert [(row.text, row.valid_from, row.valid_to, row.superseded_by) for row in rows] == [
        ("I moved to Porto", at(9), None, None),
        ("I live in Lyon", at(0), at(9), porto.id),
    ]
    for memory in (lyon, porto):
        history = await memories.history(owner, memory.id)
        assert [row.text for row in history.chain] == ["I live in Lyon", "I moved to Porto"]
        assert [(event.memory_id, event.event) for event in history.events] == [
            (lyon.id, "created"),
            (porto.id, "created"),
            (lyon.id, "superseded"),
        ]
    assert history.events[2].before == {"valid_to": None, "superseded_by": None}
    assert history.events[2].after == {"valid_to": "2026-03-01T12:09:00Z", "superseded_by": porto.id}


async def test_superseding_again_changes_nothing(memories: Memories, database: Database, owner: Owner) -> None:
    (lyon,) = await keep(memories, database, owner, Draft(text="I live in Lyon", valid_from=at(0)))
    porto = Draft(text="I moved to Porto", valid_from=at(9), supersedes=lyon.id)
    await keep(memories, database, owner, porto, key="msg_2")
    before = await dump(database, owner)
    await keep(memories, database, owner, porto, key="msg_2")
    await keep(memories, database, owner, porto, key="msg_3")
    assert await dump(database, owner) == before


@pytest.mark.parametrize("order", [("Porto", "Rome"), ("Rome", "Porto")])
async def test_of_two_that_supersede_one_at_once_the_later_said_wins(
    memories: Memories, database: Database, owner: Owner, order: tuple[str, str]
) -> None:
    """The second transaction waits for the first, and neither is lost whichever comes first."""
    (lyon,) = await keep(memories, database, owner, Draft(text="I live in Lyon", valid_from=at(0)))
    said = {"Porto": at(5), "Rome": at(9)}
    drafts = [Draft(text=f"I moved to {city}", valid_from=said[city], supersedes=lyon.id) for city in order]
    finished: list[str] = []
    async with anyio.create_task_group() as group, database.transaction() as first:
        await memories.add(first, owner, drafts[:1], origin=Origin(), extractor="x", source_key="a")

        async def second() -> None:
            await keep(memories, database, owner, drafts[1], key="b")
            finished.append(order[1])

        group.start_soon(second)
        await until_one_waits(database)
        finished.append(order[0])
    assert finished == list(order)
    rows, _ = await memories.page(owner, Filters(latest_only=False))
    chain = sorted(rows, key=lambda row: row.valid_from)
    assert [(row.text, row.valid_to) for row in chain] == [
        ("I live in Lyon", at(5)),
        ("I moved to Porto", at(9)),
        ("I moved to Rome", None),
    ]
    assert [row.superseded_by for row in chain] == [chain[1].id, chain[2].id, None]


async def test_what_is_older_than_what_it_supersedes_goes_before_it(
    memories: Memories, database: Database, owner: Owner
) -> None:
    (porto,) = await keep(memories, database, owner, Draft(text="I moved to Porto", valid_from=at(9)))
    (lyon,) = await keep(memories, database, owner, Draft(text="I live in Lyon", valid_from=at(0), supersedes=porto.id))
    assert (lyon.valid_to, lyon.superseded_by) == (at(9), porto.id)
    assert await memories.get(owner, porto.id) == porto


async def test_what_was_said_between_two_of_a_chain_goes_between_them(
    memories: Memories, database: Database, owner: Owner
) -> None:
    (lyon,) = await keep(memories, database, owner, Draft(text="I live in Lyon", valid_from=at(0)))
    moved = Draft(text="I moved to Porto", valid_from=at(9), supersedes=lyon.id)
    (porto,) = await keep(memories, database, owner, moved)
    between = Draft(text="I moved to Bari", valid_from=at(5), supersedes=porto.id)
    (bari,) = await keep(memories, database, owner, between)
    chain = (await memories.history(owner, bari.id)).chain
    assert [(row.text, row.valid_to, row.superseded_by) for row in chain] == [
        ("I live in Lyon", at(5), bari.id),
        ("I moved to Bari", at(9), porto.id),
        ("I moved to Porto", None, None),
    ]


async def test_two_transactions_adding_the_same_memory_make_one(
    memories: Memories, database: Database, owner: Owner
) -> None:
    async with anyio.create_task_group() as group, database.transaction() as first:
        drafts = [Draft(text="I have two cats", importance=0.3)]
        (made,) = await memories.add(first, owner, drafts, origin=Origin(), extractor="x", source_key="a")

        async def second() -> None:
            assert await keep(memories, database, owner, Draft(text="I have two cats!", importance=0.8)) == []

        group.start_soon(second)
        await until_one_waits(database)
    rows, total = await memories.page(owner, Filters())
    assert (total, rows[0].id, rows[0].importance) == (1, made.id, 0.8)


async def test_a_transaction_that_breaks_off_leaves_no_memory(
    memories: Memories, database: Database, owner: Owner
) -> None:
    before = await dump(database, owner)
    with pytest.raises(RuntimeError):
        async with database.transaction() as connection:
            await memories.add(connection, owner, [Draft(text="lost")], origin=Origin(), extractor="x", source_key="a")
            raise RuntimeError("killed")
    assert await dump(database, owner) == before


async def test_the_twin_of_a_superseded_memory_is_new(memories: Memories, database: Database, owner: Owner) -> None:
    (lyon,) = await keep(memories, database, owner, Draft(text="I live in Lyon", valid_from=at(0)))
    (porto,) = await keep(
        memories, database, owner, Draft(text="I moved to Porto", valid_from=at(5), supersedes=lyon.id)
    )
    (again,) = await keep(
        memories, database, owner, Draft(text="I live in Lyon", valid_from=at(9), supersedes=porto.id)
    )
    assert again.id != lyon.id
    chain = (await memories.history(owner, lyon.id)).chain
    assert [(row.id, row.valid_to) for row in chain] == [(lyon.id, at(5)), (porto.id, at(9)), (again.id, None)]


async def test_what_was_superseded_is_new_when_said_again_without_naming_anything(
    memories: Memories, database: Database, owner: Owner
) -> None:
    (lyon,) = await keep(memories, database, owner, Draft(text="I live in Lyon", valid_from=at(0)))
    await keep(memories, database, owner, Draft(text="I moved to Porto", valid_from=at(5), supersedes=lyon.id))
    (again,) = await keep(memories, database, owner, Draft(text="I live in Lyon", valid_from=at(9)))
    assert again.id != lyon.id and again.valid_to is None


async def test_near_identical_texts_are_one_memory(
    memories: Memories, database: Database, owner: Owner, space: Directions
) -> None:
    space.put("I really love hiking in the Alps", "I love hiking in the Alps", 0.96)
    space.put("I do love hiking in the Alps", "I love hiking in the Alps", 0.94)
    said = await say(database, owner, "one", "two", "three")
    keys = [stored.turn.key for stored in said]
    (made,) = await keep(memories, database, owner, Draft(text="I love hiking in the Alps", turn_keys=keys[:1]))
    near = Draft(text="I really love hiking in the Alps", turn_keys=keys[1:2], categories=["interests"], importance=0.9)
    assert await keep(memories, database, owner, near) == []
    merged = await memories.get(owner, made.id)
    assert (merged.text, merged.turn_keys, merged.categories, merged.importance) == (
        made.text,
        keys[:2],
        ["interests"],
        0.9,
    )
    assert [event.event for event in (await memories.history(owner, made.id)).events] == ["created", "updated"]
    assert len(await keep(memories, database, owner, "I do love hiking in the Alps")) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("I have 2 cats", "I have 3 cats"),
        ("I eat meat", "I do not eat meat"),
        ("I can swim", "I can't swim"),
        ("my sister lives in lyon", "my sister lives in porto"),
        ("My left knee hurts", "My right knee hurts"),
        ("Anna owes money to Tom", "Tom owes money to Anna"),
        ("I drink coffee with sugar", "I drink coffee without sugar"),
        ("My birthday is on 4 May", "My birthday is on 5 May"),
    ],
)
async def test_texts_near_in_space_that_differ_in_a_fact_are_two(
    memories: Memories, database: Database, owner: Owner, space: Directions, one: str, other: str
) -> None:
    space.put(other, one, 0.99)
    assert len(await keep(memories, database, owner, one, other)) == 2


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("I am allergic to peanuts", "I’m allergic to peanuts!"),
        ("I wake up early each day", "I wake up early every day"),
        ("I do not eat meat", "I DON'T eat the meat"),
    ],
)
async def test_texts_near_in_space_that_differ_in_fillers_are_one(
    memories: Memories, database: Database, owner: Owner, space: Directions, one: str, other: str
) -> None:
    space.put(other, one, 0.96)
    assert len(await keep(memories, database, owner, one, other)) == 1


async def test_near_twins_of_one_call_are_one(
    memories: Memories, database: Database, owner: Owner, space: Directions
) -> None:
    space.put("I do like tea", "I like tea", 0.99)
    said = ("I like tea", "I do like tea", "I like tea!")
    drafts = [Draft(text=text, turn_keys=[f"turn_{n}"]) for n, text in enumerate(said)]
    (made,) = await keep(memories, database, owner, *drafts)
    assert (made.text, made.turn_keys) == ("I like tea", ["turn_0", "turn_2", "turn_1"])
    assert await memories.get(owner, made.id) == made


async def test_a_draft_may_supersede_an_earlier_one_of_its_list(
    memories: Memories, database: Database, owner: Owner
) -> None:
    drafts = [
        Draft(text="I live in Lyon", valid_from=at(0)),
        Draft(text="I moved to Porto", valid_from=at(0), supersedes_draft=0),
        Draft(text="I moved to Rome", valid_from=at(5), supersedes_draft=0),
    ]
    lyon, porto, rome = await keep(memories, database, owner, *drafts, key="msg_1")
    chain = (await memories.history(owner, rome.id)).chain
    assert [(row.id, row.valid_to) for row in chain] == [(lyon.id, at(0)), (porto.id, at(5)), (rome.id, None)]
    before = await dump(database, owner)
    again = await keep(memories, database, owner, *drafts, key="msg_1")
    assert [memory.id for memory in again] == [lyon.id, porto.id, rome.id]
    assert await dump(database, owner) == before


async def test_a_draft_that_supersedes_a_merged_one_supersedes_its_twin(
    memories: Memories, database: Database, owner: Owner
) -> None:
    (lyon,) = await keep(memories, database, owner, Draft(text="I live in Lyon", valid_from=at(0)))
    drafts = [Draft(text="I live in Lyon!", valid_from=at(1)), Draft(text="I moved to Porto", supersedes_draft=0)]
    (porto,) = await keep(memories, database, owner, *drafts)
    assert (await memories.get(owner, lyon.id)).superseded_by == porto.id


@pytest.mark.parametrize("place", [-1, 0, 1, 7])
async def test_a_draft_that_supersedes_no_earlier_one_is_just_added(
    memories: Memories, database: Database, owner: Owner, place: int
) -> None:
    (made,) = await keep(memories, database, owner, Draft(text="I live in Lyon", supersedes_draft=place))
    assert (made.valid_to, made.superseded_by) == (None, None)


async def test_the_same_source_twice_at_once_makes_one(memories: Memories, database: Database, owner: Owner) -> None:
    answers: list[list[Memory]] = []
    async with anyio.create_task_group() as group, database.transaction() as first:
        drafts = [Draft(text="I have two cats")]
        answers.append(
            await memories.add(first, owner, drafts, origin=Origin(), extractor="verbatim", source_key="msg_1")
        )

        async def second() -> None:
            answers.append(await keep(memories, database, owner, *drafts, key="msg_1"))

        group.start_soon(second)
        await until_one_waits(database)
    assert answers[0] == answers[1] and len(answers[0]) == 1
    assert (await memories.page(owner, Filters()))[1] == 1


async def test_without_an_embedder_equal_texts_are_still_one(database: Database, owner: Owner) -> None:
    memories = Memories(database, None)
    assert len(await keep(memories, database, owner, "I like tea.", "i like  TEA", "I like coffee")) == 2


async def test_a_draft_of_another_owner_s_memory_supersedes_nothing(
    memories: Memories, database: Database, owner: Owner
) -> None:
    other = await new_owner(database, "bob", owner.account)
    (theirs,) = await keep(memories, database, other, "I live in Lyon")
    (mine,) = await keep(memories, database, owner, Draft(text="I moved to Porto", supersedes=theirs.id))
    assert (mine.valid_to, await memories.get(other, theirs.id)) == (None, theirs)


@pytest.mark.parametrize(
    ("draft", "field"),
    [
        (Draft(text=" \n"), "text"),
        (Draft(text="a\x00b"), "text"),
        (Draft(text="a\ud83d"), "text"),
        (Draft(text="x" * 32_769), "text"),
        (Draft(text="a", categories=["hats"]), "categories"),
        (Draft(text="a", importance=float("nan")), "importance"),
        (Draft(text="a", importance=1.01), "importance"),
        (Draft(text="a", type="odd"), "type"),  # type: ignore[arg-type]
        (Draft(text="a", metadata={"a": "x" * 1_000_000}), "metadata"),
        (Draft(text="a", metadata={"a\x00": 1}), "metadata"),
    ],
)
async def test_what_no_memory_can_be_is_refused_by_name(
    memories: Memories, database: Database, owner: Owner, draft: Draft, field: str
) -> None:
    before = await dump(database, owner)
    with pytest.raises(ValidationFailed) as caught:
        await keep(memories, database, owner, "I like tea", draft)
    assert caught.value.details["field"] == field
    assert await dump(database, owner) == before


@pytest.mark.parametrize("text", ["🧑‍🚀", "!!!", "e\u0301 \u202e", "x" * 32_768, "'; DROP TABLE owners; --", "\\u0000"])
async def test_odd_text_is_kept_as_it_is(memories: Memories, database: Database, owner: Owner, text: str) -> None:
    (made,) = await keep(memories, database, owner, Draft(text=text, metadata={text[:99]: text[:99]}))
    assert await keep(memories, database, owner, text) == []
    found = await memories.get(owner, made.id)
    assert (found.text, found.metadata) == (text, {text[:99]: text[:99]})


async def test_the_messages_that_said_it_are_named(memories: Memories, database: Database, owner: Owner) -> None:
    (one,) = await say(database, owner, "I like tea", thread="a", message="msg_1")
    (two,) = await say(database, owner, "I like tea!", thread="b", message="msg_2")
    (made,) = await keep(
        memories, database, owner, Draft(text="I like tea", turn_keys=[one.turn.key]), message_id="msg_1"
    )
    await keep(memories, database, owner, Draft(text="I like tea!", turn_keys=[two.turn.key]), message_id="msg_2")
    made = await memories.get(owner, made.id)
    assert await memories.sources(owner, [made]) == {made.id: ["msg_1", "msg_2"]}


async def test_an_embedder_that_is_down_costs_vectors_and_nothing_else(
    memories: Memories, database: Database, owner: Owner, space: Directions
) -> None:
    space.down = True
    (made,) = await keep(memories, database, owner, "I live in Lyon")
    await memories.edit(owner, made.id, text="I live in Berlin")
    units = await database.fetch("SELECT text, embedding IS NULL AS bare FROM units WHERE owner = $1", owner.id)
    assert [(unit["text"], unit["bare"]) for unit in units] == [("I live in Berlin", True)]
