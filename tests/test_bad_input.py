"""What is wrong with a request is told in the one error shape, field by field, and nothing is created."""

from __future__ import annotations

import httpx
import pytest

from tests.sse import error_of
from tests.system import System

PATH = "/v1/messages/async"
BODY = {"model": "t20", "messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture
async def client(live: System):
    async with live.client() as made:
        yield made


async def test_unknown_fields_are_ignored_and_named(client: httpx.AsyncClient):
    """PROTOCOL I3."""
    answer = await client.post(PATH, json=BODY | {"colour": "red", "n": 2})
    assert answer.status_code == 200
    assert "colour" in answer.headers["warning"]
    assert "n" in answer.headers["warning"]


WRONG: list[tuple[dict, list[str]]] = [
    ({"messages": []}, ["messages"]),
    ({}, ["messages"]),
    ({"messages": [{"role": "user", "content": ""}]}, ["messages[0].content"]),
    ({"messages": [{"role": "robot", "content": "x"}]}, ["messages[0].role"]),
    ({"messages": [{"role": "system", "content": "x"}]}, ["messages"]),
    ({"messages": "hello", "temperature": "hot", "max_tokens": -1}, ["messages", "temperature", "max_tokens"]),
    (BODY | {"model": "no-such"}, ["model"]),
    (BODY | {"max_tokens": 0, "top_p": 2, "stop_sequences": [1]}, ["max_tokens", "top_p", "stop_sequences[0]"]),
    (BODY | {"deadline_seconds": 10**9, "retention_seconds": 10**9}, ["deadline_seconds", "retention_seconds"]),
    (BODY | {"metadata": {"user_id": 7, "thread_id": "x" * 300}}, ["metadata.user_id", "metadata.thread_id"]),
    (BODY | {"on_worker_loss": "panic", "memory": {"limit": 0}}, ["on_worker_loss", "memory.limit"]),
    (BODY | {"metadata": []}, ["metadata"]),
    (
        {"deadline_seconds": -1, "retention_seconds": 10**12, "model": "no-such", "metadata": {"user_id": 7}},
        ["messages", "deadline_seconds", "retention_seconds", "metadata.user_id", "model"],
    ),
    (BODY | {"metadata": {"note": "x" * 66_000}}, ["metadata"]),
    (BODY | {"stream_type": ""}, ["stream_type"]),
]


@pytest.mark.parametrize(("body", "fields"), WRONG, ids=[",".join(fields) for _, fields in WRONG])
async def test_every_wrong_field_is_named_and_nothing_is_created(live: System, body: dict, fields: list[str]):
    """PROTOCOL C5."""
    key = await live.key_of("wrong")
    async with live.client(key) as own:
        answer = error_of(await own.post(PATH, json=body), 422, "VALIDATION_ERROR")
        assert sorted(e["field"] for e in answer["error"]["details"]["errors"]) == sorted(fields)
        assert (await own.get(PATH)).json()["messages"] == []


async def test_what_is_no_json_too_large_or_without_a_key(live: System, client: httpx.AsyncClient):
    """PROTOCOL C1, C6."""
    headers = {"Content-Type": "application/json"}
    error_of(await client.post(PATH, content=b"{nope", headers=headers), 400, "BAD_REQUEST")
    error_of(await client.post(PATH, content=b"[]", headers=headers), 422, "VALIDATION_ERROR")
    error_of(await client.post(PATH, content=b"x" * 10_000_000, headers=headers), 413, "PAYLOAD_TOO_LARGE")
    error_of(
        await client.post(PATH, content=b"a=b", headers={"Content-Type": "text/csv"}), 415, "UNSUPPORTED_MEDIA_TYPE"
    )
    error_of(await client.post(PATH, json=BODY, headers={"Idempotency-Key": "x" * 300}), 400, "BAD_REQUEST")
    async with httpx.AsyncClient(base_url=live.url) as anyone:
        error_of(await anyone.post(PATH, json=BODY), 401, "UNAUTHORIZED")
        error_of(await anyone.post(PATH, json=BODY, headers={"X-API-Key": "rp_live_wrong"}), 401, "UNAUTHORIZED")
    reader = await live.key_of("default", "--scope", "messages:read")
    async with live.client(reader) as own:
        error_of(await own.post(PATH, json=BODY), 403, "FORBIDDEN")


async def test_a_stream_token_request_says_what_it_wants(client: httpx.AsyncClient):
    """PROTOCOL K1."""
    for body in ({}, {"message_ids": [], "feed": False}, {"message_ids": ["x"], "feed": True}, {"message_ids": "x"}):
        answer = error_of(await client.post("/v1/stream-tokens", json=body), 422, "VALIDATION_ERROR")
        assert answer["error"]["details"]["field"] == "message_ids"
    feed = (await client.post("/v1/stream-tokens", json={"feed": True})).json()
    assert feed["token"]
    assert feed["expires_at"].endswith("Z")
