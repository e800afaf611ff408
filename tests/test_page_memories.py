"""What is remembered, on the page in a real browser: listed, found, corrected, forgotten, brought back, downloaded."""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.async_api import Browser, Locator, Page, expect

from tests.browser import needs_browser, open_browser, open_context, open_page

PATH = "/v1/memories"


@pytest.fixture(scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with open_browser() as chromium:
        yield chromium


@pytest.fixture
async def api(live_server: Any) -> AsyncIterator[httpx.AsyncClient]:
    """Speaks for a user of this test alone."""
    scopes = ["messages:write", "messages:read", "memories:read", "memories:write"]
    body = {"name": "page", "scopes": scopes, "user_id": f"u{secrets.token_hex(4)}"}
    async with httpx.AsyncClient(base_url=live_server.base_url, headers={"X-API-Key": live_server.key}) as root:
        key = (await root.post("/v1/api-keys", json=body)).json()["data"]["key"]
    async with httpx.AsyncClient(base_url=live_server.base_url, headers={"X-API-Key": key}) as client:
        yield client


@pytest.fixture
async def page(browser: Browser, live_server: Any, api: httpx.AsyncClient) -> AsyncIterator[Page]:
    """The page of that user."""
    async with (
        open_context(browser, accept_downloads=True) as context,
        open_page(context, live_server.base_url, api.headers["x-api-key"]) as opened,
    ):
        yield opened


async def remember(api: httpx.AsyncClient, *texts: str) -> None:
    for text in texts:
        assert (await api.post(PATH, json={"text": text, "infer": False})).status_code == 201


async def stored(api: httpx.AsyncClient) -> list[str]:
    return [one["memory"] for one in (await api.get(PATH, params={"page_size": 100})).json()["data"]]


async def open_sheet(page: Page) -> Locator:
    await page.locator("#open-memories").click()
    sheet = page.locator("#memories")
    await expect(sheet.locator(".said-of-list")).not_to_be_empty()
    return sheet


@needs_browser
async def test_what_is_remembered_is_listed_page_by_page(page: Page, api: httpx.AsyncClient) -> None:
    sheet = await open_sheet(page)
    await expect(sheet.locator(".said-of-list")).to_contain_text("Nothing is remembered yet")
    await page.keyboard.press("Escape")
    await expect(sheet).to_be_hidden()
    messages = [{"role": "user", "content": f"Fact number {n} is odd & <b>bold</b>."} for n in range(30)]
    await api.post(PATH, json={"messages": messages, "infer": False})
    await open_sheet(page)
    await expect(sheet.locator(".said-of-list")).to_contain_text("30 memories")
    await expect(sheet.locator("li")).to_have_count(25)
    await expect(sheet.locator("li .text").first).to_have_text("Fact number 29 is odd & <b>bold</b>.")
    await sheet.locator(".more").click()
    await expect(sheet.locator("li")).to_have_count(30)
    await expect(sheet.locator(".more")).to_be_hidden()
    assert await sheet.locator("li b").count() == 0


@needs_browser
async def test_no_memory_is_skipped_where_some_were_forgotten_and_others_came(
    page: Page, api: httpx.AsyncClient
) -> None:
    messages = [{"role": "user", "content": f"Fact number {n}."} for n in range(60)]
    await api.post(PATH, json={"messages": messages, "infer": False})
    sheet = await open_sheet(page)
    for n in (59, 50, 40):
        await sheet.locator("li", has_text=f"Fact number {n}.").get_by_role("button", name="Forget").click()
        await expect(sheet.locator("li.gone")).to_have_count({59: 1, 50: 2, 40: 3}[n])
    await expect(sheet.locator(".said-of-list")).to_contain_text("57 memories")
    await remember(api, "I own a red bike.")
    for shown in (25, 50, 58):
        await sheet.locator(".more").click()
        await expect(sheet.locator("li:not(.gone)")).to_have_count(shown)
    await expect(sheet.locator(".more")).to_be_hidden()
    texts = await sheet.locator("li:not(.gone) .text").all_inner_texts()
    wanted = {f"Fact number {n}." for n in range(60)} - {f"Fact number {n}." for n in (59, 50, 40)}
    assert wanted <= set(texts) and len(texts) == len(set(texts))
    await sheet.get_by_role("button", name="Undo").first.click()
    await expect(sheet.locator(".said-of-list")).to_contain_text("59 memories")


@needs_browser
async def test_searching_shows_what_fits_and_clearing_shows_everything(page: Page, api: httpx.AsyncClient) -> None:
    sheet = await open_sheet(page)
    await sheet.locator("input[type=search]").fill("street trees")
    await expect(sheet.locator(".said-of-list")).to_contain_text("Nothing that is remembered matches")
    await remember(api, "Our street has tall trees.", "My cat is called Tom.")
    await sheet.locator("input[type=search]").fill("trees in the street")
    await expect(sheet.locator("li .text").first).to_have_text("Our street has tall trees.")
    await expect(sheet.locator(".said-of-list")).to_contain_text("best matches")
    await sheet.locator("input[type=search]").fill("")
    await expect(sheet.locator("li")).to_have_count(2)


@needs_browser
async def test_a_memory_is_corrected_in_place(page: Page, api: httpx.AsyncClient) -> None:
    await remember(api, "My cat is called Tom.")
    sheet = await open_sheet(page)
    correct = sheet.get_by_role("button", name="Correct")
    await correct.click()
    await expect(sheet.locator("textarea")).to_be_focused()
    await page.keyboard.press("Escape")  # leaves the correction, not the sheet
    await expect(correct).to_be_focused()
    await correct.click()
    await sheet.locator("textarea").fill("My cat is called Felix.")
    await sheet.get_by_role("button", name="Save").click()
    await expect(sheet.locator("li .text")).to_have_text(["My cat is called Felix."])
    assert await stored(api) == ["My cat is called Felix."]


@needs_browser
async def test_what_is_forgotten_can_be_taken_back(page: Page, api: httpx.AsyncClient) -> None:
    await remember(api, "My cat is called Tom.", "I own a red bike.")
    sheet = await open_sheet(page)
    await sheet.locator("li", has_text="cat").get_by_role("button", name="Forget").click()
    await expect(sheet.locator("li.gone")).to_contain_text("Forgotten")
    assert await stored(api) == ["I own a red bike."]
    await expect(sheet.get_by_role("button", name="Undo")).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(sheet.locator("li .text")).to_have_text(["I own a red bike.", "My cat is called Tom."])
    assert sorted(await stored(api)) == ["I own a red bike.", "My cat is called Tom."]


@needs_browser
async def test_everything_is_downloaded(page: Page, api: httpx.AsyncClient) -> None:
    await remember(api, "My cat is called Tom.", "I own a red bike.")
    sheet = await open_sheet(page)
    async with page.expect_download() as started:
        await sheet.get_by_role("button", name="Download everything").click()
    download = await started.value
    assert download.suggested_filename == "memories.ndjson"
    lines = Path(await download.path()).read_text().splitlines()
    assert [json.loads(line)["memory"] for line in lines] == ["My cat is called Tom.", "I own a red bike."]


@needs_browser
async def test_a_refusal_is_told_in_words(page: Page, api: httpx.AsyncClient, live_server: Any) -> None:
    await remember(api, "My cat is called Tom.")
    sheet = await open_sheet(page)
    problem = {"error": {"code": "UNAVAILABLE", "message": "PostgreSQL does not answer", "details": {}}}
    await page.route("**/v1/memories**", lambda route: route.fulfill(status=503, json=problem))
    await sheet.get_by_role("button", name="Forget").click()
    await expect(sheet.locator(".field-problem")).to_contain_text("It was not forgotten: PostgreSQL does not answer")
    await sheet.locator("input[type=search]").fill("cat")
    await expect(sheet.locator(".said-of-list")).to_contain_text("cannot be shown now")
    assert await sheet.locator("li").count() == 0


@needs_browser
async def test_whether_answers_use_it_is_sent_with_each_message(page: Page) -> None:
    sent: list[Any] = []
    page.on("request", lambda request: request.method == "POST" and sent.append(request.post_data_json))
    for expected in (True, False):
        sheet = await open_sheet(page)
        await sheet.locator(".recalling").set_checked(expected)
        await page.keyboard.press("Escape")
        await page.locator("#new").click()
        async with page.expect_response("**/v1/messages/async"):
            await page.locator("#write").fill("Where do I live?")
            await page.locator("#write").press("Enter")
        await expect(page.locator("#compose .send")).to_be_visible()
    assert [body["memory"]["recall"] for body in sent if body and "messages" in body] == [True, False]


@needs_browser
async def test_a_conversation_can_be_deleted_with_what_was_remembered_from_it(page: Page) -> None:
    for also in (False, True):
        await page.locator("#new").click()
        await page.locator("#write").fill("My cat is called Tom.")
        await page.locator("#write").press("Enter")
        await expect(page.locator(".answer .blocks").last).not_to_be_empty()
        await page.locator("#delete").click()
        await page.locator("#confirm-also").set_checked(also)
        async with page.expect_request(lambda request: request.method == "DELETE") as sent:
            await page.locator("#confirm-yes").click()
        assert ("memories=true" in (await sent.value).url) is also
        await expect(page.locator("#welcome")).to_be_visible()


@needs_browser
async def test_an_answer_shows_what_it_recalled(page: Page) -> None:
    await page.evaluate(
        """async () => {
            const { Answer } = await import("/page/answer.js");
            const answer = new Answer({});
            document.querySelector("header").after(answer.element);
            answer.take([
                { type: "message_start", seq: 1, message: { model: "m" } },
                { type: "memory_recall", seq: 2, memories: [{ id: "mem_1", memory: "I live in <b>Porto</b>." }] },
                { type: "content_block_start", seq: 3, index: 0, content_block: { type: "text", text: "" } },
            ]);
            globalThis.shown = answer;
        }"""
    )
    recalled = page.locator(".recalled")
    await expect(recalled.locator("summary")).to_have_text("Recalled 1 memory")
    await recalled.locator("summary").click()
    await expect(recalled.locator("li")).to_have_text(["I live in <b>Porto</b>."])
    await page.evaluate('shown.take([{ type: "message_restart", seq: 1000001, attempt: 2 }])')
    await expect(recalled).to_be_hidden()
