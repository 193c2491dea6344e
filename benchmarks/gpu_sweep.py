"""Every tile shape worth trying, timed on the product kernels alone: ``python benchmarks/gpu_sweep.py``.

For each precision and each name in ``nc_fast.backends.gpu.tiles.variants`` of this device: whether a small problem comes out right,
then the kernels' time at N = 60000, D = 784, M = 1e5 by the device's clock, with registers and spills. Writes JSON after every row.
``--tiny`` runs it at a toy size, on the CPU too (TRITON_INTERPRET=1).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gpu_machine import Machine, Shape, begin, draw, product_seconds
from gpu_parts import Parts, launched
from gpu_results import Results, Row
from gpu_smoke import ERROR, Problem

from nc_fast.backends.gpu import moments
from nc_fast.backends.gpu.kernels.moments import mixed_tiles, pure_runs
from nc_fast.backends.gpu.tiles import Tiles

PRECISIONS = ("auto", "fp16", "tf32", "ieee")


def sweep_rows(machine: Machine, shape: Shape, precision: str) -> Iterator[Row]:
    """Yield a row for each variant; the floor is the plain product by cuBLAS at the same precision, on the same data."""
    given = draw(shape, machine)
    first = Parts(machine, *given, precision)
    product = first.passes * product_seconds(machine, given[1], given[0], first.kind)
    for name, tiles in first.variants().items():
        yield variant_row(machine, given, precision, name, tiles, Row("sweep", f"{precision}, {name}", str(shape), floor=product))


def variant_row(machine: Machine, given: Any, precision: str, name: str, tiles: Tiles, row: Row) -> Row:
    """Fill in the row of one variant; a shape that does not run is a row that says so."""
    try:
        error = error_of(machine, precision, tiles)
        row.notes |= {"right": error <= ERROR[precision], "error": error}
        parts = Parts(machine, *given, precision, variant=name)
        packed = parts.packed()
        found = machine.measure(lambda: parts.products(*packed), events=True)
        row.seconds, row.peak = found.seconds, found.peak
        row.notes |= {"of cuBLAS's rate": row.floor / row.seconds} | found.spread
        with launched(pure_runs) as pure, launched(mixed_tiles) as mixed:
            parts.products(*packed)
        if machine.gpu:
            row.notes["registers, spills"] = [(kernels[0].n_regs, kernels[0].n_spills) for kernels in (pure, mixed) if kernels]
    except Exception as failure:  # out of shared memory, say: the next shape may run
        row.notes["failed"] = f"{type(failure).__name__}: {failure}"[-300:]
    return row


def error_of(machine: Machine, precision: str, tiles: Tiles) -> float:
    """Return the error of whole moments with these tiles on the smoke test's ragged problem."""
    problem, choose = Problem.draw(machine), moments.choose_tiles
    moments.choose_tiles = lambda *_: tiles
    try:
        return problem.error(problem.moments(precision))
    finally:
        moments.choose_tiles = choose


def main(given: list[str] | None = None) -> list[Row]:
    """Run the sweep; return its rows."""
    arguments, machine = begin(__doc__, "gpu_sweep.json", given)
    shape = Shape(60, 9, 40, 3) if arguments.tiny else Shape(60_000, 784, 100_000, 10)
    results = Results(arguments.out, machine.facts())
    results.collect((lambda p=precision: sweep_rows(machine, shape, p) for precision in PRECISIONS), machine.free)
    return results.rows


if __name__ == "__main__":
    raise SystemExit(not all(row.notes.get("right") and "failed" not in row.notes for row in main()))
