"""`reprise doctor`."""

from __future__ import annotations

import anyio
import click
from rich.text import Text

from app.cli import options
from app.cli.table import print_table
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
        findings = anyio.run(examine, load(overrides))
    except StartFailed as error:
        findings = [Finding("Settings", "bad", error.message, "correct it")]
    print_table(
        ("", "what", "found", "what to do"),
        [
            (Text(finding.state, COLOURS[finding.state]), finding.subject, finding.found, finding.advice)
            for finding in findings
        ],
    )
    if any(finding.state == "bad" for finding in findings):
        raise SystemExit(1)
