"""What the page tells a file to be, in a real browser, with samples of every export."""

from __future__ import annotations

import base64
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Page

from tests import export_people, export_samples
from tests.browser import needs_browser, open_browser, open_context, open_page
from tests.documents_rig import docx, pdf, zipped
from tests.social_rig import LINKEDIN, REDDIT


@pytest.fixture(scope="module")
async def page(live_server: Any) -> AsyncIterator[Page]:
    async with (
        open_browser() as chromium,
        open_context(chromium) as context,
        open_page(context, live_server.base_url, live_server.key) as opened,
    ):
        yield opened


def kinds() -> dict[str, tuple[str, bytes, dict[str, Any]]]:
    """What is dropped, and where it goes."""
    chat, files = {"route": "chat", "platform": None}, {"route": "files", "platform": None}
    archives = {name: {"route": "social", "platform": name} for name in ("linkedin", "twitter", "reddit")}
    posts = {"data/tweets.js": "x", "data/account.js": "y", "data/profile.js": "z"}
    return {
        "pdf": ("a.pdf", pdf("Hi"), files),
        "pdf without a name for it": ("a", pdf("Hi"), files),
        "docx": ("a.DOCX", docx(), files),
        "docx called zip": ("a.zip", docx(), files),
        "text": ("a.txt", b"On 12/05/2024 we met.\n", files),
        "html": ("a.htm", b"<p>Hi", files),
        "whatsapp by name": ("WhatsApp Chat with Ben.txt", b"Hello", chat),
        "whatsapp on an iPhone": ("_chat.txt", b"Hello", chat),
        "whatsapp by its lines": ("ben.txt", export_people.whatsapp(), chat),
        "whatsapp of Android by its lines": ("ben.txt", export_people.WHATSAPP_ANDROID.encode(), chat),
        "chatgpt": ("conversations.json", export_samples.chatgpt(), chat),
        "json without a name for it": ("export", b'[ {"a": 1}]', chat),
        "zip of an export": ("export.zip", zipped({"conversations.json": export_samples.claude()}), chat),
        "slack": ("slack.zip", zipped(export_people.slack_files()), chat),
        "linkedin": ("l.zip", zipped(LINKEDIN), archives["linkedin"]),
        "twitter": ("x.zip", zipped(posts), archives["twitter"]),
        "reddit": ("r.zip", zipped(REDDIT), archives["reddit"]),
        "a zip with a comment": ("r.zip", commented(zipped(REDDIT)), archives["reddit"]),
        "a zip that is cut off": ("r.zip", zipped(REDDIT)[:-30], chat),
    }


def commented(data: bytes) -> bytes:
    comment = b"PK\x05\x06 is how a zip ends"
    return data[:-2] + len(comment).to_bytes(2, "little") + comment


@needs_browser
async def test_each_file_goes_where_it_belongs(page: Page) -> None:
    told = {}
    for called, (name, data, _) in kinds().items():
        told[called] = await page.evaluate(
            """async ([name, data]) => {
                const { kindOf } = await import("/page/bring-kinds.js");
                const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
                return kindOf(new File([bytes], name), "").catch((error) => String(error));
            }""",
            [name, base64.b64encode(data).decode()],
        )
    assert told == {called: kind for called, (_, _, kind) in kinds().items()}


@needs_browser
async def test_a_zip_of_four_gigabytes_is_told_by_its_directory_alone(page: Page, tmp_path: Path) -> None:
    """Its directory lies beyond what 32 bits count to; the file is mostly a hole."""
    path = tmp_path / "archive.zip"
    with zipfile.ZipFile(path, "w", allowZip64=True) as archive:
        archive.writestr("first.txt", "x")
        assert archive.fp is not None
        archive.fp.seek(5 * 2**30)
        archive.start_dir = archive.fp.tell()
        for name in ("posts.csv", "comments.csv"):
            archive.writestr(name, "id\n")
    await page.evaluate(
        """() => {
            const input = document.createElement("input");
            input.type = "file";
            input.id = "large";
            document.body.append(input);
        }"""
    )
    await page.locator("#large").set_input_files(path)
    kind = await page.evaluate(
        """async () => {
            const { kindOf } = await import("/page/bring-kinds.js");
            return kindOf(document.getElementById("large").files[0], "");
        }"""
    )
    assert kind == {"route": "social", "platform": "reddit"}
