"""What the launchers compile for a GPU, without one: registers, spills, instructions, and a cache for the machine that has one.

``python benchmarks/gpu_compile.py table [--targets hopper,ampere,amd]`` prints registers and spills of every kernel.
``python benchmarks/gpu_compile.py cache FILE.tar.gz`` compiles for sm_90 what a first run needs. Where benchmarks/triton_cache.py unpacks
the file into TRITON_CACHE_DIR, beside the same Python, the same triton and the same tree, nothing of it is compiled again.
``python benchmarks/gpu_compile.py read TARGET CASES`` is for the tests: JSON in, JSON out. ``--cases`` gives the others less to do.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Container, Iterable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a bare tree, or another one installed

import triton_cache
from gpu_launches import LAUNCHERS, TARGETS, Launch, build_launchers, building_launchers, compiling
from machine_code import read_machine_code

from nc_fast.activations import ACTIVATIONS

Case = tuple[str, dict[str, Any]]  # a launcher in LAUNCHERS, its options
PRECISIONS: dict[str, dict[str, Any]] = {
    "auto": {},
    "auto, uint8 samples": {"samples": "uint8"},
    "fp16": {"precision": "fp16"},
    "tf32": {"precision": "tf32"},
    "ieee": {"precision": "ieee"},
    "float64": {"weights": "float64", "samples": "float64"},
}
TABLE: dict[str, Case] = {
    **{
        f"{precision}, {activation}": ("moments", options | {"activation": activation})
        for precision, options in PRECISIONS.items()
        for activation in ("relu", "gelu", "softplus")
    },
    **{f"window of {window}": ("selection", {"window": window}) for window in (64, 256, 1024)},
    **{f"C = {C}": ("pursuit", {"targets": C}) for C in (1, 10, 300)},
}
VARIANTS: dict[str, Case] = {  # of sm_90; each says its name in the table of tiles
    f"{precision}, {activation}, {variant}": ("moments", options | {"activation": activation, "variant": variant})
    for variant in ("nested", "two programs", "deep")
    for precision, options in PRECISIONS.items()
    for activation in ("relu", "gelu", "softplus")
    if precision in ("auto", "tf32")
}
# Data of a first run: those of the smoke test and the device tests, and the report's.
RAGGED: dict[str, Any] = {"classes": (700, 1, 300, 256, 5, 1025), "D": 83, "M": 301}
MNIST: dict[str, Any] = {"classes": (6000,) * 10, "D": 784}
WIDE: dict[str, Any] = {"classes": (60,) * 1000, "D": 4096, "M": 100_000}
COMPILED = "{} kernels, {} launchers"
NOTHING = COMPILED.format(0, 0)
READ_IN_TESTS = {"pure_runs", "mixed_tiles", "update_gains"}  # instruction by instruction; of the others registers and the stack


def first_run() -> Iterator[Case]:
    """Yield what a first run starts on sm_90."""
    for precision, options in PRECISIONS.items():
        for M in (1000, 10_000, 100_000, 1_000_000):
            yield "moments", options | MNIST | {"M": M}
        for activation in ACTIVATIONS:
            yield "moments", options | RAGGED | {"activation": activation}
        if precision in ("auto", "fp16", "tf32"):
            yield "moments", options | WIDE
            for variant in ("nested", "two programs", "deep"):
                yield "moments", options | RAGGED | {"variant": variant}
                yield "moments", options | MNIST | {"M": 100_000, "variant": variant}
    for classes in ((60,) * 200, (1,), (256,), (5000, 3)):
        yield "moments", RAGGED | {"classes": classes}
    for samples in ("float32", "float16", "bfloat16", "uint8", "int64", "float64"):
        for weights in ("float32", "float16", "bfloat16"):
            yield "moments", RAGGED | {"samples": samples, "weights": weights}
    yield "moments", RAGGED | {"transposed": True}
    for window in (64, 128, 256, 512, 1024):
        for owed in (window // 4, window // 4 - 1):
            yield "selection", {"window": window, "owed": owed}
    yield "selection", {"window": 64, "owed": 1}
    for activation in ACTIVATIONS:
        for weights in ("float32", "float64"):
            for n in (700, 10_000):
                yield "activations", {"activation": activation, "weights": weights, "n": n}
    for targets in (1, 3, 5, 10, 250):
        for M in (333, 2000):
            yield "pursuit", {"targets": targets, "M": M, "n": 700}


def launches_of(cases: Iterable[Case], target: str) -> Iterator[tuple[Case, list[Launch]]]:
    """Start each case's launcher for the target; yield the case and its launches."""
    for name, options in cases:
        with compiling(target) as launches:
            try:
                LAUNCHERS[name](**options)
            except Exception as error:
                raise RuntimeError(f"{name} {options} for {target}") from error
        yield (name, options), launches


