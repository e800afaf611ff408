"""The whole program as processes: engines of its own, web and worker processes that a test may kill, a scripted model.

``async with system(short_tmp) as s`` gives a fresh deployment. Models are named as `tests.upstream` reads them, through
the direct path; with ``lite-`` in front the same model is asked through litellm.

1. Every deployment begins on a copy of one first start (`lay_data`): setting engines up takes seconds, and what it does
   is proved where nothing is copied (`test_engines`, `test_run`, `test_cli`).
"""

from __future__ import annotations

import functools
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread
import httpx
import msgspec

from app.database import migrate
from app.engines.embedded import Engines, embedded
from app.engines.home import hold
from app.settings import Settings
from tests.rig import UNLIMITED, until
from tests.sse import Event, read_events
from tests.upstream import Upstream, upstream

ROOT = Path(__file__).parent.parent
KEY = "rp_live_0123456789abcdefghjkmnpqrstvwxyz"

MODELS = (
    "t20", "t20-p50", "t200-p100", "t400-p100", "t500-p50", "t2000", "stall10", "stall0", "slowstart2-t20",
    "t20-think5-tool", "fail429x2-t20", "fail500", "cut10", "err10", "short10", "t1", "t60-p20",
    "t16-p5", "say-parrot", "say-memories",
)  # fmt: skip


class System:
    """One deployment. ``url`` is the address of the first web process."""

    def __init__(self, place: Path, settings: Settings, up: Upstream, engines: Engines) -> None:
        self.place = place
        self.settings = settings
        self.up = up
        self.engines = engines
        self.urls: list[str] = []
        self.webs: list[Process] = []
        self.workers: list[Process] = []
        self._logs: dict[int, Path] = {}  # by pid

    @property
    def url(self) -> str:
        return self.urls[0]

    async def key_of(self, account: str, *options: str) -> str:
        """A fresh key of an account, made by the command line."""
        command = [sys.executable, "-m", "app", "key", "create", "--account", account, *options]
        done = await anyio.run_process(command, cwd=ROOT, env=self.settings.child_environment(), check=True)
        return done.stdout.decode().strip()

    def client(self, key: str = KEY, web: int = 0) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self.urls[web], headers={"X-API-Key": key}, timeout=30)

    async def spawn(self, *command: str, **changes: Any) -> Process:
        """``python -m app COMMAND`` with this deployment's settings."""
        env = msgspec.structs.replace(self.settings, **changes).child_environment()
        path = self.place / f"{len(self._logs)}-{command[0]}.log"
        with path.open("wb") as log:
            process = await anyio.open_process(
                [sys.executable, "-m", "app", *command], cwd=ROOT, env=env, stdout=log, stderr=log, stdin=None
            )
        self._logs[process.pid] = path
        return process._process  # type: ignore[attr-defined]  # the bare one: its wait() is not tied to streams

    async def start_web(self, instead_of: int | None = None, **changes: Any) -> int:
        """Another web process, or one in the place and at the port of one that has ended; its number."""
        if instead_of is None:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = probe.getsockname()[1]
            number = len(self.urls)
        else:
            port, number = int(self.urls[instead_of].rpartition(":")[2]), instead_of
        process = await self.spawn("serve", port=port, **changes)
        self.webs[number : number + 1] = [process]
        self.urls[number : number + 1] = [f"http://127.0.0.1:{port}"]
        async with self.client(web=number) as client:

            async def live() -> bool:
                assert process.returncode is None, self.logs()
                with suppress(httpx.HTTPError):
                    return (await client.get("/health/live")).status_code == 200
                return False

            await until(live, 20)
        return number

    async def start_worker(self, *options: str, **changes: Any) -> Process:
        """Another generate process; returns when it takes work."""
        process = await self.spawn("work", "generate", *options, **changes)
        self.workers.append(process)

        def started() -> bool:
            assert process.returncode is None, self.logs()
            return "worker.started" in self.log(process)

        if "--until-idle" not in options:
            await until(started, 30)
        return process

    async def start_background(self, **changes: Any) -> Process:
        """Another background process; returns when it remembers messages."""
        process = await self.spawn("work", "background", **changes)
        self.workers.append(process)

        def started() -> bool:
            assert process.returncode is None, self.logs()
            return "worker.started" in self.log(process)

        await until(started, 30)
        return process

    async def remembered(self, client: httpx.AsyncClient, message_id: str, seconds: float = 10) -> dict[str, Any]:
        """``metadata.memory`` of the status once it is known what became of the message."""

        async def known() -> dict[str, Any] | None:
            memory = (await self.status(client, message_id))["metadata"]["memory"]
            return memory if memory["status"] != "queued" else None

        return dict(await until(known, seconds))

    async def initiate(self, client: httpx.AsyncClient, model: str = "t20", **body: Any) -> str:
        """A message's id. ``text`` is what the user says, unless the whole ``messages`` are given."""
        params = {"message_id": body.pop("message_id")} if "message_id" in body else {}
        turns = body.pop("messages", [{"role": "user", "content": body.pop("text", "hello")}])
        answer = await client.post("/v1/messages/async", params=params, json={"model": model, "messages": turns} | body)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["message_id"])

    async def status(self, client: httpx.AsyncClient, message_id: str) -> dict[str, Any]:
        answer = await client.get(f"/v1/messages/async/{message_id}/status")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    async def ended(self, client: httpx.AsyncClient, message_id: str, seconds: float = 20) -> dict[str, Any]:
        """The status once the message has ended."""

        async def final() -> dict[str, Any] | None:
            status = await self.status(client, message_id)
            return status if status["completed_at"] else None

        return dict(await until(final, seconds))

    async def written(self, client: httpx.AsyncClient, message_id: str, seq: int, seconds: float = 10) -> None:
        """Returns once the message has an event numbered ``seq`` or above."""

        async def reached() -> bool:
            return int((await self.status(client, message_id))["metadata"]["last_seq"]) >= seq

        await until(reached, seconds)

    async def observe(self, client: httpx.AsyncClient, message_id: str, after: int = 0) -> list[Event]:
        """Every event from a cursor to the end, resumed as often as it takes."""
        try:
            return await read_events(client, f"/v1/messages/async/{message_id}/stream", after)
        except TimeoutError:
            raise AssertionError(f"{message_id} did not end\n{self.logs()}") from None

    def log(self, process: Process) -> str:
        """What one of the processes printed."""
        return self._logs[process.pid].read_text()

    def logs(self) -> str:
        """What the processes printed, for the message of a failed test."""
        return "\n".join(f"== {p.name}\n{p.read_text()[-3000:]}" for p in sorted(self.place.glob("*.log")))

    def stop(self, processes: Iterable[Process]) -> None:
        for process in processes:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGCONT)
                    process.kill()


