"""An integration followed live: every event once and in order, by SSE and by WebSocket, from any cursor."""

from __future__ import annotations

import json
import secrets
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anyio
import httpx
import msgspec
import pytest
from redis.asyncio import Redis
from websockets.asyncio.client import connect

from app.database import Database, open_pool
from app.integrations import job, store
from app.integrations.job import Job, New
from app.integrations.store import TOLD_CHANNEL
from app.redis_keys import Keys
from app.settings import Settings
from tests.live import Live, live
from tests.memory_client import key_for, memory_web
from tests.rig import until
from tests.sse import Event, error_of, frames, parse
from tests.system import system
from tests.test_socket import drained

API = "/v1/integrations"
TERMINAL = {"completed", "failed", "cancelled"}


@pytest.fixture(scope="module")
async def web(redis_url: str, database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Live]:
    async with memory_web("tintevents", redis_url, database_url, tmp_path_factory) as running:
        yield running


@pytest.fixture
async def stored(web: Live) -> AsyncIterator[Database]:
    async with open_pool(web.settings) as database:
        yield database
        await database.execute("DELETE FROM integrations")


@pytest.fixture
async def client(web: Live) -> AsyncIterator[httpx.AsyncClient]:
    async with web.client(await key_for(web, None, "integrations:read", "integrations:write")) as made:
        yield made


class Worker:
    """Writes one integration's events as a background process does."""

    def __init__(self, client: httpx.AsyncClient, stored: Database, settings: Settings) -> None:
        self.client = client
        self.stored = stored
        self.settings = settings
        self.id = ""
        self.job: Job

    async def begin(self) -> str:
        """Its path."""
        answer = await self.client.post(f"{API}/chat", json={"chat_data": [{"role": "user", "content": "x"}]})
        self.id = answer.json()["integration_id"]
        return f"{API}/{self.id}"

    async def claim(self) -> None:
        claimed = await job.claim(self.stored, lambda _: None)
        assert claimed is not None
        assert claimed.id == self.id
        self.job = claimed
        await self.job.begin(0)

    async def say(self, *lines: str) -> None:
        for line in lines:
            await self.job.log(line)
        await self.hint()

    async def hint(self) -> None:
        keys = Keys(self.settings.redis_prefix, self.settings.partitions)
        async with Redis.from_url(self.settings.redis_url) as redis:
            await redis.publish(keys.channel(TOLD_CHANNEL), self.id)

    async def complete(self) -> None:
        await self.job.complete()
        await self.hint()

    async def told(self) -> list[store.Event]:
        return await store.events(self.stored, self.id, 0, 100_000)


@pytest.fixture
async def worker(web: Live, client: httpx.AsyncClient, stored: Database) -> Worker:
    return Worker(client, stored, web.settings)


async def finished(worker: Worker, lines: int = 3) -> str:
    """The path of one that is completed."""
    path = await worker.begin()
    await worker.claim()
    await worker.say(*(f"line {n}" for n in range(lines)))
    await worker.complete()
    return path


def parsed(answer: httpx.Response) -> list[Event]:
    assert answer.status_code == 200, answer.text
    assert answer.content.startswith(b"retry: 1000\n\n")
    return [event for frame in answer.content.split(b"\n\n") if frame and (event := parse(frame))]


async def test_every_event_comes_live_once_and_in_order(client: httpx.AsyncClient, worker: Worker) -> None:
    """PROTOCOL J10, J11."""
    path = await worker.begin()
    got: list[list[Event]] = []

    async def follow() -> None:
        async with client.stream("GET", f"{path}/events") as stream:
            assert stream.headers["content-type"].startswith("text/event-stream")
            assert (stream.headers["cache-control"], stream.headers["x-accel-buffering"]) == ("no-store", "no")
            got.append([event async for event in frames(stream)])

    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(follow)
        await worker.claim()
        await worker.job.found([New(item_id="a", payload=b"x")], step=0)
        await worker.say("half way")
        await worker.job.each(_refuse)
        await worker.complete()
    events = got[0]
    assert got[1] == got[2] == events
    assert [int(event.id or 0) for event in events] == list(range(1, len(events) + 1))
    assert [event.data["seq"] for event in events] == list(range(1, len(events) + 1))
    assert [event.type for event in events] == [event.data["type"] for event in events]
    assert [event.type for event in events if event.type in TERMINAL] == [events[-1].type] == ["failed"]
    assert {"progress", "log", "item_error"} <= {event.type for event in events}
    item_error = next(event for event in events if event.type == "item_error")
    assert item_error.data["error"]["item_id"] == "a"
    assert next(event for event in events if event.type == "log").data["log"]["message"] == "half way"
    status = (await client.get(f"{path}/status", params={"include_errors": "false"})).json()
    told = events[-1].data["status"]
    assert [one["code"] for one in told.pop("errors")] == ["NOTHING_BROUGHT"]
    assert told == status
    assert all(event.raw.count(b"\n") == 4 for event in events)


