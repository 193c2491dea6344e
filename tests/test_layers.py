"""Rules that the layout enforces: layers look down only, one signature per stage, optional libraries in their own folder."""

import ast
import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest

import nc_fast
from nc_fast._dispatch import BACKENDS

PACKAGE = Path(nc_fast.__file__).parent
# Lowest first; a module may import only from lines above its own.
LAYERS = [
    ["_version", "_arrays", "_labels", "_threads", "_progress", "quota", "activations", "_projector"],
    ["data"],
    ["_storage", "_slices"],
    ["types"],
    ["_checks", "_dispatch", "reference", "cpu", "gpu"],
    ["criteria", "testing", "_checkpoint"],
    ["_moments", "_selection"],
    ["screening"],
    ["api"],
    ["init", "distributed"],
    ["compare"],
    ["_torchrun"],
    ["_commands", "_demo", "_info", "_plots", "cli"],
]
HEAVY = {
    "torch": {"gpu", "init", "compare", "distributed", "_info", "_torchrun"},
    "triton": {"gpu"},
    "sklearn": {"data"},
    "matplotlib": {"_plots", "compare"},
    "lsuv": {"compare"},
    "numba": {"cpu"},
}


def layer_of(module):
    for number, names in enumerate(LAYERS):
        if module in names:
            return number
    raise AssertionError(f"nc_fast.{module}: say in LAYERS which layer it is in")


def modules():
    for path in PACKAGE.rglob("*.py"):
        top = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if top != "__init__":
            yield top, path


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: absolute imports only"
            yield node.module
            if node.module == "nc_fast":
                yield from (f"nc_fast.{alias.name}" for alias in node.names)


def test_a_lower_layer_never_imports_a_higher_one():
    for top, path in modules():
        for name in imports(path):
            parts = name.split(".")
            if parts[0] == "nc_fast" and len(parts) > 1 and parts[1] != top:
                assert layer_of(parts[1]) < layer_of(top) or layer_of(top) >= layer_of("api"), f"{path.name} imports {name}"


@pytest.mark.parametrize("library", HEAVY)
def test_optional_libraries_are_imported_only_where_they_belong(library):
    users = {top for top, path in modules() for name in imports(path) if name.split(".")[0] == library}
    assert users <= HEAVY[library]


@pytest.mark.parametrize("stage", ["class_moments", "select"])
def test_backends_export_the_same_signature(stage):
    pytest.importorskip("triton")
    signatures = {name: inspect.signature(getattr(backend, stage)) for name, backend in BACKENDS.items()}
    parameters = {name: [(p.name, p.kind, p.default) for p in s.parameters.values()] for name, s in signatures.items()}
    assert parameters["reference"] == parameters["cpu"] == parameters["gpu"]


def test_importing_is_light():
    script = "import sys, nc_fast, json; print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    found = set(json.loads(subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout))
    assert not found & {"torch", "numba", "triton", "scipy", "sklearn", "matplotlib", "rich", "typer"}


def test_importing_changes_nothing_in_the_process():
    script = (
        "import os, signal, warnings, threading, numpy\n"
        "state = lambda: (dict(os.environ), signal.getsignal(signal.SIGINT), list(warnings.filters), threading.active_count(), "
        "numpy.geterr(), numpy.random.get_state()[1].tolist())\n"
        "before = state()\nimport nc_fast\nassert state() == before"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_public_names_are_documented():
    for name in nc_fast.__all__:
        item = getattr(nc_fast, name)
        assert inspect.getdoc(item), name
        if inspect.isfunction(item):
            for section in ("Parameters", "Returns", "Raises", "Notes", "Examples"):
                assert section in inspect.getdoc(item), f"{name} has no {section}"
