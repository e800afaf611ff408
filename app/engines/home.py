"""The data directory: who holds it, the engines' passwords, where their sockets are.

::

    <data dir>/            0700 (0711 as root: the engines' user must pass through)
    ├── lock               held with flock by the supervisor, its pid inside
    ├── secrets.json       0600: the engines' passwords, made once
    ├── engines.json       0600: the addresses of the running engines; only there while somebody holds the lock
    ├── run/               the engines' sockets; where the path is too long or closed to their user, /tmp/reprise-*
    ├── redis/  postgres/  one engine's data each, and *.log beside them
    └── root-key, metrics/ of others
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import anyio
import msgspec
import platformdirs

from app.engines.process import User, may_use, unprivileged_user
from app.errors import StartFailed
from app.settings import Settings

MAX_SOCKET_PATH = 100  # bytes; the kernel refuses 108, Redis already at 108
LOCK_WAIT_S = 0.5  # somebody only looking at the lock holds it for an instant
_SOCKET_PREFIX = "reprise-"
_LONGEST_SOCKET = ".s.PGSQL.5432.lock"


class Urls(msgspec.Struct, frozen=True):
    """Addresses of the engines, passwords inside; empty for one that is not embedded."""

    redis_url: str = ""
    database_url: str = ""


class Passwords(msgspec.Struct, frozen=True):
    redis: str
    postgres: str


class _Running(msgspec.Struct):
    urls: Urls
    sockets: str


class Home:
    """A data directory we hold. Made by `hold` only."""

    def __init__(self, path: Path, user: User | None, passwords: Passwords, sockets: Path) -> None:
        self.path = path
        self.user = user
        self.passwords = passwords
        self.sockets = sockets

    def directory(self, name: str) -> Path:
        """An engine's own directory, closed to all but its user."""
        place = self.path / name
        _make(place, self.user, 0o700)
        return place

    def publish(self, urls: Urls) -> None:
        """Let other commands find the running engines (`running_engines`)."""
        write_private(self.path / "engines.json", msgspec.json.encode(_Running(urls, str(self.sockets))))


def data_directory(settings: Settings) -> Path:
    """``settings.data_dir``, or the platform's: /var/lib/reprise as root, the user's data directory otherwise."""
    if settings.data_dir:
        return Path(settings.data_dir).expanduser().absolute()
    if os.geteuid() == 0:
        return Path("/var/lib/reprise")
    return Path(platformdirs.user_data_dir("reprise", appauthor=False))


def in_use(path: Path) -> bool:
    """Whether a Reprise has ever held this data directory."""
    return (path / "secrets.json").exists()


@asynccontextmanager
async def hold(path: Path) -> AsyncIterator[Home]:
    """Take the data directory for this process, making it where it is missing.

    Raises StartFailed when another process holds it or it cannot be written.
    """
    try:
        lock = _lock_file(path)
    except OSError as error:
        raise StartFailed(f"the data directory {path} cannot be written: {error.strerror}") from None
    try:
        await _take(lock, path)
        try:
            home = _open(path)
        except OSError as error:
            raise StartFailed(f"the data directory {path} cannot be used: {error.strerror}: {error.filename}") from None
        try:
            yield home
        finally:
            (path / "engines.json").unlink(missing_ok=True)
            shutil.rmtree(home.sockets, ignore_errors=True)
            os.ftruncate(lock, 0)
    finally:
        os.close(lock)


def lock_owner(path: Path) -> int | None:
    """The process that holds the data directory, 0 when it does not say; None when nobody does."""
    try:
        lock = os.open(path / "lock", os.O_RDONLY)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StartFailed(f"the data directory {path} cannot be read: {error.strerror}") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return None
    except BlockingIOError:
        return int(os.pread(lock, 20, 0).strip() or b"0")
    finally:
        os.close(lock)


def running_engines(path: Path) -> Urls | None:
    """The addresses of the engines that a supervisor runs on this data directory, or None when none does."""
    if lock_owner(path) is None:
        return None
    try:
        return msgspec.json.decode((path / "engines.json").read_bytes(), type=_Running).urls
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        raise StartFailed(f"the addresses in {path / 'engines.json'} cannot be read: {error}") from None


def write_private(path: Path, data: bytes) -> None:
    """Write a file only its owner can read, whole or not at all."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def _lock_file(path: Path) -> int:
    if not path.exists():
        path.mkdir(parents=True)
        path.chmod(0o711 if os.geteuid() == 0 else 0o700)
    return os.open(path / "lock", os.O_RDWR | os.O_CREAT, 0o600)


async def _take(lock: int, path: Path) -> None:
    deadline = anyio.current_time() + LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if anyio.current_time() > deadline:
                owner = os.pread(lock, 20, 0).decode().strip()
                named = f" (process {owner})" if owner else ""
                raise StartFailed(f"the data directory {path} is in use by another Reprise{named}") from None
        await anyio.sleep(0.05)
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)


def _open(path: Path) -> Home:
    _remove_old_sockets(path)
    user = unprivileged_user(path / "redis")
    return Home(path, user, _passwords(path), _sockets(path, user))


def _passwords(path: Path) -> Passwords:
    file = path / "secrets.json"
    with suppress(FileNotFoundError):
        try:
            return msgspec.json.decode(file.read_bytes(), type=Passwords)
        except msgspec.MsgspecError:
            raise StartFailed(f"{file} is damaged: it holds the engines' passwords, restore it") from None
    passwords = Passwords(secrets.token_hex(24), secrets.token_hex(24))
    write_private(file, msgspec.json.encode(passwords))
    return passwords


def _sockets(path: Path, user: User | None) -> Path:
    place = path / "run"
    if len(os.fsencode(place / _LONGEST_SOCKET)) >= MAX_SOCKET_PATH or not may_use(path, user):
        place = Path(tempfile.mkdtemp(prefix=_SOCKET_PREFIX, dir="/tmp"))
    _make(place, user, 0o700)
    return place


def _remove_old_sockets(path: Path) -> None:
    """A killed supervisor left its socket directory; only one of ours, by name, in /tmp is ever removed."""
    with suppress(FileNotFoundError, msgspec.MsgspecError):
        old = Path(msgspec.json.decode((path / "engines.json").read_bytes(), type=_Running).sockets)
        if old.parent == Path("/tmp") and old.name.startswith(_SOCKET_PREFIX):  # noqa: S108
            shutil.rmtree(old, ignore_errors=True)
    shutil.rmtree(path / "run", ignore_errors=True)
    (path / "engines.json").unlink(missing_ok=True)


def _make(place: Path, user: User | None, mode: int) -> None:
    place.mkdir(exist_ok=True, mode=mode)
    if user is not None:
        os.chown(place, user.uid, user.gid)
    place.chmod(mode)
