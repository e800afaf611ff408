"""Several messages on one connection."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anyio
import msgspec
import pytest

from app.settings import Settings
from tests.rig import entries, until
from tests.stage import Author, Stage, body, finished, stage

PATH = "/v1/messages/async/stream"


@pytest.fixture
async def web(settings: Settings) -> AsyncIterator[Stage]:
    async with stage(settings) as running:
        yield running


def parse(data: bytes) -> list[tuple[str | None, str, dict[str, Any]]]:
    """Frames as (id, event, data)."""
    frames = []
    for block in data.decode().split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines())
        if "data" in lines:
            frames.append((lines.get("id"), lines["event"], msgspec.json.decode(lines["data"])))
    return frames


async def test_each_message_comes_whole_and_in_order(web: Stage) -> None:
    """PROTOCOL S1."""
    authors = [await finished(web.lifecycle, words) for words in (1, 700, 3)]
    got = parse(body(await web.get(f"{PATH}?ids={','.join(author.id for author in authors)}")))
    for author in authors:
        seqs = [data["seq"] for _, _, data in got if data["message_id"] == author.id]
        assert seqs == list(range(1, author.seq + 1))


async def test_resuming_at_every_vector_gives_exactly_the_rest(web: Stage) -> None:
    """PROTOCOL S2, S4."""
    one, two = await finished(web.lifecycle, 2), await finished(web.lifecycle, 1)
    path = f"{PATH}?ids={one.id},{two.id}"
    whole = parse(body(await web.get(path)))
    for index, (vector, _, _) in enumerate(whole):
        assert vector is not None
        response = await web.get(path, last_event_id=vector)
        if index == len(whole) - 1:
            assert response.status_code == 204
            continue
        rest = parse(body(response))
        for author in (one, two):
            seen = [d["seq"] for _, _, d in whole[: index + 1] + rest if d["message_id"] == author.id]
            assert seen == list(range(1, author.seq + 1))
        assert (await web.get(f"{path}&after={vector}")).content == response.content


async def test_live_messages_share_the_connection_and_it_ends_with_the_last(web: Stage) -> None:
    """PROTOCOL S4."""
    authors = [await Author.create(web.lifecycle) for _ in range(3)]
    got: list[bytes] = []

    async def observe() -> None:
        got.append(body(await web.get(f"{PATH}?ids={','.join(author.id for author in authors)}")))

    async with anyio.create_task_group() as group:
        group.start_soon(observe)
        await until(lambda: web.observers == 1)
        for author in authors:
            await author.start()
        for word in ("a", "b"):
            for author in authors:
                await author.say(word)
        for author in authors:
            assert not got
            await author.finish()
    frames = parse(got[0])
    for author in authors:
        written = [entry.seq for entry in await entries(web.lifecycle, author.id)]
        assert [data["seq"] for _, _, data in frames if data["message_id"] == author.id] == written
    assert len(web.fanout) == 0


async def test_missing_vector_entry_means_from_the_start(web: Stage) -> None:
    """PROTOCOL S2."""
    one, two = await finished(web.lifecycle, 1), await finished(web.lifecycle, 1)
    got = parse(body(await web.get(f"{PATH}?ids={one.id},{two.id}&after={one.id}:{one.seq},other:7")))
    assert [data["message_id"] for _, _, data in got] == [two.id] * two.seq
    assert got[-1][0] == f"{two.id}:{two.seq},{one.id}:{one.seq}"


async def test_unreadable_id_gets_one_frame_without_id(web: Stage) -> None:
    """PROTOCOL S3."""
    mine, foreign = await finished(web.lifecycle, 1), await finished(web.lifecycle, 1, account="other")
    got = parse(body(await web.get(f"{PATH}?ids=nothing,{mine.id},{foreign.id}")))
    assert got[:2] == [
        (None, "not_found", {"type": "not_found", "message_id": "nothing"}),
        (None, "not_found", {"type": "not_found", "message_id": foreign.id}),
    ]
    assert {data["message_id"] for _, _, data in got[2:]} == {mine.id}


async def test_none_readable_is_404(web: Stage) -> None:
    """PROTOCOL S3."""
    assert (await web.get(f"{PATH}?ids=a,b")).status_code == 404


async def test_gap_names_its_message_and_has_no_id(web: Stage) -> None:
    """PROTOCOL S6."""
    one, two = await finished(web.lifecycle, 1), await finished(web.lifecycle, 1)
    got = parse(body(await web.get(f"{PATH}?ids={one.id},{two.id}&after={one.id}:999,{two.id}:{two.seq}")))
    assert got[0] == (
        None,
        "gap",
        {"type": "gap", "message_id": one.id, "requested": 999, "earliest": 1, "latest": one.seq},
    )
    assert [data["seq"] for _, _, data in got[1:]] == list(range(1, one.seq + 1))


@pytest.mark.parametrize("query", ["", "?ids=", "?ids=,", "?ids=" + ",".join(f"m{n}" for n in range(101))])
async def test_wrong_ids_are_400(web: Stage, query: str) -> None:
    """PROTOCOL S5."""
    response = await web.get(PATH + query)
    assert (response.status_code, response.json()["error"]["details"]["field"]) == (400, "ids")


@pytest.mark.parametrize("vector", ["5", "a", "a:", "a:-1", ":4", "a:1;b:2", "a:1,b"])
async def test_malformed_vector_is_400(web: Stage, vector: str) -> None:
    """PROTOCOL S5."""
    response = await web.get(f"{PATH}?ids=a&after={vector}")
    assert (response.status_code, response.json()["error"]["details"]["field"]) == (400, "after")
