"""A time as the wire has it, for everybody who tells one."""

from __future__ import annotations

from datetime import UTC, datetime


def iso(when: datetime) -> str:
    """ISO 8601 in UTC, milliseconds, ``Z``."""
    return when.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
