"""``python -m app``: the same as the command `reprise`."""

from app.cli.main import main

main()
