"""Integrations survive kill -9 of their worker: nothing twice, nothing missing, and watchers see one sensible story.

On a real deployment, with background processes that are killed at a tenth, half and nine tenths of 2,000 items.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from app.integrations.integration import STEPS
from tests.rig import until
from tests.sse import Event, frames
from tests.system import system

ITEMS = 2_000
KILLED_AT = (0.1, 0.5, 0.9)
ENDS = ("completed", "failed", "cancelled")


async def watch(client: httpx.AsyncClient, url: str, seen: list[Event]) -> None:
    """Follows the events; every few of them the connection is cut, and resumed with the cursor."""
    while not (seen and seen[-1].type in ENDS):
        headers = {"Last-Event-ID": str(seen[-1].id)} if seen else {}
        async with client.stream("GET", url, headers=headers) as response:
            assert response.status_code == 200
            taken = 0
            async for event in frames(response):
                seen.append(event)
                taken += 1
                if taken == 25 or event.type in ENDS:
                    break


async def status_of(client: httpx.AsyncClient, sent: dict[str, Any]) -> dict[str, Any]:
    response = await client.get(f"/v1/integrations/{sent['integration_id']}/status")
    assert response.status_code == 200
    return dict(response.json())


@pytest.mark.timeout(300)
async def test_2000_items_survive_three_killed_workers(short_tmp: Path) -> None:
    """PROTOCOL J14, J15."""
    async with system(short_tmp, workers=0, background=1) as s, s.client() as client:
        records = [{"id": f"r{n}", "text": f"Shelf {n} holds box {n * 7}."} for n in range(ITEMS)]
        response = await client.post("/v1/integrations/api", json={"records": records})
        assert response.status_code == 202, response.text
        sent = response.json()
        seen: list[Event] = []
        async with anyio.create_task_group() as group:
            group.start_soon(watch, client, sent["events_url"], seen)
            for share in KILLED_AT:
                await _until_processed(client, sent, share)
                os.kill(s.workers[-1].pid, signal.SIGKILL)
                await s.workers[-1].wait()
                assert (await status_of(client, sent))["status"] == "processing"
                await s.start_background()
        await _assert_whole(client, sent, seen)


async def _until_processed(client: httpx.AsyncClient, sent: dict[str, Any], share: float) -> None:
    async def there() -> bool:
        body = await status_of(client, sent)
        assert body["status"] in ("pending", "processing")
        return bool(body["stats"]["items_processed"] >= share * ITEMS)

    await until(there, 120)


async def _assert_whole(client: httpx.AsyncClient, sent: dict[str, Any], seen: list[Event]) -> None:
    body = await status_of(client, sent)
    assert body["status"] == "completed"
    stats = body["stats"]
    assert (stats["items_total"], stats["items_processed"], stats["memories_created"], stats["errors_count"]) == (
        *(ITEMS, ITEMS),
        *(ITEMS, 0),
    )
    texts = [line["memory"] async for line in _exported(client)]
    assert len(texts) == len(set(texts)) == ITEMS
    assert [int(event.id or 0) for event in seen] == list(range(1, len(seen) + 1))
    percentages = [event.data["status"]["progress"]["percentage"] for event in seen]
    assert percentages == sorted(percentages)
    processed = [event.data["status"]["stats"]["items_processed"] for event in seen]
    assert processed == sorted(processed)
    steps = [event.data["status"]["progress"]["current_step"] for event in seen]
    assert list(dict.fromkeys(steps)) == list(STEPS["api"])
    assert [event.type for event in seen if event.type in ENDS] == ["completed"]


async def _exported(client: httpx.AsyncClient) -> Any:
    response = await client.get("/v1/memories/export")
    for line in response.text.splitlines():
        yield httpx.Response(200, content=line).json()