@asynccontextmanager
async def system(
    place: Path, *, workers: int = 1, webs: int = 1, background: int = 0, demo: bool = False, **changes: Any
) -> AsyncIterator[System]:
    """A deployment for the time of a test; every process is gone afterwards. ``demo``: no model but the built-in."""
    await anyio.to_thread.run_sync(lay_data, place / "data")
    async with upstream() as up, hold(place / "data") as home, embedded(home) as engines:
        models = place / "models.toml"
        models.write_text("".join(_aliases(up.base_url)))
        settings = Settings(
            redis_url=changes.pop("redis_url", engines.urls.redis_url),
            database_url=engines.urls.database_url,
            data_dir=str(place / "data"),
            root_key=KEY,
            models_file="" if demo else str(models),
            log_format="json",
            **(UNLIMITED | changes),
        )
        made = System(place, settings, up, engines)
        try:
            for _ in range(webs):
                await made.start_web()
            for _ in range(workers):
                await made.start_worker()
            for _ in range(background):
                await made.start_background()
            yield made
        finally:
            made.stop([*made.webs, *made.workers])
            with anyio.CancelScope(shield=True):
                for process in [*made.webs, *made.workers]:
                    await process.wait()


def lay_data(data: Path) -> None:
    """The data directory that a first start leaves: engines set up and stopped, the schema made, nothing in it."""
    subprocess.run(["cp", "-a", _first_start(), data], check=True)  # it keeps the owners, which shutil does not


def remove_first_start() -> None:
    """Removes what `lay_data` copies from, if it was ever called: at the end of a test session."""
    if _first_start.cache_info().currsize:
        shutil.rmtree(_first_start().parent, ignore_errors=True)


@functools.cache
def _first_start() -> Path:
    place = Path(tempfile.mkdtemp(prefix="rp-", dir="/tmp"))

    async def start(data: Path) -> None:
        async with hold(data) as home, embedded(home) as engines:
            await migrate(Settings(database_url=engines.urls.database_url, data_dir=str(data)))

    with anyio.from_thread.start_blocking_portal() as portal:
        portal.call(start, place / "data")
    return place / "data"


def _aliases(base_url: str) -> Iterable[str]:
    for name in MODELS:
        yield f'[models."{name}"]\nmodel = "{name}"\napi_base = "{base_url}"\napi_key = "k"\n'
        yield f'[models."lite-{name}"]\nmodel = "openai/{name}"\napi_base = "{base_url}"\napi_key = "k"\n'
        yield 'api = "litellm"\n'
