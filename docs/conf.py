"""How Sphinx builds these pages: `make docs`. The API pages come from the docstrings, the commands from their own help."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

import nc_fast

COMMANDS = "nc_fast.command.commands"  # the module with the typer app
GENERATED = Path(__file__).parent / "generated"

project = "nc_fast"
author = "The nc_fast maintainers"
release = version = nc_fast.__version__

extensions = ["myst_parser", "numpydoc", "sphinx.ext.autodoc", "sphinx.ext.autosummary"]
exclude_patterns = ["generated/commands.md"]  # a part of command.md
templates_path = ["_templates"]

html_theme = "furo"
html_title = f"nc_fast {release}"
html_copy_source = html_show_copyright = False

myst_heading_anchors = 3  # links to page.md#a-heading, as on a forge
smartquotes = False  # two hyphens before an option are two hyphens
default_role = "code"  # what docstrings put between single backticks
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # docstrings give types, with shapes and ranges
autosummary_imported_members = True
# Two names that differ in case alone must not share a file where file names have no case.
autosummary_filename_map = {"nc_fast.Campaign": "nc_fast.Campaign-class", "nc_fast.testing.CASES": "nc_fast.testing.CASES-data"}
numpydoc_show_class_members = False  # the template of classes lists them

# Other libraries' types, named by properties and by the alias Criterion. Nothing is looked up elsewhere: builds are offline.
nitpick_ignore = [("py:class", name) for name in ("collections.abc.Callable", "numpy.float64", "numpy.typing.NDArray")]


def write_commands(_: Sphinx) -> None:
    """Write the help of every command, all options included, to generated/commands.md."""
    command = [sys.executable, "-m", "typer", COMMANDS, "utils", "docs", "--name", "nc-fast"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    _, _, below_the_title = text.partition("\n")
    GENERATED.mkdir(exist_ok=True)
    (GENERATED / "commands.md").write_text(below_the_title)


def as_in_python(_: Sphinx, __: str, ___: str, ____: Any, _____: Any, signature: str | None, returned: str | None) -> Any:
    """Rewrite a signature of pybind11, ``(self: Class, vector: object) -> float``, to ``(vector)``."""
    if signature is None or "self: " not in signature:
        return signature, returned
    return f"({', '.join(re.findall(r'([a-zA-Z]+): ', signature)[1:])})", None


def of_scikit_learn(_: Sphinx, __: str, name: str, ___: Any, ____: bool, _____: Any) -> bool | None:
    """Leave out the methods that scikit-learn adds for its metadata routing: their docstrings link to its own pages."""
    return True if re.fullmatch(r"set_\w+_request", name) else None


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("builder-inited", write_commands)
    app.connect("autodoc-process-signature", as_in_python)
    app.connect("autodoc-skip-member", of_scikit_learn)
