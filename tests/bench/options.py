"""How much is measured."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec


class Options(msgspec.Struct, frozen=True):
    runs: int = 3
    """Runs whose median is taken."""
    quick: bool = False
    """Fewer samples and smaller crowds: a look, not a figure to publish."""
    data: Path | None = None
    """LoCoMo-shaped conversations for P15."""


def say(text: str) -> None:
    """Progress, on standard error."""
    print(text, file=sys.stderr, flush=True)
