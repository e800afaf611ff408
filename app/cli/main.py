"""`reprise`: the group of all commands, and how their failures look.

A command's module is imported when that command is asked for, by name and through importlib: `--help` must not wait
for what `run` or `work` import. This is the one place where that is done.
"""

from __future__ import annotations

import importlib
from keyword import iskeyword
from typing import NoReturn

import click

from app.errors import RepriseError, ours_alone
from app.version import version

COMMANDS = {
    "run": "Start everything on this machine.",
    "serve": "Run a web process alone.",
    "work": "Run a worker process alone.",
    "migrate": "Bring the database up to date.",
    "reindex": "Embed anew what is remembered.",
    "import": "Bring chats, documents and social archives.",
    "key": "Create, list and revoke API keys.",
    "dead-letters": "List, requeue and drop what a consumer group gave up on.",
    "doctor": "Say what is here and what is wrong.",
    "settings": "List every setting.",
}


class Commands(click.Group):
    """Loads a command when it is asked for; turns our errors into one line and an exit status."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        name = cmd_name.replace("-", "_")
        module = importlib.import_module(f"app.cli.{name}{'_' if iskeyword(name) else ''}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except RepriseError as error:
            _fail(ctx, error)
        except BaseExceptionGroup as failures:
            ours = ours_alone(failures)
            if ours is None:
                raise
            _fail(ctx, ours)
        except KeyboardInterrupt:
            ctx.exit(130)


def _fail(ctx: click.Context, error: RepriseError) -> NoReturn:
    click.echo(f"reprise: {error.message}", err=True)
    ctx.exit(1)


def _say_version(ctx: click.Context, _option: click.Parameter, asked: bool) -> None:
    if asked and not ctx.resilient_parsing:
        click.echo(f"reprise {version()}")
        ctx.exit()


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Example: reprise run --port 8000",
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_say_version,
    help="Say which version this is.",
)
def cli() -> None:
    """A chat gateway: messages that go on when the client does not.

    Every setting is also an environment variable REPRISE_NAME, or a line of the TOML file that REPRISE_CONFIG names.
    """


def main() -> None:
    """The entry point of the command `reprise`."""
    cli(prog_name="reprise")
