"""The supervisor: it restarts what dies or hangs, stops everything in time, and leaves nothing behind, even killed.

The children here are tiny programs that only beat; the engines are real, on the data of an earlier start.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError

from app.engines.home import lock_owner, running_engines
from app.engines.process import running_in
from app.errors import StartFailed
from app.settings import Settings
from app.supervise import CHILD_STOP_S, Program, child_stop_s, free_port, page_address, ready, supervise
from tests.system import lay_data

REPOSITORY = Path(__file__).parents[1]

CHILD = """
import os, signal, sys
from pathlib import Path
import anyio
from app.pulse import pulse

kind, place = sys.argv[1], Path(sys.argv[2])
place.joinpath("pids", kind).mkdir(parents=True, exist_ok=True)
place.joinpath("pids", kind, str(os.getpid())).touch()
if kind == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if kind == "broken":
    sys.exit(3)
if kind == "brief":
    os.write(int(os.environ["REPRISE_PULSE_FD"]), f"brief-{os.getpid()}\\n".encode())
    os.kill(os.getpid(), signal.SIGKILL)
anyio.run(pulse, f"{kind}-{os.getpid()}")
"""

SUPERVISOR = f"""
import sys
from pathlib import Path
import anyio
from app.settings import Settings
from app.supervise import Program, supervise

place, kinds = Path(sys.argv[1]), sys.argv[2:]

async def prepare(settings):
    return "the-key"

async def died(settings, worker):
    place.joinpath("dropped").open("a").write(worker + "\\n")

def say(line):
    print(line, flush=True)