async def _refuse(_: Any, __: Any) -> None:
    raise ValueError("no")


async def test_resuming_at_every_event_gives_exactly_the_rest(client: httpx.AsyncClient, worker: Worker) -> None:
    """PROTOCOL J11."""
    path = f"{await finished(worker)}/events"
    whole = await client.get(path)
    events = parsed(whole)
    assert len(events) >= 6
    for n in range(len(events)):
        for answer in (
            await client.get(
                path, headers={"Last-Event-ID": str(n), "accept": "text/event-stream"}, params={"after": "x"}
            )
            if n
            else await client.get(path, params={"after": "0"}),
            await client.get(path, params={"after": str(n)}),
        ):
            assert answer.content == b"retry: 1000\n\n" + b"".join(event.raw for event in events[n:])
    last = await client.get(path, params={"after": str(len(events))})
    assert (last.status_code, last.content) == (204, b"")


async def test_a_cursor_beyond_the_end_gets_a_gap_and_everything(client: httpx.AsyncClient, worker: Worker) -> None:
    """PROTOCOL J11."""
    path = f"{await finished(worker)}/events"
    events = parsed(await client.get(path))
    for cursor in (len(events) + 1, 10**19):
        gap, *rest = parsed(await client.get(path, params={"after": str(cursor)}))
        assert (gap.id, gap.type) == (None, "gap")
        assert gap.data == {"type": "gap", "requested": cursor, "earliest": 1, "latest": len(events)}
        assert rest == events


async def test_history_that_is_not_kept_is_told(client: httpx.AsyncClient, worker: Worker, stored: Database) -> None:
    """PROTOCOL J11."""
    path = f"{await finished(worker)}/events"
    await stored.execute("DELETE FROM integration_events WHERE integration = $1 AND type = 'progress'", worker.id)
    last = (await worker.told())[-1].seq
    gap, *rest = parsed(await client.get(path))
    assert gap.data == {"type": "gap", "requested": 0, "earliest": int(rest[0].id or 0), "latest": last}
    assert [event.type for event in rest] == ["log", "log", "log", "completed"]
    gap, *again = parsed(await client.get(path, params={"after": str(last + 5)}))
    assert (gap.type, again) == ("gap", rest)


@pytest.mark.parametrize(("ahead", "gap"), [(1, False), (2, True), (9, True)])
async def test_a_cursor_above_the_tail_is_waited_for(
    client: httpx.AsyncClient, worker: Worker, ahead: int, gap: bool
) -> None:
    """PROTOCOL J11."""
    path = await worker.begin()
    await worker.claim()
    tail = (await worker.told())[-1].seq
    got: list[Event] = []

    async def follow() -> None:
        got.extend(parsed(await client.get(f"{path}/events", params={"after": str(tail + ahead)})))

    async with anyio.create_task_group() as group:
        group.start_soon(follow)
        await anyio.sleep(0.2)
        await worker.say("a line")
        await worker.complete()
    whole = parsed(await client.get(f"{path}/events"))
    if gap:
        assert (got[0].type, got[1:]) == ("gap", whole)
    else:
        assert got == whole[tail + ahead :]


@pytest.mark.parametrize("bad", ["-1", "x", "1.5", "٣", "9" * 21])
async def test_a_malformed_cursor_is_400(client: httpx.AsyncClient, worker: Worker, bad: str) -> None:
    """PROTOCOL J11."""
    path = await worker.begin()
    answer = await client.get(f"{path}/events", params={"after": bad})
    assert error_of(answer, 400, "BAD_REQUEST")["error"]["details"]["field"] == "after"


async def test_head_opens_no_stream(client: httpx.AsyncClient, worker: Worker) -> None:
    """PROTOCOL J11."""
    path = await worker.begin()
    answer = await client.head(f"{path}/events")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")


async def test_many_events_come_whole(client: httpx.AsyncClient, worker: Worker) -> None:
    """PROTOCOL J11."""
    path = await worker.begin()
    await worker.claim()
    async with worker.stored.transaction() as connection:
        for n in range(450):
            await worker.job.log_in(connection, f"line {n}")
    await worker.complete()
    events = parsed(await client.get(f"{path}/events"))
    assert [event.data["seq"] for event in events] == list(range(1, len(events) + 1))
    assert len(events) > 450


