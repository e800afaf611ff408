"""Rate limits: exact under many processes, told by headers, refused with a time to come back."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator
from multiprocessing import get_context
from typing import Any

import anyio
import anyio.to_thread
import httpx
import msgspec
import pytest

from app.chat.scripts import Scripts
from app.errors import StartFailed
from app.limits import Limits, Taken
from app.redis_keys import Keys
from app.resources import redis_client
from app.settings import Settings
from app.web.sse import AWAY
from tests.live import Live, live
from tests.sse import error_of

PROCESSES, KEYS, ALLOWED, TRIED = 8, 100, 20, 4


def limited(settings: Settings, **rates: str) -> Settings:
    return msgspec.structs.replace(settings, **{f"rate_{name}": text for name, text in rates.items()})


async def opened(settings: Settings) -> tuple[Limits, Any]:
    client = redis_client(settings.redis_url, timeout_s=5, connections=20, retries=0)
    return Limits(Scripts(client), Keys(settings.redis_prefix), settings), client


def take_many(settings: Settings) -> list[tuple[int, Taken]]:
    """Asks for every key several times; a process of its own."""

    async def asking() -> list[tuple[int, Taken]]:
        limits, client = await opened(settings)
        found: list[tuple[int, Taken]] = []

        async def ask(number: int) -> None:
            taken = await limits.take("acc", f"user-{number}", "requests")
            assert taken is not None
            found.append((number, taken))

        for _ in range(TRIED):
            async with anyio.create_task_group() as group:
                for number in range(KEYS):
                    group.start_soon(ask, number)
        await client.aclose()
        return found

    return anyio.run(asking)


async def test_100_keys_over_8_processes_never_exceed_their_limit_by_one(settings: Settings) -> None:
    """PROTOCOL C9."""
    given = limited(settings, requests=f"{ALLOWED}/day")

    def run() -> list[tuple[int, Taken]]:
        with get_context("spawn").Pool(PROCESSES) as pool:
            return [one for found in pool.map(take_many, [given] * PROCESSES) for one in found]

    found = await anyio.to_thread.run_sync(run)
    assert len(found) == PROCESSES * KEYS * TRIED
    by_window: dict[tuple[int, int], list[Taken]] = {}  # a test at midnight has two windows
    for number, taken in found:
        by_window.setdefault((number, taken.reset), []).append(taken)
    for takes in by_window.values():
        let_in = [one for one in takes if not one.refused]
        assert sorted(one.remaining for one in let_in) == list(range(ALLOWED))[-len(let_in) :]
        assert len(let_in) == min(ALLOWED, len(takes))
        assert all(one.remaining == 0 and one.limit == ALLOWED for one in takes if one.refused)
    assert Counter(len([t for t in takes if not t.refused]) for takes in by_window.values())[ALLOWED] >= KEYS


async def test_a_refused_request_counts_in_none_of_its_classes(settings: Settings) -> None:
    limits, client = await opened(limited(settings, requests="4/day", search="2/day"))
    kinds = ["search", "search", "search", "requests", "requests", "requests"]
    taken = [await limits.take("a", "ada", kind) for kind in kinds]
    assert [(one.limit, one.remaining, one.refused) for one in taken if one] == [
        (2, 1, False),
        (2, 0, False),
        (2, 0, True),
        (4, 1, False),
        (4, 0, False),
        (4, 0, True),
    ]
    assert (await limits.take("a", "bob", "search")) is not None
    assert not (await limits.take("b", "ada", "search")).refused  # type: ignore[union-attr]
    await client.aclose()


async def test_a_window_ends(settings: Settings) -> None:
    limits, client = await opened(limited(settings, requests="1/second"))
    first = await limits.take("a", "ada", "requests")
    assert first is not None
    with anyio.fail_after(10):
        while (taken := await limits.take("a", "ada", "requests")) is not None and taken.refused:
            assert taken.reset == first.reset
            await anyio.sleep(0.05)
    assert taken is not None
    assert taken.reset > first.reset
    keys = await client.keys(f"{settings.redis_prefix}:*rate:*")
    assert all([0 < await client.pttl(key) <= 1_000 for key in keys])
    await client.aclose()


async def test_without_redis_nothing_is_limited(settings: Settings) -> None:
    away = limited(msgspec.structs.replace(settings, redis_url="redis://127.0.0.1:1"), requests="1/day")
    limits, _ = await opened(away)
    assert [await limits.take("a", "ada", "requests") for _ in range(3)] == [None] * 3


async def test_without_a_setting_nothing_is_limited_and_a_wrong_one_stops_the_start(settings: Settings) -> None:
    limits, client = await opened(limited(settings, requests="", search="", integrations="", messages=""))
    assert await limits.take("a", "ada", "search") is None
    await client.aclose()
    with pytest.raises(StartFailed, match="REPRISE_RATE_SEARCH"):
        await opened(limited(settings, search="often"))


@pytest.fixture
async def web(settings: Settings) -> AsyncIterator[Live]:
    rates = {"requests": "5/day", "search": "2/day", "messages": "3/day", "integrations": "1/day"}
    async with live(limited(settings, **rates)) as running:
        yield running


async def key_of(web: Live, **body: Any) -> str:
    scopes = ["memories:read", "memories:write", "messages:write", "integrations:write", "history:read", "keys:write"]
    scopes.append("messages:read")
    async with web.client() as root:
        made = await root.post("/v1/api-keys", json={"name": "k", "scopes": scopes} | body)
        assert "x-ratelimit-limit" not in made.headers  # the root key is not counted
        return str(made.json()["data"]["key"])


def told(answer: httpx.Response) -> tuple[int, int]:
    assert 0 < int(answer.headers["x-ratelimit-reset"]) - time.time() <= 86_400
    return int(answer.headers["x-ratelimit-limit"]), int(answer.headers["x-ratelimit-remaining"])


async def test_headers_count_down_and_then_it_is_429(web: Live) -> None:
    """PROTOCOL C9."""
    async with web.client(await key_of(web)) as client:
        for remaining in (4, 3, 2):
            answer = await client.get("/v1/memories")
            assert (answer.status_code, told(answer)) == (200, (5, remaining))
        searched = [await client.post("/v1/memories/search", json={"query": "tea"}) for _ in range(3)]
        assert [(one.status_code, told(one)) for one in searched] == [(200, (2, 1)), (200, (2, 0)), (429, (2, 0))]
        refused = await client.get("/v1/memories/mem_none")
        error_of(refused, 429, "RATE_LIMIT_EXCEEDED")
        assert told(refused) == (5, 0)
        assert 0 < int(refused.headers["retry-after"]) <= 86_400
        of_another = await client.get("/v1/memories", params={"user_id": "bob"})
        assert (of_another.status_code, told(of_another)) == (200, (5, 4))
        by_body = await client.post("/v1/memories/search", json={"query": "tea", "user_id": "bob"})
        assert (by_body.status_code, told(by_body)) == (200, (2, 1))
        unread = await client.post("/v1/memories/search", json={})
        assert unread.status_code == 422
        assert "x-ratelimit-limit" not in unread.headers  # nobody's yet


async def test_initiating_and_integrations_have_limits_of_their_own(web: Live) -> None:
    """PROTOCOL C9."""
    async with web.client(await key_of(web)) as client:
        body = {"messages": [{"role": "user", "content": "Hello"}]}
        sent = [await client.post("/v1/messages/async", json=body) for _ in range(4)]
        assert [one.status_code for one in sent] == [200, 200, 200, 429]
        assert told(sent[0]) == (3, 2)
        path = f"/v1/messages/async/{sent[0].json()['message_id']}"
        assert "x-ratelimit-limit" not in (await client.post(f"{path}/cancel")).headers
        records = {"records": [{"text": "I sing."}]}
        brought = [await client.post("/v1/integrations/api", json=records) for _ in range(2)]
        assert [one.status_code for one in brought] == [202, 429]


async def test_a_bound_key_counts_as_its_user(web: Live) -> None:
    async with web.client(await key_of(web, user_id="ann")) as bound, web.client(await key_of(web)) as unbound:
        assert told(await bound.get("/v1/memories")) == (5, 4)
        assert told(await unbound.get("/v1/memories", params={"user_id": "ann"})) == (5, 3)
        assert told(await unbound.get("/v1/api-keys")) == (5, 4)


async def test_a_key_has_so_many_streams_open_and_the_next_is_sent_away(settings: Settings) -> None:
    """PROTOCOL C9."""
    async with live(msgspec.structs.replace(settings, max_streams=2)) as web, web.client(await key_of(web)) as client:
        made = await client.post("/v1/messages/async", json={"messages": [{"role": "user", "content": "Hello"}]})
        path, token = made.json()["stream_url"], made.json()["stream_token"]
        async with (
            client.stream("GET", "/v1/events") as feed,
            web.client("") as browser,
            browser.stream("GET", f"{path}?token={token}") as stream,
        ):
            opened = [feed.aiter_raw(), stream.aiter_raw()]  # kept: an iterator that is gone closes its stream
            assert [b"retry: 1000" in await anext(chunks) for chunks in opened] == [True, True]
            for url in (path, "/v1/events"):
                away = await client.get(url)
                assert (away.status_code, away.content) == (200, AWAY)
            async with web.client() as root, root.stream("GET", "/v1/events") as unlimited:
                assert b"retry: 1000" in await anext(unlimited.aiter_raw())
        with anyio.fail_after(10):
            while True:
                async with client.stream("GET", path) as stream:
                    if b"retry: 1000" in await anext(stream.aiter_raw()):
                        break
