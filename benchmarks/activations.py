"""Why the CPU moments are built as they are: nanoseconds an element of each alternative, on one thread.

    python benchmarks/activations.py --json benchmarks/results/activations.json

Compares, on a tile that is in cache, NumPy's vectorised functions with scalar math in a compiled loop, Numba's erf with SciPy's,
and the product of a tile with that of the whole; everything else a tile goes through beside them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Annotated

import numba
import numpy as np
import typer
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits

from nc_fast.activations import ACTIVATIONS
from nc_fast.backends.cpu import kernels
from nc_fast.backends.cpu.moments import BLOCK_COLUMNS
from nc_fast.backends.cpu.tiles import TILE_ROWS

FEATURES, CANDIDATES, WHOLE_ROWS = 784, 4096, 8192
ROUNDS = 15
SCALAR = {
    "relu": lambda v: max(v, np.float32(0)),
    "tanh": lambda v: math.tanh(v),
    "sigmoid": lambda v: np.float32(1) / (np.float32(1) + math.exp(-v)),
    "softplus": lambda v: max(v, np.float32(0)) + math.log1p(math.exp(-abs(v))),
}


def compiled(function: Callable[[float], float]) -> Callable[[np.ndarray], np.ndarray]:
    """Return ``function`` as a compiled loop over a block, in place."""
    scalar = numba.njit(function)

    @numba.njit(nogil=True, fastmath={"contract"})
    def loop(z):
        for i in range(z.shape[0]):
            for j in range(z.shape[1]):
                z[i, j] = scalar(z[i, j])
        return z

    return loop


def alternatives(rows: int, columns: int) -> dict[str, tuple[Callable[[], object], int]]:
    """Return name -> (call, elements it works on)."""
    rng = np.random.default_rng(0)
    X = rng.random((WHOLE_ROWS, FEATURES), dtype=np.float32)
    W = rng.standard_normal((FEATURES, CANDIDATES), dtype=np.float32) / np.float32(np.sqrt(FEATURES))
    whole, tile = X @ W, X[:rows] @ W[:, :columns]
    z, run = np.empty_like(tile), np.array([0, rows])
    mean, m2 = np.empty((2, 1, columns))
    bias = np.zeros(columns, np.float32)

    def on_copy(function: Callable[[np.ndarray], object]) -> Callable[[], object]:
        def call() -> object:
            np.copyto(z, tile)
            return function(z)

        return call

    return {
        "copy (in the times of all functions below)": (lambda: np.copyto(z, tile), tile.size),
        **{f"NumPy: {name}": (on_copy(function), tile.size) for name, function in ACTIVATIONS.items() if name != "gelu"},
        "scipy.special.erf: gelu": (on_copy(ACTIVATIONS["gelu"]), tile.size),
        "moments of the tile, gelu fused": (
            on_copy(lambda block: kernels.tile_moments(block, bias, kernels.GELU, run, 0, mean, m2)),
            tile.size,
        ),
        "moments of the tile, relu fused": (
            on_copy(lambda block: kernels.tile_moments(block, bias, kernels.RELU, run, 0, mean, m2)),
            tile.size,
        ),
        **{f"Numba, scalar math: {name}": (on_copy(compiled(function)), tile.size) for name, function in SCALAR.items()},
        "add the bias": (on_copy(lambda block: np.add(block, bias, out=block)), tile.size),
        "moments of the tile": (on_copy(lambda block: kernels.tile_moments(block, bias, kernels.NONE, run, 0, mean, m2)), tile.size),
        f"product, tile {rows} x {columns}": (lambda: np.matmul(X[:rows], W[:, :columns], out=z), tile.size),
        f"product, whole {WHOLE_ROWS} x {CANDIDATES}": (lambda: np.matmul(X, W, out=whole), whole.size),
    }


def measure(rows: int = TILE_ROWS, columns: int = BLOCK_COLUMNS, rounds: int = ROUNDS) -> dict[str, float]:
    """Return name -> median nanoseconds an element; rounds of all alternatives are interleaved."""
    calls = alternatives(rows, columns)
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    with threadpool_limits(1, "blas"):
        for call, _ in calls.values():
            call()  # compiles and warms up
        for _ in range(rounds):
            for name, (call, _) in calls.items():
                start = perf_counter()
                call()
                seconds[name].append(perf_counter() - start)
    return {name: float(np.median(times)) / calls[name][1] * 1e9 for name, times in seconds.items()}


def main(json_path: Annotated[Path | None, typer.Option("--json", help="Write the nanoseconds there too.")] = None) -> None:
    """Show nanoseconds an element of the parts of the moments stage and of their alternatives."""
    found = measure()
    table = Table("one thread", "ns an element")
    for name, nanoseconds in found.items():
        table.add_row(name, f"{nanoseconds:.2f}")
    Console().print(table)
    if json_path:
        json_path.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