async def test_a_cancel_ends_whoever_watches(client: httpx.AsyncClient, worker: Worker) -> None:
    """PROTOCOL J5, J10."""
    path = await worker.begin()
    async with client.stream("GET", f"{path}/events") as stream:
        events = frames(stream)
        assert (await anext(events)).type == "progress"
        assert (await client.post(f"{path}/cancel")).status_code == 200
        rest = [event async for event in events]
    assert [event.type for event in rest] == ["cancelled"]
    assert rest[0].data["status"]["status"] == "cancelled"


async def test_a_retry_goes_on_with_the_numbers(client: httpx.AsyncClient, worker: Worker) -> None:
    """PROTOCOL J6, J11."""
    path = await worker.begin()
    await worker.claim()
    await worker.job.fail("ODD", "It went wrong.")
    last = (await worker.told())[-1].seq
    assert (await client.get(f"{path}/events", params={"after": str(last)})).status_code == 204
    assert (await client.post(f"{path}/retry")).status_code == 202
    await worker.claim()
    await worker.complete()
    events = parsed(await client.get(f"{path}/events", params={"after": str(last)}))
    assert [event.data["seq"] for event in events] == list(range(last + 1, last + 1 + len(events)))
    assert events[-1].type == "completed"


async def test_deleting_ends_whoever_watches(client: httpx.AsyncClient, worker: Worker) -> None:
    """PROTOCOL J7."""
    path = await worker.begin()
    await worker.claim()
    await worker.complete()
    path = await worker.begin()
    async with client.stream("GET", f"{path}/events") as stream, dial(client, worker.id) as opened:
        events = frames(stream)
        await anext(events)
        await opened.recv()
        assert (await client.delete(path)).status_code == 204
        with anyio.fail_after(5):
            assert [event.type async for event in events] in ([], ["cancelled"])
            _, code, _ = await drained(opened)
    assert code in (4404, 1000)  # where it still saw the cancel, that was the end
    error_of(await client.get(f"{path}/events"), 404, "INTEGRATION_NOT_FOUND")


async def test_silence_is_broken_by_comments(settings: Settings) -> None:
    """PROTOCOL J11, J12."""
    async with (
        live(msgspec.structs.replace(settings, ping_s=0.2)) as web,
        web.client() as client,
        open_pool(web.settings) as stored,
    ):
        worker = Worker(client, stored, web.settings)
        path = await worker.begin()
        with anyio.fail_after(10):
            async with client.stream("GET", f"{path}/events") as stream:
                async for line in stream.aiter_lines():
                    if line == ": ping":
                        break
            async with dial(client, worker.id) as opened:
                await opened.recv()
                assert [await opened.recv() for _ in range(2)] == ['{"type":"ping"}'] * 2


async def test_a_client_that_takes_nothing_is_let_go(settings: Settings) -> None:
    """PROTOCOL J11."""
    async with (
        live(msgspec.structs.replace(settings, send_timeout_s=0.5)) as web,
        web.client() as client,
        open_pool(web.settings) as stored,
    ):
        worker = Worker(client, stored, web.settings)
        path = await worker.begin()
        await stored.execute(
            """INSERT INTO integration_events (integration, seq, type, data)
            SELECT $1, n, 'log', json_build_object('type', 'log', 'seq', n, 'filler', repeat('x', 500000))
            FROM generate_series(2, 60) AS n""",
            worker.id,
        )
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect((client.base_url.host, client.base_url.port or 0))
            connection.sendall(f"GET {path}/events HTTP/1.1\r\nhost: x\r\nx-api-key: {web.key}\r\n\r\n".encode())

            async def let_go() -> bool:
                text = (await client.get("/metrics")).text
                return "reprise_slow_observers_total 1.0" in text and 'observers{kind="integration"} 0.0' in text

            await until(let_go)


async def test_a_stopping_process_ends_its_streams_cleanly(settings: Settings) -> None:
    """PROTOCOL J11, J12."""
    async with AsyncExitStack() as stack:
        web = await stack.enter_async_context(live(settings))
        ended: list[Any] = []
        async with web.client() as client, open_pool(web.settings) as stored:
            path = await (worker := Worker(client, stored, web.settings)).begin()

            async def follow() -> None:
                async with client.stream("GET", f"{path}/events") as stream:
                    ended.append([event.type async for event in frames(stream)])  # a cut would raise

            async def listen() -> None:
                async with dial(client, worker.id) as opened:
                    ended.append((await drained(opened))[1])

            async with anyio.create_task_group() as group:
                group.start_soon(follow)
                group.start_soon(listen)

                async def watched() -> bool:
                    text = (await client.get("/metrics")).text
                    kinds = ('kind="integration"} 1.0', 'kind="websocket"} 1.0')
                    return all(f"reprise_observers{{{kind}" in text for kind in kinds)

                await until(watched)
                with anyio.fail_after(4):
                    await stack.aclose()
    assert sorted(ended, key=str) == [1001, ["progress"]]


