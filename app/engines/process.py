"""Other programs: start them so that they die with us, stop them within a time limit, find what was left running.

Linux only, as the embedded engines are; a process is found by its working directory, so no pid file can lie.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import pwd
import re
import shutil
import signal
import stat
import sys
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, NamedTuple

import anyio

_PR_SET_PDEATHSIG = 1
_prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None
_TROUBLE = re.compile(r"FATAL|PANIC|\berror\b|\bfailed\b|\*\*\*", re.IGNORECASE)


class User(NamedTuple):
    """Whom a server runs as when we are root."""

    uid: int
    gid: int


def unprivileged_user(directory: Path) -> User | None:
    """The owner of ``directory`` unless that is root, else ``nobody``; None when we are not root ourselves."""
    if os.geteuid() != 0:
        return None
    with suppress(FileNotFoundError):
        found = directory.stat()
        if found.st_uid != 0:
            return User(found.st_uid, found.st_gid)
    try:
        entry = pwd.getpwnam("nobody")
    except KeyError:
        return User(65534, 65534)
    return User(entry.pw_uid, entry.pw_gid)


def may_use(path: Path, user: User | None) -> bool:
    """Whether ``user`` can enter every directory above ``path`` and read (directories: enter) ``path`` itself."""
    if user is None:
        return True
    for place in (path, *path.parents):
        found = place.stat()
        shift = 6 if found.st_uid == user.uid else 3 if found.st_gid == user.gid else 0
        need = stat.S_IXOTH if stat.S_ISDIR(found.st_mode) else stat.S_IROTH
        if not (found.st_mode >> shift) & need:
            return False
    return True


async def spawn(
    command: Sequence[str],
    *,
    death_signal: int,
    user: User | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    text: str | None = None,
    output: IO[bytes] | None = None,
    pass_fds: Sequence[int] = (),
    niceness: int = 0,
) -> Process:
    """Start ``command`` in a session of its own, to receive ``death_signal`` when this thread or process ends.

    ``text`` is its standard input, ``output`` takes both its outputs (None: ours). A session of its own keeps
    Ctrl-C in the terminal from reaching it: the supervisor alone decides the order of stopping.
    """
    parent = os.getpid()

    def before_exec() -> None:
        if _prctl is not None:
            _prctl(_PR_SET_PDEATHSIG, death_signal)
        if os.getppid() != parent:
            os._exit(1)
        if niceness:
            os.nice(niceness)

    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=DEVNULL if text is None else PIPE,
        stdout=output,
        stderr=None if output is None else STDOUT,
        cwd=cwd,
        env=env,
        pass_fds=pass_fds,
        start_new_session=True,
        preexec_fn=before_exec,
        user=None if user is None else user.uid,
        group=None if user is None else user.gid,
        extra_groups=None if user is None else [],
    )
    if text is not None and process.stdin is not None:
        with suppress(BrokenPipeError, ConnectionResetError):
            process.stdin.write(text.encode())
            await process.stdin.drain()
        process.stdin.close()
    return process


async def stop(process: Process, *steps: tuple[int, float]) -> None:
    """Send each (signal, seconds to wait) in turn until the process has ended, at last SIGKILL to its group."""
    for number, seconds in steps:
        if process.returncode is not None:
            return
        with suppress(ProcessLookupError):
            process.send_signal(number)
        with anyio.move_on_after(seconds):
            await process.wait()
    kill_group(process)
    await process.wait()


def kill_group(process: Process) -> None:
    """SIGKILL for the process and whatever it started, unless it has ended."""
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def running_in(directory: Path) -> list[int]:
    """The processes whose working directory is ``directory``: how a server and its children are recognised."""
    here = directory.stat()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with suppress(OSError):
            place = (entry / "cwd").stat()
            if (place.st_dev, place.st_ino) == (here.st_dev, here.st_ino):
                found.append(int(entry.name))
    return found


async def stop_leftovers(directory: Path, names: Sequence[str], number: int, seconds: float = 5.0) -> int:
    """Stop every process of one of these ``names`` that works in ``directory``; how many there were.

    Signal ``number`` first, SIGKILL after ``seconds``. Returns when they are gone.
    """
    pids = [pid for pid in running_in(directory) if _name_of(pid) in names]
    for sent, limit in ((number, seconds), (signal.SIGKILL, seconds)):
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, sent)
        with anyio.move_on_after(limit):
            while any(_name_of(pid) in names for pid in pids):  # noqa: ASYNC110 - nothing else tells of strangers
                await anyio.sleep(0.02)
            break
    return len(pids)


def _name_of(pid: int) -> str:
    """The program's name, or nothing once the process has ended (a zombie has)."""
    try:
        line = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    name, _, rest = line.partition("(")[2].rpartition(")")
    return "" if rest.split()[0] in "ZX" else name


def open_log(log: Path) -> IO[bytes]:
    """``log`` for appending, readable by us alone: a server's log may quote what it was given."""
    return open(log, "ab", opener=lambda path, flags: os.open(path, flags, 0o600))


def tail(log: Path, start: int = 0) -> str:
    """The line of ``log`` that best says what went wrong: the last one that names trouble, else the last."""
    try:
        with log.open("rb") as file:
            file.seek(start)
            lines = [line.strip() for line in file.read(1_000_000).decode(errors="replace").splitlines()]
    except OSError:
        return "it wrote no log"
    lines = [line for line in lines if line]
    trouble = [line for line in lines if _TROUBLE.search(line)]
    return (trouble or lines or ["it wrote nothing to its log"])[-1]


def copy_readable(source: Path, target: Path) -> None:
    """A copy of the file or directory ``source`` that everybody may read and run, whatever the original's modes."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, symlinks=True)
    else:
        shutil.copy2(source, target)
    for path in (target, *target.rglob("*")):
        if path.is_symlink() or not path.exists():
            continue
        mode = path.stat().st_mode
        path.chmod(mode | 0o444 | (0o111 if path.is_dir() or mode & stat.S_IXUSR else 0))
