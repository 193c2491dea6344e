"""The ``nc-fast`` command: says what to install where the demo extras are missing, else runs nc_fast.command.commands."""

from __future__ import annotations

import sys
from importlib.util import find_spec

from nc_fast.command.torchrun import rank

EXTRAS = ("typer", "rich", "sklearn", "matplotlib")


def main() -> None:
    """Run the command line in ``sys.argv``; the entry point of the console script."""
    absent = [package for package in EXTRAS if find_spec(package) is None]
    if absent:
        sys.exit(f'nc-fast: {", ".join(absent)} not installed: pip install "nc_fast[demo]"')
    if rank() > 0 and sys.argv[1:2] != ["select"]:
        return  # torchrun's other processes: only select shares its work
    try:
        from nc_fast.command.commands import app

        app(prog_name="nc-fast")
    except KeyboardInterrupt:  # between commands; inside one the group answers
        sys.exit(130)
