"""Webhooks survive kill -9 of the background process: no event is lost, and what comes twice has the same id."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from app.database import open_pool
from tests.rig import until
from tests.site_rig import Asked, Reply, site
from tests.system import system
from tests.webhook_rig import verified

MEMORIES = 60
MESSAGES = 6


@pytest.mark.timeout(180)
async def test_no_event_is_lost_when_the_background_process_is_killed_again_and_again(short_tmp: Path) -> None:
    """PROTOCOL G4."""

    async def slowly(writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.05)
        writer.write(b"ok")
        await writer.drain()

    def answer(_: Asked) -> Reply:
        return Reply(200, write=slowly)

    async with (
        site(answer) as receiver,
        system(short_tmp, background=1, allow_private_addresses=True, embedding_model="none") as s,
        s.client() as client,
        open_pool(s.settings) as database,
    ):
        hook = await client.post(
            "/v1/webhooks", json={"url": receiver.url, "events": ["memory.created", "message.completed"]}
        )
        assert hook.status_code == 201, hook.text
        for n in range(MEMORIES):
            body = {"text": f"I own book number {n}.", "infer": False}
            assert (await client.post("/v1/memories", json=body)).status_code == 201
            if n % 10 == 0:
                await s.initiate(client, memory={"store": False})
            if n % 20 == 10:
                os.kill(s.workers[-1].pid, signal.SIGKILL)
                await s.workers[-1].wait()
                await s.start_background(allow_private_addresses=True, embedding_model="none")
                # the leases of the dead one end: what takes half a minute otherwise
                await database.execute("UPDATE deliveries SET next_at = now() WHERE status = 'pending'")

        async def all_told() -> bool:
            rows = await database.fetch("SELECT status, count(*) AS n FROM deliveries GROUP BY status")
            return {row["status"]: row["n"] for row in rows} == {"delivered": MEMORIES + MESSAGES}

        await until(all_told, 60)
        secret = hook.json()["data"]["secret"]
        told = {asked.headers["webhook-id"]: verified(asked, secret) for asked in receiver.asked}
        kinds = Counter(body["event"] for body in told.values())
        assert kinds == {"memory.created": MEMORIES, "message.completed": MESSAGES}
        assert len({body["data"]["memory"] for body in told.values() if "memory" in body["data"]}) == MEMORIES
        bodies: dict[str, set[bytes]] = {}
        for asked in receiver.asked:
            bodies.setdefault(asked.headers["webhook-id"], set()).add(asked.body)
        assert all(len(same) == 1 for same in bodies.values())
        assert await database.fetchval("SELECT count(*) FROM outbox") == 0
        assert msgspec.json.decode(receiver.asked[0].body)["timestamp"].endswith("Z")
