"""A real browser on the chat page: where Chromium is, how it is started, and signing in."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from playwright.async_api import Browser, BrowserContext, Page, async_playwright, expect

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
LONG = 30_000  # ms: longer than the demo answers

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on PATH")


@asynccontextmanager
async def open_browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        chromium = await playwright.chromium.launch(executable_path=CHROMIUM, args=ARGS)
        yield chromium
        await chromium.close()


@asynccontextmanager
async def open_context(browser: Browser, **options: Any) -> AsyncIterator[BrowserContext]:
    """A profile of its own: nothing is kept from the test before."""
    fresh = await browser.new_context(viewport={"width": 1100, "height": 760}, **options)
    fresh.set_default_timeout(LONG)
    yield fresh
    await fresh.close()


@asynccontextmanager
async def open_page(context: BrowserContext, base_url: str, key: str) -> AsyncIterator[Page]:
    """The page, signed in. Fails the test on any error the page did not handle."""
    opened = await context.new_page()
    errors: list[str] = []
    opened.on("pageerror", lambda error: errors.append(str(error)))
    await opened.goto(f"{base_url}/#key={key}")
    await expect(opened.locator("#write")).to_be_visible()
    yield opened
    assert errors == []
