"""Much is exported with flat memory; and what the memory routes answer while PostgreSQL is away."""

from __future__ import annotations

import os
import secrets
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import httpx
import msgspec
import pytest

from tests.memory_client import PATH
from tests.sse import error_of
from tests.system import System, system

MANY = 10_000
TEXT = 3_000
FLAT = 12 * 1024 * 1024
"""Bytes the process may grow by: well below the 30 MB that it sends."""


@pytest.fixture
async def client(live: System) -> AsyncIterator[httpx.AsyncClient]:
    async with live.client() as made:
        yield made


async def test_ten_thousand_are_exported_as_a_stream_with_flat_memory(live: System, client: httpx.AsyncClient) -> None:
    """PROTOCOL N15."""
    user = f"many-{secrets.token_hex(4)}"
    await fill(live, user)
    for _ in range(2):  # the first time loads what is loaded once
        begin = resident(live, reset=True)
        seen: set[str] = set()
        rest = b""
        async with client.stream("GET", f"{PATH}/export", params={"user_id": user}) as answer:
            async for chunk in answer.aiter_raw():
                *lines, rest = (rest + chunk).split(b"\n")
                seen.update(msgspec.json.decode(line)["id"] for line in lines)
        assert rest == b""
        assert len(seen) == MANY
        grown = resident(live) - begin
    assert grown < FLAT


async def fill(live: System, user: str) -> None:
    connection = await asyncpg.connect(live.settings.database_url, server_settings={"search_path": "reprise, public"})
    try:
        owner = await connection.fetchval(
            "INSERT INTO owners (account, user_id) SELECT id, $1 FROM accounts WHERE name = 'default' RETURNING id",
            user,
        )
        await connection.execute(
            """INSERT INTO memories (id, owner, text, normal, type, extractor, valid_from)
            SELECT 'mem_' || $2 || n, $1, repeat('x', $3) || n, $2 || n, 'semantic', 'verbatim', now()
            FROM generate_series(1, $4) n""",
            owner,
            user,
            TEXT,
            MANY,
        )
    finally:
        await connection.close()


def resident(live: System, *, reset: bool = False) -> int:
    """The most memory the web process has held, in bytes; since now, with ``reset``."""
    place = Path(f"/proc/{live.webs[0].pid}")
    if reset:
        (place / "clear_refs").write_text("5")
    lines = (place / "status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


async def test_an_export_that_cannot_be_finished_looks_cut(short_tmp: Path) -> None:
    """PROTOCOL N15."""
    async with system(short_tmp, workers=0) as deployment, deployment.client() as client:
        await fill(deployment, "ann")
        received = b""
        with pytest.raises(httpx.RemoteProtocolError):
            async with client.stream("GET", f"{PATH}/export", params={"user_id": "ann"}) as answer:
                async for chunk in answer.aiter_raw():
                    if not received:
                        kill_postgres(deployment)
                    received += chunk
        assert b"mem_ann1" in received


async def test_while_postgresql_is_away_every_route_says_so_in_the_one_shape(short_tmp: Path) -> None:
    """PROTOCOL N18."""
    async with system(short_tmp, workers=0) as deployment, deployment.client() as client:
        made = await client.post(PATH, json={"text": "I live in Lyon.", "infer": False})
        memory_id = made.json()["data"]["memories"][0]["id"]
        kill_postgres(deployment)
        for answer in (
            await client.post(PATH, json={"text": "I have two cats."}),
            await client.post(f"{PATH}/search", json={"query": "cats"}),
            await client.get(PATH),
            await client.get(f"{PATH}/{memory_id}"),
            await client.get(f"{PATH}/{memory_id}/history"),
            await client.patch(f"{PATH}/{memory_id}", json={"importance": 1}),
            await client.delete(f"{PATH}/{memory_id}"),
            await client.post(f"{PATH}/batch-delete", json={"memory_ids": [memory_id]}),
            await client.post(f"{PATH}/restore", json={"backup_id": "bak_1"}),
            await client.get(f"{PATH}/export"),
            await client.get("/v1/users/profile"),
        ):
            error_of(answer, 503, "UNAVAILABLE")
            assert int(answer.headers["retry-after"]) >= 1


def kill_postgres(deployment: System) -> None:
    place = Path(deployment.settings.data_dir) / "postgres" / "postmaster.pid"
    os.kill(int(place.read_text().split()[0]), signal.SIGKILL)
