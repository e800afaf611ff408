"""`reprise settings`."""

from __future__ import annotations

import click
import msgspec

from app.cli.table import print_table
from app.settings import load
from app.settings_reference import as_toml, in_force, reference


@click.command(epilog="Example: reprise settings --toml > settings.toml")
@click.option("--toml", "toml", is_flag=True, help="Print a settings file with every default, commented out.")
@click.option("--json", "as_json", is_flag=True, help="Print the reference as JSON.")
def command(toml: bool, as_json: bool) -> None:
    """List every setting: its value here where it is not the default, its default, bounds and meaning.

    Keys and addresses that hold passwords are not shown.
    """
    if toml:
        click.echo(as_toml(), nl=False)
    elif as_json:
        click.echo(msgspec.json.encode(reference()))
    else:
        settings = load()
        print_table(
            ("variable", "here", "default", "bounds", "meaning"),
            [
                (one.variable, in_force(settings, one.name), _shown(one.default), one.bounds, one.meaning)
                for one in reference()
            ],
        )


def _shown(default: object) -> str:
    return "" if default == [] else str(default)
