"""`/v1/memories` over real HTTP: memories are created, found, listed in pages, corrected, superseded."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from typing import Any

import anyio
import httpx
import pytest

from tests.live import Live
from tests.memory_client import PATH, create, fields, listed, memory_web, remember, search, stranger
from tests.sse import error_of


@pytest.fixture(scope="module")
async def web(redis_url: str, database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Live]:
    async with memory_web("tmemories", redis_url, database_url, tmp_path_factory) as running:
        yield running


@pytest.fixture
async def client(web: Live) -> AsyncIterator[httpx.AsyncClient]:
    async with stranger(web) as made:
        yield made


# Creating


async def test_what_was_said_is_remembered_found_listed_and_read(client: httpx.AsyncClient) -> None:
    """PROTOCOL N1, N2."""
    messages = [
        {"role": "user", "content": "I live in Porto and I work as a nurse."},
        {"role": "assistant", "content": [{"type": "text", "text": "How nice!"}]},
    ]
    made = await create(client, messages=messages, agent_id="bot", thread_id="t1", source="chat")
    assert made["success"] is True
    assert made["extractor"] == "rules"
    assert made["memories_created"] == len(made["memories"]) >= 1
    assert made["processing_time"] >= 0
    assert set(made["categories_detected"]) == {c for one in made["memories"] for c in one["categories"]}
    first = made["memories"][0]
    read = (await client.get(f"{PATH}/{first['id']}")).json()["data"]
    assert {"agent_id": "bot", "thread_id": "t1", "source": "chat", "extractor": "rules"}.items() <= read.items()
    assert read["provenance"]["conversation_id"] == made["conversation_id"]
    assert first["id"] in [hit["id"] for hit in await search(client, "Porto")]
    assert first["memory"] in await listed(client)


async def test_what_is_no_memory_is_found_word_for_word_all_the_same(client: httpx.AsyncClient) -> None:
    """PROTOCOL N2, N7."""
    messages = [
        {"role": "user", "content": "Could you explain photosynthesis?"},
        {"role": "assistant", "content": "Plants make sugar from light."},
    ]
    made = await create(client, messages=messages, metadata={"timestamp": 1_714_550_400})
    assert made["memories"] == []
    (hit,) = await search(client, "sugar from light", limit=1)
    assert (hit["kind"], hit["memory"], hit["categories"]) == ("turn", "Plants make sugar from light.", [])
    assert hit["provenance"]["conversation_id"] == made["conversation_id"]
    assert hit["created_at"] == "2024-05-01T08:00:00.000Z"
    assert await search(client, "sugar from light", types=["episodic"]) == []


async def test_what_is_known_is_not_stored_again(client: httpx.AsyncClient) -> None:
    """PROTOCOL N5."""
    assert (await create(client, "I collect antique barometers."))["memories_created"] == 1
    assert (await create(client, "I collect   ANTIQUE barometers!"))["memories_created"] == 0
    assert (await create(client, "I collect antique barometers.", infer=False))["memories_created"] == 0
    assert await listed(client) == ["I collect antique barometers."]


async def test_without_infer_each_text_is_kept_word_for_word(client: httpx.AsyncClient) -> None:
    """PROTOCOL N3."""
    messages = [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": "Could you book a table?"},
        {"role": "assistant", "content": "Booked for eight."},
    ]
    made = await create(client, messages=messages, infer=False, metadata={"timestamp": "2024-05-01T10:00:00+02:00"})
    assert [one["memory"] for one in made["memories"]] == ["Could you book a table?", "Booked for eight."]
    assert made["extractor"] == "verbatim"
    read = (await client.get(f"{PATH}/{made['memories'][0]['id']}")).json()["data"]
    assert read["valid_from"] == "2024-05-01T08:00:00.000Z"
    assert read["metadata"] == {"timestamp": "2024-05-01T10:00:00+02:00"}


async def test_a_thread_sent_again_is_read_once_and_brings_nothing_forgotten_back(client: httpx.AsyncClient) -> None:
    """PROTOCOL N4."""
    turns = [{"role": "user", "content": "I live in Lyon."}, {"role": "assistant", "content": "Good."}]
    first = await create(client, messages=turns, thread_id="again")
    assert first["memories_created"] == 1
    await client.delete(f"{PATH}/{first['memories'][0]['id']}")
    turns.append({"role": "user", "content": "I have two cats."})
    second = await create(client, messages=turns, thread_id="again")
    assert [one["memory"] for one in second["memories"]] == ["I have two cats."]
    assert second["conversation_id"] == first["conversation_id"]


@pytest.mark.parametrize(
    ("body", "wrong"),
    [
        ({}, ["messages"]),
        ({"text": "a", "messages": [{"role": "user", "content": "b"}]}, ["messages"]),
        ({"text": ""}, ["text"]),
        ({"text": "  \n"}, ["text"]),
        ({"text": "a\x00b"}, ["text"]),
        ({"text": "x" * 32_001}, ["text"]),
        ({"messages": []}, ["messages"]),
        ({"messages": [{"role": "user", "content": " "}, {"role": "robot", "content": "x"}]}, ["messages[1].role"]),
        ({"messages": [{"role": "user", "content": " "}]}, ["messages[0].content"]),
        ({"messages": [{"role": "user", "content": "a\x00"}]}, ["messages[0].content"]),
        ({"messages": [{"role": "system", "content": "x"}]}, ["messages"]),
        ({"messages": [{"role": "user", "content": "x" * 20_000}] * 2}, ["messages"]),
        ({"text": "x" * 32_001, "infer": False}, ["text"]),
        ({"text": "a", "metadata": {"timestamp": "yesterday"}}, ["metadata.timestamp"]),
        ({"text": "a", "metadata": {"timestamp": True}}, ["metadata.timestamp"]),
        ({"text": "a", "metadata": {"timestamp": 1e300}}, ["metadata.timestamp"]),
        ({"text": "a", "metadata": {"timestamp": "0001-01-01T00:00:00+14:00"}}, ["metadata.timestamp"]),
        ({"text": "a", "metadata": {"note": "x" * 70_000}}, ["metadata"]),
        ({"text": "a", "metadata": {"a\x00": 1}}, ["metadata"]),
        (
            {"text": 7, "infer": "yes", "agent_id": "", "thread_id": "x" * 257},
            ["text", "agent_id", "thread_id", "infer"],
        ),
    ],
)
async def test_every_wrong_field_of_a_creation_is_named_and_nothing_is_stored(
    client: httpx.AsyncClient, body: dict[str, Any], wrong: list[str]
) -> None:
    """PROTOCOL N1."""
    assert set(wrong) <= set(fields(await client.post(PATH, json=body)))
    assert await listed(client) == []


async def test_unknown_fields_are_ignored_and_named(client: httpx.AsyncClient) -> None:
    answer = await client.post(PATH, json={"text": "I live in Lyon.", "colour": "red"})
    assert answer.status_code == 201
    assert "colour" in answer.headers["warning"]


async def test_an_idempotency_key_makes_memories_once(web: Live, client: httpx.AsyncClient) -> None:
    """PROTOCOL N6."""
    headers = {"Idempotency-Key": secrets.token_hex(4)}
    body = {"text": "I live in Lyon.", "infer": False}
    first = await client.post(PATH, json=body, headers=headers)
    again = await client.post(PATH, json=body, headers=headers)
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json()["data"]["memories"] == again.json()["data"]["memories"]
    error_of(await client.post(PATH, json=body | {"infer": True}, headers=headers), 409, "CONFLICT")
    error_of(await client.post(PATH, json=body, headers={"Idempotency-Key": "x" * 300}), 400, "BAD_REQUEST")
    await client.delete(f"{PATH}/{first.json()['data']['memories'][0]['id']}")
    assert (await client.post(PATH, json=body, headers=headers)).json()["data"]["memories"] == []
    assert len(await listed(client)) == 0


async def test_twins_under_one_key_make_memories_once(client: httpx.AsyncClient) -> None:
    """PROTOCOL N6."""
    headers = {"Idempotency-Key": secrets.token_hex(4)}
    answers: list[httpx.Response] = []

    async def ask() -> None:
        answers.append(await client.post(PATH, json={"text": "I live in Lyon. I own a red bike."}, headers=headers))

    async with anyio.create_task_group() as group:
        for _ in range(8):
            group.start_soon(ask)
    made = [answer.json()["data"] for answer in answers]
    assert {answer.status_code for answer in answers} == {201}
    assert [one["memory"] for one in made[0]["memories"]] == ["I live in Lyon.", "I own a red bike."]
    assert all(one["memories"] == made[0]["memories"] for one in made)
    assert len(await listed(client)) == 2


# Searching, listing


async def test_a_search_without_a_match_is_an_empty_list(client: httpx.AsyncClient) -> None:
    """PROTOCOL N7."""
    answer = await client.post(f"{PATH}/search", json={"query": "anything"})
    assert answer.status_code == 200
    assert answer.json()["data"]["memories"] == []
    assert answer.json()["data"]["user_bio"] is None
    await remember(client, "My cat is called Tom.")
    assert await search(client, "my cat", agent_id="nobody") == []
    assert await search(client, "my cat", until="2001-01-01") == []


async def test_a_search_says_which_legs_ran(
    client: httpx.AsyncClient, redis_url: str, database_url: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """PROTOCOL N7."""
    await remember(client, "My cat is called Tom.")
    answer = (await client.post(f"{PATH}/search", json={"query": "name of the pet", "rerank": True})).json()["data"]
    assert answer["legs"] == ["vector", "keyword"]
    (hit,) = answer["memories"]
    assert 0 <= hit["score"] <= 1
    assert hit["vector_distance"] is not None and hit["rerank_score"] is not None
    places = tmp_path_factory
    async with (
        memory_web("tkeywords", redis_url, database_url, places, embedding_model="none") as plain,
        stranger(plain) as other,
    ):
        await remember(other, "My cat is called Tom.")
        answer = (await other.post(f"{PATH}/search", json={"query": "cats"})).json()["data"]
        assert answer["legs"] == ["keyword"]
        assert [(one["memory"], one["vector_distance"]) for one in answer["memories"]] == [
            ("My cat is called Tom.", None)
        ]
        assert await search(other, "zzyzx qwrtp") == []


@pytest.mark.parametrize(
    ("body", "wrong"),
    [
        ({}, ["query"]),
        ({"query": " "}, ["query"]),
        ({"query": "a", "limit": 0}, ["limit"]),
        ({"query": "a", "limit": 101}, ["limit"]),
        ({"query": "a", "categories": ["sports"], "types": ["x"]}, ["categories[0]", "types[0]"]),
        ({"query": "a", "since": "soon", "until": "later", "rerank": "no"}, ["rerank", "since", "until"]),
        ({"query": "x" * 2_001}, ["query"]),
    ],
)
async def test_every_wrong_field_of_a_search_is_named(
    client: httpx.AsyncClient, body: dict[str, Any], wrong: list[str]
) -> None:
    assert sorted(fields(await client.post(f"{PATH}/search", json=body))) == sorted(wrong)


async def test_pages_hold_everything_once_and_end_properly(client: httpx.AsyncClient) -> None:
    """PROTOCOL N8."""
    texts = [f"Fact number {n} of seven." for n in range(7)]
    await remember(client, *texts)
    seen: list[str] = []
    for page in (1, 2, 3, 4):
        answer = (await client.get(PATH, params={"page": page, "page_size": 3})).json()
        seen += [one["memory"] for one in answer["data"]]
        assert answer["pagination"] == {
            "page": page,
            "page_size": 3,
            "total_items": 7,
            "total_pages": 3,
            "has_next": page < 3,
            "has_previous": page > 1,
        }
    assert sorted(seen) == texts
    assert await listed(client, page=1_000_000, page_size=100) == []
    assert len(await listed(client, page_size=100)) == 7


async def test_a_list_of_nothing_has_no_pages(client: httpx.AsyncClient) -> None:
    answer = (await client.get(PATH)).json()
    assert answer["data"] == []
    assert answer["pagination"]["total_items"] == answer["pagination"]["total_pages"] == 0
    assert not answer["pagination"]["has_next"]
    assert not answer["pagination"]["has_previous"]


async def test_a_list_is_filtered_and_sorted(client: httpx.AsyncClient) -> None:
    """PROTOCOL N8."""
    (one,) = await remember(client, "Alpha has blue eyes.", agent_id="a", source="mail")
    (two,) = await remember(client, "Beta has green eyes.", agent_id="b", thread_id="t")
    for memory_id, change in ((one, {"category": "health", "importance": 0.9}), (two, {"type": "episodic"})):
        assert (await client.patch(f"{PATH}/{memory_id}", json=change)).status_code == 200
    alpha, beta = ["Alpha has blue eyes."], ["Beta has green eyes."]
    assert await listed(client, agent_id="a") == await listed(client, source="mail") == alpha
    assert await listed(client, thread_id="t") == await listed(client, type="episodic") == beta
    assert await listed(client, category="health") == await listed(client, q="BLUE") == alpha
    assert await listed(client, sort="-importance") == alpha + beta
    assert await listed(client, sort="created_at") == alpha + beta
    assert await listed(client) == beta + alpha
    assert await listed(client, since="2000-01-01", until="2001-01-01T00:00:00Z") == []
    assert await listed(client, since="2000-01-01T00:00:00") == beta + alpha


async def test_every_wrong_parameter_of_a_list_is_named(client: httpx.AsyncClient) -> None:
    wrong = {
        "category": "sports",
        "type": "x",
        "since": "soon",
        "until": "later",
        "latest_only": "perhaps",
        "q": "a\x00",
        "sort": "colour",
        "page": "0",
        "page_size": "101",
    }
    assert sorted(fields(await client.get(PATH, params=wrong))) == sorted(wrong)


# Correcting


async def test_a_memory_is_corrected_found_anew_and_its_past_is_kept(client: httpx.AsyncClient) -> None:
    """PROTOCOL N9, N10."""
    (memory_id,) = await remember(client, "My cat is called Tom.")
    change = {
        "content": "My cat is called Felix.",
        "metadata": {"by": "hand"},
        "categories": ["relationships", "interests", "relationships"],
        "type": "episodic",
        "importance": 1,
    }
    answer = await client.patch(f"{PATH}/{memory_id}", json=change)
    assert answer.status_code == 200, answer.text
    edited = answer.json()["data"]
    assert edited["memory"] == "My cat is called Felix."
    assert edited["categories"] == ["relationships", "interests"]
    assert (edited["type"], edited["importance"], edited["metadata"]) == ("episodic", 1, {"by": "hand"})
    assert [hit["id"] for hit in await search(client, "Felix")] == [memory_id]
    assert [hit["memory"] for hit in await search(client, "Tom")] == ["My cat is called Felix."]  # the nearest there is
    history = (await client.get(f"{PATH}/{memory_id}/history")).json()["data"]
    assert [event["event"] for event in history["events"]] == ["created", "updated"]
    assert history["events"][1]["before"]["text"] == "My cat is called Tom."
    assert [one["memory"] for one in history["versions"]] == ["My cat is called Felix."]


@pytest.mark.parametrize(
    ("body", "wrong"),
    [
        ({}, ["body"]),
        ({"content": " "}, ["content"]),
        ({"content": "x" * 40_000}, ["content"]),
        ({"category": "health", "categories": ["health"]}, ["category"]),
        ({"category": "sports", "type": "x", "importance": 1.1}, ["category", "type", "importance"]),
        ({"importance": -0.1}, ["importance"]),
        ({"metadata": []}, ["metadata"]),
        ({"metadata": {"a": "\x00"}}, ["metadata"]),
    ],
)
async def test_every_wrong_field_of_a_correction_is_named_and_nothing_changes(
    client: httpx.AsyncClient, body: dict[str, Any], wrong: list[str]
) -> None:
    (memory_id,) = await remember(client, "My cat is called Tom.")
    assert set(wrong) <= set(fields(await client.patch(f"{PATH}/{memory_id}", json=body)))
    assert await listed(client) == ["My cat is called Tom."]


# Superseding


async def test_what_was_superseded_is_left_out_but_never_lost(client: httpx.AsyncClient) -> None:
    """PROTOCOL N10, N11."""
    await create(client, "I live in Lyon.", metadata={"timestamp": "2024-01-01"})
    await create(client, "I moved to Porto.", metadata={"timestamp": "2024-06-01"})
    current = await search(client, "Where do I live: Lyon or Porto?", types=["semantic", "episodic"])
    assert [hit["memory"] for hit in current] == ["I moved to Porto."]
    assert await listed(client) == ["I moved to Porto."]
    assert await listed(client, latest_only=False) == ["I moved to Porto.", "I live in Lyon."]
    both = await search(client, "Lyon or Porto", latest_only=False, types=["semantic", "episodic"])
    assert {hit["memory"] for hit in both} == {"I moved to Porto.", "I live in Lyon."}
    history = (await client.get(f"{PATH}/{current[0]['id']}/history")).json()["data"]
    assert [one["memory"] for one in history["versions"]] == ["I live in Lyon.", "I moved to Porto."]
    old, new = history["versions"]
    assert old["valid_from"] < old["valid_to"] == new["valid_from"]
    assert (old["superseded_by"], new["valid_to"]) == (new["id"], None)
    assert {event["event"] for event in history["events"]} == {"created", "superseded"}
