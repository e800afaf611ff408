"""A live `reprise run` and the scripted upstream, each started here, and what their processes use."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from tests.bench.wire import Caller, get, post

ROOT = Path(__file__).resolve().parents[2]
KEY = "rp_live_benchmark_of_this_machine_only"
START_LIMIT_S = 120.0
STOP_LIMIT_S = 15.0
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_ROLES = (
    (("redis-server",), "redis"),
    (("valkey-server",), "redis"),
    (("postgres",), "postgres"),
    (("app", "serve"), "web"),
    (("app", "work", "generate"), "generate"),
    (("app", "work", "background"), "background"),
    (("app", "run"), "supervisor"),
)


def allow_many_files() -> int:
    """Raises the soft limit of open files to the hard one, which it gives; children inherit it."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _environment(**values: str) -> dict[str, str]:
    """Ours without anything that configures Reprise or a model, and ``values``."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("REPRISE_", "OPENAI_"))}  # noqa: TID251
    return kept | values


class Upstream:
    """`tests/upstream.py` in a process of its own."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.upstream"]
        self._process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=_environment())
        assert self._process.stdout is not None
        self.base_url = self._process.stdout.readline().strip()
        host, port = self.base_url.removeprefix("http://").removesuffix("/v1").split(":")
        self.address = (host, int(port))

    def _ask(self, request: bytes) -> Any:
        caller = Caller(self.address)
        try:
            return caller.ask(request)[1]
        finally:
            caller.close()

    def reset(self) -> None:
        self._ask(post("/_reset", ""))

    def log(self) -> dict[str, Any]:
        """``requests`` (``n``, ``at_ns``, ``body``), ``closes`` (``request``, ``at_ns``), ``finished``, ``active``."""
        return dict(self._ask(get("/_log", "")))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()


def asked_by(request: dict[str, Any]) -> str:
    """The text a logged upstream request was started with (`Caller.start`)."""
    content = request["body"]["messages"][-1]["content"]
    return content if isinstance(content, str) else str(content[0]["text"])


class Gateway:
    """`reprise run` on a free port, in a data directory, with a models file that knows ``models``."""

    def __init__(self, upstream: Upstream, models: Sequence[str], directory: Path, **settings: str) -> None:
        self.directory = directory
        self.data_dir = directory / "data"
        self.address = ("127.0.0.1", free_port())
        models_file = directory / "models.toml"
        models_file.write_text(
            "".join(f'[models."{m}"]\nmodel = "{m}"\napi_base = "{upstream.base_url}"\n' for m in dict.fromkeys(models))
        )
        names = {f"REPRISE_{name.upper()}": value for name, value in settings.items()}
        self.env = _environment(REPRISE_ROOT_KEY=KEY, REPRISE_MODELS_FILE=str(models_file), **names)
        self.log = directory / "run.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> float:
        """Starts it; the seconds until `/health/ready` first answered 200."""
        command = [sys.executable, "-m", "app", "run", "--port", str(self.address[1]), "--data-dir", str(self.data_dir)]
        began = time.monotonic()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(command, cwd=ROOT, env=self.env, stdout=log, stderr=log)
        while not self._ready():
            if self._process.poll() is not None or time.monotonic() - began > START_LIMIT_S:
                raise RuntimeError(f"reprise run did not become ready:\n{self.tail()}")
            time.sleep(0.01)
        return time.monotonic() - began

    def _ready(self) -> bool:
        try:
            caller = Caller(self.address, limit_s=5.0)
        except OSError:
            return False
        try:
            return caller.ask(get("/health/ready", ""))[0] == 200
        except (OSError, ValueError):
            return False
        finally:
            caller.close()

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        process.terminate()
        try:
            process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def tail(self) -> str:
        """The end of what it said."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])

    def caller(self) -> Caller:
        return Caller(self.address, KEY)

    def engines(self) -> dict[str, str]:
        """``redis_url`` and ``database_url`` of the embedded engines."""
        found: dict[str, dict[str, str]] = msgspec.json.decode((self.data_dir / "engines.json").read_bytes())
        return found["urls"]

    def processes(self) -> dict[str, list[int]]:
        """Our processes by role: web, generate, background, supervisor, redis, postgres, other."""
        assert self._process is not None
        parents = _parents()
        found: dict[str, list[int]] = {}
        for pid in parents:
            if _descends(pid, self._process.pid, parents):
                found.setdefault(_role(pid), []).append(pid)
        return found

    def pid(self, role: str) -> int:
        (only,) = self.processes()[role]
        return only

    def cpu(self) -> Cpu:
        """CPU seconds so far, by role."""
        return Cpu({role: sum(map(cpu_seconds, pids)) for role, pids in self.processes().items()})


class Cpu(dict[str, float]):
    """CPU seconds by role."""

    def since(self, before: Cpu) -> Cpu:
        return Cpu({role: value - before.get(role, 0.0) for role, value in self.items()})

    @property
    def total(self) -> float:
        return sum(self.values())

    def each(self, count: int) -> str:
        """Microseconds a piece by role, largest first, in words."""
        parts = sorted(self.items(), key=lambda item: -item[1])
        return ", ".join(f"{role} {value * 1e6 / count:.0f}" for role, value in parts if value * 1e6 / count >= 0.5)


@contextmanager
def gateway(upstream: Upstream, models: Sequence[str], **settings: str) -> Iterator[Gateway]:
    """A running gateway in a directory that is removed with it."""
    with _Directory() as directory:
        run = Gateway(upstream, models, directory, **settings)
        upstream.reset()
        try:
            run.start()
            yield run
        finally:
            run.stop()


class _Directory:
    """A temporary directory that other users may pass through: as root the engines run as another."""

    def __enter__(self) -> Path:
        self._path = Path(tempfile.mkdtemp(prefix="reprise-bench-"))
        self._path.chmod(0o711)
        return self._path

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        shutil.rmtree(self._path, ignore_errors=True)


temporary_directory = _Directory


def kill(pid: int) -> int:
    """kill -9 of a process of ours; the time just before."""
    now = time.monotonic_ns()
    os.kill(pid, signal.SIGKILL)
    return now


def wait_until(fact: Callable[[], bool], limit_s: float, what: str) -> None:
    end = time.monotonic() + limit_s
    while not fact():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {limit_s:g} s in vain for {what}")
        time.sleep(0.01)


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and all its threads; 0 for one that is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) * _TICK_S


def busy_share(seconds: float = 1.0) -> float:
    """The share (0–1) of all cores in use during ``seconds``: what else runs here while nothing of ours does."""

    def sample() -> tuple[int, int]:
        fields = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
        return sum(fields), fields[3] + fields[4]

    total, idle = sample()
    time.sleep(seconds)
    total_after, idle_after = sample()
    return 1 - (idle_after - idle) / max(1, total_after - total)


def memory_bytes(pid: int) -> int:
    """Proportional set size: shared pages counted by share."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("the kernel does not tell Pss")


def _parents() -> dict[int, int]:
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    return parents


def _descends(pid: int, ancestor: int, parents: dict[int, int]) -> bool:
    while pid > 1:
        if pid == ancestor:
            return True
        pid = parents.get(pid, 0)
    return False


def _role(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").replace("\0", " ").split()
    except OSError:
        return "other"
    for signs, role in _ROLES:
        if len(signs) == 1:
            if words and signs[0] in words[0]:
                return role
        elif any(tuple(words[i : i + len(signs)]) == signs for i in range(len(words))):
            return role
    return "other"
