"""Integrations without HTTP: sent as the routes send them, worked on as the background process does."""

from __future__ import annotations

from typing import Any

import anyio
import msgspec

from app.database import Database
from app.integrations import store
from app.integrations.integration import Integration, StatusBody
from app.integrations.kinds.api import Api
from app.integrations.kinds.chat import Chat
from app.integrations.kinds.file import File
from app.integrations.kinds.social import Social
from app.integrations.kinds.storing import Store
from app.integrations.receiving import receive
from app.integrations.social.api.types import Pauses
from app.memory.drawing import Drawer
from app.memory.memories import Memories
from app.memory.search import Search
from app.memory.types import Owner
from app.outbound import Outbound
from app.workers.integrate import Integrate

CHATS = {"form": "chat_data", "me": None, "zone": None, "memories": True}
FILES = {"chunk_size": 300, "overlap": 50, "category": None, "extract_mode": "verbatim", "memories": True}


async def send(
    database: Database,
    owner: Owner,
    kind: Any,
    platform: str,
    request: dict[str, Any],
    files: dict[str, bytes],
    **more: Any,
) -> Integration:
    """An integration of these files, received whole."""
    receiving = await receive(database, owner.account, owner.user)
    for name, data in files.items():
        await receiving.file(name)
        await receiving.write(data)
    return await receiving.ready(kind, platform, request, **more)


async def send_chats(database: Database, owner: Owner, conversations: list[Any], **request: Any) -> Integration:
    """An integration of inline conversations."""
    files = {"chat_data.json": msgspec.json.encode(conversations)}
    return await send(database, owner, "chat", "custom", CHATS | request, files)


def conversation(name: str, *said: str) -> dict[str, Any]:
    """An inline conversation in which the user speaks first."""
    messages = [
        {
            "id": f"{name}-{n}",
            "role": ("user", "assistant")[n % 2],
            "content": text,
            "timestamp": f"2026-04-01T10:{n:02}Z",
        }
        for n, text in enumerate(said)
    ]
    return {"id": name, "title": f"About {name}", "messages": messages}


def worker(
    database: Database, outbound: Outbound | None = None, bases: dict[str, str] | None = None, sleep: Any = anyio.sleep
) -> Integrate:
    """The background process's worker, without an embedder or model. ``outbound`` for those that ask others."""
    memories = Memories(database, None)
    drawer = Drawer(database, memories, Search(database, None), None)
    kept = Store(database, drawer, lambda: None, embeds=False)

    async def told(_: str) -> None:
        return

    out: Any = outbound
    kinds: dict[str, Any] = {
        "chat": Chat(kept),
        "file": File(kept),
        "social": Social(kept, out, bases or {}, Pauses(sleep=sleep)),
        "api": Api(kept, out, 1_000_000, (0.01, 0.01)),
    }
    return Integrate(database, kinds, told)


async def status(database: Database, integration: Integration, **wanted: bool) -> StatusBody:
    """How far it is."""
    found = await store.find(database, integration.id, account=integration.account)
    return await store.status_of(database, found, **wanted)


async def told(database: Database, integration: Integration) -> list[dict[str, Any]]:
    """All its events, decoded."""
    return [msgspec.json.decode(event.data) for event in await store.events(database, integration.id, 0, 100_000)]
