"""Tables for people: as wide as the terminal, and never cut short where the output goes elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

WIDE = 240


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str | Text]]) -> None:
    """Prints to standard output. The first column is never broken; long cells of others are."""
    table = Table(box=None, pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, no_wrap=index == 0, overflow="fold")
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else Text(cell) for cell in row))
    Console(width=None if sys.stdout.isatty() else WIDE).print(table)
