"""Nobody's memories are anybody else's: what others do, and whose ids one knows, changes no answer.

Four owners, two in each of two accounts, say the same things under the same names, and each tries the others' ids.
Then each does the same alone, where the others' ids are ids of nothing. Every answer must be the same.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from app.database import Database
from app.errors import RepriseError
from app.memory.conversations import conversation_id, turns_of
from app.memory.memories import Memories
from app.memory.search import Search
from app.memory.types import Draft, Filters, Owner
from tests.memory_rig import Directions, keep, new_owner, say

OWNERS = 4
WORDS = ["I like tea", "I live in Lyon", "I moved to Porto"]
word = st.sampled_from(WORDS)
ref = st.tuples(st.integers(0, OWNERS - 1), st.integers(0, 2))
metadata = st.sampled_from([{}, {"user_id": "bob", "owner": 1, "account": "acc_1"}, {"owner = 2 OR true": "--"}])
filters = st.builds(
    Filters,
    latest_only=st.booleans(),
    thread_id=st.sampled_from([None, "t", "t' OR true --"]),
    categories=st.sampled_from([[], ["travel"]]),
)
action = st.one_of(
    st.tuples(st.just("add"), word, st.sampled_from(["k1", "k2"]), st.none() | ref, st.none() | ref, metadata),
    st.tuples(st.just("say"), word, st.sampled_from(["t", "u"]), st.sampled_from(["msg_1", "msg_2"])),
    st.tuples(st.just("get"), ref),
    st.tuples(st.just("history"), ref),
    st.tuples(st.just("edit"), ref, word),
    st.tuples(st.just("delete"), st.lists(ref, min_size=1, max_size=3), st.booleans(), st.booleans()),
    st.tuples(st.just("restore"), ref),
    st.tuples(st.just("page"), filters, st.sampled_from([None, "li", "%", ""])),
    st.tuples(st.just("export")),
    st.tuples(st.just("search"), word, filters),
    st.tuples(st.just("turns"), st.sampled_from(["t", "u"]), st.integers(0, OWNERS - 1)),
    st.tuples(st.just("remove_message"), st.sampled_from(["msg_1", "msg_2"])),
)
story = st.lists(st.tuples(st.integers(0, OWNERS - 1), action), max_size=16)


def prologue(own: int) -> list[Any]:
    """Something to steal."""
    return [
        ("say", WORDS[0], "t", "msg_1"),
        ("add", WORDS[0], "k1", None, (own, 0), {}),
        ("add", WORDS[1], "k1", None, None, {}),
        ("delete", [(own, 1)], False, True),
    ]


def attack(own: int, other: int) -> list[Any]:
    """Every door, tried with another's ids."""
    theirs = (other, 0)
    return [
        ("get", theirs),
        ("history", theirs),
        ("edit", theirs, WORDS[2]),
        ("add", WORDS[2], f"k{other}", theirs, theirs, {}),
        ("turns", "t", other),
        ("delete", [theirs, (own, 0), (own, 1), (own, 2)], True, own % 2 == 0),
        ("restore", theirs),
        ("restore", (own, 0)),
    ]


def look(own: int) -> list[Any]:
    """All that can be seen."""
    return [
        ("export",),
        ("search", WORDS[0], Filters(latest_only=False)),
        ("page", Filters(latest_only=False), None),
        ("turns", "t", own),
        ("turns", "u", own),
    ]


class Person:
    """An owner, and every id that was ever told to it, in the order of telling."""

    def __init__(self, owner: Owner) -> None:
        self.owner = owner
        self.memories: list[str] = []
        self.backups: list[str] = []
        self.turns: list[str] = []
        self.answers: list[Any] = []


