"""Memories drawn and bios written by a model, through the routes: what it says is stored, what it fails at is told."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import httpx
import pytest

from tests.live import Live
from tests.memory_client import PATH, create, key_for, listed, memory_web, search
from tests.sse import error_of
from tests.upstream import Upstream, upstream


class Deployment(NamedTuple):
    web: Live
    up: Upstream


@pytest.fixture
async def made(
    redis_url: str, database_url: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Deployment]:
    models = tmp_path_factory.mktemp("models") / "models.toml"
    async with upstream() as up:
        models.write_text(f'[models.reader]\nmodel = "say-reader"\napi_base = "{up.base_url}"\napi_key = "k"\n')
        changes: dict[str, Any] = {"models_file": str(models), "memory_model": "reader"}
        async with memory_web("tmodel", redis_url, database_url, tmp_path_factory, **changes) as web:
            yield Deployment(web, up)


@pytest.fixture
async def client(made: Deployment, request: pytest.FixtureRequest) -> AsyncIterator[httpx.AsyncClient]:
    scopes = ("memories:read", "memories:write", "profile:read")
    async with made.web.client(await key_for(made.web, request.node.name, *scopes)) as opened:
        yield opened


def answer(*items: dict[str, Any]) -> str:
    base = {"action": "add", "type": "semantic", "categories": ["travel"], "importance": 0.7, "turns": [1]}
    return json.dumps({"memories": [base | item for item in items]})


async def test_a_model_draws_the_memories_and_sees_what_is_known(made: Deployment, client: httpx.AsyncClient) -> None:
    """PROTOCOL N2."""
    made.up.say("reader", answer({"text": "The user lives in Lyon.", "valid_from": "2024-01-01"}))
    first = await create(client, "Lyon is my home since New Year.", metadata={"timestamp": "2024-01-05"})
    assert first["extractor"] == "model"
    assert [one["memory"] for one in first["memories"]] == ["The user lives in Lyon."]
    assert first["categories_detected"] == ["travel"]
    change = {"text": "The user lives in Porto.", "action": "supersede", "supersedes": "m1"}
    made.up.say("reader", answer(change))
    await create(client, "I no longer live in Lyon: I live in Porto.", metadata={"timestamp": "2024-06-01"})
    assert await listed(client) == ["The user lives in Porto."]
    assert set(await listed(client, latest_only=False)) == {"The user lives in Porto.", "The user lives in Lyon."}


async def test_what_the_model_fails_at_is_told_and_stores_nothing(made: Deployment, client: httpx.AsyncClient) -> None:
    """PROTOCOL N6."""
    made.up.say("reader", "I would rather talk about the weather.")
    headers = {"Idempotency-Key": "again"}
    body = {"text": "I collect antique barometers."}
    error_of(await client.post(PATH, json=body, headers=headers), 502, "EXTRACTION_FAILED")
    assert await listed(client) == await search(client, "antique barometers") == []
    made.up.say("reader", answer({"text": "The user collects antique barometers."}))
    again = await client.post(PATH, json=body, headers=headers)
    assert again.json()["data"]["memories_created"] == 1


async def test_nothing_worth_keeping_is_no_failure(made: Deployment, client: httpx.AsyncClient) -> None:
    made.up.say("reader", answer())
    drawn = await create(client, "What time is it?")
    assert (drawn["success"], drawn["extractor"], drawn["memories"]) == (True, "model", [])


async def test_without_infer_no_model_is_asked(made: Deployment, client: httpx.AsyncClient) -> None:
    """PROTOCOL N3."""
    made.up.say("reader", "no JSON at all")
    assert (await create(client, "Our street has trees.", infer=False))["extractor"] == "verbatim"


async def test_a_bio_is_written_by_the_model_or_composed_where_it_fails(
    made: Deployment, client: httpx.AsyncClient
) -> None:
    for text, category in (
        ("I love climbing.", "interests"),
        ("I work as a nurse.", "career"),
        ("I own a bike.", "travel"),
    ):
        await create(client, messages=[{"role": "user", "content": f"{text} {n}"} for n in (1, 2)], infer=False)
        for memory in (await client.get(PATH, params={"q": text})).json()["data"]:
            await client.patch(f"{PATH}/{memory['id']}", json={"category": category})
    made.up.say("reader", "They climb, nurse and cycle.")
    bio = (await client.get("/v1/users/profile/bio")).json()["data"]
    assert (bio["bio"], bio["made_by"], bio["model"]) == ("They climb, nurse and cycle.", "model", "reader")
    made.up.say("reader", "")
    bio = (await client.get("/v1/users/profile/bio", params={"refresh": "true"})).json()["data"]
    assert bio["made_by"] == "composed"
    assert bio["reason"]
