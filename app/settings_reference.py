"""The settings described, for people: the one table that `reprise settings`, README and the example file come from."""

from __future__ import annotations

import re
import textwrap
from typing import Any

import msgspec

from app.settings import Settings

SECRET = frozenset({"root_key", "redis_url", "database_url", "model_api_key", "embedding_api_key"})
"""Settings whose value is never shown: keys, and addresses that hold passwords."""

EXAMPLE_HEAD = """\
# Every setting with its default. Name this file in REPRISE_CONFIG; take away the # of what you change.
# The environment variable REPRISE_NAME wins over this file, command-line options win over both.
"""


class Described(msgspec.Struct, frozen=True):
    """One setting. ``bounds`` is empty where anything of its type goes."""

    name: str
    variable: str
    default: Any
    bounds: str
    meaning: str

    @property
    def said(self) -> str:
        """Meaning and bounds."""
        return f"{self.meaning} ({self.bounds})" if self.bounds else self.meaning


def reference() -> list[Described]:
    """Every setting, in the order of `Settings`."""
    defaults = Settings()
    found = []
    for field in msgspec.structs.fields(Settings):
        schema = msgspec.json.schema(field.type)
        name = field.name
        default = getattr(defaults, name)
        found.append(Described(name, f"REPRISE_{name.upper()}", default, _bounds(schema), schema["description"]))
    return found


def in_force(settings: Settings, name: str) -> str:
    """A setting's value as it may be shown; empty where it is the default."""
    value = getattr(settings, name)
    if value == getattr(Settings(), name):
        return ""
    return "(set)" if name in SECRET else _text(value)


def as_markdown() -> str:
    """The table for README, without bounds that go without saying."""
    lines = ["| variable | default | meaning |", "|---|---|---|"]
    for one in reference():
        default = f"`{_text(one.default)}`" if _text(one.default) else ""
        meaning = one.meaning if one.bounds.startswith(("at least", "above")) else one.said
        lines.append(f"| `{one.variable}` | {default} | {meaning.replace('|', ' or ')} |")
    return "\n".join(lines)


def as_toml() -> str:
    """The example file: every setting with its default, each of them commented out."""
    parts = [EXAMPLE_HEAD]
    for one in reference():
        comment = textwrap.fill(one.said, 117, break_on_hyphens=False, initial_indent="## ", subsequent_indent="## ")
        parts.append(f"{comment}\n# {one.name} = {msgspec.json.encode(one.default).decode()}\n")
    return "\n".join(parts)


def _text(value: Any) -> str:
    return ",".join(value) if isinstance(value, list) else str(value)


def _bounds(schema: dict[str, Any]) -> str:
    if alternatives := re.fullmatch(r"\^\(([a-z|]+)\)\$", schema.get("pattern", "")):
        *others, last = alternatives[1].split("|")
        return f"{', '.join(others)} or {last}"
    if "pattern" in schema:
        return f"as {schema['pattern']}"
    if "maxLength" in schema:
        return f"{schema['minLength']} to {schema['maxLength']} characters"
    if "exclusiveMinimum" in schema:
        return f"above {schema['exclusiveMinimum']}"
    if "maximum" in schema:
        return f"{schema['minimum']} to {schema['maximum']}"
    return f"at least {schema['minimum']}" if "minimum" in schema else ""