def dial(client: httpx.AsyncClient, integration_id: str, query: str = "", *, key: bool = True) -> Any:
    headers = {"x-api-key": client.headers["x-api-key"]} if key else {}
    url = f"ws://{client.base_url.host}:{client.base_url.port}{API}/{integration_id}/ws{query}"
    return connect(url, additional_headers=headers)


async def test_a_socket_gets_the_same(client: httpx.AsyncClient, worker: Worker) -> None:
    """PROTOCOL J12."""
    await worker.begin()
    async with dial(client, worker.id) as opened:
        await worker.claim()
        await worker.say("a", "b")
        await worker.complete()
        texts, code, _ = await drained(opened)
    told = [event.data for event in await worker.told()]
    assert ([json.loads(text) for text in texts], code) == ([json.loads(text) for text in told], 1000)
    for cursor in (2, len(told)):
        async with dial(client, worker.id, f"?after={cursor}") as opened:
            assert (await drained(opened))[:2] == (texts[cursor:], 1000)
    async with dial(client, worker.id, f"?after={len(told) + 1}") as opened:
        again, code, _ = await drained(opened)
    assert (json.loads(again[0])["type"], again[1:], code) == ("gap", texts, 1000)


async def test_a_socket_cancels(web: Live, client: httpx.AsyncClient, worker: Worker) -> None:
    """PROTOCOL J12."""
    path = await worker.begin()
    reader = await key_for(web, None, "integrations:read")
    async with web.client(reader) as other, dial(other, worker.id) as opened:
        await opened.send('{"type": "cancel"}')
        assert (await drained(opened))[1] == 4403
    async with dial(client, worker.id) as opened:
        await opened.send("nonsense")
        await opened.send('{"type": "cancel"}')
        texts, code, _ = await drained(opened)
    assert (json.loads(texts[-1])["type"], code) == ("cancelled", 1000)
    assert (await client.get(f"{path}/status")).json()["status"] == "cancelled"


async def test_what_a_socket_is_refused_for(web: Live, client: httpx.AsyncClient, worker: Worker) -> None:
    """PROTOCOL J12, J8."""
    await worker.begin()
    refused: list[tuple[str, bool, int]] = [
        ("", False, 4401),
        ("?token=x", False, 4401),
        ("?after=-1", True, 4400),
        ("?user_id=else", True, 4404),
    ]
    for query, key, code in refused:
        async with dial(client, worker.id, query, key=key) as opened:
            assert (await drained(opened))[:2] == ([], code), query
    async with web.client(await key_for(web, f"u{secrets.token_hex(3)}", "integrations:read")) as other:
        for name in (worker.id, "int_nope"):
            async with dial(other, name) as opened:
                assert (await drained(opened))[1:] == (4404, "INTEGRATION_NOT_FOUND: there is no such integration")


async def test_a_token_opens_its_integration_and_nothing_else(
    web: Live, client: httpx.AsyncClient, worker: Worker
) -> None:
    """PROTOCOL J13, C2, K1."""
    other = await worker.begin()
    other_id = worker.id
    await worker.claim()
    await worker.complete()
    path = await worker.begin()
    made = await client.post("/v1/stream-tokens", json={"integration_id": worker.id})
    assert made.status_code == 200, made.text
    assert set(made.json()) == {"token", "expires_at"}
    token = {"token": made.json()["token"]}
    async with web.client("") as browser:
        async with browser.stream("GET", f"{path}/events", params=token) as stream:
            assert (await anext(frames(stream))).type == "progress"
        assert (await browser.get(f"{path}/status", params=token)).json()["integration_id"] == worker.id
        async with dial(client, worker.id, f"?token={token['token']}", key=False) as opened:
            assert json.loads(await opened.recv())["type"] == "progress"
            await opened.send('{"type": "cancel"}')
            assert (await drained(opened))[1] == 1000
        for method, refused in (*(("GET", path), ("DELETE", path), ("POST", f"{path}/retry"), ("GET", API)),):
            error_of(await browser.request(method, refused, params=token), 401, "UNAUTHORIZED")
        assert (await browser.post(f"{path}/cancel", params=token)).status_code == 200
        error_of(await browser.post(f"{other}/cancel", params=token), 404, "INTEGRATION_NOT_FOUND")
        for rest in ("events", "status"):
            error_of(await browser.get(f"{other}/{rest}", params=token), 404, "INTEGRATION_NOT_FOUND")
        error_of(await browser.get("/v1/events", params=token), 403, "FORBIDDEN")
        error_of(await browser.get(f"/v1/messages/async/{worker.id}/status", params=token), 401, "UNAUTHORIZED")
        async with dial(client, other_id, f"?token={token['token']}", key=False) as opened:
            assert (await drained(opened))[1] == 4404


