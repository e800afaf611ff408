"""Memories without a language model: which sentences are kept, when they were true, and what they supersede."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import anyio
import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from app.database import migrate, open_pool
from app.memory import categories, rules
from app.memory.embedding import Embedder
from app.memory.memories import Memories
from app.memory.recall import quoted
from app.memory.rules import probes, statements
from app.memory.search import Search
from app.memory.sentences import own_sentences
from app.memory.times import When, when
from app.memory.types import Draft, Hit, Memory, Turn
from app.memory.words import normal
from app.settings import Settings
from tests.memory_rig import Directions, keep, new_owner

SAID = datetime(2026, 11, 21, 12, 30, tzinfo=UTC)
"""A Saturday."""


class Axes:
    """An embedder: each text has an axis of its own, or lies at a cosine from the one of another text."""

    name = "axes"
    dimension = 256

    def __init__(self) -> None:
        self.asked: list[str] = []
        self._axes: dict[str, int] = {}
        self._near: dict[str, tuple[str, float]] = {}

    def put(self, text: str, near: str, cosine: float) -> None:
        self._near[text] = (near, cosine)

    async def embed(self, texts: list[str]) -> list[NDArray[np.float32]]:
        self.asked += texts
        return [self._vector(text) for text in texts]

    def _vector(self, text: str) -> NDArray[np.float32]:
        own = np.eye(self.dimension, dtype=np.float32)[self._axes.setdefault(text, len(self._axes))]
        if text not in self._near:
            return own
        near, cosine = self._near[text]
        mixed: NDArray[np.float32] = cosine * self._vector(near) + np.float32((1 - cosine**2) ** 0.5) * own
        return mixed


def turn(text: str, *, role: str = "user", key: str = "k1", said_at: datetime = SAID) -> Turn:
    return Turn(key=key, role=role, text=text, said_at=said_at)  # type: ignore[arg-type]


def memory(text: str, *, name: str = "mem_1", valid_from: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> Memory:
    return Memory(
        id=name,
        text=text,
        type="semantic",
        categories=[],
        importance=0.5,
        agent_id=None,
        thread_id=None,
        source=None,
        conversation=None,
        message_id=None,
        turn_keys=[],
        extractor="rules",
        metadata={},
        valid_from=valid_from,
        valid_to=None,
        superseded_by=None,
        created_at=valid_from,
        updated_at=valid_from,
    )


async def draft(turns: list[Turn], embedder: Embedder | None, existing: Sequence[Memory] = ()) -> list[Draft]:
    """What turns are made into, categories and all."""
    said = statements(turns)
    return rules.draft(said, await categories.categorise([one.text for one in said], embedder), existing)


async def drafts(*texts: str, existing: list[Memory] | None = None) -> list[Draft]:
    turns = [turn(text, key=f"k{n}") for n, text in enumerate(texts)]
    return await draft(turns, None, existing or [])


@pytest.mark.parametrize(
    "text",
    [
        "I live in Lyon.",
        "Hi, I'm a software engineer who loves hiking",
        "My sister's name is Léa and she lives in Nantes.",
        "Call me Ana",
        "Portuguese is my mother tongue.",
        "When I eat nuts I get sick.",
        "Since 2019 we've been living in Porto",
        "I’m allergic to peanuts!",
        "I'd love to visit Japan some day.",
        "I hope to become a doctor",
        "Please remember that I'm allergic to peanuts.",
        "i have two cats",
        "I want you to remember that I'm vegan.",
        "I'm good at chess",
        "I see a therapist every week.",
        "I asked Lea to marry me.",
        "I'll start at Globex in May.",
        'My wife said "no" and I still bought the boat.',
    ],
)
async def test_a_statement_about_oneself_is_kept_word_for_word(text: str) -> None:
    assert [d.text for d in await drafts(text)] == [text]


@pytest.mark.parametrize(
    "text",
    [
        "What do I do with my dog?",
        "Can I bring my dog",
        "I want you to act as a pirate.",
        "I need you to remember less",
        "I need a regex that matches emails.",
        "I'd like a short summary of my notes",
        "I'd like to know more about Porto",
        "Hello there! Thanks a lot, that helps!",
        "I see. I understand. I'll try that.",
        "I have a question about Lyon.",
        "If I were rich I'd buy a boat",
        "Let's say I have three apples.",
        "Suppose I live in Rome.",
        "I could be a baker.",
        "Maybe I should move",
        "I think Porto is nicer",
        "I wish I lived in Porto.",
        "You said I live in Lyon",
        "Write a poem about my dog.",
        "Tell my boss that I quit my job",
        '"I live in Berlin" is a sentence.',
        "My wife always said: «I hate my job».\n> I hate my job",
        "My password is hunter2-and-more",
        "My card is 4111 1111 1111 1111 now",
        "The weather is nice. Dogs are animals.",
        "I like it a lot. I did that too.",
        "This is my code",
        "I'll be honest with my words.",
        "I can see why you like my dog",
        "I'm so excited and happy!",
        "I made your favourite cake",
        "I'm fine, thanks. I'm tired.",
    ],
)
async def test_what_is_no_statement_is_left_out(text: str) -> None:
    assert [d.text for d in await drafts(text) if "said" not in d.text] == []


@pytest.mark.parametrize(
    "text",
    [
        "Translate this: I live in Berlin. I am a baker.",
        "Please proofread the following text:\n\nI live in Berlin.\nMy dog is called Rex.",
        "```python\n# I live in Berlin\nmy = 1\n```",
        "~~~\nI live in Berlin.",
        "> I live in Berlin.\n> My dog is called Rex.",
        "Log:\n    I am a log line of the server\n\tI am one too\n",
        "Improve my letter\n\nDear Sir or Madam,\nI live in Berlin.\nI am a baker.",
    ],
)
async def test_what_was_pasted_is_not_said(text: str) -> None:
    assert await drafts(text) == []


async def test_each_sentence_is_a_draft_of_its_own_with_its_turn() -> None:
    found = await drafts(
        "I live in Lyon. Dr. Smith is my dentist, e.g. for check-ups.\n- I own a dog\n- I play chess...", "I own a dog!"
    )
    assert [(d.text, d.turn_keys) for d in found] == [
        ("I live in Lyon.", ["k0"]),
        ("Dr. Smith is my dentist, e.g. for check-ups.", ["k0"]),
        ("I own a dog", ["k0", "k1"]),
        ("I play chess...", ["k0"]),
    ]


async def test_a_line_break_inside_a_sentence_does_not_cut_it() -> None:
    assert [d.text for d in await drafts("I live in a small house\nnear the river.\n\nmy cat is old")] == [
        "I live in a small house near the river.",
        "my cat is old",
    ]


async def test_the_assistant_says_nothing_about_the_user() -> None:
    assert await draft([turn("I love hiking too. My name is Bot.", role="assistant")], None) == []


async def test_what_the_assistant_said_before_is_not_taken_from_who_repeats_it() -> None:
    turns = [
        turn("I live in Lyon and I own a boat.", role="assistant", key="a"),
        turn("I live in Lyon and I own a boat!"),
    ]
    assert await draft(turns, None) == []
    assert len(await draft(turns[::-1], None)) == 1


async def test_nothing_is_drawn_from_what_other_people_say() -> None:
    bea = turn("I live in Porto and I own a boat.", key="b")
    bea = msgspec.structs.replace(bea, metadata={"name": "Bea", "mine": False})
    assert await draft([bea], None) == []
    (own,) = await draft([bea, turn("I live in Lyon.")], None)
    assert (own.text, own.turn_keys) == ("I live in Lyon.", ["k1"])
    (said_too,) = await draft([bea, turn("I live in Porto and I own a boat.")], None)
    assert said_too.turn_keys == ["k1"]


async def test_ten_turns_about_recalled_memories_make_no_memory() -> None:
    kept = [memory("I live in Lyon."), memory("My dog is called Rex.", name="mem_2")]
    block = quoted([Hit(kind="memory", memory=m, text=m.text, score=1.0) for m in kept])
    entries = "\n".join(line for line in block.splitlines() if line.startswith("- ["))
    turns = []
    for n in range(10):
        restated = "You live in Lyon, and your dog is called Rex. I remember: I live in Lyon. My dog is called Rex."
        turns.append(turn(restated, role="assistant", key=f"a{n}"))
        said = [block, entries, f"You wrote:\n{block}\nIs that so?", "> " + entries.replace("\n", "\n> "), block[:-30]]
        said += ["I live in Lyon.", "My dog is called Rex!", '"I live in Lyon."', " ".join(block.split()), restated]
        turns.append(turn(said[n], key=f"u{n}"))
    for n in range(1, len(turns) + 1):
        assert await draft(turns[:n], None, kept) == []
        assert await draft(turns[n - 1 : n], None, kept) == [], "each turn by itself"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I ran a marathon yesterday", When(True, datetime(2026, 11, 20, tzinfo=UTC))),
        ("We met three days ago", When(True, datetime(2026, 11, 18, tzinfo=UTC))),
        ("We met 2 months ago", When(True, datetime(2026, 9, 1, tzinfo=UTC))),
        ("I moved here last May", When(True, datetime(2026, 5, 1, tzinfo=UTC))),
        ("I moved here last December", When(True, datetime(2025, 12, 1, tzinfo=UTC))),
        ("I moved here last October", When(True)),
        ("We married on 3 March", When(True, datetime(2026, 3, 3, tzinfo=UTC))),
        ("We married on December 3rd", When(True, datetime(2025, 12, 3, tzinfo=UTC))),
        ("We married on March 3, 2024", When(True, datetime(2024, 3, 3, tzinfo=UTC))),
        ("We married on 2024-03-03.", When(True, datetime(2024, 3, 3, tzinfo=UTC))),
        ("We married on 03/04/2024", When(True)),
        ("We married on 31 June 2024", When(True)),
        ("I was in Rome in May 2020", When(True, datetime(2020, 5, 1, tzinfo=UTC))),
        ("I was in Rome in 2020", When(True, datetime(2020, 1, 1, tzinfo=UTC))),
        ("I went to Rome last week", When(True, datetime(2026, 11, 9, tzinfo=UTC))),
        ("I went to Rome last month", When(True, datetime(2026, 10, 1, tzinfo=UTC))),
        ("I went to Rome last year", When(True, datetime(2025, 1, 1, tzinfo=UTC))),
        ("I went to Rome last summer", When(True)),
        ("I went to Rome on Monday", When(True, datetime(2026, 11, 16, tzinfo=UTC))),
        ("I went to Rome last Monday", When(True)),
        ("I fly to Rome on 3 December", When(True)),
        ("I'm flying to Rome next week", When(True)),
        ("I have lived here since 2019", When(False, datetime(2019, 1, 1, tzinfo=UTC))),
        ("I have lived here since last May", When(False, datetime(2026, 5, 1, tzinfo=UTC))),
        ("I play chess every Monday", When()),
        ("My birthday is on 3 March", When()),
        ("I may go in a while", When()),
        ("I live in Lyon", When()),
    ],
)
def test_the_moment_a_sentence_means(text: str, expected: When) -> None:
    assert when(text, SAID) == expected


async def test_an_event_is_episodic_and_dated() -> None:
    (event, state) = await drafts("Yesterday I ran a marathon. I run a lot.")
    assert (event.type, event.valid_from) == ("episodic", datetime(2026, 11, 20, tzinfo=UTC))
    assert (state.type, state.valid_from) == ("semantic", SAID)


async def test_what_matters_more_weighs_more() -> None:
    found = await drafts(
        "I'm allergic to nuts. I live in Lyon. I love chess. I saw a film last week. I'm eating soup right now."
    )
    weights = [d.importance for d in found]
    assert weights == sorted(weights, reverse=True)
    assert len(set(weights)) == 5


@pytest.mark.parametrize(
    ("text", "categories"),
    [
        ("My name is Ana.", ["identity"]),
        ("I work as a nurse.", ["career"]),
        ("I love playing chess.", ["interests"]),
        ("My brother is older than me.", ["relationships"]),
        ("I have asthma.", ["health"]),
        ("I pay too much rent.", ["finance"]),
        ("I'm studying biology.", ["learning"]),
        ("I visited Japan.", ["travel"]),
        ("I keep a to-do list.", ["productivity"]),
        ("Between us, I was in rehab.", ["private"]),
        ("I own a lamp.", []),
        ("I saw a wall between us and a lake.", []),
    ],
)
async def test_without_an_embedder_words_give_the_category(text: str, categories: list[str]) -> None:
    assert [d.categories for d in await drafts(text)] == [categories]


async def test_with_an_embedder_that_is_away_words_give_the_category() -> None:
    space = Directions()
    space.down = True
    assert await categories.categorise(["I have asthma."], space) == [["health"]]


async def test_with_an_embedder_the_nearest_prototype_gives_the_category() -> None:
    space = Axes()
    space.put("I grow tomatoes.", near=categories._PROTOTYPES["learning"][0], cosine=0.9)
    space.put("I grow basil.", near=categories._PROTOTYPES["finance"][-1], cosine=0.9)
    found = await draft([turn("I grow tomatoes. I grow basil.")], space)
    assert [d.categories[0] for d in found] == ["learning", "finance"]
    asked = len(space.asked)
    await draft([turn("I grow tomatoes.")], space)
    assert space.asked[asked:] == ["I grow tomatoes."], "the prototypes are embedded once"


async def test_clear_words_add_to_what_vectors_say() -> None:
    space = Axes()
    space.put("I have asthma.", near=categories._PROTOTYPES["travel"][0], cosine=0.32)
    space.put("Between us, I was in rehab.", near=categories._PROTOTYPES["travel"][0], cosine=0.9)
    found = await draft([turn("I have asthma. Between us, I was in rehab.")], space)
    assert found[0].categories == ["travel", "health"]
    assert found[1].categories == ["travel", "private"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("I live in Lyon.", "I moved to Porto"),
        ("I'm living in Lyon with my cat", "I now live in Porto."),
        ("i live in lyon", "i've moved to porto"),
        ("I work at Acme.", "I now work at Globex."),
        ("I work for Acme as a clerk.", "I just started working at Globex!"),
        ("I work for Acme as a clerk.", "I've joined Globex"),
        ("I work at Acme", "I lost my job last week."),
        ("I work at Acme", "I no longer work at Acme."),
        ("I'm a teacher.", "I became a nurse."),
        ("My name is Ana.", "I changed my name to Bea."),
        ("I'm single.", "I got married in June."),
        ("I'm 34 years old", "I turned 35 yesterday."),
        ("My favourite colour is green.", "My favourite colour is blue now"),
        ("I eat meat.", "I don't eat meat any more"),
        ("I smoke a lot.", "I quit smoking"),
    ],
)
async def test_a_changed_fact_supersedes_the_old_one(old: str, new: str) -> None:
    (found,) = await drafts(new, existing=[memory("I own a lamp.", name="mem_2"), memory(old)])
    assert (found.text, found.supersedes) == (new, "mem_1")
    first = turn(old, said_at=datetime(2026, 2, 1, tzinfo=UTC))
    *_, second = await draft([first, turn(new, key="k2")], None)
    assert (second.supersedes, second.supersedes_draft) == (None, 0)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("I live in Berlin.", "I live in Germany."),
        ("I live in Lyon.", "I moved to a new team."),
        ("I live in Lyon.", "I've moved to marketing."),
        ("I live in Lyon.", "I moved to Porto but came back."),
        ("I live in Lyon.", "I moved to Porto for a month."),
        ("I live in Lyon.", "I'm moving to Porto next year."),
        ("I live in Lyon.", "My sister moved to Porto."),
        ("I work at Acme.", "I joined a choir."),
        ("I work at Acme.", "I also work at Globex."),
        ("I'm a teacher.", "I'm a musician."),
        ("My name is Ana.", "My name is Ana Costa."),
        ("I eat meat.", "I no longer eat sugar."),
        ("My favourite colour is green.", "My favourite film is Brazil."),
        ("I live in Lyon.", "I moved to Porto in 2019."),
    ],
)
async def test_what_may_both_be_true_supersedes_nothing(old: str, new: str) -> None:
    found = await drafts(new, existing=[memory(old)])
    assert [d.supersedes for d in found] == [None]


async def test_a_superseded_memory_is_not_superseded_again() -> None:
    gone = memory("I live in Lyon.")
    gone.valid_to = SAID
    (found,) = await drafts("I moved to Porto.", existing=[gone])
    assert found.supersedes is None


async def test_what_is_read_late_goes_before_what_was_said_after_it() -> None:
    earlier = datetime(2025, 6, 1, tzinfo=UTC)
    porto = memory("I moved to Porto.", name="mem_2", valid_from=datetime(2026, 1, 1, tzinfo=UTC))
    [found] = await draft([turn("I live in Lyon.", said_at=earlier)], None, [porto])
    assert (found.supersedes, found.valid_from) == ("mem_2", earlier)
    germany = memory("I live in Germany.", valid_from=datetime(2026, 1, 1, tzinfo=UTC))
    [beside] = await draft([turn("I live in Berlin.", said_at=earlier)], None, [germany])
    assert beside.supersedes is None


async def test_the_same_value_again_is_no_new_memory() -> None:
    assert await drafts("I'm living in Lyon now.", "I live in Lyon!", existing=[memory("I live in Lyon.")]) == []
    assert len(await drafts("I live in Lyon with two cats.", existing=[memory("I live in Lyon.")])) == 1


def test_probes_name_what_may_be_superseded() -> None:
    assert probes(statements([turn("I moved to Porto. I love chess.")])) == ["I live in, I moved to"]
    assert probes(statements([turn("I no longer eat meat.")])) == ["I no longer eat meat."]
    assert probes(statements([turn("I love chess.")])) == []


def test_own_sentences_leave_nothing_of_a_long_text_unread() -> None:
    text = "I own a lamp. " * 20_000
    assert len(own_sentences(text)) == 20_000


@given(st.lists(st.sampled_from([*"Imy.,!?:'»`\n\u2028é", "I live in", "My dog", "moved to Porto", "we"])))
def test_every_draft_is_in_its_turn_word_for_word(parts: list[str]) -> None:
    text = " ".join(parts)
    for found in anyio.run(drafts, text):
        assert found.text in " ".join(text.split())


@pytest.mark.parametrize(
    "text", [" " * 300_000, "- " * 150_000, "<recalled_memories>" * 15_000, '[user, 2026-01-01] "' * 15_000]
)
@pytest.mark.timeout(10)
async def test_hostile_text_is_read_in_linear_time(text: str) -> None:
    assert await drafts(text) == []


def test_normal_is_what_duplicates_are_known_by() -> None:
    assert normal("I live in Lyon.") == normal("i live in  LYON!")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("I live in Lyon.", "I've moved to Porto."),
        ("I work at Acme.", "I now work at Globex."),
        ("My name is Ana.", "I changed my name to Bea."),
        ("I'm single at the moment", "I got married."),
        ("My favourite colour is green", "My favourite colour is blue."),
        ("I eat meat.", "I no longer eat meat."),
    ],
)
async def test_probes_find_what_is_superseded_among_many_memories_by_keywords_alone(
    settings: Settings, old: str, new: str
) -> None:
    await migrate(settings)
    async with open_pool(settings) as database:
        owner, memories, search = await new_owner(database), Memories(database, None), Search(database, None)
        others = [f"I saw bird number {n} in the garden with a friend" for n in range(100)]
        await keep(memories, database, owner, *others, Draft(text=old, valid_from=datetime(2026, 1, 1, tzinfo=UTC)))
        existing = []
        for probe in probes(statements([turn(new)])):
            found = await search.search(owner, probe, limit=12, kinds=frozenset({"memory"}))
            existing += [hit.memory for hit in found.hits if hit.memory]
        (made,) = await draft([turn(new)], None, existing)
        assert made.supersedes in {m.id for m in existing if m.text == old}
