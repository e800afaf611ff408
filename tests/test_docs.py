"""What the documentation says is so: settings, commands, routes, the promises of the protocol."""

from __future__ import annotations

import re
from pathlib import Path

from app.cli.main import COMMANDS
from app.settings_reference import as_markdown, as_toml

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "config" / "settings.example.toml"
README = (ROOT / "README.md").read_text()


def block(name: str) -> str:
    return README.split(f"<!-- {name} -->\n")[1].split(f"<!-- /{name} -->")[0].strip()


def test_the_settings_of_readme_and_example_are_the_settings():
    """``python -m tests.test_docs`` writes them there."""
    assert block("settings") == as_markdown()
    assert EXAMPLE.read_text() == as_toml()


def test_every_command_is_in_the_readme():
    for name in COMMANDS:
        assert re.search(rf"reprise {name}|scripts/{name}", README), name


def test_every_script_is_named_and_every_linked_file_is_there():
    for script in ("run", "test", "check", "bench"):
        assert f"scripts/{script}" in README
        assert (ROOT / "scripts" / script).stat().st_mode & 0o111
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target


def test_every_module_of_the_map_is_there():
    for name in re.findall(r"`((?:chat|web|workers|llm|accounts|engines|lua)/[a-z_]*)`", README):
        assert (ROOT / "app" / name).is_dir() or (ROOT / "app" / f"{name}.py").is_file(), name


def test_every_promise_of_the_protocol_is_cited_by_a_test():
    protocol = (ROOT / "app/web/PROTOCOL.md").read_text()
    promises = set(re.findall(r"^- \*\*([A-Z]\d+)\*\*", protocol, re.MULTILINE))
    cited: set[str] = set()
    for path in (ROOT / "tests").glob("test_*.py"):
        for listed in re.findall(r"PROTOCOL ((?:[A-Z]\d+(?:, )?)+)", path.read_text()):
            cited.update(listed.rstrip(", ").split(", "))
    assert len(promises) > 60
    assert sorted(promises - cited) == []
    assert sorted(cited - promises) == []


if __name__ == "__main__":
    before, _, rest = README.partition("<!-- settings -->\n")
    (ROOT / "README.md").write_text(
        f"{before}<!-- settings -->\n{as_markdown()}\n<!-- /settings -->{rest.partition('<!-- /settings -->')[2]}"
    )
    EXAMPLE.write_text(as_toml())