class World:
    """The people there are, and what one of them does. ``alone``: the others are not there."""

    def __init__(self, database: Database, people: dict[int, Person]) -> None:
        self.db = database
        self.people = people
        self.memories = Memories(database, Directions())
        self.search = Search(database, Directions())

    def _id(self, who: tuple[int, int], kind: str = "memories") -> str:
        known: list[str] = getattr(self.people[who[0]], kind) if who[0] in self.people else []
        return known[who[1]] if who[1] < len(known) else f"mem_{who[0]}{who[1]}{'0' * 24}"

    async def act(self, index: int, what: tuple[Any, ...]) -> None:
        person = self.people[index]
        try:
            answer = await getattr(self, f"_{what[0]}")(person, *what[1:])
        except RepriseError as error:
            answer = error.code
        person.answers.append((what[0], self._told(person, answer)))

    def _told(self, person: Person, answer: Any) -> Any:
        """The answer with times left out and ids as the person's own count of them."""
        text = msgspec.json.encode(answer).decode()
        text = re.sub(r'"[^"]*\d{4}-\d\d-\d\dT[^"]*"', '"time"', text)
        for kind in ("memories", "backups", "turns"):
            for number, known in enumerate(getattr(person, kind)):
                text = text.replace(known, f"{kind} {number}")
        for thread in ("t", "u"):
            text = text.replace(conversation_id(person.owner, "reprise", thread), f"conversation {thread}")
        return re.sub(r"\b(mem|bak|turn)_[0-9a-z]{26}", "an id of somebody or nobody", text)

    async def _add(
        self, person: Person, text: str, key: str, supersedes: Any, said: Any, metadata: dict[str, Any]
    ) -> Any:
        replaced = self._id(supersedes) if supersedes else None
        turns = [self._id(said, "turns")] if said else []
        draft = Draft(text=text, supersedes=replaced, turn_keys=turns, metadata=metadata, categories=["travel"])
        made = await keep(self.memories, self.db, person.owner, draft, key=key, thread_id="t", message_id="msg_1")
        person.memories += [memory.id for memory in made if memory.id not in person.memories]
        return made

    async def _say(self, person: Person, text: str, thread: str, message: str) -> Any:
        stored = await say(self.db, person.owner, text, thread=thread, message=message)
        person.turns += [turn.turn.key for turn in stored if turn.turn.key not in person.turns]
        return [(turn.turn.text, turn.new) for turn in stored]

    async def _get(self, person: Person, who: tuple[int, int]) -> Any:
        memory = await self.memories.get(person.owner, self._id(who))
        return memory, await self.memories.sources(person.owner, [memory])

    async def _history(self, person: Person, who: tuple[int, int]) -> Any:
        return await self.memories.history(person.owner, self._id(who))

    async def _edit(self, person: Person, who: tuple[int, int], text: str) -> Any:
        return await self.memories.edit(person.owner, self._id(who), text=text, metadata={"owner": None, "e": 1})

    async def _delete(self, person: Person, refs: list[tuple[int, int]], cascade: bool, backup: bool) -> Any:
        wanted = [self._id(who) for who in refs]
        kept, outcome = await self.memories.delete(person.owner, wanted, cascade=cascade, backup=backup)
        person.backups += [kept] if kept else []
        return [outcome[key] for key in wanted], sorted(outcome.values()), kept is None

    async def _restore(self, person: Person, who: tuple[int, int]) -> Any:
        return await self.memories.restore(person.owner, self._id(who, "backups"))

    async def _page(self, person: Person, filters: Filters, q: str | None) -> Any:
        return await self.memories.page(person.owner, filters, q=q)

    async def _export(self, person: Person) -> Any:
        return [memory async for memory in self.memories.export(person.owner)]

    async def _search(self, person: Person, text: str, filters: Filters) -> Any:
        found = await self.search.search(person.owner, text, filters=filters, limit=50, rerank=True)
        scores = [
            (hit.kind, hit.text, round(hit.score, 6), hit.rerank_score and round(hit.rerank_score, 6))
            for hit in found.hits
        ]
        return found.legs, scores, [hit.memory for hit in found.hits]

    async def _turns(self, person: Person, thread: str, whose: int) -> Any:
        owner = self.people[whose].owner if whose in self.people else Owner(0, "acc", "nobody")
        async with self.db.connection() as connection:
            found = await turns_of(connection, person.owner, conversation_id(owner, "reprise", thread))
        return [stored.turn.text for stored in found]

    async def _remove_message(self, person: Person, message: str) -> Any:
        async with self.db.transaction() as connection:
            return await self.memories.remove_message(connection, person.owner, message)


async def two_accounts(database: Database) -> list[Owner]:
    first, second = await new_owner(database, "ada"), await new_owner(database, "ada")
    return [
        first,
        await new_owner(database, "bob", first.account),
        second,
        await new_owner(database, "bob", second.account),
    ]


@hypothesis_settings(
    max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(story=story)
async def test_no_answer_depends_on_anybody_else(database: Database, story: list[tuple[int, Any]]) -> None:
    everybody = range(OWNERS)
    end: list[tuple[int, Any]] = []
    for own in everybody:
        end += [(own, what) for other in everybody if own != other for what in attack(own, other)]
        end += [(victim, what) for victim in everybody for what in look(victim)]
    begin = [(own, what) for own in everybody for what in prologue(own)]
    story = begin + story + end
    owners = await two_accounts(database)
    together = World(database, {index: Person(owner) for index, owner in enumerate(owners)})
    for index, what in story:
        await together.act(index, what)
    for index, fresh in enumerate(await two_accounts(database)):
        alone = World(database, {index: Person(fresh)})
        for actor, what in story:
            if actor == index:
                await alone.act(index, what)
        assert together.people[index].answers == alone.people[index].answers
