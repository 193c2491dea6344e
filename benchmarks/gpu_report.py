"""How fast the GPU backend is, and how close to the machine's limits: ``python benchmarks/gpu_report.py``.

For a machine with one NVIDIA or AMD GPU, torch, triton, numpy, numba and the compiled module (benchmarks/first_run.sh builds it, tests
the backend, and runs this). Writes JSON after every row and prints every row as it comes, the most wanted ones first. A row that
fails says so and the others go on. ``--tiny`` runs every measurement at toy sizes, on the CPU too (TRITON_INTERPRET=1), where its
times mean nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import gpu_rows
import numpy as np
from gpu_machine import Ceilings, Machine, Shape, begin
from gpu_results import Results, Row
from gpu_targets import verdicts

from nc_fast.files.read import Dataset

Measurements = Iterator[Callable[[], Iterator[Row]]]
TO_ORIGINAL = 100_000  # candidates the original restated gets at most


def plan(machine: Machine) -> Measurements:
    """Yield the measurements: M = 1e5 and what the picks are first; what is long or needs much memory last."""
    ceilings = Ceilings(machine, 8192, 4 << 30)
    yield ceilings.rows
    yield lambda: gpu_rows.moments_rows(machine, Shape(60_000, 784, 100_000, 10))
    yield lambda: gpu_rows.campaign_rows(machine, Shape(60_000, 784, 100_000, 10, 1000))
    yield lambda: gpu_rows.selection_rows(machine, Shape(1, 784, 100_000, 10, 1000), ceilings, {"by class": 10, "one pool": 1})
    yield lambda: gpu_rows.moments_rows(machine, Shape(60_000, 784, 1000, 10))
    yield lambda: gpu_rows.agreement_rows(machine, gpu_rows.mnist(), None, 20_000, 1000)
    yield lambda: gpu_rows.pursuit_rows(machine, Shape(10_000, 784, 100_000, 10, 1000), ceilings)
    yield lambda: gpu_rows.original_rows(machine, Shape(60_000, 784, TO_ORIGINAL, 10, 1000))
    yield lambda: gpu_rows.cpu_rows(machine, Shape(60_000, 784, 10_000, 10, 1000))
    yield lambda: gpu_rows.moments_rows(machine, Shape(60_000, 784, 10_000, 10))
    for M in (1000, 10_000, 1_000_000):
        yield lambda M=M: gpu_rows.campaign_rows(machine, Shape(60_000, 784, M, 10, min(1000, M // 2)))
    yield lambda: gpu_rows.moments_rows(machine, Shape(60_000, 4096, 100_000, 1000), ("auto", "fp16", "tf32"))
    yield lambda: gpu_rows.moments_rows(machine, Shape(60_000, 784, 1_000_000, 10), ("auto", "fp16"))
    yield lambda: gpu_rows.selection_rows(machine, Shape(1, 784, 100_000, 1, 4096), ceilings, {"one pool": 1})


def tiny_plan(machine: Machine) -> Measurements:
    """Yield every measurement at a toy size."""
    ceilings, shape = Ceilings(machine, 64, 1 << 16), Shape(60, 9, 40, 3, 6)
    rng = np.random.default_rng(0)
    data = Dataset("toy", rng.integers(0, 256, (40, 9), np.uint8), np.arange(40) % 3, full_scale=255)
    yield ceilings.rows
    yield lambda: gpu_rows.moments_rows(machine, shape)
    yield lambda: gpu_rows.campaign_rows(machine, shape)
    yield lambda: gpu_rows.selection_rows(machine, shape, ceilings, {"by class": 3, "one pool": 1})
    yield lambda: gpu_rows.agreement_rows(machine, data, None, 16, 4)
    yield lambda: gpu_rows.pursuit_rows(machine, shape, ceilings)
    yield lambda: gpu_rows.original_rows(machine, shape)
    yield lambda: gpu_rows.cpu_rows(machine, shape)


def main(given: list[str] | None = None) -> list[Row]:
    """Run the report; return its rows."""
    arguments, machine = begin(__doc__, "gpu_report.json", given)
    results = Results(arguments.out, machine.facts(), verdicts)
    results.collect(tiny_plan(machine) if arguments.tiny else plan(machine), machine.free)
    print("\n".join(verdicts(results.rows)))
    return results.rows


if __name__ == "__main__":
    raise SystemExit(any(row.stage == "failed" for row in main()))
