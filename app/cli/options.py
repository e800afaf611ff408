"""Options that several commands share. Each overrides the setting of its name."""

from __future__ import annotations

import click

data_dir = click.option(
    "--data-dir", metavar="DIR", help="Where the embedded engines keep their data. [default: the platform's place]"
)
host = click.option("--host", metavar="ADDRESS", help="Address to listen on. [default: 127.0.0.1]")
port = click.option("--port", type=int, metavar="PORT", help="Port to listen on. [default: 8000]")
models = click.option("--models", "models_file", metavar="FILE", help="TOML file of model aliases.")
