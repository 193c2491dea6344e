"""From which share of zeros on a product that leaves them out beats BLAS, on one thread: time over np.matmul's, one tile of samples.

    python benchmarks/sparse_crossover.py

Zeros are scattered at random, so that neighbouring rows share no pattern: the least favourable case. The time includes finding them.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

import numpy as np
import typer
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits

from nc_fast.backends.cpu import spmm
from nc_fast.backends.cpu.tiles import TILE_ROWS

DENSITIES = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5)


def seconds(calls: list[Callable[[], object]], rounds: int) -> np.ndarray:
    """Return the least time of each call, taken in turns."""
    found = np.full(len(calls), np.inf)
    for _ in range(rounds + 1):  # the first compiles
        for i, call in enumerate(calls):
            begun = perf_counter()
            call()
            found[i] = min(found[i], perf_counter() - begun)
    return found


def main(features: list[int] = [32, 64, 256, 784, 3000], candidates: list[int] = [256, 1000], rounds: int = 3) -> None:  # noqa: B006
    table = Table("dtype", "D", "m", *(f"{density:g}" for density in DENSITIES), title="sparse / dense, by density")
    rng = np.random.default_rng(0)
    for dtype in (np.float32, np.float64):
        for D in features:
            for m in candidates:
                W, z = rng.standard_normal((D, m)).astype(dtype), np.empty((TILE_ROWS, m), dtype)
                X = rng.standard_normal((TILE_ROWS, D)).astype(dtype)
                tiles = [np.where(rng.random(X.shape) < density, X, dtype(0)) for density in DENSITIES]

                def sparse(x: np.ndarray, W: np.ndarray = W, z: np.ndarray = z) -> None:
                    spmm.multiply(spmm.paired_rows(x, np.arange(len(x)), 1.0), W, slice(0, W.shape[1]), z)

                dense, *times = seconds(
                    [lambda X=X, W=W, z=z: np.matmul(X, W, out=z), *(lambda x=x, sparse=sparse: sparse(x) for x in tiles)], rounds
                )
                table.add_row(np.dtype(dtype).name, str(D), str(m), *(f"{time / dense:.2f}" for time in times))
    Console(width=120).print(table)


if __name__ == "__main__":
    with threadpool_limits(1):
        typer.run(main)
