"""The command line as a person meets it: help, one-line errors, exit statuses, keys, doctor."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import msgspec
import pytest
from click import Context, Group, Option

from app.cli.main import COMMANDS, Commands, cli
from app.errors import StartFailed
from app.settings import Settings, load, place_of
from app.version import in_source, version

REPOSITORY = Path(__file__).parents[1]
EXAMPLE = REPOSITORY / "config" / "settings.example.toml"


def reprise(settings: Settings | None, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "app", *arguments],
        cwd=REPOSITORY,
        env=None if settings is None else settings.child_environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def every_command() -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    assert isinstance(cli, Commands)
    for name in COMMANDS:
        command = cli.get_command(Context(cli), name)
        found.append((name,))
        if isinstance(command, Group):
            found += [(name, inner) for inner in command.commands]
    return found


@pytest.mark.parametrize("path", [(), *every_command()], ids=" ".join)
def test_every_command_has_help_and_an_example(path: tuple[str, ...]) -> None:
    context = Context(cli)
    command = cli
    for name in path:
        found = command.get_command(context, name)  # type: ignore[attr-defined]
        assert found is not None
        command, context = found, Context(found, parent=context)
    text = command.get_help(context)
    assert "Example: reprise" in text
    assert command.help
    assert all(option.help for option in command.params if isinstance(option, Option))


def test_help_imports_nothing_heavy() -> None:
    code = "import sys; from app.cli.main import cli; print(sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    for name in ("redis", "asyncpg", "litestar", "litellm", "httpx", "rich", "anyio"):
        assert f"'{name}'" not in loaded.stdout


def test_the_version_is_that_of_the_source(tmp_path: Path) -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert in_source(REPOSITORY) == project["version"]
    assert in_source(tmp_path) == "unknown"
    assert reprise(None, "--version").stdout == f"reprise {version()}\n"


def test_mistakes_are_one_line_and_a_status() -> None:
    wrong = reprise(None, "run", "--port", "99999")
    assert wrong.returncode == 1
    assert wrong.stderr.splitlines() == ["reprise: setting port (REPRISE_PORT): Expected `int` <= 65535"]
    assert reprise(None, "nonsense").returncode == 2


def test_work_without_engines_says_what_to_do(short_tmp: Path) -> None:
    alone = reprise(None, "work", "background", "--data-dir", str(short_tmp))
    assert alone.returncode == 1
    assert alone.stderr.count("\n") == 1
    assert "reprise run" in alone.stderr


def test_keys_are_created_listed_and_revoked(settings: Settings) -> None:
    made = reprise(settings, "key", "create", "--account", "acme", "--name", "backend", "--user", "ann")
    assert made.returncode == 0, made.stderr
    text = made.stdout.strip()
    key_id = made.stderr.split()[1]
    listed = reprise(settings, "key", "list", "--account", "acme")
    assert key_id in listed.stdout
    assert "backend" in listed.stdout
    assert "ann" in listed.stdout
    assert text not in listed.stdout
    rotated = reprise(settings, "key", "rotate", "--account", "acme", "--overlap-hours", "1", key_id)
    assert rotated.returncode == 0, rotated.stderr
    assert rotated.stdout.startswith("rp_live_")
    assert key_id in rotated.stderr
    revoked = reprise(settings, "key", "revoke", "--account", "acme", key_id)
    assert revoked.returncode == 0
    assert "revoked" in reprise(settings, "key", "list", "--account", "acme").stdout
    missing = reprise(settings, "key", "list", "--account", "nobody")
    assert (missing.returncode, missing.stderr) == (1, "reprise: there is no account named nobody\n")


def test_migrate_says_what_it_did(settings: Settings) -> None:
    first, second = reprise(settings, "migrate"), reprise(settings, "migrate")
    assert "migrations applied" in first.stdout, first.stderr
    assert second.stdout == "the database is up to date\n"


def test_keys_work_with_nothing_running(short_tmp: Path) -> None:
    place = str(short_tmp / "data")
    made = reprise(None, "key", "create", "--data-dir", place)
    assert made.returncode == 0, made.stderr
    assert made.stderr.split()[1] in reprise(None, "key", "list", "--data-dir", place).stdout


@pytest.mark.parametrize(
    "command",
    [("key", "list"), ("key", "revoke", "key_1"), ("key", "rotate", "key_1"), ("migrate",), ("dead-letters", "list")],
)
def test_only_a_new_key_makes_a_data_directory(short_tmp: Path, command: tuple[str, ...]) -> None:
    place = short_tmp / "typo"
    refused = reprise(None, *command, "--data-dir", str(place))
    assert refused.returncode == 1
    assert refused.stderr.startswith(f"reprise: there is nothing of Reprise in {place}: start `reprise run`")
    assert refused.stderr.count("\n") == 1
    assert not place.exists()


def test_doctor_finds_all_well(settings: Settings) -> None:
    reprise(settings, "migrate")
    report = reprise(settings, "doctor")
    assert report.returncode == 0, report.stdout
    for subject in ("Python", "Data directory", "Port", "Redis", "PostgreSQL", "Migrations", "Extension vector"):
        assert any(subject in line and line.startswith(("ok", "warn")) for line in report.stdout.splitlines()), subject


def test_doctor_finds_what_is_wrong(settings: Settings, short_tmp: Path) -> None:
    broken = msgspec.structs.replace(
        settings, redis_url=f"unix://{short_tmp}/nothing.sock", models_file=str(short_tmp / "missing.toml")
    )
    report = reprise(broken, "doctor")
    assert report.returncode == 1
    bad = [line for line in report.stdout.splitlines() if line.startswith("bad")]
    assert [line.split()[1] for line in bad] == ["Models", "Redis"]
    assert f"Redis at {short_tmp}/nothing.sock does not answer" in " ".join(bad[1].split())


@pytest.mark.parametrize(
    ("address", "place"),
    [
        ("redis://ann:secret@cache", "cache:6379"),
        ("rediss+sentinel://:secret@a:1,b:2/service/0", "a:1,b:2"),
        ("unix:///run/a%20b.sock?password=secret@x", "/run/a b.sock"),
        ("postgresql://ann:secret@/d?host=/run/pg", "/run/pg"),
        ("postgresql://ann:secret@%2Frun%2Fpg/d", "/run/pg"),
        ("redis://:sec/ret@cache", ""),
        ("redis://:sec?ret@cache", ""),
        ("redis://:sec#ret@cache", ""),
        ("redis://[secret", ""),
    ],
)
def test_an_engine_is_named_by_its_place_never_its_password(address: str, place: str) -> None:
    assert place_of(address, 6379) == place


def test_doctor_names_a_misspelt_setting(short_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPRISE_PROT", "8001")
    report = reprise(None, "doctor", "--data-dir", str(short_tmp / "data"))
    (line,) = [line for line in report.stdout.splitlines() if "REPRISE_PROT" in line]
    assert line.startswith("warn")


def test_doctor_starts_nothing_where_nothing_is(short_tmp: Path) -> None:
    place = short_tmp / "data"
    report = reprise(None, "doctor", "--data-dir", str(place))
    assert "not set up yet" in report.stdout
    assert not place.exists()


def test_ctrl_c_is_130(short_tmp: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "app", "key", "create", "--data-dir", str(short_tmp / "data")],
        cwd=REPOSITORY,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        deadline = time.monotonic() + 20
        while not (short_tmp / "data" / "lock").exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(20) == 130
        assert process.stderr and "Traceback" not in process.stderr.read()


def test_the_example_names_every_setting_with_its_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lines = EXAMPLE.read_text().splitlines()
    plain = tmp_path / "settings.toml"
    plain.write_text("\n".join(line.removeprefix("# ") for line in lines[2:] if not line.startswith("##")))
    assert set(msgspec.toml.decode(plain.read_bytes())) == {f.name for f in msgspec.structs.fields(Settings)}
    for field in msgspec.structs.fields(Settings):
        monkeypatch.delenv(f"REPRISE_{field.name.upper()}", raising=False)
    monkeypatch.setenv("REPRISE_CONFIG", str(plain))
    assert load() == Settings()
    plain.write_text("nonsense = 1")
    with pytest.raises(StartFailed, match="nonsense"):
        load()
