"""Integrations that ask others: records of an address, and social accounts by access token."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from app.database import Database
from app.integrations import store
from app.integrations.integration import STEPS, Integration
from app.integrations.job import Job, claim
from app.memory.listing import page
from app.memory.types import Filters, Memory, Owner
from app.outbound import Outbound, open_outbound
from tests.integration_rig import send, status, told, worker
from tests.site_rig import Asked, Reply, site
from tests.social_platforms import TOKEN, Clock, LinkedIn, Platform, Reddit, X

RECORDS = [
    {"id": "t1", "subject": "Gate", "body": "The gate jams.", "opened": "2024-02-03T08:00:00Z", "who": {"name": "Ada"}},
    {"id": "t2", "subject": "Pump", "body": "The pump leaks.", "opened": 1_706_947_200, "who": {"name": "Bob"}},
    {"id": "t3"},
]
MAPPING = {"text": "{subject}: {body}", "timestamp": "opened", "metadata": {"reporter": "who.name"}}


@pytest.fixture
async def outbound() -> AsyncIterator[Outbound]:
    async with open_outbound(allow_private=True) as opened:
        yield opened


async def pull(database: Database, owner: Owner, url: str | None, headers: Any = None, **request: Any) -> Integration:
    asked = {"url": url, "mapping": None, "format": "auto", "records_path": None, "category": None, "infer": False}
    secret = {"headers": headers} if headers else None
    return await send(database, owner, "api", "tickets", asked | request, {}, secret=secret)


async def memories(database: Database, owner: Owner) -> list[Memory]:
    return (await page(database, owner, Filters(), q=None, sort="created_at", page=1, page_size=100))[0]


async def test_records_are_pulled_mapped_and_remembered(database: Database, owner: Owner, outbound: Outbound) -> None:
    async with site(lambda _: Reply(body={"data": {"tickets": RECORDS}})) as tickets:
        sent = await pull(
            database,
            owner,
            f"{tickets.url}/export?secret=1",
            {"Authorization": "Bearer abc"},
            mapping=MAPPING,
            records_path="data.tickets",
            category="productivity",
        )
        await worker(database, outbound).until_idle()
        assert [asked.headers["authorization"] for asked in tickets.asked] == ["Bearer abc"]
    body = await status(database, sent, errors=True, logs=True)
    assert (body.status, body.stats.items_total, body.stats.errors_count, body.platform) == (
        *("completed", 3, 1),
        "tickets",
    )
    assert isinstance(body.errors, list)
    assert [(one.item_id, one.code) for one in body.errors] == [("t3", "NO_TEXT")]
    gate, pump = await memories(database, owner)
    assert (gate.text, gate.metadata["reporter"], gate.categories) == ("Gate: The gate jams.", "Ada", ["productivity"])
    assert (pump.valid_from.isoformat(), pump.metadata["record_id"]) == ("2024-02-03T08:00:00+00:00", "t2")
    steps = [event["status"]["progress"]["current_step"] for event in await told(database, sent)]
    assert list(dict.fromkeys(steps)) == list(STEPS["api"])
    assert await database.fetchval("SELECT secret FROM integrations") is None


async def test_lines_of_json_and_inline_records_are_read_too(
    database: Database, owner: Owner, outbound: Outbound
) -> None:
    lines = b'{"text": "I keep bees."}\nnot json\n{"text": "The hive is green."}\n'
    reply = Reply(body=lines, headers={"content-type": "application/x-ndjson"})
    async with site(lambda _: reply) as hives:
        pulled = await pull(database, owner, hives.url)
        await worker(database, outbound).until_idle()
    body = await status(database, pulled)
    assert isinstance(body.errors, list)
    assert [(one.item_id, one.code) for one in body.errors] == [("line:2", "BAD_RECORD")]
    request = {"url": None, "mapping": {"text": "said"}, "infer": True}
    files = {"records.json": msgspec.json.encode([{"said": "I have two cats. The weather is fine."}])}
    inline = await send(database, owner, "api", "notes", request, files)
    await worker(database, outbound).until_idle()
    assert (await status(database, inline)).status == "completed"
    assert [memory.text for memory in await memories(database, owner)] == [
        "I keep bees.",
        "The hive is green.",
        "I have two cats.",
    ]


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (Reply(404), "HTTP_STATUS"),
        (Reply(body=b"<html>"), "MISLABELLED"),
        (Reply(body=b""), "EMPTY"),
        (Reply(body=b"[" + b"1" * 1_000_001), "TOO_LARGE"),
        (Reply(0), "UNREACHABLE"),
    ],
)
async def test_an_address_that_gives_nothing_fails_with_its_reason(
    database: Database, owner: Owner, outbound: Outbound, reply: Reply, code: str
) -> None:
    async with site(lambda _: reply) as there:
        sent = await pull(database, owner, there.url)
        await worker(database, outbound).until_idle()
    body = await status(database, sent)
    assert isinstance(body.errors, list)
    assert (body.status, [one.code for one in body.errors], body.errors[0].item_id) == ("failed", [code], None)


async def test_private_addresses_are_refused(database: Database, owner: Owner) -> None:
    async with open_outbound(allow_private=False) as strict, site(lambda _: Reply(body=[])) as inside:
        sent = await pull(database, owner, inside.url)
        await worker(database, strict).until_idle()
        assert inside.asked == []
    body = await status(database, sent)
    assert isinstance(body.errors, list)
    assert (body.status, body.errors[0].code) == ("failed", "ADDRESS_REFUSED")


async def test_a_passing_failure_is_tried_again_and_a_lasting_one_by_retry(
    database: Database, owner: Owner, outbound: Outbound
) -> None:
    answers = [Reply(503)] * 4 + [Reply(body=[{"text": "The well is deep."}])]
    async with site(lambda _: answers.pop(0)) as flaky:
        sent = await pull(database, owner, flaky.url)
        works = worker(database, outbound)
        await works.until_idle()
        body = await status(database, sent, errors=True, logs=True)
        assert (body.status, len(answers)) == ("failed", 2)
        assert isinstance(body.logs, list)
        assert [line.level for line in body.logs] == ["warning", "warning"]
        await store.retry(database, sent)
        await works.until_idle()
    assert (await status(database, sent)).status == "completed"
    assert [memory.text for memory in await memories(database, owner)] == ["The well is deep."]


async def account(database: Database, owner: Owner, platform: str, token: str = TOKEN) -> Integration:
    request = {"by": "token", "memories": True}
    return await send(database, owner, "social", platform, request, {}, secret={"auth_token": token})


@pytest.mark.parametrize("made", [X, Reddit, LinkedIn])
async def test_an_account_is_read_by_its_token_within_its_limits(
    database: Database, owner: Owner, outbound: Outbound, made: type[Platform]
) -> None:
    clock = Clock()
    platform = made(clock)
    platform.allowed = None if made is LinkedIn else 2  # LinkedIn does not say when its limit ends
    name = {"x": "twitter"}.get(platform.name, platform.name)
    async with site(platform) as there:
        sent = await account(database, owner, name)
        await worker(database, outbound, {name: there.url}, clock.sleep).until_idle()
    body = await status(database, sent, errors=True, logs=True)
    assert (body.status, body.stats.items_processed) == ("completed", body.stats.items_total)
    assert body.stats.items_total > 2
    assert isinstance(body.logs, list)
    assert any("asks to wait" in line.message for line in body.logs) == bool(clock.slept) == (made is not LinkedIn)
    assert not any(TOKEN in line.message for line in body.logs)
    steps = [event["status"]["progress"]["current_step"] for event in await told(database, sent)]
    assert list(dict.fromkeys(steps)) == list(STEPS["social"])
    assert await database.fetchval("SELECT secret FROM integrations") is None


async def test_a_token_that_is_refused_fails_and_a_new_one_goes_on(
    database: Database, owner: Owner, outbound: Outbound
) -> None:
    clock = Clock()
    async with site(Reddit(clock, posts=3, comments=2)) as there:
        works = worker(database, outbound, {"reddit": there.url}, clock.sleep)
        sent = await account(database, owner, "reddit", "stale")
        await works.until_idle()
        body = await status(database, sent)
        assert isinstance(body.errors, list)
        assert (body.status, body.errors[0].code) == ("failed", "UNAUTHORIZED")
        await store.retry(database, sent, {"auth_token": TOKEN})
        await works.until_idle()
    assert (await status(database, sent)).status == "completed"


async def test_a_killed_worker_goes_on_with_the_next_page(database: Database, owner: Owner, outbound: Outbound) -> None:
    clock = Clock()
    platform = X(clock)
    pages = 0

    def killing(asked: Asked) -> Reply:
        nonlocal pages
        pages += asked.path.endswith("/tweets")
        return Reply(0) if pages == 3 else platform(asked)

    async with site(killing) as there:
        works = worker(database, outbound, {"twitter": there.url}, clock.sleep)
        sent = await account(database, owner, "twitter")
        job = await claim(database, lambda _: None)
        assert job is not None
        real = Job.found

        async def found(self: Job, *args: Any, **more: Any) -> None:
            await real(self, *args, **more)
            if self.items_total >= 100:
                raise KilledError

        job.found = found.__get__(job)  # type: ignore[method-assign]
        with pytest.raises(KilledError):
            for number in range(3):
                await job.begin(number)
                await works._kinds["social"].steps[number](job)
        before = list(platform.paths)
        await database.execute("UPDATE integrations SET claimed_until = now()")
        await works.until_idle()
    body = await status(database, sent)
    assert body.status == "completed"
    ids = await database.fetch("SELECT item_id FROM integration_items ORDER BY position")
    assert len(ids) == len({row["item_id"] for row in ids}) == body.stats.items_total == 251
    assert await database.fetchval("SELECT count(*) FROM turns") == 250
    assert platform.paths[len(before) :].count("/2/users/7/tweets") <= 3


class KilledError(Exception):
    """As if the process had died here."""
