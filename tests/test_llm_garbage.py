"""Upstreams that send nonsense, on both paths: a clear error, bounded memory, and a process that goes on meanwhile."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import anyio
import httpx
import pytest

from app.errors import UpstreamFailed
from app.llm import line_stream, litellm_door, openai_wire
from app.llm.retry import RetryingModel
from app.llm.types import Door, Target
from tests.llm_rig import answer, text_of

EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
JSON = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n"
REFUSED = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n"
DONE = b"data: [DONE]\n\n"
SENT_MOST = 60_000_000


def chunk(text: str, finish: str | None = None) -> bytes:
    """A completion chunk whose text stands in the JSON as given."""
    end = json.dumps(finish)
    head = '{"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,'
    return f'data: {head}"delta":{{"content":"{text}"}},"finish_reason":{end}}}]}}\n\n'.encode("utf-8", "surrogatepass")


class Sender:
    """A server that answers every request with the same bytes. ``sent`` is the most that one of them took."""

    def __init__(self, head: bytes, piece: bytes, most: int) -> None:
        self.head, self.piece, self.most = head, piece, most
        self.base_url = ""
        self.sent = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(self.head)
            for taken in range(0, self.most, len(self.piece) or 1):
                self.sent = max(self.sent, taken)
                writer.write(self.piece)
                await writer.drain()
        writer.close()


@asynccontextmanager
async def sender(head: bytes, piece: bytes = b"", most: int = 0) -> AsyncIterator[Sender]:
    made = Sender(head, piece, most)
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.base_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    async with server:
        yield made


@pytest.fixture(scope="module")
async def through_litellm() -> AsyncIterator[Door]:
    door = litellm_door.door()
    await litellm_door.warm()
    yield door
    await litellm_door.close()


@pytest.fixture(params=["direct", "litellm"])
async def model(
    request: pytest.FixtureRequest, through_litellm: Door
) -> AsyncIterator[Callable[[Sender], RetryingModel]]:
    async with httpx.AsyncClient(trust_env=False) as http:
        direct = openai_wire.door(http)

        def made(up: Sender) -> RetryingModel:
            path, door = request.param, direct if request.param == "direct" else through_litellm
            name = "m" if path == "direct" else "openai/m"
            return RetryingModel(Target(name="m", model=name, path=path, api_base=up.base_url, api_key="k-1"), door)

        yield made


@pytest.mark.parametrize("head", [EVENTS + b"data: ", JSON + b'{"a":"', REFUSED], ids=["line", "json", "error"])
async def test_what_never_ends_is_cut_off(model: Callable[[Sender], RetryingModel], head: bytes) -> None:
    async with sender(head, b"x" * 100_000, SENT_MOST) as up:
        with pytest.raises(UpstreamFailed):
            await answer(model(up))
        assert up.sent < SENT_MOST / 2


async def test_bytes_that_are_no_utf8_are_the_upstream_s_failure(model: Callable[[Sender], RetryingModel]) -> None:
    async with sender(EVENTS + chunk("a").replace(b'"a"', b'"a\xff\xfe"') + DONE) as up:
        with pytest.raises(UpstreamFailed):
            await answer(model(up))


async def test_half_a_surrogate_pair_ends_in_an_answer_or_the_upstream_s_failure(
    model: Callable[[Sender], RetryingModel],
) -> None:
    async with sender(EVENTS + chunk("a\\ud83d") + chunk("b", "stop") + DONE) as up:
        try:
            text = text_of(await answer(model(up)))
        except UpstreamFailed:
            return
        assert text.encode().decode() == "a\ufffdb"


async def test_a_burst_leaves_turns_to_the_rest_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker whose loop stands still for five seconds is taken for dead, with all it runs."""
    monkeypatch.setattr(line_stream, "TURN_S", 0.0)
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await anyio.sleep(0)
            turns += 1

    burst = b"data: x\n\n" * 100_000
    async with anyio.create_task_group() as tg:
        tg.start_soon(count)
        stream = line_stream.BoundedStream(httpx.ByteStream(burst), float("inf"))
        assert b"".join([piece async for piece in stream]) == burst
        tg.cancel_scope.cancel()
    assert turns > 100
