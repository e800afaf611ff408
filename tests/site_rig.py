"""A scripted web site on loopback: plain asyncio over raw HTTP/1.1, each answer as the test says."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import NamedTuple
from urllib.parse import parse_qsl, urlsplit

import msgspec


class Asked(NamedTuple):
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes


class Reply(NamedTuple):
    """An answer. ``write`` takes over after the head (which then says nothing of a length), and ends the connection."""

    status: int = 200
    body: object = b""
    headers: Mapping[str, str] = MappingProxyType({})
    write: Callable[[asyncio.StreamWriter], Awaitable[None]] | None = None


class Site:
    def __init__(self, answer: Callable[[Asked], Reply]) -> None:
        self.answer = answer
        self.asked: list[Asked] = []
        self.connections = 0
        self.host = ""
        self.port = 0
        self.url = ""

    @property
    def paths(self) -> list[str]:
        return [asked.path for asked in self.asked]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while await self._one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            pass
        finally:
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.strip().split("\r\n")
        method, target, _ = first.split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        url = urlsplit(target)
        asked = Asked(method, url.path, dict(parse_qsl(url.query)), headers, body)
        self.asked.append(asked)
        reply = self.answer(asked)
        if reply.status == 0:
            return False  # hangs up without a word
        data = reply.body if isinstance(reply.body, bytes) else msgspec.json.encode(reply.body)
        fields = {"content-type": "application/json"} | dict(reply.headers)
        if reply.write is None:
            fields["content-length"] = str(len(data))
        writer.write(f"HTTP/1.1 {reply.status} Scripted\r\n".encode())
        writer.write("".join(f"{name}: {value}\r\n" for name, value in fields.items()).encode("latin-1") + b"\r\n")
        writer.write(data)
        await writer.drain()
        if reply.write is not None:
            await reply.write(writer)
        return reply.write is None


@asynccontextmanager
async def site(
    answer: Callable[[Asked], Reply], host: str = "127.0.0.1", tls: ssl.SSLContext | None = None
) -> AsyncIterator[Site]:
    """A running site; ``url`` ends without a slash."""
    made = Site(answer)
    server = await asyncio.start_server(made.serve, host, 0, ssl=tls)
    made.host, made.port = server.sockets[0].getsockname()[:2]
    made.url = f"{'https' if tls else 'http'}://{made.host}:{made.port}"
    async with server:
        yield made


async def for_ever(writer: asyncio.StreamWriter, piece: bytes = b"x" * 65_536, pause: float = 0.0) -> None:
    """Writes until the reader has gone."""
    while not writer.is_closing():
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(pause)
