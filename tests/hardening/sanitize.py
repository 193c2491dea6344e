"""The C++ sources under strict warnings, AddressSanitizer, UBSan, ThreadSanitizer and valgrind.

    python tests/hardening/sanitize.py                 # everything: `make sanitize`
    python tests/hardening/sanitize.py native memcheck

Needs g++ with its sanitizers, and valgrind for `memcheck`; clang++ is used too where there is one. Each tool must also object
to defects planted for it, so that one that is not at work is noticed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import time
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "sanitize"
BINDINGS, STRESS = ROOT / "csrc" / "bindings.cpp", ROOT / "csrc" / "stress.cpp"
LIBRARY = sorted({*ROOT.glob("csrc/*.cpp")} - {BINDINGS, STRESS})  # free of Python
WARNINGS = ["-Wall", "-Wextra", "-Wconversion", "-Wsign-conversion", "-Wshadow", "-Werror"]
SANITIZERS = {"address": "address,undefined", "thread": "thread"}
# Loaded before Python: the sanitizer's own, and libstdc++, whose `throw` AddressSanitizer looks for at the start.
RUNTIMES = {"address": ["libasan.so", "libstdc++.so"], "thread": ["libtsan.so", "libstdc++.so"]}
MEMCHECK = ["valgrind", "--quiet", "--error-exitcode=9", "--leak-check=full", "--show-leak-kinds=all"]
DEFECTS = {"address": ["overrun", "overflow", "leak"], "thread": ["race"], "memcheck": ["overrun", "uninitialised", "leak"]}
# ThreadSanitizer slows what it watches tenfold: the files in which threads meet the extension.
TESTS = {
    "address": ["projector", "projector_object", "select_cpu_engine", "select", "campaign", "moments", "threads", "golden"],
    "thread": ["projector", "projector_object", "select_cpu_engine", "threads"],
}
# Python itself leaks at exit and is not instrumented.
OPTIONS = {"ASAN_OPTIONS": "detect_leaks=0", "TSAN_OPTIONS": "ignore_noninstrumented_modules=1"}


class Step(str, Enum):
    """What can be run by itself."""

    warnings = "warnings"
    native = "native"
    memcheck = "memcheck"
    python = "python"


def run(*command: object, environment: dict[str, str] | None = None, cwd: Path = ROOT) -> None:
    subprocess.run([str(part) for part in command], cwd=cwd, env={**os.environ, **(environment or {})}, check=True)


def compilers() -> list[str]:
    """Return g++, and the newest clang++ there is."""
    clang = [name for name in ("clang++", *(f"clang++-{version}" for version in range(30, 13, -1))) if shutil.which(name)]
    return ["g++", *clang[:1]]


def warnings() -> None:
    """Compile the extension's sources with warnings as errors."""
    import pybind11  # absent where only the tests run: pytest imports this file

    include = ["-isystem", sysconfig.get_path("include"), "-isystem", pybind11.get_include()]
    for compiler in compilers():
        for source in (*LIBRARY, BINDINGS):
            run(compiler, "-std=c++17", "-O2", "-fPIC", *WARNINGS, *include, "-c", source, "-o", os.devnull)


def stress(compiler: str, name: str, *flags: str) -> Path:
    """Build the driver."""
    binary = BUILD / f"stress-{compiler}-{name}"
    BUILD.mkdir(parents=True, exist_ok=True)
    run(compiler, "-std=c++17", "-g", "-ffp-contract=off", "-pthread", *WARNINGS, *flags, *LIBRARY, STRESS, "-o", binary)
    return binary


def must_object(command: list[object], defect: str) -> None:
    done = subprocess.run([*map(str, command), defect], capture_output=True, check=False)
    if done.returncode == 0:
        raise SystemExit(f"sanitize: {command[0]} did not object to a planted {defect}")


def watch(compiler: str, name: str) -> None:
    """Run the driver under one sanitizer."""
    flags = ["-O1", "-fno-omit-frame-pointer", f"-fsanitize={SANITIZERS[name]}", "-fno-sanitize-recover=all"]
    binary = stress(compiler, name, *flags)
    run(binary)
    for defect in DEFECTS[name]:
        must_object([binary], defect)


def native() -> None:
    """Run the driver under the sanitizers of each compiler."""
    for compiler in compilers():
        for name in SANITIZERS:
            watch(compiler, name)


def memcheck() -> None:
    """Run the driver in valgrind."""
    binary = stress("g++", "memcheck", "-O1")
    run(*MEMCHECK, binary)
    for defect in DEFECTS["memcheck"]:
        must_object([*MEMCHECK, binary], defect)


def python() -> None:
    """Run the tests on an instrumented extension, in a build folder of its own."""
    for name, sanitizers in SANITIZERS.items():
        library = BUILD / name / "lib"
        flags = {
            "CFLAGS": f"-g -O1 -fno-omit-frame-pointer -fsanitize={sanitizers} -fno-sanitize-recover=all -Werror",
            "LDFLAGS": f"-fsanitize={sanitizers}",
        }
        build = ["build", "--build-base", library.parent, "--build-lib", library]
        run(sys.executable, "setup.py", "--quiet", *build, environment=flags)
        # Python looks in the current folder first: there nc_fast is the instrumented one.
        watched = {"cwd": library, "environment": {**OPTIONS, "LD_PRELOAD": " ".join(map(library_path, RUNTIMES[name]))}}
        run(sys.executable, "-c", f"import nc_fast._projector as p; assert p.__file__.startswith({str(library)!r})", **watched)
        tests = [next((ROOT / "tests").rglob(f"test_{stem}.py")) for stem in TESTS[name]]
        pytest = ["-m", "pytest", "-q", "-c", ROOT / "pyproject.toml", "--rootdir", ROOT, "-p", "no:cacheprovider"]
        run(sys.executable, *pytest, *tests, **watched)


def library_path(name: str) -> str:
    return subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout.strip()


def main(steps: Annotated[list[Step] | None, typer.Argument(help="Default: all.")] = None) -> None:
    """Run the steps; stop at the first that fails."""
    typer.echo(f"compilers: {', '.join(compilers())}")
    for step in steps or list(Step):
        start = time.monotonic()
        try:
            {"warnings": warnings, "native": native, "memcheck": memcheck, "python": python}[step.value]()
        except subprocess.CalledProcessError as error:
            raise SystemExit(f"sanitize: {step.value}: failed: {' '.join(error.cmd)}") from None
        typer.echo(f"sanitize: {step.value}: clean, {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    typer.run(main)
