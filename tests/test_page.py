"""The chat page in a real browser: it streams, stops, resumes after a refresh, and never runs what a model writes.

Needs `live_server` (``base_url`` and ``key``) with the built-in demo model as `default`, and a Chromium.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from litestar import Litestar, Request, Response
from litestar.testing import TestClient
from playwright.async_api import Browser, BrowserContext, Page, expect

from app.errors import RepriseError
from app.web.page import DEMO_LINE, page_handlers, read_page_files
from tests.browser import LONG, needs_browser, open_browser, open_context, open_page

# The files themselves


def problem(_: Request[Any, Any, Any], error: RepriseError) -> Response[bytes]:
    return Response(b"", status_code=error.status, media_type="text/plain")


@pytest.fixture
def files() -> Iterator[TestClient[Litestar]]:
    app = Litestar(page_handlers(), exception_handlers={RepriseError: problem}, openapi_config=None)  # type: ignore[dict-item]
    with TestClient(app) as client:
        yield client


def addresses() -> list[str]:
    return ["/", "/client.js", *(f"/page/{name}" for name in read_page_files())]


@pytest.mark.parametrize("address", addresses())
def test_every_file_has_its_type_a_strict_policy_and_an_etag(files: TestClient[Litestar], address: str) -> None:
    answer = files.get(address)
    assert answer.status_code == 200
    kinds = {"js": "text/javascript; charset=utf-8", "css": "text/css; charset=utf-8", "svg": "image/svg+xml"}
    assert answer.headers["content-type"] == kinds.get(address.rpartition(".")[2], "text/html; charset=utf-8")
    assert answer.headers["cache-control"] == "no-cache"
    policy = answer.headers["content-security-policy"]
    assert "default-src 'self'" in policy and "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"

    head = files.head(address)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(answer.content))
    for tag in (answer.headers["etag"], f'W/{answer.headers["etag"]}, "other"', "*"):
        again = files.get(address, headers={"If-None-Match": tag})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == answer.headers["etag"]
    assert files.get(address, headers={"If-None-Match": '"other"'}).status_code == 200


@pytest.mark.parametrize("name", ["nothing.js", "page.py", "..%2fpage.py", "..%2f..%2fsettings.py", "__init__.py"])
def test_only_the_page_s_own_files_are_served(files: TestClient[Litestar], name: str) -> None:
    assert files.get(f"/page/{name}").status_code == 404


def test_the_page_holds_no_inline_script_or_style_and_nothing_foreign() -> None:
    for name, file in read_page_files().items():
        text = file.body.decode()
        assert "innerHTML" not in text and "insertAdjacentHTML" not in text and "document.write" not in text, name
        assert not re.findall(r"(?:src|href)=\"(?:https?:)?//", text), name
        if name.endswith(".html"):
            assert not re.findall(r"<style|\sstyle=|\son\w+=", text)
            assert all(match.strip() == "" for match in re.findall(r"<script[^>]*>([^<]*)<", text))


def test_the_demo_line_is_in_the_page_only_where_the_demo_answers() -> None:
    assert DEMO_LINE in read_page_files(demo=False)["index.html"].body
    assert DEMO_LINE not in read_page_files(demo=True)["index.html"].body


# The page in a browser


@pytest.fixture(scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with open_browser() as chromium:
        yield chromium


@pytest.fixture
async def context(browser: Browser) -> AsyncIterator[BrowserContext]:
    async with open_context(browser) as fresh:
        yield fresh


@pytest.fixture
async def page(context: BrowserContext, live_server: Any) -> AsyncIterator[Page]:
    async with open_page(context, live_server.base_url, live_server.key) as opened:
        yield opened


async def say(page: Page, text: str) -> None:
    await page.locator("#write").fill(text)
    await page.locator("#write").press("Enter")


def answer(page: Page, phase: str = "") -> Any:
    return page.locator(f'.answer[data-phase="{phase}"]' if phase else ".answer").last


async def wait_for_text(page: Page, length: int) -> str:
    """The answer's text once it has some characters."""
    await expect(page.locator(".answer .blocks").last).to_have_text(
        re.compile(f".{{{length},}}", re.DOTALL), timeout=LONG
    )
    return str(await page.locator(".answer .blocks").last.text_content())


