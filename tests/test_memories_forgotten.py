"""`/v1/memories` over real HTTP: forgotten and brought back, one or many; exported; by whom."""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.live import Live
from tests.memory_client import PATH, create, fields, key_for, listed, memory_web, remember, search, stranger
from tests.sse import error_of


@pytest.fixture(scope="module")
async def web(redis_url: str, database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Live]:
    async with memory_web("tforgotten", redis_url, database_url, tmp_path_factory) as running:
        yield running


@pytest.fixture
async def client(web: Live) -> AsyncIterator[httpx.AsyncClient]:
    async with stranger(web) as made:
        yield made


# Forgetting and bringing back


async def test_what_is_forgotten_is_found_nowhere_and_comes_back(client: httpx.AsyncClient) -> None:
    """PROTOCOL N12, N14."""
    (memory_id,) = await remember(client, "My cat is called Tom.")
    answer = await client.delete(f"{PATH}/{memory_id}")
    assert answer.status_code == 200
    gone = answer.json()["data"]
    assert (gone["id"], gone["deleted"]) == (memory_id, True)
    assert await search(client, "cat called Tom") == await listed(client) == []
    for path in (f"{PATH}/{memory_id}", f"{PATH}/{memory_id}/history"):
        assert error_of(await client.get(path), 404, "MEMORY_NOT_FOUND")["memory_id"] == memory_id
    error_of(await client.patch(f"{PATH}/{memory_id}", json={"importance": 1}), 404, "MEMORY_NOT_FOUND")
    error_of(await client.delete(f"{PATH}/{memory_id}"), 404, "MEMORY_NOT_FOUND")
    for _ in range(2):
        answer = await client.post(f"{PATH}/restore", json={"backup_id": gone["backup_id"]})
        assert answer.json()["data"]["memory_ids"] == [memory_id], answer.text
    assert await listed(client) == ["My cat is called Tom."]
    assert [hit["id"] for hit in await search(client, "cat called Tom")] == [memory_id]
    events = (await client.get(f"{PATH}/{memory_id}/history")).json()["data"]["events"]
    assert [event["event"] for event in events] == ["created", "deleted", "restored"]


async def test_without_backup_nothing_is_left_to_restore(client: httpx.AsyncClient) -> None:
    (memory_id,) = await remember(client, "My cat is called Tom.")
    answer = await client.delete(f"{PATH}/{memory_id}", params={"backup": "false"})
    assert answer.json()["data"]["backup_id"] is None
    wrong = await client.post(f"{PATH}/restore", json={"backup_id": "bak_none"})
    assert error_of(wrong, 404, "BACKUP_NOT_FOUND")["backup_id"] == "bak_none"
    assert fields(await client.post(f"{PATH}/restore", json={})) == ["backup_id"]
    assert fields(await client.delete(f"{PATH}/x", params={"backup": "maybe", "cascade": "2"})) == ["cascade", "backup"]


async def test_cascading_takes_the_words_it_was_drawn_from(client: httpx.AsyncClient) -> None:
    """PROTOCOL N12."""
    made = await create(client, "I collect antique barometers.")
    hits = await search(client, "antique barometers", types=[])
    assert hits
    answer = await client.delete(f"{PATH}/{made['memories'][0]['id']}", params={"cascade": "true"})
    assert answer.status_code == 200
    assert await search(client, "antique barometers") == []
    back = await client.post(f"{PATH}/restore", json={"backup_id": answer.json()["data"]["backup_id"]})
    assert back.json()["data"]["restored"] == 1
    assert [hit["id"] for hit in await search(client, "antique barometers")] == [hit["id"] for hit in hits]


async def test_several_are_forgotten_at_once_and_each_outcome_is_told(client: httpx.AsyncClient) -> None:
    """PROTOCOL N13."""
    one, two, three = await remember(client, "I own a red bike.", "My desk is made of oak.", "Our street has trees.")
    answer = await client.post(f"{PATH}/batch-delete", json={"memory_ids": [two, "mem_nope", one, two]})
    done = answer.json()["data"]
    assert done["deleted"] == 2
    assert done["results"] == [
        {"id": two, "status": "deleted"},
        {"id": "mem_nope", "status": "not_found"},
        {"id": one, "status": "deleted"},
    ]
    assert await listed(client) == ["Our street has trees."]
    back = await client.post(f"{PATH}/restore", json={"backup_id": done["backup_id"]})
    assert sorted(back.json()["data"]["memory_ids"]) == sorted([one, two])
    assert len(await listed(client)) == 3
    nothing = await client.post(f"{PATH}/batch-delete", json={"memory_ids": ["mem_nope"]})
    assert nothing.json()["data"] == {
        "deleted": 0,
        "backup_id": None,
        "results": [{"id": "mem_nope", "status": "not_found"}],
    }
    assert three


