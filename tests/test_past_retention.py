"""Messages whose retention is over answer from what is remembered: status, replay in every format, cancel, delete."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis
from websockets.asyncio.client import connect

from tests.rig import until
from tests.sse import Event, parse, text_of
from tests.stage import started
from tests.system import KEY, System, system

PATH = "/v1/messages/async"


@pytest.fixture(scope="module")
async def s() -> AsyncIterator[System]:
    """A deployment that remembers."""
    place = Path(tempfile.mkdtemp(prefix="rp-", dir="/tmp"))
    try:
        async with started(system(place, background=1)) as made:
            yield made
    finally:
        shutil.rmtree(place, ignore_errors=True)


def parsed(answer: httpx.Response) -> list[Event]:
    """The events of a whole stream."""
    return [event for frame in answer.content.split(b"\n\n") if (event := parse(frame))]


async def past(
    s: System, client: httpx.AsyncClient, model: str = "t20", cancel_at: int = 0, **body: Any
) -> dict[str, Any]:
    """The last status within its retention of a message that is past it now."""
    message_id = await s.initiate(client, model, retention_seconds=1, **body)
    if cancel_at:
        await s.written(client, message_id, cancel_at)
        assert (await client.post(f"{PATH}/{message_id}/cancel")).status_code == 200
    await s.ended(client, message_id)
    await s.remembered(client, message_id)
    status = await s.status(client, message_id)
    async with Redis.from_url(s.settings.redis_url) as redis:

        async def gone() -> bool:
            return not [key async for key in redis.scan_iter(f"*[ml]:*/{message_id}")]

        await until(gone)
    return status


async def test_the_status_past_its_retention_is_the_last_one_within_it(s: System):
    """PROTOCOL T3."""
    async with s.client() as client:
        metadata = {"thread_id": "t1", "agent_id": "guide", "mine": [1, {"x": None}]}
        before = await past(s, client, metadata=metadata, text="I like green tea.")
        assert before["metadata"]["memory"]["status"] == "stored"
        assert len(before["metadata"]["memory"]["memory_ids"]) == 1
        assert await s.status(client, before["message_id"]) == before
        answer = (await client.get(f"{PATH}/{before['message_id']}")).json()
        assert answer["status"] == "completed"
        assert answer["content"] == [{"type": "text", "text": s.up.text("t20")}]
        assert answer["stop_reason"] == "end_turn"


async def test_the_replay_is_one_block_whose_terminal_frame_alone_has_an_id(s: System):
    """PROTOCOL O18."""
    async with s.client() as client:
        before = await past(s, client)
        answer = await client.get(f"{PATH}/{before['message_id']}/stream")
        assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")
        events = parsed(answer)
        assert [e.type for e in events] == [
            "message_start",
            "content_block_start",
            "content_block_delta",
            "content_block_stop",
            "message_delta",
            "message_stop",
        ]
        assert text_of(events) == s.up.text("t20")
        assert [e.id for e in events] == [None] * 5 + [str(before["metadata"]["last_seq"])]
        assert ["seq" in e.data for e in events] == [False] * 5 + [True]


async def test_only_the_last_number_is_a_cursor_and_any_other_gets_a_gap_first(s: System):
    """PROTOCOL O19."""
    async with s.client() as client:
        before = await past(s, client)
        last, path = before["metadata"]["last_seq"], f"{PATH}/{before['message_id']}/stream"
        whole = (await client.get(path)).content
        assert (await client.get(path, params={"after": last})).status_code == 204
        assert (await client.get(path, headers={"Last-Event-ID": str(last)})).status_code == 204
        assert (await client.get(path, params={"after": 0})).content == whole
        for cursor in (1, last - 1, last + 1, 1_000_001):
            answer = (await client.get(path, params={"after": cursor})).content
            gap = {"type": "gap", "requested": cursor, "earliest": last, "latest": last}
            retry, _, rest = answer.partition(b"\n\n")
            assert retry == b"retry: 1000"
            assert rest.partition(b"\n\n")[0].split(b"data: ")[1] == json.dumps(gap, separators=(",", ":")).encode()
            assert rest.partition(b"\n\n")[2] == whole.partition(b"\n\n")[2]
        head = await client.head(path)
        assert (head.status_code, head.content) == (200, b"")


async def test_every_format_and_connection_replays_it(s: System):
    """PROTOCOL O18, O19."""
    async with s.client() as client:
        before = await past(s, client, "t20-think5-tool")
        message_id, last = before["message_id"], before["metadata"]["last_seq"]
        path = f"{PATH}/{message_id}/stream"
        plain = await client.get(path, params={"format": "text"})
        text = s.up.text("t20-think5-tool")
        assert plain.text == text
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get(path, params={"format": "text", "after": 1})
        chunks = (await client.get(path, params={"format": "openai"})).text.strip().split("\n\n")[1:]
        assert chunks[-1] == f"id: {last}\ndata: [DONE]"
        assert not [chunk for chunk in chunks[:-1] if chunk.startswith("id:")]
        deltas = [json.loads(chunk.removeprefix("data: "))["choices"][0]["delta"] for chunk in chunks[:-1]]
        assert "".join(delta.get("content") or "" for delta in deltas) == text
        assert [delta for delta in deltas if "reasoning_content" in delta]
        assert [delta for delta in deltas if "tool_calls" in delta]
        address = f"{s.url.replace('http', 'ws')}{PATH}/{message_id}/ws"
        async with connect(address, additional_headers={"x-api-key": KEY}) as socket:
            got = [json.loads(text) async for text in socket]
        native = parsed(await client.get(path))
        assert got == [event.data for event in native]
        several = await client.get(f"{PATH}/stream", params={"ids": message_id})
        events = parsed(several)
        assert [e.type for e in events] == [e.type for e in native]
        assert [e.id for e in events] == [None] * (len(events) - 1) + [f"{message_id}:{last}"]
        seen = await client.get(f"{PATH}/stream", params={"ids": message_id, "after": f"{message_id}:{last}"})
        assert seen.status_code == 204


async def test_one_that_was_cancelled_and_partly_stored_ends_as_it_did(s: System):
    """PROTOCOL M3, O18."""
    async with s.client() as client:
        before = await past(s, client, "t400-p100", cancel_at=20, memory={"store": "partial"})
        assert (before["status"], before["metadata"]["memory"]["status"]) == ("cancelled", "stored")
        events = parsed(await client.get(f"{PATH}/{before['message_id']}/stream"))
        assert events[-1].type == "message_cancelled" and events[-1].data["reason"] == "user"
        assert s.up.text("t400-p100").startswith(text_of(events)) and text_of(events)
        again = await client.post(f"{PATH}/{before['message_id']}/cancel")
        assert (again.status_code, again.json()["status"]) == (200, "cancelled")


async def test_what_was_not_stored_is_gone_with_its_retention(s: System):
    async with s.client() as client:
        for memory in ({"store": False}, {}):
            cancel_at = 0 if memory else 20
            before = await past(s, client, "t400-p100" if cancel_at else "t20", cancel_at=cancel_at, memory=memory)
            assert before["metadata"]["memory"]["status"] == "skipped"
            for route in ("status", "stream"):
                answer = await client.get(f"{PATH}/{before['message_id']}/{route}")
                assert (answer.status_code, answer.json()["code"]) == (404, "MESSAGE_NOT_FOUND")


async def test_a_completed_one_cannot_be_cancelled_and_deleting_it_is_final(s: System):
    """PROTOCOL D5."""
    async with s.client() as client:
        before = await past(s, client, text="I like red wine.")
        one = f"{PATH}/{before['message_id']}"
        answer = await client.post(f"{one}/cancel")
        assert (answer.status_code, answer.json()["error"]["details"]) == (409, {"status": "completed"})
        assert (await client.delete(one)).status_code == 204
        for path in (one, f"{one}/status", f"{one}/stream"):
            assert (await client.get(path)).status_code == 404
        assert (await client.delete(one)).status_code == 404


async def test_another_accounts_and_another_users_message_is_404_past_its_retention_too(s: System):
    async with s.client() as client:
        before = await past(s, client, metadata={"user_id": "ada"})
        path = f"{PATH}/{before['message_id']}/status"
        ada = await s.key_of("default", "--user", "ada")
        bob = await s.key_of("default", "--user", "bob")
        stranger = await s.key_of("elsewhere")
        wanted = {ada: 200, bob: 404, stranger: 404}
        for key, status in wanted.items():
            async with s.client(key) as other:
                assert (await other.get(path)).status_code == status
