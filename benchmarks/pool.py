"""What a normal number of a Gaussian pool costs: `candidates.gaussian` beside NumPy's generators and a fill of the same memory.

    python benchmarks/pool.py

Nanoseconds a number and their ratio to the pool's, on one thread and on all, the least of interleaved rounds. The pools and one
fill are of new memory (of 32 MiB and less the allocator may give the last one again); NumPy and the other fill write over an array
that is there already.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits

from nc_fast.candidates import gaussian
from nc_fast.runtime.threads import ordered_map, thread_count

D = 784
PARTS = 8  # of the array for every thread


def by_numpy(generator: Callable[[int], Any], out: np.ndarray, threads: int) -> None:
    """Fill an array by NumPy's ziggurat, a generator for every part."""
    parts = np.array_split(out.reshape(-1), PARTS * threads)

    def fill(number: int, _: object) -> None:
        np.random.Generator(generator(number)).standard_normal(out=parts[number], dtype=out.dtype)

    for _ in ordered_map(fill, range(len(parts)), threads):
        pass


def contenders(M: int, dtype: type, threads: int) -> dict[str, Callable[[], object]]:
    """Return name -> call that makes D * M numbers."""
    out = np.zeros((M, D), dtype)
    generators = np.random.SFC64, np.random.PCG64, np.random.Philox
    return {
        "candidates.gaussian": lambda: gaussian(D, M, dtype=dtype),
        "candidates.gaussian(antithetic=True)": lambda: gaussian(D, M, dtype=dtype, antithetic=True),
        **{f"NumPy, {generator.__name__}": partial(by_numpy, generator, out, threads) for generator in generators},
        "fill new memory, one thread": lambda: np.full((M, D), 1.5, dtype),
        "fill, one thread": lambda: out.fill(1.5),
    }


def measure(M: int, dtype: type, threads: int, rounds: int) -> dict[str, float]:
    """Return name -> nanoseconds a number."""
    best: dict[str, float] = {}
    with threadpool_limits(threads):
        calls = contenders(M, dtype, threads)
        for number in range(1 + rounds):  # the first compiles
            for name, call in calls.items():
                start = perf_counter()
                call()
                if number:
                    best[name] = min(best.get(name, np.inf), perf_counter() - start)
    return {name: seconds / (D * M) * 1e9 for name, seconds in best.items()}


def main(pool: int = 10_000, rounds: int = 7) -> None:
    """Show nanoseconds a number."""
    console = Console()
    for dtype in (np.float32, np.float64):
        for threads in sorted({1, thread_count()}):
            found = measure(pool, dtype, threads, rounds)
            table = Table(f"{dtype.__name__}, threads: {threads}", "ns a number", "ratio")
            for name, nanoseconds in found.items():
                table.add_row(name, f"{nanoseconds:.2f}", f"{nanoseconds / found['candidates.gaussian']:.2f}")
            console.print(table)


if __name__ == "__main__":
    typer.run(main)
