"""The account's feed over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anyio
import httpx
import msgspec
import pytest

from app.feeds import KINDS
from app.settings import Settings
from tests.rig import until
from tests.stage import Author, Stage, stage

PATH = "/v1/events"


@pytest.fixture
async def web(settings: Settings) -> AsyncIterator[Stage]:
    async with stage(settings) as running:
        yield running


async def frames(web: Stage, count: int, path: str = PATH, key: str = "acc", cursor: str = "") -> list[dict[str, Any]]:
    """The first ``count`` events of the feed: their fields, data decoded."""
    headers = {"last-event-id": cursor} if cursor else {}
    got: list[dict[str, Any]] = []
    fields: dict[str, Any] = {}
    with anyio.fail_after(15):
        async with web.client(key) as client, client.stream("GET", path, headers=headers) as response:
            assert response.status_code == 200
            async for line in response.aiter_lines():
                if line:
                    name, _, value = line.partition(": ")
                    fields[name] = msgspec.json.decode(value) if name == "data" else value
                    continue
                if "data" in fields or (fields.get("id") and not got and count == 0):
                    got.append(fields)
                fields = {}
                if len(got) >= max(count, 1):
                    break
    return got


async def start_position(web: Stage) -> str:
    """The cursor a reader gets that begins now."""
    return str((await frames(web, 0))[0]["id"])


async def live_one(web: Stage, message_id: str = "", **changes: Any) -> Author:
    """A message that goes from created to completed."""
    author = await Author.create(web.lifecycle, message_id, **changes)
    await author.start()
    await author.finish()
    return author


async def test_life_of_a_message_live(web: Stage) -> None:
    """PROTOCOL A1."""
    got: list[dict[str, Any]] = []

    async def follow() -> None:
        got.extend(await frames(web, 3))

    async with anyio.create_task_group() as group:
        group.start_soon(follow)
        await until(lambda: web.observers == 1)
        author = await live_one(web)
    assert [frame["event"] for frame in got] == ["message.created", "message.processing", "message.completed"]
    for frame in got:
        assert frame["data"]["event"] == frame["event"]
        assert frame["data"]["data"]["message_id"] == author.id
        assert frame["data"]["timestamp"].endswith("Z")
    assert got[-1]["data"]["data"]["status"] == "completed"
    await until(lambda: web.observers == 0 and len(web.feeds) == 0)


async def test_resuming_at_every_event_gives_exactly_the_rest(web: Stage) -> None:
    """PROTOCOL A1."""
    begin = await start_position(web)
    for n in range(3):
        await live_one(web, f"m{n}")
    whole = await frames(web, 9, cursor=begin)
    assert len({frame["id"] for frame in whole}) == 9
    for index, frame in enumerate(whole[:-1]):
        rest = await frames(web, 8 - index, cursor=frame["id"])
        assert whole[: index + 1] + rest == whole


async def test_without_a_cursor_only_what_comes_from_now_on(web: Stage) -> None:
    """PROTOCOL A2."""
    await live_one(web, "before")
    got: list[dict[str, Any]] = []

    async def follow() -> None:
        got.extend(await frames(web, 1))

    async with anyio.create_task_group() as group:
        group.start_soon(follow)
        await until(lambda: web.observers == 1)
        await live_one(web, "after")
    assert got[0]["data"]["data"]["message_id"] == "after"


async def test_kinds_and_bound_users(web: Stage) -> None:
    """PROTOCOL A5."""
    begin = await start_position(web)
    await live_one(web, "m1")
    await live_one(web, "m2", user="bob")
    only = await frames(web, 2, f"{PATH}?kinds=message.completed,message.error", cursor=begin)
    assert [frame["data"]["data"]["message_id"] for frame in only] == ["m1", "m2"]
    bobs = await frames(web, 3, key="acc/bob", cursor=begin)
    assert {frame["data"]["data"]["message_id"] for frame in bobs} == {"m2"}


async def test_a_kind_that_does_not_exist_is_400(web: Stage) -> None:
    """PROTOCOL A5."""
    refused = await web.get(f"{PATH}?kinds=message.completed,foo")
    assert (refused.status_code, refused.json()["error"]["details"]["field"]) == (400, "kinds")
    for kind in KINDS:
        assert kind in refused.json()["detail"]


async def test_cursor_that_is_not_kept_gets_a_gap_first(web: Stage) -> None:
    """PROTOCOL A3."""
    await live_one(web, "m1")
    got = await frames(web, 4, cursor="1-0")
    assert got[0]["event"] == "gap"
    assert "id" not in got[0]
    assert got[0]["data"]["requested"] == "1-0"
    assert [frame["event"] for frame in got[1:]] == ["message.created", "message.processing", "message.completed"]
    assert got[0]["data"]["earliest"] == got[1]["id"]
    assert got[0]["data"]["latest"] == got[3]["id"]


async def test_cursor_of_an_empty_feed_is_good_for_a_day(web: Stage) -> None:
    """PROTOCOL A2, A3."""
    begin = await start_position(web)
    assert begin.startswith("n")
    await live_one(web, "m1")
    assert (await frames(web, 1, cursor=begin))[0]["event"] == "message.created"
    old = f"n{int(begin[1:].split('-')[0]) - 90_000_000}-0"
    assert (await frames(web, 1, cursor=old))[0]["event"] == "gap"


@pytest.mark.parametrize("bad", ["x", "-1", "1", "1-", "1-2-3", "n", "٣-1", "1-" + "9" * 30])
async def test_malformed_cursor_is_400(web: Stage, bad: str) -> None:
    """PROTOCOL A4."""
    response = await web.get(f"{PATH}?after={bad}")
    assert (response.status_code, response.json()["error"]["details"]["field"]) == (400, "after")


async def test_far_behind_reader_gets_everything(web: Stage) -> None:
    begin = await start_position(web)
    base = web.lifecycle.keys.account_base("acc")
    body = msgspec.json.encode({"event": "x", "data": {"fill": "." * 1000}, "timestamp": ""})
    calls = [("feed_post", base, ("acc", KINDS[n % len(KINDS)], "ada", body)) for n in range(1500)]
    async with web.client() as client, client.stream("GET", PATH):
        await until(lambda: web.observers == 1)
        await web.lifecycle.scripts.run_many(calls)
        got = await frames(web, 1500, cursor=begin)
    assert [frame["event"] for frame in got] == [KINDS[n % len(KINDS)] for n in range(1500)]


async def test_one_reader_serves_all_followers(web: Stage) -> None:
    got: list[dict[str, Any]] = []

    async def follow() -> None:
        got.extend(await frames(web, 1))

    async with anyio.create_task_group() as group:
        for _ in range(20):
            group.start_soon(follow)
        await until(lambda: web.observers == 20)
        assert web.tail.readers == 1
        await live_one(web)
    assert len(got) == 20


async def test_drain_ends_followers(web: Stage) -> None:
    """PROTOCOL A6."""
    async with web.client() as client, client.stream("GET", PATH) as response:
        await until(lambda: web.observers == 1)
        web.drain()
        with anyio.fail_after(2):
            assert (await response.aread()).startswith(b"retry: 1000\n\nid: ")
    assert (await web.get(PATH)).content.startswith(b"retry: 3000\n\n:")


async def test_head_opens_no_stream(web: Stage) -> None:
    """PROTOCOL A6."""
    async with web.client() as client:
        response = await client.head(PATH)
    assert (response.status_code, web.observers) == (200, 0)


async def test_ping(settings: Settings) -> None:
    """PROTOCOL A6."""
    quick = msgspec.structs.replace(settings, ping_s=0.2)
    async with stage(quick) as web, web.client() as client, client.stream("GET", PATH) as response:
        with anyio.fail_after(5):
            async for line in response.aiter_lines():
                if line == ": ping":
                    break


async def test_tokens_are_for_the_feed_or_refused(web: Stage) -> None:
    async with httpx.AsyncClient(base_url=web.url) as client:
        assert (await client.get(PATH)).status_code == 401
        assert (await client.get(f"{PATH}?token=acc:msg_1")).status_code == 403
        assert (await client.head(f"{PATH}?token=acc:*")).status_code == 200
