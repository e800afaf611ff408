"""A web process inside the test's own loop: `async with live(settings) as web` serves real HTTP on a free port.

It is `app.serve.serve` itself, without signals; leaving the block stops it the way a signal would.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import httpx
import msgspec

from app.serve import serve
from app.settings import Settings
from tests.stage import started

ROOT_KEY = "rp_live_0123456789abcdefghjkmnpqrstvwxyz"


class Live:
    """``url`` is the address, ``key`` the root key."""

    def __init__(self, url: str, settings: Settings) -> None:
        self.url = url
        self.settings = settings
        self.key = settings.root_key

    def client(self, key: str | None = None, **options: object) -> httpx.AsyncClient:
        """A client with the root key, another, or (empty) none."""
        headers = {"X-API-Key": self.key if key is None else key} if key != "" else {}
        return httpx.AsyncClient(base_url=self.url, headers=headers, timeout=20, **options)  # type: ignore[arg-type]


@asynccontextmanager
async def live(settings: Settings) -> AsyncIterator[Live]:
    """Serves for the time of the block. In a task of its own, so that fixtures may use it as well."""
    settings = msgspec.structs.replace(settings, root_key=settings.root_key or ROOT_KEY, port=0)
    async with started(_running(settings)) as web:
        yield web


@asynccontextmanager
async def _running(settings: Settings) -> AsyncIterator[Live]:
    stop = anyio.Event()

    async def run(*, task_status: anyio.abc.TaskStatus[str]) -> None:
        await serve(settings, stop=stop, task_status=task_status)

    async with anyio.create_task_group() as group:
        url = await group.start(run)
        try:
            yield Live(url, settings)
        finally:
            stop.set()