@pytest.mark.parametrize(
    ("body", "wrong"),
    [
        ({}, ["memory_ids"]),
        ({"memory_ids": []}, ["memory_ids"]),
        ({"memory_ids": ["m"] * 1_001}, ["memory_ids"]),
        ({"memory_ids": ["", 7], "cascade": "yes"}, ["memory_ids[0]", "memory_ids[1]", "cascade"]),
    ],
)
async def test_every_wrong_field_of_a_batch_is_named(
    client: httpx.AsyncClient, body: dict[str, Any], wrong: list[str]
) -> None:
    assert fields(await client.post(f"{PATH}/batch-delete", json=body)) == wrong


# Exporting


async def test_an_export_has_a_line_for_each_memory(client: httpx.AsyncClient) -> None:
    """PROTOCOL N15."""
    empty = await client.get(f"{PATH}/export")
    assert (empty.status_code, empty.content) == (200, b"")
    await remember(client, "I own a red bike.", "My desk is made of oak.")
    answer = await client.get(f"{PATH}/export")
    assert answer.headers["content-type"] == "application/x-ndjson"
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert [line["memory"] for line in lines] == ["I own a red bike.", "My desk is made of oak."]
    head = await client.head(f"{PATH}/export")
    assert (head.status_code, head.content) == (200, b"")


# Who may


async def test_a_scope_is_needed_for_each_route(web: Live) -> None:
    """PROTOCOL N16."""
    async with web.client(await key_for(web, None, "memories:read")) as reader:
        error_of(await reader.post(PATH, json={"text": "a"}), 403, "FORBIDDEN")
        for method, path in (("PATCH", "/x"), ("DELETE", "/x"), ("POST", "/batch-delete"), ("POST", "/restore")):
            error_of(await reader.request(method, PATH + path, json={}), 403, "FORBIDDEN")
    async with web.client(await key_for(web, None, "memories:write")) as writer:
        for path in ("", "/x", "/x/history", "/export"):
            error_of(await writer.get(PATH + path), 403, "FORBIDDEN")
        error_of(await writer.post(f"{PATH}/search", json={"query": "a"}), 403, "FORBIDDEN")


async def test_an_idempotency_key_counts_for_its_user_alone(web: Live) -> None:
    """PROTOCOL N6, N17."""
    body, headers = {"text": "I own a red bike."}, {"Idempotency-Key": "the same"}
    for _ in range(2):
        async with stranger(web) as one:
            made = (await one.post(PATH, json=body, headers=headers)).json()["data"]
            assert made["memories_created"] == 1
            assert await listed(one) == ["I own a red bike."]


async def test_the_user_is_the_keys_or_the_requests_and_never_all(web: Live) -> None:
    """PROTOCOL N16."""
    user = f"u{secrets.token_hex(4)}"
    async with web.client(await key_for(web, user)) as bound, web.client(await key_for(web, None)) as free:
        (memory_id,) = await remember(bound, "My cat is called Tom.")
        assert await listed(bound, user_id=user) == await listed(free, user_id=user) == ["My cat is called Tom."]
        assert "My cat is called Tom." not in await listed(free)
        assert (await free.get(f"{PATH}/{memory_id}", params={"user_id": user})).status_code == 200
        assert (await free.get(f"{PATH}/{memory_id}")).status_code == 404
        refused = [
            await bound.get(PATH, params={"user_id": "bob"}),
            await bound.get(f"{PATH}/{memory_id}", params={"user_id": "bob"}),
            await bound.get(f"{PATH}/{memory_id}/history", params={"user_id": "bob"}),
            await bound.get(f"{PATH}/export", params={"user_id": "bob"}),
            await bound.delete(f"{PATH}/{memory_id}", params={"user_id": "bob"}),
            await bound.post(PATH, json={"text": "a", "user_id": "bob"}),
            await bound.post(f"{PATH}/search", json={"query": "a", "user_id": "bob"}),
            await bound.patch(f"{PATH}/{memory_id}", json={"importance": 1, "user_id": "bob"}),
            await bound.post(f"{PATH}/batch-delete", json={"memory_ids": ["a"], "user_id": "bob"}),
            await bound.post(f"{PATH}/restore", json={"backup_id": "a", "user_id": "bob"}),
        ]
        for answer in refused:
            error_of(answer, 403, "FORBIDDEN")
        both = await free.patch(f"{PATH}/{memory_id}?user_id={user}", json={"importance": 1, "user_id": "bob"})
        assert fields(both) == ["user_id"]
