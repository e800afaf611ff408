"""Observing over a WebSocket."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anyio
import msgspec
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from app.chat.events import data_of
from app.errors import Unavailable
from app.settings import Settings
from app.web.sockets import refusal
from tests.rig import entries, until
from tests.stage import Author, Stage, finished, stage


@pytest.fixture
async def web(settings: Settings) -> AsyncIterator[Stage]:
    async with stage(settings) as running:
        yield running


def dial(web: Stage, message_id: str, query: str = "", key: str | None = "acc") -> Any:
    headers = {"x-api-key": key} if key else {}
    return connect(f"ws://127.0.0.1:{web.port}/v1/messages/async/{message_id}/ws{query}", additional_headers=headers)


async def drain(socket: ClientConnection) -> tuple[list[str], int]:
    """Every text frame, and the close code."""
    texts, code, _ = await drained(socket)
    return texts, code


async def drained(socket: ClientConnection) -> tuple[list[str], int, str]:
    """Every text frame, the close code and its reason."""
    texts: list[str] = []
    with anyio.fail_after(15):
        try:
            while True:
                texts.append(str(await socket.recv()))
        except ConnectionClosed as closed:
            assert closed.rcvd is not None
            return texts, closed.rcvd.code, closed.rcvd.reason


async def expected(web: Stage, author: Author, after: int = 0) -> list[str]:
    return [data_of(entry).decode() for entry in await entries(web.lifecycle, author.id) if entry.seq > after]


async def test_finished_message_then_1000(web: Stage) -> None:
    """PROTOCOL W1, W3."""
    author = await finished(web.lifecycle, 700)
    async with dial(web, author.id) as socket:
        assert await drain(socket) == (await expected(web, author), 1000)
    for cursor in (3, author.seq):
        async with dial(web, author.id, f"?after={cursor}") as socket:
            assert await drain(socket) == (await expected(web, author, cursor), 1000)


async def test_live_message(web: Stage) -> None:
    """PROTOCOL W1."""
    author = await Author.create(web.lifecycle)
    async with dial(web, author.id, f"?token=acc:{author.id}", key=None) as socket:
        await author.start()
        await author.say("a", "b")
        await author.finish()
        assert await drain(socket) == (await expected(web, author), 1000)
    await until(lambda: web.observers == 0)


async def test_cancel(web: Stage) -> None:
    """PROTOCOL W4."""
    author = await Author.create(web.lifecycle)
    await author.start()
    async with dial(web, author.id) as socket:
        await socket.send("nonsense")
        await socket.send('{"type": "other"}')
        await socket.send(b"\xff\xff")
        await socket.send('{"type": "cancel"}')
        texts, code = await drain(socket)
    assert (msgspec.json.decode(texts[-1])["type"], code) == ("message_cancelled", 1000)
    assert (await author.message()).status == "cancelled"


@pytest.mark.parametrize(
    ("query", "key", "code", "reason"),
    [
        ("", None, 4401, "UNAUTHORIZED: "),
        ("?token=acc:other", None, 4404, "MESSAGE_NOT_FOUND: "),
        ("", "other", 4404, "MESSAGE_NOT_FOUND: "),
        ("?after=-1", "acc", 4400, "BAD_REQUEST: after: must be a sequence number, 0 or more"),
    ],
)
async def test_refusals_are_accepted_then_closed(
    web: Stage, query: str, key: str | None, code: int, reason: str
) -> None:
    """PROTOCOL W2."""
    author = await Author.create(web.lifecycle)
    async with dial(web, author.id, query, key) as socket:
        texts, closed, said = await drained(socket)
    assert (texts, closed) == ([], code)
    assert said.startswith(reason)


def test_a_close_reason_fits_its_frame() -> None:
    code, reason = refusal(Unavailable("zu lang: " + "ü" * 100))
    assert (code, len(reason.encode())) == (4503, 122)  # cut at 123 bytes, half a letter less
    assert reason.startswith("UNAVAILABLE: zu lang: üü")


async def test_cancel_without_the_scope_is_refused(web: Stage) -> None:
    """PROTOCOL W4."""
    author = await Author.create(web.lifecycle, account="readonly")
    async with dial(web, author.id, key="readonly") as socket:
        await socket.send('{"type": "cancel"}')
        assert await drain(socket) == ([], 4403)
    assert (await author.message()).status == "pending"


async def test_shutdown_is_1001(web: Stage) -> None:
    """PROTOCOL W3."""
    author = await Author.create(web.lifecycle)
    async with dial(web, author.id) as socket:
        await until(lambda: web.observers == 1)
        web.drain()
        assert await drain(socket) == ([], 1001)
    async with dial(web, author.id) as socket:
        assert await drain(socket) == ([], 1001)


async def test_client_that_leaves_changes_nothing(web: Stage) -> None:
    """PROTOCOL O13."""
    author = await Author.create(web.lifecycle)
    async with dial(web, author.id):
        await until(lambda: web.observers == 1)
    await until(lambda: web.observers == 0 and len(web.fanout) == 0)
    assert (await author.message()).status == "pending"


async def test_silence_is_broken_by_pings(settings: Settings) -> None:
    """PROTOCOL W5."""
    async with stage(msgspec.structs.replace(settings, ping_s=0.2)) as web:
        author = await Author.create(web.lifecycle)
        async with dial(web, author.id) as socket:
            with anyio.fail_after(5):
                assert [await socket.recv() for _ in range(2)] == ['{"type":"ping"}'] * 2
