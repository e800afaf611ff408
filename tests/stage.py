"""Observing without models: a web process's observe routes on a live Granian, and a hand that writes messages."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeVar

import anyio
import httpx
from granian.constants import Interfaces
from granian.server.embed import Server
from litestar import Litestar
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from app import ids
from app.accounts import ALL_SCOPES, Caller, TokenGrant
from app.accounts.tokens import digest
from app.chat.events import ATTEMPT_SPAN, Assembler, Draft, frame
from app.chat.fanout import Fanout
from app.chat.lifecycle import Lifecycle
from app.chat.message import Message
from app.chat.replay import Pages
from app.errors import Forbidden, Unauthorized
from app.feeds import Feeds
from app.llm.types import Text
from app.redis_keys import Keys
from app.serve import methods_of
from app.settings import Settings
from app.tail import Tail
from app.telemetry import Metrics
from app.web.events_feed import feed_handlers
from app.web.guard import Bearer, Gate, key_in, token_in
from app.web.observe import Observing, observe_handlers
from app.web.problem import handlers
from app.web.several import several_handlers
from app.web.shell import Shell
from app.web.sockets import socket_handlers
from app.web.sse import Streams
from tests.rig import entries, new_message, until

T = TypeVar("T")


class OpenGate(Gate):
    """Reads who asks off the key (``acc``, ``acc/ada``, ``readonly``) or the token (``acc:msg_1``, ``acc:*``)."""

    def __init__(self) -> None:
        pass

    async def identify(self, scope: Any, *, token: bool = False, scope_needed: str = "") -> Bearer:
        key = key_in(scope)
        account, _, rest = (key if key is not None else token_in(scope)).partition("/" if key is not None else ":")
        if not account or (key is None and not token):
            raise Unauthorized("no key")
        scopes = frozenset(ALL_SCOPES) - ({"messages:write"} if key == "readonly" else set())
        if scope_needed and scope_needed not in scopes:
            raise Forbidden(f"no {scope_needed}")
        bearer: Bearer = Caller(account, "key_1", scopes, rest or None)
        if key is None:
            covered = frozenset(digest(name) for name in rest.split(":"))
            bearer = TokenGrant(Caller(account, "key_1", scopes), covered, "", rest == "*", 2e9)
        scope["state"]["bearer"] = bearer
        return bearer


class Stage:
    """One web process. ``url`` is its address, ``observers`` the gauge of its open streams."""

    def __init__(self, settings: Settings, lifecycle: Lifecycle, blocking: Redis) -> None:
        self.settings = settings
        self.lifecycle = lifecycle
        self.metrics = Metrics()
        self.gate = OpenGate()
        self.tail = Tail(lifecycle.redis, blocking)
        self.pages = Pages(lifecycle.redis)
        self.fanout = Fanout(lifecycle, self.tail, self.pages)
        self.streams = Streams(settings.ping_s, settings.send_timeout_s, self.metrics)
        self.feeds = Feeds(lifecycle.redis, lifecycle.keys, self.tail)
        self.door = Observing(lifecycle, self.fanout, self.streams)
        self.url = ""
        self.port = 0

    def handlers(self) -> list[Any]:
        door = self.door
        return [
            *observe_handlers(door),
            *several_handlers(door),
            *socket_handlers(door, self.gate),
            *feed_handlers(door, self.feeds),
        ]

    def drain(self) -> None:
        self.door.drain()
        self.feeds.drain()

    @property
    def observers(self) -> int:
        metric = self.metrics.observers
        return int(sum(sample.value for family in metric.collect() for sample in family.samples))

    @property
    def slow(self) -> int:
        """Observers let go because they read too slowly."""
        return int(self.metrics.slow_observers._value.get())

    def client(self, key: str = "acc") -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self.url, headers={"x-api-key": key}, timeout=20)

    async def get(self, path: str, key: str = "acc", **headers: str) -> httpx.Response:
        async with self.client(key) as client:
            return await client.get(path, headers={k.replace("_", "-"): v for k, v in headers.items()})


@asynccontextmanager
async def stage(settings: Settings) -> AsyncIterator[Stage]:
    """A web process for the time of a test, in a task of its own: fixtures enter and leave in different ones."""
    async with started(_run_stage(settings)) as web:
        yield web


@asynccontextmanager
async def started(running: AbstractAsyncContextManager[T]) -> AsyncIterator[T]:
    """Enters and leaves a context manager within one background task."""
    ready: asyncio.Future[T] = asyncio.get_running_loop().create_future()
    stop = anyio.Event()

    async def host() -> None:
        try:
            async with running as value:
                ready.set_result(value)
                await stop.wait()
        except BaseException as error:
            if ready.done():
                raise
            ready.set_exception(error)

    task = asyncio.get_running_loop().create_task(host())
    value = await ready
    try:
        yield value
    finally:
        stop.set()
        await task


@asynccontextmanager
async def _run_stage(settings: Settings) -> AsyncIterator[Stage]:
    # a pool that waits: redis-py's own refuses the hundred and first command under way
    pool = BlockingConnectionPool.from_url(settings.redis_url, max_connections=50, retry=Retry(NoBackoff(), 0))
    redis = Redis.from_pool(pool)
    blocking = Redis.from_url(settings.redis_url, socket_timeout=10, retry=Retry(NoBackoff(), 0))
    lifecycle = Lifecycle(redis, Keys(settings.redis_prefix, settings.partitions), settings)
    web = Stage(settings, lifecycle, blocking)
    litestar = Litestar(
        web.handlers(), guards=[web.gate.guard], exception_handlers=handlers(web.metrics), openapi_config=None
    )
    app = Shell(litestar, settings, web.metrics, lambda path: methods_of(litestar, path))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        web.port = probe.getsockname()[1]
    web.url = f"http://127.0.0.1:{web.port}"
    logging.getLogger("_granian").setLevel(logging.ERROR)
    server = Server(
        app, address="127.0.0.1", port=web.port, interface=Interfaces.ASGINL, backlog=4096, log_enabled=False
    )
    try:
        async with anyio.create_task_group() as group:
            await group.start(web.tail.run)
            await group.start(web.fanout.run)
            await group.start(web.streams.run)
            async with anyio.create_task_group() as serving:
                serving.start_soon(server.serve)
                await _listening(web.port)
                try:
                    yield web
                finally:
                    web.drain()
                    await until(lambda: web.observers == 0)
                    server.stop()
            group.cancel_scope.cancel()
    finally:
        await redis.aclose()
        await blocking.aclose()


async def _listening(port: int) -> None:
    with anyio.fail_after(5):
        while True:
            try:
                await (await anyio.connect_tcp("127.0.0.1", port)).aclose()
                return
            except OSError:
                await anyio.sleep(0.01)


class Author:
    """Writes one message as a worker does: claims it, appends events, ends it."""

    def __init__(self, lifecycle: Lifecycle, message_id: str, account: str = "acc") -> None:
        self.lifecycle = lifecycle
        self.id = message_id
        self.account = account
        self.base = lifecycle.keys.message_base(account, message_id)
        self.member = f"{account}/{message_id}"
        self.token = ""
        self.worker = ""
        self.seq = 0
        self.assembler = Assembler(message_id, "test-model")

    @classmethod
    async def create(cls, lifecycle: Lifecycle, message_id: str = "", account: str = "acc", **changes: Any) -> Author:
        new = new_message(message_id, account, **changes)
        await lifecycle.create(new)
        return cls(lifecycle, new.id, account)

    @property
    def path(self) -> str:
        return f"/v1/messages/async/{self.id}/stream"

    async def claim(self) -> Message:
        self.worker, self.token = f"w-{ids.token(40)}", ids.token()
        await self.lifecycle.scripts.run("worker_renew", self.base, self.worker, 60_000)
        await self.lifecycle.queue.claim(self.lifecycle.keys.account_base(self.account), 1_000)
        claimed = await self.lifecycle.claim(self.account, self.id, self.worker, self.token)
        assert claimed is not None
        if claimed[0].attempt == 1:
            await self.lifecycle.scripts.run_many([self.lifecycle.queue.started(claimed[0])])
        self.seq = (claimed[0].attempt - 1) * ATTEMPT_SPAN + (1 if claimed[0].attempt > 1 else 0)
        self.assembler = Assembler(self.id, "test-model")
        return claimed[0]

    async def append(self, drafts: list[Draft]) -> None:
        flat = [part for draft in drafts for part in draft]
        reply = await self.lifecycle.scripts.run(
            "message_append", self.base, self.member, self.token, self.seq, 1, "", self.seq + 1, *flat
        )
        assert reply and reply > 0, reply
        self.seq += len(drafts)

    async def start(self) -> None:
        await self.claim()
        await self.append(self.assembler.start())

    async def say(self, *texts: str) -> None:
        await self.append([draft for text in texts for draft in self.assembler.feed([Text(text)])])

    async def finish(self, drafts: list[Draft] | None = None, status: Any = "completed") -> Message:
        message = await self.message()
        drafts = self.assembler.end() if drafts is None else drafts
        flat = [part for draft in drafts for part in draft]
        final = await self.lifecycle.finish(message, self.token, status, ["ot", 5, "it", 3], self.seq + 1, flat)
        assert isinstance(final, Message), final
        self.seq += len(drafts)
        return final

    async def lose_worker(self) -> None:
        """The worker dies: the message restarts."""
        await self.lifecycle.redis.delete(f"{self.base}alive:{self.worker}")
        assert await self.lifecycle.take_from_dead(self.member, self.worker)

    async def message(self) -> Message:
        message = await self.lifecycle.read(self.account, self.id)
        assert message is not None
        return message

    async def wire(self, after: int = 0) -> bytes:
        """The bytes an observer with this cursor must get, without the retry line."""
        found = await entries(self.lifecycle, self.id, self.account)
        return b"".join(frame(entry) for entry in found if entry.seq > after)


async def finished(lifecycle: Lifecycle, words: int = 3, message_id: str = "", account: str = "acc") -> Author:
    """A completed message of ``words`` deltas."""
    author = await Author.create(lifecycle, message_id, account)
    await author.start()
    for start in range(0, words, 1000):
        await author.say(*(f"word{n} " for n in range(start, min(words, start + 1000))))
    await author.finish()
    return author


def body(response: httpx.Response) -> bytes:
    """The body of an event stream after its retry line and without comments."""
    assert response.status_code == 200, response.text
    assert response.content.startswith(b"retry: 1000\n\n"), response.content[:80]
    return response.content.removeprefix(b"retry: 1000\n\n").replace(b": ping\n\n", b"")
