"""The web process as a whole: it listens, drains its streams on a signal, and ends in order."""

from __future__ import annotations

import signal
import socket
import sys
from asyncio.subprocess import Process
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import httpx
import msgspec
import pytest

from app.errors import StartFailed, Unavailable
from app.serve import serve
from app.settings import Settings
from tests.live import ROOT_KEY, live
from tests.rig import lifecycle_on, new_message, until

ROOT = Path(__file__).parent.parent


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def served(settings: Settings, **variables: str):  # type: ignore[no-untyped-def]
    """``python -m app serve``: the process and its address."""
    settings = msgspec.structs.replace(settings, port=free_port(), root_key=ROOT_KEY)
    opened = await anyio.open_process(
        [sys.executable, "-m", "app", "serve"],
        cwd=ROOT,
        env=settings.child_environment() | variables,
        stdout=None,
        stderr=None,
    )
    process: Process = opened._process  # type: ignore[attr-defined]
    url = f"http://127.0.0.1:{settings.port}"
    try:
        async with httpx.AsyncClient(base_url=url) as client:

            async def live() -> bool:
                assert process.returncode is None
                try:
                    return (await client.get("/health/live")).status_code == 200
                except httpx.TransportError:
                    return False

            await until(live, 20)
        yield process, url
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_streams_cleanly_and_the_process_in_time(settings: Settings, number: int) -> None:
    async with served(settings) as (process, url), httpx.AsyncClient(headers={"X-API-Key": ROOT_KEY}) as client:
        started = await client.post(
            f"{url}/v1/messages/async", json={"messages": [{"role": "user", "content": "nobody answers"}]}
        )
        assert started.status_code == 200, started.text
        async with client.stream("GET", url + started.json()["stream_url"], timeout=20) as stream:
            lines = stream.aiter_lines()
            assert await anext(lines) == "retry: 1000"
            process.send_signal(number)
            with anyio.fail_after(5):
                rest = [line async for line in lines]  # a cut would raise
                assert await process.wait() == 0
        assert not any(line.startswith("data:") for line in rest)


async def test_stopping_ends_streams_and_refuses_connections(settings: Settings) -> None:
    async with lifecycle_on(settings) as lifecycle:
        async with live(settings) as web, web.client() as client:
            account = (await client.get("/health/live")).status_code == 200
            assert account
            url = web.url
        with pytest.raises(httpx.ConnectError):
            await httpx.AsyncClient().get(f"{url}/health/live")
        await lifecycle.create(new_message("after"))


async def test_a_port_of_others_is_refused(settings: Settings) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(StartFailed, match="port"):
            await serve(msgspec.structs.replace(settings, port=taken.getsockname()[1]), stop=anyio.Event())


async def test_the_command_shares_no_port_with_another_reprise(settings: Settings) -> None:
    """The server sets SO_REUSEPORT: without a look first, both would answer in turn."""
    async with live(settings) as web:
        port = int(web.url.rpartition(":")[2])
        second = await anyio.run_process(
            [sys.executable, "-m", "app", "serve", "--port", str(port)],
            env=settings.child_environment(),
            check=False,
        )
    assert second.returncode == 1
    assert f"port {port} of 127.0.0.1 is in use" in second.stderr.decode()


async def test_engines_that_are_away_are_one_plain_error(settings: Settings) -> None:
    gone = msgspec.structs.replace(settings, redis_url="redis://127.0.0.1:1")
    with pytest.raises(Unavailable, match="Redis"):
        await serve(gone, stop=anyio.Event())
    wrong = msgspec.structs.replace(settings, models_file="/nowhere.toml")
    with pytest.raises(StartFailed):
        await serve(wrong, stop=anyio.Event())


async def test_any_process_answers_for_the_metrics_of_all(settings: Settings, tmp_path: Path) -> None:
    place = str(tmp_path)
    async with (
        served(settings, PROMETHEUS_MULTIPROC_DIR=place) as (_, first),
        served(settings, PROMETHEUS_MULTIPROC_DIR=place) as (_, second),
        httpx.AsyncClient() as client,
    ):
        for url in (first, first, second):
            assert (await client.get(f"{url}/v1/nope")).status_code == 404
        for url in (first, second):
            text = (await client.get(f"{url}/metrics")).text
            assert 'reprise_http_requests_total{method="-",route="(none)",status="404"} 3.0' in text
            assert "reprise_queue_depth 0.0" in text
