"""The scripts make their own environment, once, and again only when they must; the pins hold what they promise.

They run here on a tiny program with empty pins, so that nothing is downloaded.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
PINS = sorted((REPOSITORY / "config").glob("requirements*.txt"))


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with our scripts whose program prints its arguments."""
    place = tmp_path_factory.mktemp("clone") / "a repository"
    (place / "app").mkdir(parents=True)
    (place / "config").mkdir()
    shutil.copytree(REPOSITORY / "scripts", place / "scripts")
    (place / "app" / "__main__.py").write_text("import sys\nprint(sys.argv[1:])\n")
    for pins in PINS:
        (place / "config" / pins.name).write_text("")
    return place


def run(clone: Path, *arguments: str, command: str = "scripts/run") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [clone / command, *arguments], cwd="/", capture_output=True, text=True, timeout=100, check=False
    )


def test_the_environment_is_made_once_and_again_only_when_it_must(clone: Path) -> None:
    first = run(clone, "--port", "1 2")
    assert (first.returncode, first.stdout) == (0, "['run', '--port', '1 2']\n"), first.stderr
    making, before, after = first.stderr.splitlines()
    assert "making .venv" in making and "installing" in before and "a minute or two" in before
    assert after == "reprise: installed"
    assert run(clone).stderr == ""
    assert run(clone, "key", "list", command=".venv/bin/reprise").stdout == "['key', 'list']\n"

    (clone / ".venv" / "installed").unlink()  # as an interrupted installation leaves it
    again = run(clone)
    assert "installing" in again.stderr and "making" not in again.stderr
    assert run(clone).stderr == ""

    (clone / "config" / "requirements.txt").write_text("# changed\n")
    assert "installing" in run(clone).stderr
    assert run(clone).stderr == ""

    (clone / ".venv" / "bin" / "python").unlink()
    assert "making .venv" in run(clone).stderr


def test_several_at_once_make_one_environment(clone: Path) -> None:
    shutil.rmtree(clone / ".venv", ignore_errors=True)
    several = [
        subprocess.Popen([clone / "scripts" / "run"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    answers = [process.communicate(timeout=100) for process in several]
    assert [out for out, _ in answers] == ["['run']\n"] * 3
    assert sum("making .venv" in error for _, error in answers) == 1


def test_no_suitable_python_is_said_in_one_line(clone: Path, tmp_path: Path) -> None:
    helper = tmp_path / "scripts" / "env.sh"
    shutil.copytree(clone / "scripts", helper.parent)
    shutil.copytree(clone / "config", tmp_path / "config")
    helper.write_text(re.sub(r"for name in .*; do", "for name in no-such-python; do", helper.read_text()))
    failed = run(tmp_path)
    assert failed.returncode != 0
    assert failed.stderr.splitlines() == [
        "reprise: no Python 3.11, 3.12 or 3.13 found: install 3.11 or 3.12, which bring everything along"
    ]


@pytest.mark.parametrize("pins", PINS, ids=lambda path: path.name)
def test_pins_have_hashes_and_no_address(pins: Path) -> None:
    text = pins.read_text()
    entries = [entry for entry in re.split(r"\n(?=\S)", text) if entry and not entry.startswith("#")]
    assert entries
    for entry in entries:
        assert re.match(r"[a-z0-9.-]+(\[[a-z,]+\])?==", entry), entry
        assert "--hash=sha256:" in entry
    assert not re.search(r"https?:|file:|--index|--extra-index|--find-links|/tmp|/home|/root", text)
    assert not re.search(r"^(torch|nvidia)", text, re.MULTILINE)
