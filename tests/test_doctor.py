"""What the doctor finds, on engines that are set as they should not be."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import msgspec
import pytest
from redis.asyncio import Redis

from app.chat.liveness import Heart
from app.database import Database
from app.doctor import Finding, examine, machine, models, postgres, redis
from app.doctor.finding import clock, release
from app.engines.redis import installed
from app.redis_keys import Keys
from app.settings import Settings
from tests.rig import lifecycle_on, until
from tests.test_cli import reprise
from tests.upstream import upstream


def one(findings: list[Finding], subject: str) -> Finding:
    [found] = [finding for finding in findings if finding.subject == subject]
    return found


def changed(settings: Settings, **changes: object) -> Settings:
    return msgspec.structs.replace(settings, **changes)


@asynccontextmanager
async def redis_with(place: Path, *options: str) -> AsyncIterator[str]:
    """A Redis of the test's own; its address."""
    program, _ = (await installed())[0]
    socket = place / "own.sock"
    command = [str(program), "--port", "0", "--unixsocket", str(socket), "--dir", str(place), "--save", "", *options]
    process = await anyio.open_process(command, stdin=subprocess.DEVNULL, stdout=None, stderr=None)
    try:
        await until(socket.exists)
        yield f"unix://{socket}"
    finally:
        process.kill()
        with anyio.CancelScope(shield=True):
            await process.wait()


async def test_a_redis_that_keeps_nothing_and_evicts_is_named(settings: Settings, short_tmp: Path) -> None:
    options = ("--appendonly", "no", "--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru")
    async with redis_with(short_tmp, *options) as url:
        found = await redis.examine(changed(settings, redis_url=url, wait_replicas=1), running=True)
    assert {finding.subject: finding.state for finding in found} == {
        "Redis": "ok",
        "Redis persistence": "warn",
        "Redis memory": "bad",
        "Redis replicas": "bad",
        "Redis clock": "ok",
        "Partitions": "ok",
        "Workers": "warn",
    }
    assert "maxmemory-policy noeviction" in one(found, "Redis memory").advice


async def test_a_redis_that_refuses_to_tell_its_settings_is_still_examined(settings: Settings, short_tmp: Path) -> None:
    async with redis_with(short_tmp, "--appendonly", "yes", "--rename-command", "CONFIG", "") as url:
        found = await redis.examine(changed(settings, redis_url=url), running=False)
    assert [finding.state for finding in found] == ["ok"] * len(found)
    assert one(found, "Redis persistence").found == "append-only file"


async def test_a_replica_is_no_redis_to_write_to(settings: Settings, short_tmp: Path) -> None:
    async with redis_with(short_tmp, "--replicaof", "127.0.0.1", "1") as url:
        found = await redis.examine(changed(settings, redis_url=url), running=False)
    assert one(found, "Redis").state == "bad"
    assert "replica" in one(found, "Redis").found


async def test_another_number_of_partitions_than_recorded_is_told_with_the_right_one(settings: Settings) -> None:
    async with Redis.from_url(settings.redis_url) as client:
        await client.hset(Keys(settings.redis_prefix).meta(), "partitions", 8)
    found = one(await redis.examine(settings, running=False), "Partitions")
    assert (found.state, found.advice) == ("bad", "set REPRISE_PARTITIONS=8: it cannot change")


async def test_workers_are_counted_by_kind(settings: Settings) -> None:
    async with lifecycle_on(settings) as lifecycle:
        await Heart(lifecycle, "generate", tuple, lambda _: None).beat()
    found = one(await redis.examine(settings, running=True), "Workers")
    assert (found.state, found.found) == ("warn", "1 generate, 0 background")
    assert "reprise work background" in found.advice


async def test_an_unsafe_postgresql_is_named(settings: Settings, database: Database) -> None:
    joint = "&" if "?" in settings.database_url else "?"
    unsafe = changed(settings, database_url=f"{settings.database_url}{joint}synchronous_commit=off")
    assert one(await postgres.examine(settings), "PostgreSQL durability").state == "ok"
    found = one(await postgres.examine(unsafe), "PostgreSQL durability")
    assert (found.state, found.found) == ("warn", "synchronous_commit off")


async def test_more_processes_than_connections_are_told(settings: Settings, database: Database) -> None:
    found = one(await postgres.examine(changed(settings, web=64)), "PostgreSQL connections")
    assert found.state == "warn"
    assert "raise max_connections" in found.advice


