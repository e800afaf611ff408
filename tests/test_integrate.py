"""Integrations: taken through their steps, told of, cancelled, retried, and gone on with by another worker."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import msgspec
import pytest

from app.database import Database
from app.errors import ClaimLost, Conflict, ExtractionFailed, NotFound
from app.history import chats
from app.history.search import HistorySearch
from app.history.snapshot import Snapshot
from app.integrations import job as jobs
from app.integrations import store
from app.integrations.integration import SHARES, STEPS, Integration, Pace, StatusBody, percentage
from app.integrations.job import Item, Job, New, claim
from app.integrations.kinds.storing import snapshot_of
from app.integrations.receiving import receive
from app.integrations.types import Conversation, Message
from app.memory.listing import page
from app.memory.memories import Memories
from app.memory.search import Search
from app.memory.types import Filters, Owner
from tests.documents_rig import pdf
from tests.integration_rig import FILES, conversation, send, send_chats, status, told, worker
from tests.social_rig import archive
from tests.test_history_memories import bring


def ignore(_: str) -> None:
    return


async def memories(database: Database, owner: Owner) -> list[str]:
    found, _ = await page(database, owner, Filters(), q=None, sort="created_at", page=1, page_size=100)
    return [memory.text for memory in found]


async def test_conversations_are_stored_and_drawn_from(database: Database, owner: Owner) -> None:
    sent = await send_chats(
        database,
        owner,
        [
            conversation("job", "I work as a gardener in Porto.", "That sounds lovely."),
            conversation("pet", "My dog is called Bolota.", "A fine name."),
        ],
    )
    assert (sent.status, sent.platform) == ("pending", "custom")
    await worker(database).until_idle()
    body = await status(database, sent, errors=True, logs=True)
    assert (body.status, body.progress.percentage, body.progress.current_step) == ("completed", 100, "memory_creation")
    assert (body.stats.items_total, body.stats.items_processed, body.stats.memories_created) == (2, 2, 2)
    assert body.stats.errors_count == 0
    assert body.errors == []
    assert isinstance(body.logs, list)
    assert body.logs[0].message == "2 conversations found."
    assert body.completed_at is not None
    assert set(await memories(database, owner)) == {"I work as a gardener in Porto.", "My dog is called Bolota."}
    found = await HistorySearch(database, Search(database, None)).search(owner, "gardener", limit=5)
    assert (found.results[0].message_id, found.results[0].title) == ("job-0", "About job")
    learned = [text for _, text in await store.learned(database, sent)]
    assert sorted(learned) == sorted(await memories(database, owner))


async def test_every_step_is_told_in_order_and_percentages_never_go_back(database: Database, owner: Owner) -> None:
    sent = await send_chats(database, owner, [conversation(str(n), f"I like plant number {n}.") for n in range(30)])
    await worker(database).until_idle()
    events = await told(database, sent)
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert [event["type"] for event in events][-1] == "completed"
    assert [event["type"] for event in events].count("completed") == 1
    steps = [event["status"]["progress"]["current_step"] for event in events]
    assert list(dict.fromkeys(steps)) == list(STEPS["chat"])
    assert steps == sorted(steps, key=STEPS["chat"].index)
    percentages = [event["status"]["progress"]["percentage"] for event in events]
    assert percentages == sorted(percentages)
    assert (percentages[0], percentages[-1]) == (0, 100)


async def test_the_same_conversations_again_bring_nothing_twice(database: Database, owner: Owner) -> None:
    said = [conversation("job", "I work as a gardener in Porto.", "That sounds lovely.")]
    for _ in range(2):
        sent = await send_chats(database, owner, said)
        await worker(database).until_idle()
    assert (await status(database, sent)).stats.memories_created == 0
    assert len(await memories(database, owner)) == 1
    assert await chats.counted(database, owner) == {"custom": 1}


async def test_without_memories_wanted_none_are_drawn(database: Database, owner: Owner) -> None:
    sent = await send_chats(database, owner, [conversation("job", "I work as a gardener.")], memories=False)
    await worker(database).until_idle()
    body = await status(database, sent)
    assert (body.status, body.stats.items_processed, body.stats.memories_created) == ("completed", 1, 0)
    assert await memories(database, owner) == []


async def test_one_bad_item_is_an_error_and_the_rest_goes_on(database: Database, owner: Owner) -> None:
    good, bad = conversation("good", "I play the cello."), {"id": "bad", "messages": "none"}
    sent = await send_chats(database, owner, [bad, good])
    await worker(database).until_idle()
    body = await status(database, sent)
    assert (body.status, body.stats.items_total, body.stats.items_processed, body.stats.errors_count) == (
        *("completed", 2, 2),
        1,
    )
    assert isinstance(body.errors, list)
    (error,) = body.errors
    assert (error.code, error.item_id) == ("BAD_CONVERSATION", "chat_data/0")
    assert error.error_id.startswith("err_")
    events = await told(database, sent)
    assert [event["error"]["code"] for event in events if event["type"] == "item_error"] == ["BAD_CONVERSATION"]


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"messages": []}', b"[1, 2]", b"\xff\xfe"])
async def test_what_is_no_chat_data_fails_with_its_reason(database: Database, owner: Owner, data: bytes) -> None:
    sent = await send(database, owner, "chat", "custom", {"form": "chat_data"}, {"chat_data.json": data})
    await worker(database).until_idle()
    body = await status(database, sent)
    if data == b"[]":
        assert (body.status, body.stats.items_total) == ("completed", 0)
        return
    assert body.status == "failed"
    assert isinstance(body.errors, list)
    assert all(error.message and error.code for error in body.errors)
    assert body.errors
    assert (await told(database, sent))[-1]["type"] == "failed"


async def test_a_message_of_too_many_tokens_is_an_item_error(database: Database, owner: Owner) -> None:
    said = [conversation("long", "word " * 100_001), conversation("short", "I sing.")]
    sent = await send_chats(database, owner, said)
    await worker(database).until_idle()
    body = await status(database, sent)
    assert body.status == "completed"
    assert isinstance(body.errors, list)
    assert [(error.item_id, error.code) for error in body.errors] == [("long", "TOO_LONG")]


async def test_a_chat_of_many_years_becomes_several_conversations(database: Database, owner: Owner) -> None:
    years = conversation("years", *(f"word{n} " * 20_000 for n in range(7)))
    sent = await send_chats(database, owner, [years], memories=False)
    await worker(database).until_idle()
    body = await status(database, sent)
    assert (body.status, body.errors) == ("completed", [])
    rows = await database.fetch("SELECT title, external_id FROM conversations ORDER BY external_id")
    assert [tuple(row) for row in rows] == [
        ("About years", "years"),
        *((f"About years ({n})", f"years #{n}") for n in range(2, body.stats.items_total + 1)),
    ]
    assert body.stats.items_total > 2
    before = await database.fetch("SELECT id, key FROM turns ORDER BY id")
    assert len(before) == 7
    await send_chats(
        database, owner, [conversation("years", *(f"word{n} " * 20_000 for n in range(8)))], memories=False
    )
    await worker(database).until_idle()
    assert (await database.fetch("SELECT id, key FROM turns ORDER BY id"))[:7] == before
    assert await database.fetchval("SELECT count(*) FROM turns") == 8


async def test_documents_become_memories_of_their_chunks_with_their_pages(database: Database, owner: Owner) -> None:
    report = pdf("The lighthouse was built in 1836.", "Its keeper was called Amelia.")
    sent = await send(
        database, owner, "file", "files", FILES, {"report.pdf": report, "note.txt": b"Bring the red umbrella."}
    )
    await worker(database).until_idle()
    body = await status(database, sent, errors=True, logs=True)
    assert (body.type, body.status, body.stats.items_total) == ("file", "completed", 3)
    assert (body.stats.items_processed, body.stats.memories_created) == (3, 3)
    found, _ = await page(database, owner, Filters(), q="keeper", sort="created_at", page=1, page_size=10)
    assert [(one.metadata["page"], one.metadata["file"], one.source, one.extractor) for one in found] == [
        (2, "report.pdf", "report.pdf", "verbatim")
    ]
    steps = [event["status"]["progress"]["current_step"] for event in await told(database, sent)]
    assert list(dict.fromkeys(steps)) == list(STEPS["file"])


async def test_files_that_cannot_be_read_are_item_errors_and_all_of_them_a_failure(
    database: Database, owner: Owner
) -> None:
    bad = {"empty.txt": b"", "torn.pdf": b"%PDF-1.7 and no more", "picture.pdf": b"\x89PNG\r\n\x1a\n" + bytes(50)}
    sent = await send(database, owner, "file", "files", FILES, {**bad, "good.txt": b"The pump runs at noon."})
    alone = await send(database, owner, "file", "files", FILES, bad)
    await worker(database).until_idle()
    body = await status(database, sent)
    assert (body.status, body.stats.items_total, body.stats.memories_created) == ("completed", 4, 1)
    assert isinstance(body.errors, list)
    assert {error.item_id: error.code for error in body.errors} == {
        "empty.txt": "EMPTY",
        "torn.pdf": "DAMAGED",
        "picture.pdf": "MISLABELLED",
    }
    body = await status(database, alone)
    assert isinstance(body.errors, list)
    assert (body.status, body.errors[0].code, body.errors[0].item_id) == ("failed", "NOTHING_BROUGHT", None)
    assert body.stats.errors_count == len(body.errors) == 4


async def test_cancelling_keeps_what_is_done_and_brings_nothing_more(database: Database, owner: Owner) -> None:
    sent = await send_chats(database, owner, [conversation(str(n), f"I like plant number {n}.") for n in range(50)])
    job = await claim(database, ignore)
    assert job is not None
    works = worker(database)
    taken = 0

    async def draw(job: Job, item: Item) -> None:
        nonlocal taken
        taken += 1
        if taken == 10:
            await store.cancel(database, await store.find(database, sent.id, owner=owner))
        await works._kinds["chat"]._store.draw(job, item)  # type: ignore[attr-defined]

    works._kinds["chat"].steps = (*works._kinds["chat"].steps[:3], lambda job: job.each(draw))  # type: ignore[misc]
    await works.work(job)
    body = await status(database, sent)
    assert (body.status, body.stats.memories_created, len(await memories(database, owner))) == ("cancelled", 9, 9)
    assert (await told(database, sent))[-1]["type"] == "cancelled"
    assert await claim(database, ignore) is None
    again = await store.cancel(database, await store.find(database, sent.id, owner=owner))
    assert again.status == "cancelled"
    with pytest.raises(Conflict):
        await store.retry(database, again)


async def test_what_completed_cannot_be_cancelled(database: Database, owner: Owner) -> None:
    sent = await send_chats(database, owner, [conversation("a", "I sing.")])
    await worker(database).until_idle()
    with pytest.raises(Conflict, match="completed"):
        await store.cancel(database, sent)


async def test_retry_takes_failed_items_only(database: Database, owner: Owner) -> None:
    sent = await send_chats(database, owner, [conversation(str(n), f"I like plant number {n}.") for n in range(6)])
    works = worker(database)
    real = works._kinds["chat"]._store.draw  # type: ignore[attr-defined]
    taken: list[int] = []
    broken = {2, 4}

    async def draw(job: Job, item: Item) -> None:
        taken.append(item.position)
        if item.position in broken:
            raise ExtractionFailed("the model said nothing useful")
        await real(job, item)

    works._kinds["chat"].steps = (*works._kinds["chat"].steps[:3], lambda job: job.each(draw))  # type: ignore[misc]
    await works.until_idle()
    body = await status(database, sent)
    assert (body.status, body.stats.errors_count, body.stats.items_processed) == ("completed", 2, 6)
    broken.clear()
    again = await store.retry(database, sent)
    assert (again.status, again.errors_count, again.completed_at) == ("pending", 0, None)
    await works.until_idle()
    assert taken == [0, 1, 2, 3, 4, 5, 2, 4]
    body = await status(database, sent)
    assert (body.status, body.stats.errors_count, body.stats.items_processed) == ("completed", 0, 6)
    assert body.stats.memories_created == len(await memories(database, owner)) == 6
    with pytest.raises(Conflict, match="nothing"):
        await store.retry(database, sent)


async def test_what_could_not_be_read_is_not_tried_again(database: Database, owner: Owner) -> None:
    sent = await send_chats(database, owner, [{"id": "bad", "messages": 1}, conversation("good", "I sing.")])
    await worker(database).until_idle()
    with pytest.raises(Conflict, match="nothing"):
        await store.retry(database, sent)
    assert (await status(database, sent)).stats.errors_count == 1


@pytest.mark.parametrize("stage", range(4))
@pytest.mark.parametrize("at", [0, 7, 19])
async def test_a_worker_that_dies_anywhere_leaves_nothing_twice_and_nothing_out(
    database: Database, owner: Owner, stage: int, at: int
) -> None:
    sent = await send_chats(database, owner, [conversation(str(n), f"I like plant number {n}.") for n in range(20)])
    dying = worker(database)
    kind: Any = dying._kinds["chat"]
    real = kind.steps[stage]

    async def dies(job: Job) -> None:
        each, found = job._one, job.found
        left = at

        async def one(work: Any, item: Item) -> None:
            nonlocal left
            await each(work, item)
            if not left:
                raise Died
            left -= 1

        async def find(*args: Any, **more: Any) -> None:
            await found(*args, **more)
            raise Died

        job._one, job.found = one, find  # type: ignore[method-assign]
        await real(job)
        raise Died

    kind.steps = tuple(dies if number == stage else step for number, step in enumerate(kind.steps))
    job = await claim(database, ignore)
    assert job is not None
    with pytest.raises(ExceptionGroup):
        await died(dying, job)
    assert await claim(database, ignore) is None  # the lease holds
    await database.execute("UPDATE integrations SET claimed_until = now()")
    await worker(database).until_idle()
    body = await status(database, sent)
    assert (body.status, body.stats.items_total, body.stats.items_processed) == ("completed", 20, 20)
    assert body.stats.memories_created == 20
    assert sorted(await memories(database, owner)) == sorted(f"I like plant number {n}." for n in range(20))
    assert await chats.counted(database, owner) == {"custom": 20}
    events = await told(database, sent)
    percentages = [event["status"]["progress"]["percentage"] for event in events]
    assert percentages == sorted(percentages)
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))


class Died(BaseException):
    """As killed: nothing of ours runs after it."""


async def died(works: Any, job: Job) -> None:
    """Takes the steps as `work` does, but for what it does at the end."""
    async with anyio.create_task_group() as group:
        group.start_soon(job.keep_alive)
        try:
            await works._steps(job)
        except Died:
            raise RuntimeError("killed") from None


async def test_who_lost_the_claim_stores_nothing_more(database: Database, owner: Owner) -> None:
    sent = await send_chats(database, owner, [conversation(str(n), f"I like plant number {n}.") for n in range(3)])
    paused = await claim(database, ignore)
    assert paused is not None
    await database.execute("UPDATE integrations SET claimed_until = now()")
    await worker(database).until_idle()
    before = await told(database, sent)
    with pytest.raises(ClaimLost):
        await paused.begin(0)
    with pytest.raises(ClaimLost):
        await paused.complete()
    with pytest.raises(ClaimLost):
        await paused.fail("X", "x")
    assert await told(database, sent) == before


async def test_an_integration_that_kills_its_workers_is_given_up(database: Database, owner: Owner) -> None:
    sent = await send_chats(database, owner, [conversation("a", "I sing.")])
    for _ in range(jobs.TRIES):
        assert await claim(database, ignore) is not None
        await database.execute("UPDATE integrations SET claimed_until = now()")
    assert await claim(database, ignore) is None
    body = await status(database, sent)
    assert isinstance(body.errors, list)
    assert (body.status, body.errors[0].code) == ("failed", "GIVEN_UP")
    await store.retry(database, await store.find(database, sent.id, owner=owner))
    await worker(database).until_idle()
    assert (await status(database, sent)).status == "completed"


async def test_what_is_still_received_is_nobodys_and_goes_after_an_hour(database: Database, owner: Owner) -> None:
    receiving = await receive(database, owner.account, owner.user)
    await receiving.file("a.txt")
    with pytest.raises(NotFound):
        await store.find(database, receiving.id, owner=owner)
    assert await store.page(database, owner) == []
    assert await claim(database, ignore) is None
    await store.purge(database)
    assert await database.fetchval("SELECT count(*) FROM integrations") == 1
    await database.execute("UPDATE integrations SET created_at = now() - interval '2 hours'")
    await store.purge(database)
    assert await database.fetchval("SELECT count(*) FROM integrations") == 0


async def test_what_was_sent_goes_when_no_retry_can_need_it(database: Database, owner: Owner) -> None:
    async def kept(sent: Integration) -> tuple[int, int]:
        await store.purge(database)
        return (
            await database.fetchval("SELECT count(*) FROM integration_parts WHERE integration = $1", sent.id),
            await database.fetchval(
                "SELECT count(*) FROM integration_items WHERE integration = $1 AND payload IS NOT NULL", sent.id
            ),
        )

    whole = await send(database, owner, "file", "txt", FILES, {"a.txt": b"I sing."})
    bad = await send(database, owner, "file", "files", FILES, {"b.txt": b"I dance.", "c.pdf": b"no pdf"})
    await worker(database).until_idle()
    assert await kept(whole) == (0, 0)
    assert await kept(bad) == (2, 1)
    assert (await status(database, bad)).stats.errors_count == 1
    left = await send(database, owner, "file", "txt", FILES, {"d.txt": b"I paint."})
    job = await claim(database, ignore)
    assert job is not None
    await job.found([New(item_id="d.txt", payload=b"{}")], step=1)
    assert await kept(left) == (1, 1)
    await store.cancel(database, left)
    assert await kept(left) == (0, 0)


async def test_a_worker_that_is_stopped_again_and_again_is_no_reason_to_give_up(
    database: Database, owner: Owner
) -> None:
    sent = await send_chats(database, owner, [conversation("a", "I sing.")])
    for _ in range(jobs.TRIES + 2):
        job = await claim(database, ignore)
        assert job is not None
        await job.let_go()
    await worker(database).until_idle()
    assert (await status(database, sent)).status == "completed"


async def test_the_same_key_makes_one_integration(database: Database, owner: Owner) -> None:
    files = {"chat_data.json": msgspec.json.encode([conversation("a", "I sing.")])}
    request = {"form": "chat_data"}
    first = await send(database, owner, "chat", "custom", request, files, once=(b"key", b"body"))
    again = await send(database, owner, "chat", "custom", request, files, once=(b"key", b"body"))
    assert again.id == first.id
    with pytest.raises(Conflict):
        await send(database, owner, "chat", "custom", request, files, once=(b"key", b"other"))
    assert [one.id for one in await store.page(database, owner)] == [first.id]


@pytest.mark.parametrize("kind", STEPS)
def test_percentages_rise_over_all_steps_to_99(kind: str) -> None:
    found = [percentage(kind, step, share / 10) for step in range(4) for share in range(11)]
    assert found == sorted(found)
    assert (found[0], found[-1], sum(SHARES[kind])) == (0, 99, 100)


@pytest.mark.parametrize("name", ["m", "x" * 1_000, "nul\x00", ""])
async def test_ids_of_any_length_are_kept_apart(name: str) -> None:
    def said(end: str) -> Message:
        return Message(id=name + end, role="user", text=f"said {end}", said_at=None, name="x" * 300)

    given = Conversation(id=name, title="t" * 2_000, created_at=None, updated_at=None, messages=[said("1"), said("2")])
    snapshot = Snapshot(snapshot_of(given))
    first, second = snapshot
    assert first.id != second.id
    assert (first.content, second.content) == ("said 1", "said 2")


async def stored_only(database: Database) -> Job:
    """The integration that waits, taken as far as its turns are stored, and none drawn from."""
    job = await claim(database, ignore)
    assert job is not None
    for number, step in enumerate(worker(database)._kinds["chat"].steps[:3]):
        await job.begin(number)
        await step(job)
    return job


@pytest.mark.parametrize("gone", ["cancelled", "deleted"])
async def test_what_was_stored_and_not_drawn_from_is_drawn_from_when_it_is_sent_again(
    database: Database, owner: Owner, gone: str
) -> None:
    said = [conversation("a", "I live in Lyon. I like tea."), conversation("b", "My dog is called Bolota.")]
    first = await send_chats(database, owner, said)
    await stored_only(database)
    await (store.cancel if gone == "cancelled" else store.delete)(database, first)
    assert await memories(database, owner) == []
    again = [await send_chats(database, owner, said), await send_chats(database, owner, said)]
    await worker(database).until_idle()
    assert sum([(await status(database, one)).stats.memories_created for one in again]) == 3
    assert sorted(await memories(database, owner)) == ["I like tea.", "I live in Lyon.", "My dog is called Bolota."]
    assert await database.fetchval("SELECT count(*) FROM undrawn_turns") == 0
    found, _ = await page(database, owner, Filters(), q="Bolota", sort="created_at", page=1, page_size=10)
    await Memories(database, None).delete(owner, [found[0].id])
    await send_chats(database, owner, said)
    await worker(database).until_idle()
    assert sorted(await memories(database, owner)) == ["I like tea.", "I live in Lyon."]


async def test_an_edit_of_what_was_not_drawn_from_is_drawn_from_as_a_whole(database: Database, owner: Owner) -> None:
    said = conversation("a", "I live in Lyon. I like tea.")
    sent = await send_chats(database, owner, [said])
    job = await stored_only(database)
    edited = {"id": "a", "messages": [{"id": "a-0", "role": "human", "content": "I live in Lyon. I like coffee."}]}
    await bring(database, owner, edited, platform="custom")
    assert sorted(await memories(database, owner)) == ["I like coffee.", "I live in Lyon."]
    await job.let_go()
    await worker(database).until_idle()
    assert (await status(database, sent)).stats.memories_created == 0
    assert sorted(await memories(database, owner)) == ["I like coffee.", "I live in Lyon."]
    assert await database.fetchval("SELECT count(*) FROM undrawn_turns") == 0


async def test_an_archive_becomes_memories_of_what_is_stated_and_turns_of_what_was_written(
    database: Database, owner: Owner
) -> None:
    sent = await send(
        database,
        owner,
        "social",
        "linkedin",
        {"by": "archive", "memories": True},
        {"linkedin.zip": archive("linkedin")},
    )
    await worker(database).until_idle()
    body = await status(database, sent, errors=True, logs=True)
    assert (body.type, body.status, body.progress.percentage) == ("social", "completed", 100)
    assert body.stats.items_processed == body.stats.items_total > body.stats.errors_count > 0
    texts = await memories(database, owner)
    assert any(text.startswith("Position: Lead Engineer at Harbour Ltd") for text in texts)
    assert "Skills: Welding, Python" in texts
    found = await HistorySearch(database, Search(database, None)).search(owner, "launch day", limit=5)
    assert (found.results[0].platform, found.results[0].title) == ("linkedin", "LinkedIn: posts")
    steps = [event["status"]["progress"]["current_step"] for event in await told(database, sent)]
    assert list(dict.fromkeys(steps)) == list(STEPS["social"])
    before = len(texts), await chats.counted(database, owner)
    await send(database, owner, "social", "linkedin", {"by": "archive"}, {"linkedin.zip": archive("linkedin")})
    await worker(database).until_idle()
    assert (len(await memories(database, owner)), await chats.counted(database, owner)) == before


async def test_an_edited_message_is_drawn_from_anew_and_what_was_deleted_stays_away(
    database: Database, owner: Owner
) -> None:
    async def bring(text: str, at: str) -> StatusBody:
        said = conversation("home", text)
        said["messages"][0]["id"] = "m"
        sent = await send_chats(database, owner, [said | {"updated_at": at}])
        await worker(database).until_idle()
        return await status(database, sent)

    await bring("I live in Lyon. My cat is called Milo.", "2026-04-01T10:00:00Z")
    found, _ = await page(database, owner, Filters(), q="Milo", sort="created_at", page=1, page_size=10)
    await Memories(database, None).delete(owner, [found[0].id])
    body = await bring("I live in Porto. My cat is called Milo.", "2026-04-02T10:00:00Z")
    assert (body.stats.memories_created, await memories(database, owner)) == (1, ["I live in Porto."])
    body = await bring("I live in Lyon. My cat is called Milo.", "2026-04-01T10:00:00Z")
    assert (body.stats.memories_created, await memories(database, owner)) == (0, ["I live in Porto."])


async def test_watchers_hear_every_second_however_long_one_item_takes(database: Database, owner: Owner) -> None:
    sent = await send_chats(database, owner, [conversation("a", "I sing.")])
    works = worker(database)

    async def slow(job: Job, item: Item) -> None:
        before = len(await told(database, sent))
        with anyio.fail_after(30):
            while len(await told(database, sent)) < before + 3:
                await anyio.sleep(0.1)
        await works._kinds["chat"]._store.draw(job, item)  # type: ignore[attr-defined]

    works._kinds["chat"].steps = (*works._kinds["chat"].steps[:3], lambda job: job.each(slow))  # type: ignore[misc]
    await works.until_idle()
    drawn = [
        event for event in await told(database, sent) if event["status"]["progress"]["current_step"] == STEPS["chat"][3]
    ]
    times = [datetime.fromisoformat(event["status"]["last_activity"]) for event in drawn]
    assert len(times) >= 5
    assert times == sorted(times)
    assert drawn[-2]["status"]["stats"]["processing_time"] >= 1


def test_the_end_is_estimated_by_the_rate_that_was_observed() -> None:
    pace, noon = Pace(), datetime(2026, 4, 1, 12, tzinfo=UTC)
    assert pace.observe(noon, 50) is None
    assert pace.observe(noon + timedelta(seconds=5), 50) is None
    assert pace.observe(noon + timedelta(seconds=10), 60) == noon + timedelta(seconds=50)
    assert pace.observe(noon + timedelta(seconds=40), 60) == noon + timedelta(seconds=200)