def records(cases: Iterable[Case], target: str, disassembled: Container[str] | None = None) -> Iterator[list[dict[str, Any]]]:
    """Yield for each case what its launches compiled, every kernel once; instructions of the named kernels, or of all."""
    read: dict[int, dict[str, Any]] = {}
    for _, launches in launches_of(cases, target):
        distinct = {id(launch.compiled): launch for launch in launches}
        for key, launch in distinct.items():
            if key not in read:
                instructions = disassembled is None or launch.kernel in disassembled
                read[key] = read_machine_code(launch.compiled, instructions=instructions) | launch.options
        yield [launch.called | read[key] for key, launch in distinct.items()]


def print_table(targets: list[str], cases: dict[str, Case] | None = None) -> None:
    """Print registers, spilled words, shared memory and instructions of every kernel, as Markdown."""
    import triton

    sys.stdout.write(f"Triton {triton.__version__}. Spills in words; loops: instructions (products among them).\n\n")
    sys.stdout.write("| target | case | kernel | tile | registers | spilled | shared KB | products | instructions | loops |\n")
    sys.stdout.write("|" + " --- |" * 10 + "\n")
    for target in targets:
        seen: set[str] = set()
        shown = cases or TABLE | (VARIANTS if target == "hopper" else {})
        for case, found in zip(shown, records(shown.values(), target), strict=True):
            for kernel in found:
                line = " | ".join(map(str, _cells(kernel)))
                if line not in seen:
                    seen.add(line)
                    sys.stdout.write(f"| {target} | {case} | {line} |\n")
                    sys.stdout.flush()


def _cells(kernel: dict[str, Any]) -> Iterator[Any]:
    arguments = kernel["arguments"]
    yield kernel["kernel"]
    sides = [arguments[name] for name in ("BC", "BS", "BK") if name in arguments]
    yield f"{' x '.join(map(str, sides))} {kernel['num_warps']}w {kernel['num_stages']}s" if len(sides) == 3 else ""
    yield f"{kernel['registers']}" + (f" of {kernel['maxnreg']}" if kernel["maxnreg"] else "")
    yield kernel["spilled"]
    yield round(kernel["shared"] / 1024, 1)
    yield f"{kernel['n_products']} {' '.join(kernel['products'])}" if kernel["products"] else ""
    yield kernel["instructions"]
    yield ", ".join(f"{size} ({products})" for size, products in kernel["loops"] if products)


def write_cache(file: Path, cases: str) -> None:
    """Compile for sm_90 what a first run needs, into a fresh cache that is packed; count what a second process finds in it."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        compiled = _compiled_with(Path(folder), cases)
        seconds = time.perf_counter() - started
        triton_cache.pack(Path(folder), file)
    with tempfile.TemporaryDirectory() as other:  # the first folder is gone, as on another machine
        triton_cache.unpack(file, Path(other))
        again = _compiled_with(Path(other), cases)
    size = f"{file.stat().st_size / 1e6:.2f} MB"
    sys.stdout.write(f"{compiled} in {seconds:.0f} s, {size}; from the file: {again}\n")
    if again != NOTHING:
        raise SystemExit("a second process does not find everything in the file")


def _compiled_with(cache: Path, cases: str) -> str:
    """Say what a process of its own compiles with this cache; an empty list of cases in JSON means all."""
    environment = os.environ | {"TRITON_CACHE_DIR": str(cache), "TRITON_STORE_BINARY_ONLY": "1"}
    command = [sys.executable, __file__, "compile", "--cases", cases]
    return subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


def compile_all(cases: Iterable[Case]) -> str:
    """Compile for sm_90; say how many kernels, and how many modules of C that start them, were not in the cache."""
    n_kernels = 0
    with building_launchers() as built:
        for _, launches in launches_of(cases, "hopper"):
            n_kernels += sum(launch.cached is False for launch in launches)
            build_launchers(launches)
    return COMPILED.format(n_kernels, len(built))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    table, cache, compile_ = (commands.add_parser(name) for name in ("table", "cache", "compile"))
    for command in (table, cache, compile_):
        command.add_argument("--cases", default="[]", help="JSON, [[launcher, options], ...]")
    table.add_argument("--targets", default="hopper,ampere,amd", help="from " + ", ".join(TARGETS))
    cache.add_argument("file", type=Path)
    read = commands.add_parser("read")
    read.add_argument("target", choices=TARGETS)
    read.add_argument("cases")
    given = parser.parse_args()
    cases: list[Case] = json.loads(given.cases)
    if given.command == "table":
        print_table(given.targets.split(","), {f"{name} {options}": (name, options) for name, options in cases})
    elif given.command == "cache":
        write_cache(given.file, given.cases)
    elif given.command == "read":
        json.dump(list(records(cases, given.target, READ_IN_TESTS)), sys.stdout)
    else:
        sys.stdout.write(compile_all(cases or first_run()))


if __name__ == "__main__":
    main()
