"""`/v1/memories` as a client sees it: a web process of the module's own, and the calls its tests make all the time."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from app.settings import Settings
from tests.live import Live, live
from tests.rig import UNLIMITED
from tests.sse import error_of

PATH = "/v1/memories"


@asynccontextmanager
async def memory_web(
    name: str, redis_url: str, database_url: str, places: pytest.TempPathFactory, **changes: Any
) -> AsyncIterator[Live]:
    """A web process whose keys and tables begin with ``name``."""
    settings = Settings(
        **UNLIMITED,
        redis_url=redis_url,
        database_url=database_url,
        data_dir=str(places.mktemp("data")),
        redis_prefix=name,
        database_schema=name,
        **changes,
    )
    async with live(settings) as running:
        yield running


@asynccontextmanager
async def stranger(web: Live) -> AsyncIterator[httpx.AsyncClient]:
    """Speaks for a user nobody has heard of: a key bound to them."""
    async with web.client(await key_for(web, f"u{secrets.token_hex(4)}")) as made:
        yield made


async def key_for(web: Live, user: str | None, *scopes: str) -> str:
    body = {"name": "k", "scopes": list(scopes) or ["memories:read", "memories:write"], "user_id": user}
    async with web.client() as root:
        answer = await root.post("/v1/api-keys", json=body)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["data"]["key"])


async def create(client: httpx.AsyncClient, text: str = "I live in Lyon.", **body: Any) -> dict[str, Any]:
    content = body if "messages" in body else {"text": text} | body
    answer = await client.post(PATH, json=content)
    assert answer.status_code == 201, answer.text
    assert answer.json()["status"] == "success"
    return dict(answer.json()["data"])


async def remember(client: httpx.AsyncClient, *texts: str, **body: Any) -> list[str]:
    """The ids of memories that say exactly this."""
    messages = [{"role": "user", "content": text} for text in texts]
    return [one["id"] for one in (await create(client, messages=messages, infer=False, **body))["memories"]]


async def listed(client: httpx.AsyncClient, **params: Any) -> list[str]:
    answer = await client.get(PATH, params=params)
    assert answer.status_code == 200, answer.text
    return [one["memory"] for one in answer.json()["data"]]


async def search(client: httpx.AsyncClient, query: str, **body: Any) -> list[dict[str, Any]]:
    answer = await client.post(f"{PATH}/search", json={"query": query} | body)
    assert answer.status_code == 200, answer.text
    return list(answer.json()["data"]["memories"])


def fields(answer: httpx.Response) -> list[str]:
    details = error_of(answer, 422, "VALIDATION_ERROR")["error"]["details"]
    return [error["field"] for error in details["errors"]]
