"""`reprise run` itself, as a person starts it: ready, healed after kills, found by other commands, gone in the end."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from app.engines.process import running_in
from app.supervise import free_port

REPOSITORY = Path(__file__).parents[1]


class Reprise:
    """A running `reprise run`."""

    def __init__(self, data: Path, port: int, process: subprocess.Popen[bytes], log: Path) -> None:
        self.data = data
        self.address = f"http://127.0.0.1:{port}"
        self.process = process
        self.log = log

    def wait_ready(self, seconds: float = 40) -> None:
        deadline = time.monotonic() + seconds
        while True:
            with suppress(httpx.TransportError):
                if httpx.get(f"{self.address}/health/ready", timeout=5).status_code == 200:
                    return
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)

    def wait_said(self, text: str) -> None:
        deadline = time.monotonic() + 20
        while text not in self.log.read_text():
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)

    def child(self, command: str) -> int | None:
        """The process that runs this command of ours, if it lives."""
        for pid in self.children():
            with suppress(OSError):
                if command in Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " "):
                    return pid
        return None

    def children(self) -> list[int]:
        found = []
        for entry in Path("/proc").iterdir():
            with suppress(OSError):
                if entry.name.isdigit():
                    rest = (entry / "stat").read_text().rpartition(")")[2].split()
                    if rest[0] not in "ZX" and int(rest[1]) == self.process.pid:
                        found.append(int(entry.name))
        return found

    def wait_replaced(self, command: str, before: int | None) -> None:
        deadline = time.monotonic() + 20
        while self.child(command) in (before, None):
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)


@contextmanager
def running(place: Path, *options: str, terminal: int | None = None) -> Iterator[Reprise]:
    """`reprise run`; its standard output goes to the log, or to ``terminal``."""
    port, data, log = free_port("127.0.0.1", 0), place / "data", place / "log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "app", "run", "--port", str(port), "--data-dir", str(data), *options],
            cwd=REPOSITORY,
            stdout=output if terminal is None else terminal,
            stderr=output,
        )
    try:
        yield Reprise(data, port, process, log)
    finally:
        process.kill()
        process.wait()


def ended(pids: list[int]) -> bool:
    """None of them runs; one that was left to a container's first process may stay as a zombie."""
    for pid in pids:
        with suppress(OSError):
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX":
                return False
    return True


@pytest.mark.timeout(180)
def test_it_runs_heals_and_stops(short_tmp: Path) -> None:
    with running(short_tmp, "--web", "2") as reprise:
        reprise.wait_ready()
        key = (reprise.data / "root-key").read_text().strip()
        assert (reprise.data / "root-key").stat().st_mode & 0o777 == 0o600
        page = httpx.get(reprise.address)
        assert page.status_code == 200
        headers = {"X-API-Key": key}
        message = {"messages": [{"role": "user", "content": "hello"}]}
        answer = httpx.post(f"{reprise.address}/v1/messages/async", json=message, headers=headers)
        assert answer.status_code == 200, answer.text
        stream = httpx.get(f"{reprise.address}{_path(answer.json()['stream_url'])}", headers=headers, timeout=30)
        assert "event: message_stop" in stream.text

        listed = subprocess.run(
            [sys.executable, "-m", "app", "key", "list", "--data-dir", str(reprise.data)],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=True,
        )
        assert "root" in listed.stdout

        for command in ("app work generate", "app serve"):
            before = reprise.child(command)
            assert before is not None
            os.kill(before, signal.SIGKILL)
            reprise.wait_replaced(command, before)
        reprise.wait_ready()
        reprise.wait_said(f"Ready: {reprise.address}/ (the root key is in {reprise.data / 'root-key'})")
        assert key not in reprise.log.read_text()

        everything = reprise.children()
        assert len(everything) == 6
        reprise.process.send_signal(signal.SIGTERM)
        assert reprise.process.wait(timeout=10) == 0
        assert ended(everything)


@pytest.mark.timeout(180)
def test_killed_it_starts_again_on_the_same_data(short_tmp: Path) -> None:
    with running(short_tmp) as reprise:
        reprise.wait_ready()
        key = (reprise.data / "root-key").read_text()
        everything = reprise.children()
        reprise.process.kill()
    reading, writing = pty.openpty()
    with running(short_tmp, terminal=writing) as reprise:
        said = b""
        while f"Ready: {reprise.address}/#key={key.strip()}".encode() not in said:
            assert select.select([reading], [], [], 40)[0], said
            said += os.read(reading, 65_536)
        assert ended(everything)
        assert (reprise.data / "root-key").read_text() == key
        reprise.process.send_signal(signal.SIGINT)
        assert reprise.process.wait(timeout=10) == 0
        assert not any(running_in(reprise.data / name) for name in ("redis", "postgres"))
    os.close(reading)
    os.close(writing)


def _path(address: str) -> str:
    return "/" + address.split("/", 3)[3] if "://" in address else address
