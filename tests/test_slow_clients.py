"""Clients that read slowly, never, or stall and vanish: let go in time, others unaffected, nothing left behind."""

from __future__ import annotations

import resource
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import anyio
import msgspec
import pytest

from app.settings import Settings
from tests.live import live
from tests.rig import until
from tests.stage import Author, Stage, body, stage

SEND_TIMEOUT_S = 1.5


@pytest.fixture
async def web(settings: Settings) -> AsyncIterator[Stage]:
    async with stage(msgspec.structs.replace(settings, send_timeout_s=SEND_TIMEOUT_S)) as running:
        yield running


@asynccontextmanager
async def raw(web: Stage, path: str) -> AsyncIterator[socket.socket]:
    """A connection with a small receive buffer that has sent its request and read nothing."""
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.setblocking(False)
        await anyio.to_thread.run_sync(_connect, connection, web.port)
        connection.send(f"GET {path} HTTP/1.1\r\nhost: x\r\nx-api-key: acc\r\n\r\n".encode())
        yield connection


def _connect(connection: socket.socket, port: int) -> None:
    connection.settimeout(5)
    connection.connect(("127.0.0.1", port))
    connection.setblocking(False)


async def big_message(web: Stage) -> Author:
    """A running message far larger than what sockets buffer."""
    author = await Author.create(web.lifecycle)
    await author.start()
    for _ in range(10):
        await author.say(*("x" * 2000 for _ in range(400)))
    return author


def memory_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@pytest.mark.parametrize("tail", ["", "?format=openai", "?format=text"])
async def test_client_that_never_reads_is_let_go(web: Stage, tail: str) -> None:
    """PROTOCOL O14."""
    author = await big_message(web)
    async with raw(web, author.path + tail):
        await until(lambda: web.observers == 1)
        await until(lambda: web.slow == 1, seconds=SEND_TIMEOUT_S * 4)
        await until(lambda: web.observers == 0 and len(web.fanout) == 0)


async def test_several_and_socketless_feed_clients_that_never_read_are_let_go(web: Stage) -> None:
    """PROTOCOL O14, A6."""
    author = await big_message(web)
    base = web.lifecycle.keys.account_base("acc")
    async with (
        raw(web, f"/v1/messages/async/stream?ids={author.id}"),
        raw(web, "/v1/events"),
    ):
        await until(lambda: web.observers == 2)
        filler = msgspec.json.encode({"event": "x", "data": "." * 20_000})
        await web.lifecycle.scripts.run_many(
            [("feed_post", base, ("acc", "message.created", "u", filler)) for _ in range(400)]
        )
        await until(lambda: web.observers == 0, seconds=SEND_TIMEOUT_S * 4)
    assert web.slow == 2
    assert len(web.feeds) == 0


async def test_client_that_stalls_and_vanishes_is_noticed_at_once(settings: Settings) -> None:
    """PROTOCOL O13."""
    async with stage(msgspec.structs.replace(settings, send_timeout_s=60)) as web:
        author = await big_message(web)
        async with raw(web, author.path) as connection:
            await until(lambda: any(writer.sending_since for writer in web.streams.open))
            connection.close()
            await until(lambda: web.observers == 0 and len(web.fanout) == 0)


async def test_one_byte_a_moment_does_not_hold_the_others_back(web: Stage) -> None:
    """PROTOCOL O14."""
    author = await Author.create(web.lifecycle)
    await author.start()
    got: list[bytes] = []

    async def follow() -> None:
        got.append(body(await web.get(author.path)))

    async def trickle() -> None:
        async with raw(web, author.path) as connection:
            while True:
                await anyio.sleep(0.05)
                try:
                    if not connection.recv(1):
                        return
                except BlockingIOError:
                    pass
                except ConnectionError:
                    return

    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(trickle)
        for _ in range(3):
            group.start_soon(follow)
        await until(lambda: web.observers == 8)
        for _ in range(6):
            await author.say(*("y" * 2000 for _ in range(400)))
        await author.finish()
        await until(lambda: len(got) == 3)
        await until(lambda: web.observers == 0, seconds=SEND_TIMEOUT_S * 6)
        group.cancel_scope.cancel()
    assert got == [await author.wire()] * 3
    assert len(web.fanout) == 0


async def test_memory_is_bounded_whatever_many_stalled_clients_do(web: Stage) -> None:
    author = await big_message(web)
    await until(lambda: True)
    before = memory_mb()
    async with anyio.create_task_group() as group:

        async def stall() -> None:
            async with raw(web, author.path):
                await anyio.sleep_forever()

        for _ in range(60):
            group.start_soon(stall)
        await until(lambda: web.observers == 60)
        for _ in range(5):
            await author.say(*("z" * 2000 for _ in range(400)))
        await until(lambda: web.observers == 0, seconds=SEND_TIMEOUT_S * 6)
        group.cancel_scope.cancel()
    # each of the sixty was behind by eight megabytes and more
    assert memory_mb() - before < 150
    assert len(web.fanout) == 0


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="the kernel cuts such connections on Linux only")
async def test_the_connection_of_a_client_that_never_reads_is_cut(settings: Settings) -> None:
    """Letting go is not enough: the server keeps a socket until its last write is flushed, which here is never."""
    async with live(msgspec.structs.replace(settings, send_timeout_s=0.5)) as web:
        port = int(urlsplit(web.url).port or 0)
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            await anyio.to_thread.run_sync(_connect, connection, port)
            connection.send(b"GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n" * 300)
            own = connection.getsockname()[1]
            assert connected(port, own)
            await until(lambda: not connected(port, own), seconds=20)


def connected(server: int, client: int) -> bool:
    """Whether the server's end of this connection is established."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    ends = [(int(row[1].split(":")[1], 16), int(row[2].split(":")[1], 16)) for row in rows if row[3] == "01"]
    return (server, client) in ends
