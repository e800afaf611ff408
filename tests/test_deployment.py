"""What lies in config/ works: the proxies carry streams unbuffered, units and containers start what there is."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import httpx
import msgspec
import pytest
import websockets
import yaml
from click import Context

from app.cli.main import Commands, cli
from app.doctor.finding import release
from app.settings import OTHERS, Settings
from tests.rig import until
from tests.sse import error_of, frames
from tests.system import KEY, System

REPOSITORY = Path(__file__).parents[1]
CONFIG = REPOSITORY / "config"
UNITS = sorted((CONFIG / "systemd").glob("*.service"))
PROXIES = [
    pytest.param(name, marks=pytest.mark.skipif(shutil.which(name) is None, reason=f"no {name} on PATH"))
    for name in ("nginx", "caddy")
]
NAMES = {f"REPRISE_{field.name.upper()}" for field in msgspec.structs.fields(Settings)} | OTHERS


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def proxy(name: str, place: Path, *upstreams: str) -> AsyncIterator[str]:
    """The sample configuration in front of these web processes; its address."""
    port, addresses = free_port(), [url.removeprefix("http://") for url in upstreams]
    command = nginx(place, port, addresses) if name == "nginx" else caddy(place, port, addresses)
    with (place / "proxy.log").open("wb") as log:
        env = {"HOME": str(place), "PATH": "/"}
        process = await anyio.open_process(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env)
    try:

        async def listens() -> bool:
            assert process.returncode is None, (place / "proxy.log").read_text()
            with suppress(OSError):
                await (await anyio.connect_tcp("127.0.0.1", port)).aclose()
                return True
            return False

        await until(listens)
        yield f"http://127.0.0.1:{port}"
    finally:
        if process.returncode is None:
            process.terminate()
        with anyio.CancelScope(shield=True):
            await process.wait()


def nginx(place: Path, port: int, addresses: list[str]) -> list[str]:
    sample = (CONFIG / "nginx.conf").read_text()
    sample, servers = re.subn(
        r"server 127\.0\.0\.1:8000 (.*);", lambda m: "\n".join(f"server {a} {m[1]};" for a in addresses), sample
    )
    sample, listens = re.subn(r"listen 80;", f"listen 127.0.0.1:{port};", sample)
    assert (servers, listens) == (1, 1)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = "".join(f"{kind}_temp_path {place}/{kind};" for kind in kinds)
    whole = place / "nginx.conf"
    whole.write_text(
        f"daemon off; user {Path.home().owner()}; pid {place}/pid; error_log stderr;"
        f"events {{}} http {{ access_log off; {temporary} {sample} }}"
    )
    return [shutil.which("nginx") or "", "-p", str(place), "-c", str(whole)]


def caddy(place: Path, port: int, addresses: list[str]) -> list[str]:
    sample = (CONFIG / "Caddyfile").read_text()
    sample, sites = re.subn(r"^:80 ", f":{port} ", sample, flags=re.MULTILINE)
    sample, proxies = re.subn(r"reverse_proxy 127\.0\.0\.1:8000", f"reverse_proxy {' '.join(addresses)}", sample)
    assert (sites, proxies) == (1, 1)
    version = subprocess.run([shutil.which("caddy") or "", "version"], capture_output=True, text=True, check=True)
    if release(version.stdout.lstrip("v")) < (2, 7):
        sample = sample.replace("request_buffers 1MB", "buffer_requests")  # as the sample says
    whole = place / "Caddyfile"
    whole.write_text(f"{{\n\tadmin off\n\tdefault_bind 127.0.0.1\n}}\n{sample}")
    return [shutil.which("caddy") or "", "run", "--config", str(whole), "--adapter", "caddyfile"]


def client_of(url: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=url, headers={"X-API-Key": KEY}, timeout=20)


@pytest.mark.parametrize("name", PROXIES)
async def test_a_stream_comes_through_the_proxy_as_it_is_written(live: System, short_tmp: Path, name: str) -> None:
    async with proxy(name, short_tmp, *live.urls) as url, client_of(url) as client:
        message_id = await live.initiate(client, "stall10")
        path = f"/v1/messages/async/{message_id}/stream"
        async with client.stream("GET", path) as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            seen = [event async for event in until_delta(response)]
        assert seen[-1].data["delta"]["text"]
        assert (await live.status(client, message_id))["status"] == "processing"  # the model never says more

        socket_url = f"ws{url.removeprefix('http')}/v1/messages/async/{message_id}/ws"
        async with websockets.connect(socket_url, additional_headers={"X-API-Key": KEY}, proxy=None) as ws:
            assert msgspec.json.decode(await ws.recv())["type"] == "message_start"
            await ws.send('{"type": "cancel"}')
            with anyio.fail_after(10):
                assert "message_cancelled" in [msgspec.json.decode(text)["type"] async for text in ws]


async def until_delta(response: httpx.Response) -> AsyncIterator[Any]:
    async for event in frames(response):
        yield event
        if event.type == "content_block_delta":
            return


@pytest.mark.parametrize("name", PROXIES)
async def test_what_is_too_large_is_said_by_reprise_not_by_the_proxy(live: System, short_tmp: Path, name: str) -> None:
    async with proxy(name, short_tmp, *live.urls) as url, client_of(url) as client:
        spaces = b" " * (live.settings.max_ingest_bytes - 1)
        whole = await client.post("/api/chat-history/ingest/custom-online", content=spaces)
        error_of(whole, 400, "BAD_REQUEST")
        refused = await client.post("/v1/messages/async", content=b" " * (live.settings.max_body_bytes + 1))
        error_of(refused, 413, "PAYLOAD_TOO_LARGE")


@pytest.mark.parametrize("name", PROXIES)
async def test_a_process_that_is_being_replaced_is_passed_over(live: System, short_tmp: Path, name: str) -> None:
    gone = f"http://127.0.0.1:{free_port()}"
    async with proxy(name, short_tmp, gone, live.url) as url, client_of(url) as client:
        for _ in range(6):
            await live.initiate(client, "t1")


@pytest.mark.parametrize("name", PROXIES[:1])
async def test_a_browser_comes_back_where_no_process_is_there(short_tmp: Path, name: str) -> None:
    async with proxy(name, short_tmp, f"http://127.0.0.1:{free_port()}") as url, client_of(url) as client:
        watching = await client.get("/v1/messages/async/msg_1/stream", headers={"Accept": "text/event-stream"})
        assert (watching.status_code, watching.text) == (200, "retry: 3000\n\n: not now, come back\n\n")
        assert watching.headers["content-type"] == "text/event-stream"
        assert (await client.get("/v1/messages/async")).status_code == 502


def known_command(words: list[str]) -> bool:
    """Whether `reprise WORDS` is a command with options that it has."""
    assert isinstance(cli, Commands)
    command = cli.get_command(Context(cli), words[0])
    assert command is not None, words
    command.make_context(words[0], list(words[1:]))  # raises for an option that it has not
    return True


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_units_start_commands_with_settings_that_there_are(unit: Path) -> None:
    lines = [line.partition("=") for line in unit.read_text().splitlines() if not line.startswith(("#", "["))]
    values = {name: value for name, _, value in lines}
    program, *words = values["ExecStart"].replace("%i", "8000").split()
    assert program.endswith("/.venv/bin/reprise")
    assert known_command(words)
    assert {pair.partition("=")[0] for pair in values["Environment"].split()} <= NAMES
    assert set(re.findall(r"REPRISE_[A-Z_]+", unit.read_text())) <= NAMES
    assert float(values["TimeoutStopSec"]) > Settings().drain_s


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze on PATH")
def test_units_are_understood_by_systemd(tmp_path: Path) -> None:
    for unit in UNITS:
        (tmp_path / unit.name).write_text(unit.read_text().replace("/opt/reprise/.venv/bin/reprise", "/bin/true"))
    done = subprocess.run(
        ["systemd-analyze", "verify", *map(str, sorted(tmp_path.iterdir()))],
        capture_output=True,
        text=True,
        check=False,
    )
    assert [line for line in done.stderr.splitlines() if "reprise" in line] == []


def test_containers_start_commands_with_settings_that_there_are() -> None:
    composed = yaml.safe_load((CONFIG / "compose.yaml").read_text())
    ours = {name: service for name, service in composed["services"].items() if service["image"] == "reprise"}
    assert set(ours) == {"web", "generate", "background"}
    for service in ours.values():
        assert known_command(service["command"])
        assert set(service["environment"]) <= NAMES
    drain_s = float(ours["generate"]["environment"]["REPRISE_DRAIN_S"])
    assert float(ours["generate"]["stop_grace_period"].removesuffix("s")) > drain_s
    assert set(composed["volumes"]) == {"redis", "db"}
    build = ours["web"]["build"]
    assert (CONFIG / build["context"] / build["dockerfile"]).resolve() == CONFIG / "Dockerfile"


def test_the_image_is_made_of_files_that_there_are() -> None:
    text = (CONFIG / "Dockerfile").read_text()
    copied = [name for line in re.findall(r"^COPY (.*) \S+$", text, re.MULTILINE) for name in line.split()]
    assert copied
    assert all((REPOSITORY / name).exists() for name in copied)
    assert set(re.findall(r"REPRISE_[A-Z_]+", text)) <= NAMES
    assert known_command(re.findall(r'CMD \["(\w+)"\]', text))
