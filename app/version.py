"""Which version this is: of the installed package, or of the source tree it runs from."""

from __future__ import annotations

import tomllib
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from pathlib import Path


def version() -> str:
    """The version, as ``0.1.0``; ``unknown`` for a copy that is neither installed nor a source tree."""
    try:
        return installed_version("reprise")
    except PackageNotFoundError:  # scripts/run installs the packages only and runs the source as it lies there
        return in_source(Path(__file__).parents[1])


def in_source(root: Path) -> str:
    """The version in the pyproject.toml of ``root``."""
    try:
        return str(tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"])
    except (OSError, ValueError, KeyError):
        return "unknown"
