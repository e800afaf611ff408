"""Bringing things on the page in a real browser: dropped, told apart, followed, cancelled, tried again, removed."""

from __future__ import annotations

import base64
import json
import os
import re
import secrets
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio.from_thread
import httpx
import pytest
from anyio.from_thread import BlockingPortal
from playwright.async_api import Browser, BrowserContext, Locator, Page, expect

from tests import export_people
from tests.browser import LONG, needs_browser, open_browser, open_context, open_page
from tests.documents_rig import pdf
from tests.rig import until
from tests.system import KEY, System, system

PATH = "/v1/integrations"
MOST_BYTES = 300_000
CARDS = "#bring .list > li"
NOTES = b"# Me\n\nI live in Porto and work as a gardener.\n"
BROKEN = b"%PDF-1.4 and nothing more"

FILES = """(files) => {
    const transfer = new DataTransfer();
    for (const [name, data] of files) {
        transfer.items.add(new File([Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0))], name));
    }
    return transfer;
}"""


@pytest.fixture(scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with open_browser() as chromium:
        yield chromium


@pytest.fixture(scope="module")
def portal() -> Iterator[BlockingPortal]:
    with anyio.from_thread.start_blocking_portal() as opened:
        yield opened


@pytest.fixture(scope="module")
def deployment(portal: BlockingPortal) -> Iterator[System]:
    """One whose background process works on integrations, and that takes little at once."""
    place = Path(tempfile.mkdtemp(prefix="rp-", dir="/tmp"))
    made = system(place, demo=True, workers=0, background=1, max_ingest_bytes=MOST_BYTES)
    try:
        with portal.wrap_async_context_manager(made) as running:
            yield running
    finally:
        shutil.rmtree(place, ignore_errors=True)


@pytest.fixture
async def api(deployment: System) -> AsyncIterator[httpx.AsyncClient]:
    """Speaks for a user of this test alone."""
    scopes = ["messages:read", "memories:read", "memories:write", "integrations:read", "integrations:write"]
    body = {"name": "page", "scopes": scopes, "user_id": f"u{secrets.token_hex(4)}"}
    async with deployment.client() as root:
        data = (await root.post("/v1/api-keys", json=body)).json()["data"]
    headers = {"X-API-Key": data["key"], "X-Test-Key-Id": data["id"]}
    async with httpx.AsyncClient(base_url=deployment.url, headers=headers) as client:
        yield client


@pytest.fixture
async def context(browser: Browser) -> AsyncIterator[BrowserContext]:
    async with open_context(browser) as fresh:
        yield fresh


@pytest.fixture
async def page(context: BrowserContext, deployment: System, api: httpx.AsyncClient) -> AsyncIterator[Page]:
    """The page of that user, with the panel open."""
    async with open_page(context, deployment.url, api.headers["x-api-key"]) as opened:
        await open_panel(opened)
        yield opened


async def open_panel(page: Page) -> None:
    async with page.expect_response(re.compile(r"/v1/integrations\?")):
        await page.locator("#open-bring").click()


async def drop(page: Page, files: dict[str, bytes], onto: str = "#bring .drop") -> None:
    held = [[name, base64.b64encode(data).decode()] for name, data in files.items()]
    await page.dispatch_event(onto, "drop", {"dataTransfer": await page.evaluate_handle(FILES, held)})


def card(page: Page, name: str, state: str = "") -> Locator:
    return page.locator(CARDS + (f'[data-state="{state}"]' if state else ""), has_text=name)


async def listed(api: httpx.AsyncClient) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await api.get(PATH)).json()["integrations"]
    return found


def conversations(count: int) -> bytes:
    """An export of Claude."""
    at = "2026-04-01T10:00:00Z"
    return json.dumps(
        [
            {"uuid": f"c{n}", "name": f"Chat {n}", "created_at": at, "updated_at": at}
            | {"chat_messages": [{"uuid": f"m{n}", "sender": "human", "text": f"I like plant {n}.", "created_at": at}]}
            for n in range(count)
        ]
    ).encode()


