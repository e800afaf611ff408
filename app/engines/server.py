"""What the two servers have in common: one life from leftovers to readiness, and the record of who wrote the data."""

from __future__ import annotations

import shutil
import sys
from abc import ABC, abstractmethod
from asyncio.subprocess import Process
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import anyio
import msgspec

from app.engines import process
from app.engines.home import Home, write_private
from app.errors import StartFailed

START_LIMIT_S = 60.0  # without any sign of life; a server that says it is loading may take longer
LOG_LIMIT_BYTES = 10_000_000  # of one log, moved aside at the next start


class Written(msgspec.Struct, frozen=True):
    """Who wrote the data: the record in the directory."""

    engine: str
    version: str

    @property
    def release(self) -> tuple[int, ...]:
        """The version as far as it decides whether the data can be read (choice 4)."""
        return tuple(int(part) for part in self.version.split(".")[:2] if part.isdigit())


class NotYet(Exception):
    """The server does not answer; ``alive`` when it said that it is still loading."""

    def __init__(self, *, alive: bool = False) -> None:
        super().__init__()
        self.alive = alive


class Server(ABC):
    """One embedded server. ``start`` and ``stop`` may be called again and again; ``url`` never changes."""

    name: ClassVar[str]
    directory_name: ClassVar[str]
    programs: ClassVar[Sequence[str]]  # what its processes are called
    death_signal: ClassVar[int]
    stop_steps: ClassVar[Sequence[tuple[int, float]]]

    def __init__(self, home: Home, url: str) -> None:
        self.home = home
        self.url = url
        self.version = ""
        self._process: Process | None = None

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    @abstractmethod
    async def _prepare(self, directory: Path) -> tuple[Written, list[str], str | None]:
        """What will run, its command, and its standard input. Creates the data where there is none."""

    @abstractmethod
    async def _ping(self) -> None:
        """One attempt to be answered; raises NotYet."""

    async def start(self) -> None:
        """Start the server and return once it answers. Raises StartFailed with one line that says why not."""
        if sys.platform != "linux":
            raise StartFailed(
                f"the embedded {self.name} runs on Linux only: set REPRISE_REDIS_URL and REPRISE_DATABASE_URL"
            )
        try:
            directory = self.home.directory(self.directory_name)
            await process.stop_leftovers(directory, self.programs, self.death_signal)
            written, command, text = await self._prepare(directory)
            # Before the start: once the server has touched the data, an older one must not (choice 4).
            write_private(self._record, msgspec.json.encode(written))
            self.version = written.version
            await self._run(command, text)
        except OSError as error:
            raise StartFailed(f"{self.name} cannot start: {error.strerror}: {error.filename}") from None

    async def wait(self) -> int:
        """Returns its exit status when the server has ended, for whatever reason."""
        assert self._process is not None
        return await self._process.wait()

    async def stop(self) -> None:
        """End the server, data safe on disk, within the sum of ``stop_steps``; shield it and it always does."""
        if self._process is not None:
            await process.stop(self._process, *self.stop_steps)

    @property
    def log(self) -> Path:
        return self.home.path / f"{self.directory_name}.log"

    @property
    def _record(self) -> Path:
        return self.home.path / f"{self.directory_name}.json"

    def written(self) -> Written | None:
        """Who wrote the data there is, or None for a fresh directory."""
        try:
            return msgspec.json.decode(self._record.read_bytes(), type=Written)
        except FileNotFoundError:
            return None
        except msgspec.MsgspecError as error:
            raise StartFailed(f"{self._record} cannot be read: {error}") from None

    async def _run(self, command: list[str], text: str | None) -> None:
        if self.log.exists() and self.log.stat().st_size > LOG_LIMIT_BYTES:
            self.log.replace(self.log.with_suffix(".log.old"))
        with process.open_log(self.log) as log:
            begin = log.tell()
            self._process = await process.spawn(
                command,
                death_signal=self.death_signal,
                user=self.home.user,
                cwd=self.home.path / self.directory_name,
                text=text,
                output=log,
            )
        try:
            await self._until_ready(self._process, begin)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self.stop()
            raise

    async def _until_ready(self, running: Process, begin: int) -> None:
        deadline = anyio.current_time() + START_LIMIT_S
        while True:
            try:
                return await self._ping()
            except NotYet as reason:
                if reason.alive:
                    deadline = anyio.current_time() + START_LIMIT_S
            if running.returncode is not None:
                raise StartFailed(f"{self.name} cannot start: {process.tail(self.log, begin)}")
            if anyio.current_time() > deadline:
                raise StartFailed(f"{self.name} does not answer: {process.tail(self.log, begin)}")
            await anyio.sleep(0.01)

    def usable(self, root: Path, parts: Sequence[str], copy_name: str) -> Path:
        """``root`` where the server's user may read ``parts`` below it, else the root of a copy that it may read.

        The copy lies in the data directory, or with the sockets where that is closed to the user too (choice 2).
        """
        user = self.home.user
        if all(process.may_use(root / part, user) for part in parts):
            return root
        base = self.home.path if process.may_use(self.home.path, user) else self.home.sockets
        copy = base / copy_name
        if not copy.exists():
            draft = base / f"{copy_name}.part"
            shutil.rmtree(draft, ignore_errors=True)
            for part in parts:
                process.copy_readable(root / part, draft / part)
            draft.rename(copy)
        return copy
