"""What the memory and profile routes answer has exactly the fields that their document promises."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import msgspec
import pytest

from app.memory.profile import Bio, Privacy, Profile
from app.web import memory_answers as answers
from app.web.answers import Success, SuccessPage
from tests.live import Live
from tests.memory_client import PATH, create, key_for, memory_web

ME = "/v1/users/profile"
TOLD = ["I live in Porto.", "I work as a nurse.", "I love hiking.", "My brother is called Tom.", "I own a red bicycle."]


@pytest.fixture(scope="module")
async def web(redis_url: str, database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Live]:
    async with memory_web("tanswers", redis_url, database_url, tmp_path_factory) as running:
        yield running


async def test_answers_are_what_the_document_says(web: Live) -> None:
    scopes = ("memories:read", "memories:write", "profile:read", "profile:write")
    async with web.client(await key_for(web, "ada", *scopes)) as client:
        document = (await client.get("/openapi.json")).json()
        made = await client.post(PATH, json={"text": TOLD[0]})
        for text in TOLD[1:]:
            await create(client, text)
        one = f"{PATH}/{made.json()['data']['memories'][0]['id']}"
        cases: list[tuple[Any, httpx.Response]] = [
            (Success[answers.Creation], made),
            (Success[answers.SearchAnswer], await client.post(f"{PATH}/search", json={"query": "Porto"})),
            (SuccessPage[answers.ShownMemory], await client.get(PATH)),
            (Success[answers.ShownMemory], await client.patch(one, json={"importance": 1})),
            (Success[answers.History], await client.get(f"{one}/history")),
            (Success[Profile], await client.get(ME)),
            (Success[Bio], await client.get(f"{ME}/bio")),
            (Success[Privacy], await client.patch(f"{ME}/privacy", json={"include_private": True})),
        ]
        gone = await client.delete(one)
        cases += [
            (Success[answers.Deletion], gone),
            (
                Success[answers.Restoration],
                await client.post(f"{PATH}/restore", json={"backup_id": gone.json()["data"]["backup_id"]}),
            ),
            (Success[answers.BatchDeletion], await client.post(f"{PATH}/batch-delete", json={"memory_ids": ["mem_x"]})),
        ]
    for shape, answer in cases:
        assert answer.is_success, answer.text
        value = answer.json()
        assert msgspec.to_builtins(msgspec.convert(value, shape)) == value  # no field more, none less
    documented = {
        content["schema"]["$ref"].rpartition("/")[2]
        for path, methods in document["paths"].items()
        if path.startswith(("/v1/memories", "/v1/users/"))
        for operation in methods.values()
        for status, response in operation["responses"].items()
        if status.startswith("2") and "schema" in (content := response.get("content", {}).get("application/json", {}))
    }
    assert len(documented) == len(cases)