@contextmanager
def paused(deployment: System) -> Iterator[None]:
    """Nothing is worked on in the block."""
    worker = deployment.workers[0].pid
    os.kill(worker, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(worker, signal.SIGCONT)


@needs_browser
async def test_a_dropped_file_is_followed_to_its_end_and_what_was_learned_leads_to_the_memories(
    page: Page, api: httpx.AsyncClient
) -> None:
    await expect(page.locator("#bring .said-of-list")).to_contain_text("Nothing was brought yet")
    await drop(page, {"notes.md": NOTES})
    done = card(page, "notes.md", "completed")
    await expect(done).to_contain_text("1 of 1 part · 1 memory", timeout=LONG)
    await expect(page.locator("#bring .told")).to_have_text("notes.md: completed.")
    memory = done.locator(".memory")
    await expect(memory).to_contain_text("I live in Porto and work as a gardener.")
    await memory.click()
    await expect(page.locator("#bring")).to_be_hidden()
    await expect(page.locator("#memories li.pointed .text")).to_contain_text("I live in Porto")
    [one] = await listed(api)
    assert (one["type"], one["platform"], one["name"], one["status"]) == ("file", "md", "notes.md", "completed")


@needs_browser
async def test_a_file_dropped_beside_the_panel_is_brought_and_does_not_leave_the_page(page: Page) -> None:
    await page.keyboard.press("Escape")
    await expect(page.locator("#bring")).to_be_hidden()
    await drop(page, {"notes.md": NOTES}, onto="#turns")
    await expect(card(page, "notes.md", "completed")).to_be_visible(timeout=LONG)


@needs_browser
async def test_files_that_are_chosen_are_brought_and_an_export_says_whose_it_is(
    page: Page, api: httpx.AsyncClient
) -> None:
    chosen = [
        {"name": "notes.md", "mimeType": "text/markdown", "buffer": NOTES},
        {"name": "plans.pdf", "mimeType": "application/pdf", "buffer": pdf("We leave on Friday.")},
        {"name": "WhatsApp Chat with Ben.txt", "mimeType": "text/plain", "buffer": export_people.whatsapp()},
    ]
    await page.locator("#bring .me").fill("Ada")
    await page.locator("#bring input[type=file]").set_input_files(chosen)  # type: ignore[arg-type]
    await expect(card(page, "notes.md and 1 more", "completed")).to_be_visible(timeout=LONG)
    await expect(card(page, "WhatsApp Chat with Ben.txt")).to_contain_text("WhatsApp ·", timeout=LONG)
    found = {one["name"]: one for one in await listed(api)}
    assert (found["notes.md and 1 more"]["type"], found["WhatsApp Chat with Ben.txt"]["type"]) == ("file", "chat")
    chat = (await api.get(f"{PATH}/{found['WhatsApp Chat with Ben.txt']['integration_id']}")).json()
    assert chat["request"]["me"] == "Ada"
    assert chat["request"]["zone"]


@needs_browser
async def test_what_cannot_be_brought_is_told_beside_it_and_the_rest_is_brought(page: Page, deployment: System) -> None:
    large = b"word " * (MOST_BYTES // 5 + 1)
    await drop(page, {"me.png": b"\x89PNG\r\n", "nothing.txt": b"", "large.json": large, "notes.md": NOTES})
    await expect(card(page, "me.png", "refused")).to_contain_text("This kind of file is not read")
    await expect(card(page, "nothing.txt", "refused")).to_contain_text("The file is empty")
    await expect(card(page, "large.json", "refused")).to_contain_text("300 kB is too large: this server takes 300 kB")
    await expect(card(page, "notes.md", "completed")).to_be_visible(timeout=LONG)
    await card(page, "me.png").get_by_role("button", name="Dismiss").click()
    await expect(card(page, "me.png")).to_have_count(0)


@needs_browser
async def test_a_file_that_fails_is_told_the_others_are_brought_and_it_can_be_tried_again(
    page: Page, deployment: System
) -> None:
    await drop(page, {"notes.md": NOTES, "broken.pdf": BROKEN})
    both = card(page, "notes.md and 1 more")
    await expect(both).to_contain_text("1 memory", timeout=LONG)
    await both.locator("summary", has_text="1 problem").click()
    problem = both.locator(".errors li")
    await expect(problem).to_have_text("broken.pdfThe PDF is damaged and cannot be read.")
    with paused(deployment):
        await both.get_by_role("button", name="Try again").click()
        await expect(both).to_have_attribute("data-state", "pending")
        await expect(problem).to_have_count(0)
    await expect(both).to_have_attribute("data-state", "completed", timeout=LONG)
    await expect(problem).to_have_text("broken.pdfThe PDF is damaged and cannot be read.")


@needs_browser
async def test_what_fails_is_told_while_the_others_are_brought(page: Page) -> None:
    long = "".join(f"Paragraph {n} is about plants and how they grow in the shade.\n\n" for n in range(3_500))
    await drop(page, {"broken.pdf": BROKEN, "long.md": long.encode()})
    error = "document.querySelector('#bring [data-state=processing] .errors li')?.textContent"
    assert await until(lambda: page.evaluate(error)) == "broken.pdfThe PDF is damaged and cannot be read."
    await card(page, "broken.pdf and 1 more").get_by_role("button", name="Cancel").click()
    await expect(card(page, "broken.pdf and 1 more", "cancelled")).to_contain_text("1 problem")


@needs_browser
async def test_an_export_nobody_knows_fails_with_the_reason(page: Page) -> None:
    await drop(page, {"strange.json": b'{"what": "is this"}'})
    await expect(card(page, "strange.json", "failed").locator(".step")).to_contain_text(
        "name the platform", timeout=LONG
    )


@needs_browser
async def test_what_is_under_way_goes_on_over_a_reload_and_tells_how_far_it_is(page: Page, deployment: System) -> None:
    await drop(page, {"conversations.json": conversations(120)})
    going = card(page, "conversations.json", "processing")
    bar = "document.querySelector('#bring [data-state=processing] .bar')?.value"
    await until(lambda: page.evaluate(f"{bar} >= 16"))
    with paused(deployment):
        await page.reload()
        await open_panel(page)
        await expect(going).to_contain_text(re.compile(r"\d+ % · [\d,]+ of 120 conversations"))
        assert 16 <= await going.locator("progress").evaluate("(bar) => bar.value") < 100
    done = card(page, "conversations.json", "completed")
    await expect(done).to_contain_text("120 of 120 conversations · 120 memories", timeout=LONG)
    await expect(done.locator("summary", has_text="the newest 20 here")).to_be_visible()
    await expect(done.locator(".memory")).to_have_count(20)


@needs_browser
async def test_following_goes_on_when_the_server_was_away(
    page: Page, deployment: System, portal: BlockingPortal
) -> None:
    web = deployment.webs[0]
    with paused(deployment):
        await drop(page, {"conversations.json": conversations(3)})
        await expect(card(page, "conversations.json", "pending").locator(".step")).to_have_text("Waits for its turn")
        web.kill()
        portal.call(web.wait)
        cut = card(page, "conversations.json").locator(".step", has_text="The server cannot be reached now")
        await expect(cut).to_be_visible()
        deployment.webs[0] = portal.call(partial(deployment.spawn, "serve", port=urlsplit(deployment.url).port))
        await expect(cut).to_have_count(0, timeout=LONG)
    await expect(card(page, "conversations.json", "completed")).to_be_visible(timeout=LONG)


@needs_browser
async def test_a_time_zone_that_the_server_does_not_know_stops_no_chat(page: Page, api: httpx.AsyncClient) -> None:
    await page.add_init_script('Intl.DateTimeFormat.prototype.resolvedOptions = () => ({ timeZone: "Mars/Olympus" })')
    await page.reload()
    await open_panel(page)
    await drop(page, {"conversations.json": conversations(1)})
    await expect(card(page, "conversations.json", "completed")).to_be_visible(timeout=LONG)
    [one] = await listed(api)
    assert (await api.get(f"{PATH}/{one['integration_id']}")).json()["request"]["zone"] is None


@needs_browser
async def test_cancelling_ends_it_and_removing_forgets_what_it_brought_where_that_is_wanted(
    page: Page, deployment: System, api: httpx.AsyncClient
) -> None:
    await drop(page, {"notes.md": NOTES})
    await expect(card(page, "notes.md", "completed")).to_be_visible(timeout=LONG)
    with paused(deployment):
        await drop(page, {"conversations.json": conversations(5)})
        await card(page, "conversations.json", "pending").get_by_role("button", name="Cancel").click()
        await expect(card(page, "conversations.json", "cancelled")).to_contain_text("What had been brought is kept")
    for name, also in (("conversations.json", False), ("notes.md", True)):
        await card(page, name).get_by_role("button", name="Remove").click()
        await page.locator("#confirm-also").set_checked(also)
        await page.locator("#confirm-yes").click()
        await expect(card(page, name)).to_have_count(0)
    assert await listed(api) == []
    assert (await api.get("/v1/memories")).json()["data"] == []


@needs_browser
async def test_an_upload_that_is_cut_off_is_told_and_sent_again_makes_one_integration(
    page: Page, context: BrowserContext, api: httpx.AsyncClient
) -> None:
    await context.set_offline(True)
    await drop(page, {"notes.md": NOTES})
    await expect(card(page, "notes.md", "refused")).to_contain_text("The server cannot be reached")
    await context.set_offline(False)
    await card(page, "notes.md").get_by_role("button", name="Send again").click()
    await expect(card(page, "notes.md", "completed")).to_be_visible(timeout=LONG)
    assert len(await listed(api)) == 1


@needs_browser
async def test_an_upload_shows_its_progress_and_is_given_up_when_it_is_cancelled(
    page: Page, context: BrowserContext, api: httpx.AsyncClient
) -> None:
    slow = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 40_000}
    line = await context.new_cdp_session(page)
    await line.send("Network.emulateNetworkConditions", slow)
    await drop(page, {"large.json": b" " * 250_000 + conversations(1), "other.json": conversations(1)})
    await expect(card(page, "other.json", "uploading")).to_contain_text("Waits for what is sent before it")
    await expect(card(page, "large.json", "uploading")).to_contain_text(re.compile(r"[1-9]\d? % of 250 kB"))
    await card(page, "large.json").get_by_role("button", name="Cancel").click()
    await expect(card(page, "large.json")).to_have_count(0)
    await expect(card(page, "other.json", "completed")).to_be_visible(timeout=LONG)
    assert [one["name"] for one in await listed(api)] == ["other.json"]


@needs_browser
async def test_a_key_that_was_revoked_is_told_beside_the_file(
    page: Page, deployment: System, api: httpx.AsyncClient
) -> None:
    async with deployment.client(KEY) as root:
        assert (await root.delete(f"/v1/api-keys/{api.headers['x-test-key-id']}")).is_success
    await drop(page, {"notes.md": NOTES})
    await expect(card(page, "notes.md", "refused")).to_contain_text("Your key is no longer accepted")


@needs_browser
async def test_two_streams_serve_all_tabs_and_the_others_are_asked_for(
    page: Page, context: BrowserContext, deployment: System
) -> None:
    """A browser opens six connections to a server."""
    streams: list[str] = []
    context.on("request", lambda request: "/events?after=" in request.url and streams.append(request.url))
    await context.clock.install()
    await page.reload()
    await open_panel(page)
    with paused(deployment):
        await drop(page, {f"{n}.json": conversations(n) for n in range(1, 5)})
        await expect(page.locator(f'{CARDS}[data-state="pending"]')).to_have_count(4)
        second = await context.new_page()
        await second.goto(page.url)
        await open_panel(second)
        await expect(second.locator(f'{CARDS}[data-state="pending"]')).to_have_count(4)
        asked: dict[Page, set[str]] = {page: set(), second: set()}
        for tab, urls in asked.items():
            tab.on("request", lambda request, urls=urls: "/status?" in request.url and urls.add(request.url))
        await context.clock.fast_forward(5_000)
        await until(lambda: (len(asked[page]), len(asked[second])) == (2, 4))
        assert len(streams) == len(set(streams)) == 2
    for tab in (page, second):
        await expect(tab.locator(f'{CARDS}[data-state="completed"]')).to_have_count(4, timeout=LONG)
        await context.clock.fast_forward(5_000)


@needs_browser
async def test_the_panel_fits_a_narrow_screen(page: Page) -> None:
    await page.set_viewport_size({"width": 380, "height": 700})
    name = "a" * 120 + ".json"
    await drop(page, {name: b'{"what": "is this"}', "x" * 90: b"\x00"})
    await expect(card(page, name, "failed")).to_be_visible(timeout=LONG)
    widths = await page.evaluate(
        "[document.documentElement.scrollWidth, document.querySelector('#bring .scroll').scrollWidth]"
    )
    assert widths == [380, 380]
