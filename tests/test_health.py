"""Health, metrics and the documents: no key needed, reasons given, nothing loaded from elsewhere."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

import anyio
import httpx
import msgspec
import pytest
from redis.asyncio import Redis

from app.chat.backlog import Backlog, read_backlog
from app.chat.liveness import Heart
from app.errors import StartFailed, Unavailable
from app.redis_keys import Keys
from app.resources import open_resources, redis_client
from app.settings import Settings
from app.web import answers
from app.web.health import Probes, readiness
from tests.live import Live, live
from tests.rig import lifecycle_on, new_message


@pytest.fixture(scope="module")
async def web(redis_url: str, database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Live]:
    settings = Settings(
        redis_url=redis_url,
        database_url=database_url,
        data_dir=str(tmp_path_factory.mktemp("data")),
        redis_prefix="thealth",
        database_schema="thealth",
    )
    async with live(settings) as running:
        yield running


def probes(**changes: Any) -> Probes:
    async def fine() -> float:
        return 0.001

    async def workers() -> dict[str, int]:
        return {"generate": 1, "background": 0}

    async def backlog() -> Backlog:
        return Backlog()

    fields: dict[str, Any] = {
        "redis": fine,
        "postgresql": fine,
        "workers": workers,
        "backlog": backlog,
        "draining": lambda: False,
    }
    return Probes(**fields | changes)


async def down() -> Any:
    raise Unavailable("Redis does not answer: ConnectionError")


async def hangs() -> Any:
    await anyio.sleep_forever()


async def test_live_asks_nobody(web: Live) -> None:
    async with web.client("") as client:
        answer = await client.get("/health/live")
        assert (answer.status_code, answer.json()["status"]) == (200, "live")
        head = await client.head("/health/live")
        assert (head.status_code, head.content) == (200, b"")


async def test_not_ready_without_a_worker_and_ready_with_one(settings: Settings) -> None:
    async with live(settings) as web, web.client("") as client, lifecycle_on(settings) as lifecycle:
        answer = await client.get("/health/ready")
        assert answer.status_code == 503
        body = answer.json()
        assert body["status"] == "not_ready"
        assert body["reasons"] == ["workers: no generate worker is alive"]
        assert body["checks"]["redis"]["ok"]
        assert body["checks"]["postgresql"]["ok"]
        heart = Heart(lifecycle, "generate", tuple, lambda _: None)
        await heart.beat()
        answer = await client.get("/health/ready")
        assert (answer.status_code, answer.json()["status"]) == (200, "ready")
        assert answer.json()["workers"]["generate"] == 1


async def test_each_part_says_why_it_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.web.health.PING_S", 0.05)
    report = await readiness(probes(redis=down, postgresql=hangs, workers=down, draining=lambda: True))
    assert report["status"] == "not_ready"
    assert report["reasons"] == [
        "postgresql: no answer within 0.05 s",
        "process: is stopping",
        "redis: Redis does not answer: ConnectionError",
        "workers: cannot be asked for: Redis does not answer",
    ]
    assert (await readiness(probes()))["status"] == "ready"


async def test_metrics_are_served(settings: Settings) -> None:
    async with live(settings) as web, web.client("") as client, lifecycle_on(settings) as lifecycle:
        for i in range(3):
            await lifecycle.create(new_message(f"m{i}"))
        await client.get("/health/live")
        answer = await client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    assert "reprise_queue_depth 3.0" in answer.text
    assert 'reprise_http_requests_total{method="GET",route="/health/live",status="200"} 1.0' in answer.text


async def test_the_backlog_counts_what_waits(settings: Settings) -> None:
    async with lifecycle_on(settings) as lifecycle:
        assert await read_backlog(lifecycle.redis, lifecycle.keys) == Backlog()
        for i in range(3):
            await lifecycle.create(new_message(f"m{i}"))
        base = lifecycle.keys.account_base("acc")
        await lifecycle.queue.claim(base, 1)
        backlog = await read_backlog(lifecycle.redis, lifecycle.keys)
    assert (backlog.waiting, backlog.dead_letters) == (2, 0)
    assert 0 <= backlog.oldest_s < 30


async def test_the_document_covers_the_routes(web: Live) -> None:
    async with web.client("") as client:
        document = (await client.get("/openapi.json")).json()
    aliases = {path for path, methods in document["paths"].items() if "$ref" in methods}
    assert aliases == {path.removeprefix("/v1") for path in document["paths"] if path.startswith("/v1/integrations")}
    paths = {path: methods for path, methods in document["paths"].items() if path not in aliases}
    assert {"/v1/api-keys", "/v1/messages/async", "/health/ready", "/v1/messages/async/{message_id}/stream"} <= set(
        paths
    )
    names = [operation["operationId"] for methods in paths.values() for operation in methods.values()]
    assert len(names) == len(set(names))
    create = paths["/v1/api-keys"]["post"]
    assert create["requestBody"]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/NewKey"}
    assert create["security"] == [{"ApiKey": []}, {"Bearer": []}]
    for methods in paths.values():
        for operation in methods.values():
            assert operation["summary"]
            error = operation["responses"]["4XX"]["content"]["application/json"]["schema"]
            assert error == {"$ref": "#/components/schemas/Error"}
    references = set(re.findall(r'"#/components/schemas/([^"]+)"', str(document).replace("'", '"')))
    assert references <= set(document["components"]["schemas"])


async def test_answers_are_what_the_document_says(web: Live) -> None:
    async with web.client() as client:
        document = (await client.get("/openapi.json")).json()
        one = {"messages": [{"role": "user", "content": "x"}]}
        started = await client.post("/v1/messages/async", json=one)
        message_id = started.json()["message_id"]
        name = f"/v1/messages/async/{message_id}"
        key = await client.post("/v1/api-keys", json={"name": "k", "scopes": ["messages:read"]})
        cases: list[tuple[Any, httpx.Response]] = [
            (answers.Initiated, started),
            (answers.StatusObject, await client.get(f"{name}/status")),
            (answers.MessageObject, await client.get(name)),
            (answers.StatusPage, await client.get("/v1/messages/async")),
            (answers.TokenAnswer, await client.post("/v1/stream-tokens", json={"message_ids": [message_id]})),
            (answers.Cancelled, await client.post(f"{name}/cancel")),
            (answers.Success[answers.CreatedKey], key),
            (answers.SuccessPage[answers.ShownKey], await client.get("/v1/api-keys")),
            (
                answers.Success[answers.ShownKey],
                await client.delete(f"/v1/api-keys/{key.json()['data']['id']}"),
            ),
            (answers.Live, await client.get("/health/live")),
            (answers.Ready, await client.get("/health/ready")),
        ]
    for shape, answer in cases:
        value = answer.json()
        assert msgspec.to_builtins(msgspec.convert(value, shape)) == value  # no field more, none less
    documented = {
        content["schema"]["$ref"].rpartition("/")[2]
        for path, methods in document["paths"].items()
        if "$ref" not in methods
        # test_memory_answers, test_history_api and test_openapi have theirs
        if not path.startswith(("/v1/memories", "/v1/users/", "/api/chat-history", "/v1/integrations", "/v1/webhooks"))
        for operation in methods.values()
        for status, response in operation["responses"].items()
        if status.startswith("2") and "schema" in (content := response.get("content", {}).get("application/json", {}))
    }
    assert len(documented) == len(cases)


async def test_the_page_of_the_document_loads_nothing_from_elsewhere(web: Live) -> None:
    async with web.client("") as client:
        answer = await client.get("/docs")
    assert answer.headers["content-type"].startswith("text/html")
    assert "/v1/messages/async" in answer.text
    assert not re.search(r"""(src|href)=["']?(https?:)?//|@import|url\(""", answer.text)
    assert re.findall("<script[^>]*>", answer.text) == ['<script type="module" src="page/docs.js">']
    assert answer.headers["content-security-policy"].startswith("default-src 'self'")
    assert "'unsafe-inline'" not in answer.headers["content-security-policy"]