async def newest(live_server: Any) -> dict[str, Any]:
    """The newest message as the API has it: its status object, with the answer's ``text``."""
    async with httpx.AsyncClient(base_url=live_server.base_url, headers={"X-API-Key": live_server.key}) as api:
        status = (await api.get("/v1/messages/async", params={"limit": 1})).json()["messages"][0]
        message = (await api.get(f"/v1/messages/async/{status['message_id']}")).json()
    blocks = [block["text"] for block in message["content"] if block["type"] == "text"]
    return {**status, "text": "\n\n".join(blocks)}


async def rendered(page: Page, markdown: str) -> str:
    """What the page shows for a text that comes in one piece."""
    script = """async (text) => {
        const { Markdown } = await import("/page/markdown.js");
        const whole = new Markdown();
        whole.append(text);
        whole.finish();
        return whole.element.textContent;
    }"""
    return str(await page.evaluate(script, markdown))


@needs_browser
async def test_an_answer_streams_in_and_ends_as_the_server_has_it(page: Page, live_server: Any) -> None:
    await say(page, "Show me **everything**")
    await expect(page.locator(".user").last).to_have_text("Show me **everything**")
    early = await wait_for_text(page, 20)
    await expect(answer(page, "writing")).to_be_visible()
    await expect(page.locator("#compose .stop")).to_be_visible()
    await expect(answer(page, "done")).to_be_visible(timeout=LONG)
    await expect(page.locator("#compose .send")).to_be_visible()
    whole = await page.locator(".answer .blocks").last.text_content()
    message = await newest(live_server)
    assert message["status"] == "completed"
    assert whole == await rendered(page, message["text"])
    assert whole != early
    await expect(page.locator("#threads li")).to_contain_text(["Show me **everything**"])
    assert await page.locator("#demo").is_visible()


@needs_browser
@pytest.mark.parametrize("by", ["key", "button"])
async def test_stop_stops_and_keeps_what_was_written(page: Page, live_server: Any, by: str) -> None:
    await say(page, "Go on for long")
    await wait_for_text(page, 30)
    if by == "key":
        await page.keyboard.press("Escape")
    else:
        await page.locator("#compose .stop").click()
    await expect(answer(page, "stopped").locator(".state")).to_contain_text("Stopped by you")
    message = await newest(live_server)
    assert message["status"] == "cancelled"
    kept = await page.locator(".answer .blocks").last.text_content()
    assert kept == await rendered(page, message["text"])
    await page.reload()
    await expect(answer(page, "stopped").locator(".state")).to_contain_text("What had been written is kept")
    assert await page.locator(".answer .blocks").last.text_content() == kept


@needs_browser
async def test_a_refresh_in_mid_answer_resumes_with_the_exact_text_once(page: Page, live_server: Any) -> None:
    await say(page, "First of all")
    await wait_for_text(page, 20)
    for length in (40, 80):
        await page.reload()
        await expect(page.locator(".user").last).to_have_text("First of all")
        await wait_for_text(page, length)
        await expect(answer(page, "writing")).to_be_visible()
    await expect(answer(page, "done")).to_be_visible(timeout=LONG)
    message = await newest(live_server)
    assert await page.locator(".answer .blocks").all_text_contents() == [await rendered(page, message["text"])]
    await page.reload()
    await expect(answer(page, "done")).to_be_visible()
    assert await page.locator(".answer .blocks").all_text_contents() == [await rendered(page, message["text"])]


@needs_browser
async def test_a_wrong_key_is_told_and_a_right_one_leaves_the_address_bar(page: Page, live_server: Any) -> None:
    assert page.url == f"{live_server.base_url}/"
    await page.locator("#sign-out").click()
    await expect(page.locator("#key")).to_be_focused()
    await page.locator("#key").fill("rp_live_wrong")
    await page.locator("#key").press("Enter")
    await expect(page.locator("#sign-in-problem")).to_contain_text("not known")
    await page.reload()
    await expect(page.locator("#key")).to_be_visible()
    await page.locator("#key").fill(live_server.key)
    await page.locator("#sign-in-go").click()
    await expect(page.locator("#write")).to_be_visible()
    await page.reload()
    await expect(page.locator("#write")).to_be_visible()


@needs_browser
async def test_seven_tabs_follow_one_answer(page: Page, context: BrowserContext, live_server: Any) -> None:
    """A browser opens six connections to a server: the tabs have to share."""
    await say(page, "For all of you")
    await wait_for_text(page, 10)
    tabs = [page]
    for _ in range(6):
        tabs.append(await context.new_page())
        await tabs[-1].goto(page.url)
    for tab in tabs:
        await expect(answer(tab, "done")).to_be_visible(timeout=LONG)
    message = await newest(live_server)
    texts = [await tab.locator(".answer .blocks").last.text_content() for tab in tabs]
    assert texts == [await rendered(page, message["text"])] * 7