async def test_vectors_of_another_model_are_told(settings: Settings, database: Database) -> None:
    await database.execute("INSERT INTO embedding_model (name, dimension) VALUES ('another/model', 8)")
    found = one(await postgres.examine(settings), "Embeddings")
    assert found.state == "warn"
    assert "reprise reindex" in found.advice
    same = changed(settings, embedding_model="another/model")
    assert one(await postgres.examine(same), "Embeddings").state == "ok"


async def test_models_are_asked_once_each_when_that_is_wanted(tmp_path: Path) -> None:
    async with upstream() as up:
        file = tmp_path / "models.toml"
        file.write_text(
            "".join(
                f'[models.{name}]\nmodel = "{model}"\napi_base = "{up.base_url}"\napi_key = "secret"\n'
                for name, model in (("good", "t5"), ("wrong", "fail401"), ("gone", "noroute"))
            )
        )
        found = await models.called(Settings(models_file=str(file)))
        assert {finding.subject: finding.state for finding in found} == {
            "Model good": "ok",
            "Model wrong": "bad",
            "Model gone": "bad",
        }
        assert sorted(request.model for request in up.requests) == ["fail401", "noroute", "t5"]
    assert "secret" not in str(found)


async def test_a_setting_that_the_models_file_hides_is_told(tmp_path: Path) -> None:
    file = tmp_path / "models.toml"
    file.write_text('[models.default]\nmodel = "demo"\n[models.other]\nmodel = "demo"\n')
    hidden = Settings(models_file=str(file), model="openai/x", model_api_base="http://127.0.0.1:1/v1")
    assert any("REPRISE_MODEL is not used" in finding.found for finding in models.known(hidden))
    unknown = models.known(Settings(memory_model="nobody"))
    assert one(unknown, "Memory model").state == "bad"


@pytest.mark.parametrize(
    "changes",
    [
        {"deadline_s": 100, "max_deadline_s": 10},
        {"retention_s": 100, "max_retention_s": 10},
        {"wait_replicas": 1},
        {"ping_s": 60.0},
        {"model_api_key": "k"},
        {"embedding_api_base": "http://127.0.0.1:1"},
        {"allow_private_addresses": True},
    ],
    ids=str,
)
def test_settings_that_do_not_go_together_are_told(changes: dict[str, object]) -> None:
    assert machine.contradictions(Settings()) == []
    [(said, advice)] = machine.contradictions(changed(Settings(), **changes))
    assert said
    assert advice


def test_a_key_that_others_can_read_is_bad(tmp_path: Path) -> None:
    settings = Settings(data_dir=str(tmp_path))
    key = tmp_path / "root-key"
    assert machine.key_files(settings).state == "ok"
    key.touch(0o600)
    assert machine.key_files(settings).state == "ok"
    key.chmod(0o640)
    assert machine.key_files(settings).state == "bad"


def test_clocks_are_compared_by_what_they_can_differ_at_least() -> None:
    assert clock("c", 105.0, 100.0, 101.0).found.startswith("4.0 s")
    assert clock("c", 96.0, 100.0, 101.0).found.startswith("4.0 s")
    assert clock("c", 100.5, 100.0, 101.0).state == "ok"


@pytest.mark.parametrize(
    ("version", "numbers"),
    [("16.4 (Debian 16.4-1)", (16, 4)), ("0.8.1", (0, 8)), ("18beta1", (18, 0)), ("7.2", (7, 2))],
)
def test_versions_are_read(version: str, numbers: tuple[int, int]) -> None:
    assert release(version) == numbers


async def test_everything_is_examined_in_one_go(settings: Settings, database: Database) -> None:
    found = await examine(settings, call_models=True)
    assert [finding for finding in found if finding.state == "bad"] == []
    assert {"Settings", "Open files", "Key files", "Redis", "PostgreSQL", "Workers"} <= {f.subject for f in found}


def test_json_is_for_programs(settings: Settings, short_tmp: Path) -> None:
    broken = changed(settings, models_file=str(short_tmp / "missing.toml"))
    report = reprise(broken, "doctor", "--json")
    told = msgspec.json.decode(report.stdout)
    assert (report.returncode, told["ok"]) == (1, False)
    [bad] = [finding for finding in told["findings"] if finding["state"] == "bad"]
    assert bad["subject"] == "Models"
    assert "\x1b" not in report.stdout
    assert "missing.toml" in bad["found"]