async def test_whom_a_token_is_made_for(web: Live, client: httpx.AsyncClient, worker: Worker) -> None:
    """PROTOCOL J13, K1."""
    await worker.begin()
    for body in ({}, {"integration_id": worker.id, "feed": True}, {"integration_id": worker.id, "message_ids": ["a"]}):
        error_of(await client.post("/v1/stream-tokens", json=body), 422, "VALIDATION_ERROR")
    for body in ({"integration_id": "int_nope"}, {"integration_id": worker.id, "user_id": "else"}):
        error_of(await client.post("/v1/stream-tokens", json=body), 404, "INTEGRATION_NOT_FOUND")
    async with web.client(await key_for(web, None, "messages:read")) as other:
        refused = await other.post("/v1/stream-tokens", json={"integration_id": worker.id})
        assert error_of(refused, 403, "FORBIDDEN")["error"]["details"] == {"scope": "integrations:read"}
        assert (await other.post("/v1/stream-tokens", json={"feed": True})).status_code == 200


async def test_a_token_finds_another_users_by_itself(web: Live, stored: Database) -> None:
    """PROTOCOL J13."""
    async with web.client(await key_for(web, None, "integrations:read", "integrations:write")) as unbound:
        sent = {"chat_data": [{"role": "user", "content": "x"}], "user_id": "ada"}
        begun = (await unbound.post(f"{API}/chat", json=sent)).json()
        body = {"integration_id": begun["integration_id"], "user_id": "ada"}
        token = (await unbound.post("/v1/stream-tokens", json=body)).json()["token"]
    async with web.client("") as browser:
        answer = await browser.get(f"{API}/{begun['integration_id']}/status", params={"token": token})
    assert answer.json()["status"] == "pending"


async def test_nobody_watching_leaves_nothing_behind(client: httpx.AsyncClient, worker: Worker) -> None:
    """PROTOCOL J10."""
    path = await worker.begin()

    async def watchers() -> float:
        text = (await client.get("/metrics")).text
        kinds = ('reprise_observers{kind="integration"} ', 'reprise_observers{kind="websocket"} ')
        return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(kinds))

    async with client.stream("GET", f"{path}/events") as stream, dial(client, worker.id):
        events = frames(stream)
        await anext(events)

        async def both() -> bool:
            return await watchers() == 2

        await until(both)

    async def none() -> bool:
        return await watchers() == 0

    await until(none)
    assert (await client.get(f"{path}/status")).json()["status"] == "pending"


async def test_a_document_comes_all_the_way_through_processes_of_their_own(short_tmp: Path) -> None:
    """PROTOCOL J1, J10."""
    text = "\n\n".join(f"Note {n}. The ferry of pier {n} leaves at noon." for n in range(200))
    async with (
        system(short_tmp, workers=0, background=1, embedding_model="none") as deployment,
        deployment.client() as client,
    ):
        fields = {"chunk_size": "200", "overlap": "0"}
        began = await client.post(f"{API}/files", files={"file": ("ferries.md", text.encode())}, data=fields)
        async with client.stream("GET", began.json()["events_url"]) as stream:
            events = [event async for event in frames(stream)]
        assert [event.data["seq"] for event in events] == list(range(1, len(events) + 1))
        assert events[-1].type == "completed"
        percentages = [event.data["status"]["progress"]["percentage"] for event in events]
        assert percentages == sorted(percentages)
        steps = list(dict.fromkeys(event.data["status"]["progress"]["current_step"] for event in events))
        assert steps == ["upload", "parsing", "chunking", "memory_creation"]
        shown = (await client.get(f"{API}/{began.json()['integration_id']}")).json()
        assert shown["stats"]["memories_created"] > 40
        assert "ferry of pier" in shown["memories"][0]["memory"]