@needs_browser
async def test_the_view_follows_the_answer_until_the_reader_scrolls_up(page: Page) -> None:
    await page.set_viewport_size({"width": 420, "height": 420})
    await say(page, "Say a lot")
    await wait_for_text(page, 400)
    scroller = page.locator("#scroll")
    distance = "(element) => element.scrollHeight - element.scrollTop - element.clientHeight"
    await expect(page.locator("#latest")).to_be_hidden()
    assert await scroller.evaluate(distance) < 50
    await scroller.hover()
    await page.mouse.wheel(0, -150)
    await expect(page.locator("#latest")).to_be_visible()
    top = await scroller.evaluate("(element) => element.scrollTop")
    await expect(answer(page, "done")).to_be_visible(timeout=LONG)
    assert await scroller.evaluate("(element) => element.scrollTop") == top
    await page.locator("#latest").click()
    await expect(page.locator("#latest")).to_be_hidden()
    assert await scroller.evaluate(distance) < 2
    assert await page.evaluate("document.documentElement.scrollWidth") == 420


@needs_browser
async def test_the_list_follows_what_another_client_does(page: Page, live_server: Any) -> None:
    metadata = {"thread_id": "elsewhere", "title": "Asked elsewhere"}
    body = {"messages": [{"role": "user", "content": "hi"}], "metadata": metadata}
    async with httpx.AsyncClient(base_url=live_server.base_url, headers={"X-API-Key": live_server.key}) as api:
        assert (await api.post("/v1/messages/async", json=body)).status_code == 200
    item = page.locator("#threads li", has_text="Asked elsewhere")
    await expect(item).to_be_visible()
    await item.locator("button").click()
    await expect(page.locator(".user")).to_contain_text("Only the beginning is known in this browser")
    await expect(answer(page, "done")).to_be_visible(timeout=LONG)


@needs_browser
async def test_what_a_model_writes_is_only_ever_text(page: Page) -> None:
    hostile = '<img src=x onerror="document.title=1"> [a](javascript:alert(1)) [b](https://example.org/x) <b>c</b>'
    await page.evaluate(
        """async (text) => {
            const { Markdown } = await import("/page/markdown.js");
            const view = new Markdown();
            for (const letter of text) view.append(letter);
            view.finish();
            document.getElementById("turns").append(view.element);
        }""",
        hostile,
    )
    shown = page.locator("#turns .markdown")
    assert await shown.text_content() == hostile.replace("[b](https://example.org/x)", "b")
    assert await shown.locator("img, b, script").count() == 0
    links = shown.locator("a")
    assert await links.count() == 1
    assert await links.get_attribute("rel") == "noopener noreferrer"


@needs_browser
async def test_markdown_in_pieces_is_the_markdown_of_the_whole(page: Page) -> None:
    text = (
        "# Head\n\nA *b* **c** `d*e*` ~~f~~ https://example.org/a.\nnext\n\n1. one\n\n2. two\n   - deep\n     more\n\n"
        "```py\nx = 1\n\n```\n\n> quoted\n> on\n\n| a | b |\n|---|---|\n| 1 | `2` |\n\n---\n\n- [x](http://e.org)\n- y"
        "\n\n**open and ~~~\n\n```\nnever closed\n``"
    )
    shapes = await page.evaluate(
        """async (text) => {
            const { Markdown } = await import("/page/markdown.js");
            return [1, 2, 3, 7, text.length].map((size) => {
                const view = new Markdown();
                for (let at = 0; at < text.length; at += size) view.append(text.slice(at, at + size));
                view.finish();
                return view.element.outerHTML;
            });
        }""",
        text,
    )
    assert len(set(shapes)) == 1
    for part in (
        "<h3>Head</h3>",
        "<em>b</em>",
        "<strong>c</strong>",
        "<code>d*e*</code>",
        "<del>f</del>",
        "<blockquote>",
    ):
        assert part in shapes[0]
    assert shapes[0].count("<ol>") == 1 and shapes[0].count("<table>") == 1 and shapes[0].count("<pre") == 2


