"""Rules that the layout enforces: layers look down only, one signature per stage, optional libraries in their own folder."""

import ast
import inspect
import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import nc_fast
from nc_fast.backends.registry import BACKENDS

PACKAGE = Path(nc_fast.__file__).parent
# Lowest first. A module may import, at its top or inside a function, from lines above its own and from its own line's folders;
# the longest name that fits says where a module belongs.
LAYERS = [
    [
        "_version",
        "_projector",
        "activations",
        "tolerances",
        "runtime",
        "inputs.arrays",
        "inputs.labels",
        "inputs.orientation",
        "inputs.sparse",
    ],
    ["files.untrusted", "inputs.callables", "merging", "normals", "picks"],
    ["files.read"],
    ["files.moments"],
    ["types"],
    ["inputs.checks", "inputs.convert", "inputs.label_checks", "inputs.left_out", "inputs.targets"],
    ["inputs.sources", "inputs.slices", "inputs.draw", "inputs.means"],
    ["gram"],
    ["criteria", "quota", "heads", "candidates"],
    ["backends.reference", "backends.cpu", "backends.gpu"],
    ["backends.registry", "testing"],
    ["stages.checkpoint"],
    ["stages.moments", "stages.selection"],
    ["stages.campaign", "stages.pursuit"],
    ["screening", "distributed"],
    ["api", "greedy", "pursue"],
    ["init", "sklearn"],
    [""],
    ["compare"],
    ["command"],
    ["__main__"],
]
# Folders whose __init__ holds a docstring only.
FOLDERS = ["backends", "files", "inputs", "stages"]
HEAVY = {
    "torch": {"backends.gpu", "init", "compare", "distributed", "command.info", "command.torchrun"},
    "triton": {"backends.gpu"},
    "sklearn": {"files.read", "sklearn"},
    "matplotlib": {"command.demo_picture", "command.demo_widths", "compare.plots"},
    "lsuv": {"compare.initializations"},
    "numba": {"backends.cpu.elementwise", "backends.cpu.kernels", "backends.cpu.spmm_kernels", "normals", "runtime.compiled"},
    "joblib": {"compare.workers"},
    "rich": {"runtime.progress", "command", "compare.tables"},
    "typer": {"command.commands"},
}


def within(module, name):
    return module == name or module.startswith(f"{name}.")


def layer_of(module):
    """Return the number of the module's line in LAYERS; modules are named without the leading nc_fast."""
    fitting = [
        (len(name), number) for number, names in enumerate(LAYERS) for name in names if (within(module, name) if name else not module)
    ]
    assert fitting, f"nc_fast.{module}: say in LAYERS which layer it is in"
    return max(fitting)[1]


@cache
def sources():
    """Return module -> source of every module of the package, folders by their own name."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text()
    return found


@cache
def imports(source):
    """Return what a source imports, as full dotted names, import_module with a literal too."""
    return list(_imports(source))


def _imports(source):
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "absolute imports only"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner.removeprefix("nc_fast.") in sources() else node.module
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "import_module":
            name = node.args[0]
            if isinstance(name, ast.Constant):
                yield name.value
            else:  # "nc_fast.backends.{self.name}.moments"
                yield "".join(part.value if isinstance(part, ast.Constant) else "*" for part in name.values)


def upward_imports(modules):
    """Return (module, imported) of every import that does not look down."""
    found = []
    for module, source in modules.items():
        for name in imports(source):
            if name.split(".")[0] != "nc_fast":
                continue
            target = name.removeprefix("nc_fast").removeprefix(".").replace("*", "reference")
            own, other = layer_of(module), layer_of(target)
            same_room = target.split(".")[0] == module.split(".")[0] and bool(target)
            if other > own or (other == own and not same_room):
                found.append((module, target))
    return found


def test_every_module_has_a_layer():
    for module, source in sources().items():
        if module in FOLDERS:
            assert not imports(source), f"nc_fast.{module} is a folder: its __init__ imports nothing"
        else:
            layer_of(module)


def test_a_lower_layer_never_imports_a_higher_one():
    assert upward_imports({module: source for module, source in sources().items() if module not in FOLDERS}) == []


@pytest.mark.parametrize("module", sorted(set(sources()) - {*FOLDERS, "__main__"}))
def test_one_import_turned_upward_is_found(module):
    """The test above can fail, whichever module the import is in."""
    modules = {name: source for name, source in sources().items() if name not in FOLDERS}
    modules[module] += "\nfrom nc_fast.__main__ import main\n"
    assert upward_imports(modules) == [(module, "__main__")]


@pytest.mark.parametrize("library", HEAVY)
def test_optional_libraries_are_imported_only_where_they_belong(library):
    users = {module for module, source in sources().items() for name in imports(source) if name.split(".")[0] == library}
    assert users
    assert not {module for module in users if not any(within(module, place) for place in HEAVY[library])}


@pytest.mark.parametrize("stage", ["class_moments", "select", "activations", "pursue"])
def test_backends_export_the_same_signature(stage):
    pytest.importorskip("triton", minversion="3.5")
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
