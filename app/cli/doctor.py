"""`reprise doctor`."""

from __future__ import annotations

import anyio
import click
from rich.console import Console
from rich.table import Table

from app.cli import options
from app.doctor import Finding, examine
from app.errors import StartFailed
from app.settings import load

COLOURS = {"ok": "green", "warn": "yellow", "bad": "red"}


@click.command(epilog="Example: reprise doctor --data-dir ~/reprise")
@options.data_dir
@options.host
@options.port
@options.models
def command(**overrides: str | int | None) -> None:
    """Say what is here and what is wrong. Exits with 1 when something is."""
    try:
        findings = [Finding("Settings", "ok", "all understood"), *anyio.run(examine, load(overrides))]
    except StartFailed as error:
        findings = [Finding("Settings", "bad", error.message, "correct it")]
    table = Table("", "what", "found", "what to do")
    for finding in findings:
        state = f"[{COLOURS[finding.state]}]{finding.state}[/]"
        table.add_row(state, finding.subject, finding.found, finding.advice)
    Console().print(table)
    if any(finding.state == "bad" for finding in findings):
        raise SystemExit(1)