@needs_browser
async def test_a_conversation_is_deleted_after_asking(page: Page, live_server: Any) -> None:
    await say(page, "To be deleted soon")
    await wait_for_text(page, 10)
    message = await newest(live_server)
    await page.locator("#delete").click()
    await page.locator("#confirm-no").click()
    await expect(page.locator("#threads li", has_text="To be deleted soon")).to_be_visible()
    await page.locator("#delete").click()
    await page.locator("#confirm-yes").click()
    await expect(page.locator("#threads li", has_text="To be deleted soon")).to_have_count(0)
    await expect(page.locator("#welcome")).to_be_visible()
    async with httpx.AsyncClient(base_url=live_server.base_url, headers={"X-API-Key": live_server.key}) as api:
        gone = await api.get(f"/v1/messages/async/{message['message_id']}/status")
    assert gone.status_code == 404


@needs_browser
@pytest.mark.parametrize("several", [False, True])
async def test_the_client_resumes_exactly_when_its_connection_is_cut(page: Page, several: bool) -> None:
    """Every connection is cut after some hundred bytes, in the middle of whatever stands there."""
    events = await page.evaluate(
        """async (several) => {
            const { Reprise } = await import("/client.js");
            const reprise = new Reprise({ key: localStorage.getItem("reprise.key") });
            const { messageId } = await reprise.send({ messages: [{ role: "user", content: "cut me" }] });
            const whole = globalThis.fetch;
            let cuts = 0;
            globalThis.fetch = async (...args) => {
                const response = await whole(...args);
                if (!String(args[0]).includes("/stream") || !response.body || cuts >= 4) return response;
                let left = 301 + 1009 * cuts++;
                const cut = new TransformStream({
                    transform(chunk, out) {
                        out.enqueue(chunk.subarray(0, left));
                        left -= chunk.length;
                        if (left <= 0) out.error(new TypeError("cut"));
                    },
                });
                return new Response(response.body.pipeThrough(cut), response);
            };
            const events = [];
            await reprise.observe(several ? [messageId] : messageId, { onEvent: (event) => events.push(event) });
            globalThis.fetch = whole;
            return [JSON.stringify(events), cuts, (await reprise.message(messageId)).content[0].text];
        }""",
        several,
    )
    seen, cuts, text = json.loads(events[0]), events[1], events[2]
    assert cuts == 4
    assert [event["seq"] for event in seen] == list(range(1, len(seen) + 1))
    assert "".join(event["delta"]["text"] for event in seen if event["type"] == "content_block_delta") == text
    assert seen[-1]["type"] == "message_stop"


@needs_browser
async def test_the_documentation_sends_what_is_filled_in_and_shows_the_answer(
    context: BrowserContext, live_server: Any
) -> None:
    page = await context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    await page.goto(f"{live_server.base_url}/docs#key={live_server.key}")
    await expect(page.locator("#api-key")).to_have_value(live_server.key)
    assert "key=" not in page.url

    begin = page.locator("#initiate")
    await begin.locator("summary").click()
    await begin.get_by_role("button", name="Send").click()
    await expect(begin.locator(".said")).to_contain_text("200")
    await expect(begin.locator(".answer")).to_contain_text("stream_url")

    watch = page.locator("#observeMessage")
    await watch.locator("summary").click()
    await watch.get_by_role("button", name="Send").click()  # the id is that of the message just begun
    await expect(watch.locator(".answer")).to_contain_text("event: message_stop")
    await expect(watch.locator(".said")).to_contain_text("ended after")

    feed = page.locator("#followFeed")
    await feed.locator("summary").click()
    await feed.get_by_role("button", name="Send").click()
    await expect(feed.locator(".said")).to_contain_text("first byte")
    await feed.get_by_role("button", name="Stop").click()
    await expect(feed.locator(".said")).to_contain_text("stopped after")
    assert errors == []


@needs_browser
async def test_the_documentation_sends_files(context: BrowserContext, live_server: Any) -> None:
    page = await context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    await page.goto(f"{live_server.base_url}/docs#key={live_server.key}")
    files = page.locator("#bringFiles")
    await files.locator("summary").click()
    await files.get_by_label("chunk_size").fill("300")
    chosen = [{"name": f"{name}.md", "mimeType": "text/markdown", "buffer": b"A note."} for name in ("a", "b")]
    await files.locator("input[type=file]").set_input_files(chosen)
    await files.get_by_role("button", name="Send").click()
    await expect(files.locator(".said")).to_contain_text("202")

    shown = page.locator("#readIntegration")
    await shown.locator("summary").click()
    await shown.get_by_role("button", name="Send").click()  # the id is that of the integration just begun
    await expect(shown.locator(".answer")).to_contain_text('"chunk_size": 300')
    assert errors == []
