"""`reprise doctor`."""

from __future__ import annotations

from functools import partial

import anyio
import click
import msgspec
from rich.text import Text

from app.cli import options
from app.cli.table import print_table
from app.doctor import Finding, examine
from app.errors import StartFailed
from app.settings import load
from app.telemetry import configure_logging

COLOURS = {"ok": "green", "warn": "yellow", "bad": "red"}


@click.command(epilog="Example: reprise doctor --call-models --models models.toml")
@click.option("--call-models", is_flag=True, help="Ask every model alias once, for a few tokens: it may cost money.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@options.data_dir
@options.host
@options.port
@options.models
def command(call_models: bool, as_json: bool, **overrides: str | int | None) -> None:
    """Say what is here and what is wrong. Exits with 1 when something is; a warning alone is 0."""
    try:
        settings = load(overrides)
        configure_logging(settings)
        findings = anyio.run(partial(examine, settings, call_models=call_models))
    except StartFailed as error:
        findings = [Finding("Settings", "bad", error.message, "correct it")]
    wrong = any(finding.state == "bad" for finding in findings)
    if as_json:
        click.echo(msgspec.json.encode({"ok": not wrong, "findings": findings}))
    else:
        print_table(
            ("", "what", "found", "what to do"),
            [
                (Text(finding.state, COLOURS[finding.state]), finding.subject, finding.found, finding.advice)
                for finding in findings
            ],
        )
    if wrong:
        raise SystemExit(1)