children = [Program(name=kind, command=(sys.executable, "-c", {CHILD!r}, kind, str(place))) for kind in kinds]
settings = Settings(port=0, data_dir=str(place / "data"))
anyio.run(lambda: supervise(settings, children, prepare=prepare, worker_died=died, say=say))
"""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def wait_until(fact: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)


class Running:
    """A supervisor in a process of its own."""

    def __init__(self, place: Path, process: subprocess.Popen[str]) -> None:
        self.place = place
        self.process = process
        self.lines: list[str] = []

    def read_until(self, start: str) -> str:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            if line.startswith(start):
                return line
        raise AssertionError(f"it ended without saying {start!r}: {self.lines}")

    def ever(self, kind: str) -> set[int]:
        return {int(path.name) for path in (self.place / "pids" / kind).iterdir()}

    def child(self, kind: str) -> int:
        (pid,) = [pid for pid in self.ever(kind) if alive(pid)]
        return pid

    def everything(self) -> list[int]:
        """Every process of it that still runs."""
        children = [int(path.name) for path in (self.place / "pids").glob("*/*")]
        engines = [pid for name in ("redis", "postgres") for pid in running_in(self.place / "data" / name)]
        return [pid for pid in (*children, *engines) if alive(pid)]


@contextmanager
def supervisor(place: Path, *kinds: str) -> Iterator[Running]:
    if not (place / "data").exists():
        lay_data(place / "data")
    with subprocess.Popen(
        [sys.executable, "-c", SUPERVISOR, str(place), *kinds],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            yield Running(place, process)
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_everything_within_ten_seconds(short_tmp: Path, number: signal.Signals) -> None:
    with supervisor(short_tmp, "web", "stubborn") as running:
        kept = short_tmp / "data" / "root-key"
        said = running.read_until("Ready")
        assert said == f"Ready: http://127.0.0.1:{_port(running)}/ (the root key is in {kept})\n"
        assert len(running.everything()) > 3
        running.process.send_signal(number)
        running.process.wait(timeout=10)
        assert running.process.returncode == 0
        assert running.everything() == []
        assert lock_owner(short_tmp / "data") is None


def _port(running: Running) -> str:
    return running.lines[-1].split(":")[3].split("/")[0]


def test_it_says_what_it_started_and_where_the_data_is(short_tmp: Path) -> None:
    with supervisor(short_tmp, "web", "generate") as running:
        running.read_until("Ready")
        said = "".join(running.lines)
        assert f"Data:    {short_tmp / 'data'}" in said
        assert "1 web, 1 generate" in said
        assert "Redis " in said and "PostgreSQL 18" in said and "(embedded)" in said


def test_killed_it_takes_everything_along_and_starts_again(short_tmp: Path) -> None:
    with supervisor(short_tmp, "web", "generate", "stubborn") as running:
        running.read_until("Ready")
        running.process.kill()
        wait_until(lambda: running.everything() == [], seconds=10)
    with supervisor(short_tmp, "web", "generate") as running:
        running.read_until("Ready")


def test_killed_it_does_not_stop_an_immediate_start(short_tmp: Path) -> None:
    with supervisor(short_tmp, "web") as first:
        first.read_until("Ready")
        first.process.kill()
        with supervisor(short_tmp, "web") as second:
            second.read_until("Ready")


def test_a_worker_that_dies_before_its_pulse_was_looked_at_is_dropped(short_tmp: Path) -> None:
    with supervisor(short_tmp, "web", "brief") as running:
        running.read_until("Ready")
        wait_until((short_tmp / "dropped").exists)
        first = (short_tmp / "dropped").read_text().splitlines()[0]
        assert first in {f"brief-{pid}" for pid in running.ever("brief")}


def test_a_killed_child_is_replaced_and_its_worker_dropped(short_tmp: Path) -> None:
    with supervisor(short_tmp, "web", "generate") as running:
        running.read_until("Ready")
        before, web = running.child("generate"), running.child("web")
        os.kill(before, signal.SIGKILL)
        assert "SIGKILL" in running.read_until("The generate process ended")
        wait_until(lambda: len(running.ever("generate")) == 2)
        wait_until(lambda: _dropped(short_tmp) == [f"generate-{before}"])
        assert running.child("web") == web


def _dropped(place: Path) -> list[str]:
    file = place / "dropped"
    return file.read_text().split() if file.exists() else []


def test_a_hung_child_is_replaced(short_tmp: Path) -> None:
    with supervisor(short_tmp, "web", "generate") as running:
        running.read_until("Ready")
        before = running.child("generate")
        os.kill(before, signal.SIGSTOP)
        assert "has not answered for 5 s" in running.read_until("The generate process (pid")
        wait_until(lambda: len(running.ever("generate")) == 2)
        assert not alive(before)
        assert len(running.ever("web")) == 1


def test_a_child_that_cannot_start_ends_the_start(short_tmp: Path) -> None:
    with supervisor(short_tmp, "web", "broken") as running:
        running.read_until("app.errors.StartFailed: the broken process could not start (exit status 3)")
        assert running.process.wait(timeout=10) != 0
        assert running.everything() == []


@pytest.mark.parametrize("engine", ["redis", "postgres"])
async def test_a_killed_engine_is_started_again(short_tmp: Path, engine: str) -> None:
    with supervisor(short_tmp, "web") as running:
        running.read_until("Ready")
        web = running.child("web")
        urls = running_engines(short_tmp / "data")
        assert urls
        async with Redis.from_url(urls.redis_url) as client:
            await client.set("kept", "x")
        for pid in running_in(short_tmp / "data" / engine):
            os.kill(pid, signal.SIGKILL)
        running.read_until("Redis ended" if engine == "redis" else "PostgreSQL ended")
        with anyio.fail_after(20):
            while True:
                try:
                    async with Redis.from_url(urls.redis_url) as client:
                        assert await client.get("kept") == b"x"
                    break
                except RedisError:
                    await anyio.sleep(0.02)
        assert running.child("web") == web


def test_a_data_directory_in_use_is_refused(short_tmp: Path) -> None:
    with supervisor(short_tmp, "web") as first:
        first.read_until("Ready")
        with supervisor(short_tmp, "web") as second:
            line = second.read_until("app.errors.StartFailed")
            assert f"is in use by another Reprise (process {first.process.pid})" in line
            assert second.process.wait(timeout=10) != 0
        assert first.process.poll() is None


async def test_a_port_in_use_is_refused_even_when_it_is_shared(short_tmp: Path) -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(StartFailed, match=f"port {port} of 127.0.0.1 is in use"):
            await supervise(
                Settings(port=port, data_dir=str(short_tmp / "data")),
                [Program(name="never", command=("false",))],
                prepare=_never,
                worker_died=_never_died,
                say=print,
            )
    assert not (short_tmp / "data").exists()


async def _never(_settings: Settings) -> str:
    raise AssertionError("nothing may start")


async def _never_died(_settings: Settings, _name: str) -> None:
    raise AssertionError("nothing ran")


def test_a_worker_that_may_drain_for_long_is_not_killed_meanwhile() -> None:
    assert child_stop_s(Settings()) == CHILD_STOP_S
    assert child_stop_s(Settings(drain_s=60)) > 60


def test_ports_and_addresses() -> None:
    assert free_port("127.0.0.1", 0) > 0
    with pytest.raises(StartFailed, match="cannot listen"):
        free_port("192.0.2.1", 0)
    assert page_address(Settings(host="0.0.0.0", port=80), "k") == "http://127.0.0.1:80/#key=k"
    assert page_address(Settings(host="::1", port=80), "k") == "http://[::1]:80/#key=k"


def test_only_a_terminal_is_shown_the_key() -> None:
    settings = Settings(port=80, data_dir="/data")
    assert ready(settings, "k", True) == "Ready: http://127.0.0.1:80/#key=k"
    assert ready(settings, "k", False) == "Ready: http://127.0.0.1:80/ (the root key is in /data/root-key)"
    assert ready(settings, None, False) == ready(settings, None, True) == "Ready: http://127.0.0.1:80/"