async def test_another_number_of_partitions_is_refused(settings: Settings) -> None:
    async with open_resources(settings, database=False) as resources:
        assert await resources.ping_redis() < 5
    async with Redis.from_url(settings.redis_url) as client:
        await client.hset(Keys(settings.redis_prefix).meta(), "partitions", "8")
    with pytest.raises(StartFailed, match="8 partitions"):
        async with open_resources(settings, database=False):
            pass


async def test_redis_away_is_unavailable(settings: Settings) -> None:
    gone = Settings(redis_url="unix:///nowhere/redis.sock", database_url=settings.database_url)
    with pytest.raises(Unavailable, match=r"Redis at /nowhere/redis\.sock does not answer"):
        async with open_resources(gone):
            pass


@pytest.mark.parametrize(
    "url", ["http://here", "redis+sentinel://host:1", "redis+cluster://", "nonsense", "redis://h:port"]
)
def test_no_redis_address_at_all_cannot_start(url: str) -> None:
    with pytest.raises(StartFailed, match="REPRISE_REDIS_URL"):
        redis_client(url, timeout_s=1, connections=1, retries=0)


@pytest.mark.parametrize(
    "url",
    [
        "redis://user:pass@host:1/2",
        "rediss://host",
        "unix:///tmp/x.sock?db=1",
        "redis+sentinel://:p%40ss@a:1,b,c:3/main/2",
        "rediss+cluster://u:p@a:1,b:2",
    ],
)
async def test_every_kind_of_address_makes_a_client(url: str) -> None:
    await redis_client(url, timeout_s=1, connections=1, retries=1).aclose()


async def test_an_exhausted_pool_waits(settings: Settings) -> None:
    client = redis_client(settings.redis_url, timeout_s=5, connections=2, retries=0)
    name = f"{settings.redis_prefix}:n"
    async with anyio.create_task_group() as group:
        for _ in range(50):
            group.start_soon(client.incr, name)
    assert await client.get(name) == b"50"
    await client.aclose()
