"""Runs the nc-fast command, in this process and as one of its own."""

import os
import sys

import pytest

pytest.importorskip("typer")

from conftest import ROOT
from typer.testing import CliRunner

from nc_fast.command import commands

COMMAND = [sys.executable, "-c", "from nc_fast.command.main import main; main()"]


def environment():
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"}


def run(*arguments, code=0):
    result = CliRunner().invoke(commands.app, [str(argument) for argument in arguments], prog_name="nc-fast")
    assert result.exit_code == code, (result.output, result.exception)
    return result


def refusal(*arguments) -> str:
    """The one line on stderr with which a command refuses its input."""
    result = run(*arguments, code=2)
    assert result.stdout == ""
    assert result.stderr.startswith("nc-fast: ")
    assert result.stderr.count("\n") == 1
    return result.stderr.removeprefix("nc-fast: ").rstrip()
