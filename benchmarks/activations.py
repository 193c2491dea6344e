"""Why the CPU moments are built as they are: the parts of the stage and their alternatives, on one thread.

    python benchmarks/activations.py --json benchmarks/results/activations.json

Three tables. Nanoseconds an element of each activation: as NumPy's function, as the compiled one, and fused with the moments of the
tile. Of the rest of the epilogue. And what the product of a tile takes beside its share of the whole product, for every tile shape.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits

from nc_fast.activations import ACTIVATIONS
from nc_fast.backends.cpu import kernels
from nc_fast.backends.cpu.tiles import TILE_ROWS

COLUMNS, ROUNDS = 1000, 15
CLASSES = 10
FEATURES, CANDIDATES, WHOLE_ROWS = (784, 256, 64, 32), (1000, 5000), 8192
SHAPES = [(rows, columns) for rows in (256, 512, 1024, 2048) for columns in (256, 512, 1000, 1250, 2500, 5000)]


@dataclass(frozen=True)
class Parts:
    """Nanoseconds an element, and products' time over that of the whole product."""

    activations: dict[str, dict[str, float]]
    others: dict[str, float]
    products: dict[str, dict[str, float]]


def fastest(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return name -> seconds of the fastest of interleaved rounds, BLAS on one thread."""
    best: dict[str, float] = {}
    with threadpool_limits(1, "blas"):
        for number in range(rounds + 1):  # the first compiles and warms up
            for name, call in calls.items():
                start = perf_counter()
                call()
                seconds = perf_counter() - start
                best[name] = min(best.get(name, seconds), seconds) if number > 1 else seconds
    return best


def measure(rows: int = TILE_ROWS, columns: int = COLUMNS, rounds: int = ROUNDS, whole_rows: int = WHOLE_ROWS) -> Parts:
    """Return the three tables; products are taken of ``whole_rows`` samples."""
    rng = np.random.default_rng(0)
    tile = rng.standard_normal((rows, columns), dtype=np.float32)
    z, bias = np.empty_like(tile), np.zeros(columns, np.float32)
    order, starts = rng.permutation(rows), np.linspace(0, rows, CLASSES + 1).astype(np.int64)
    mean, m2 = np.empty((2, CLASSES, columns))

    def on_copy(function: Callable[[np.ndarray], object]) -> Callable[[], object]:
        return lambda: (np.copyto(z, tile), function(z))

    def fused(name: str) -> Callable[[], object]:
        kernel = kernels.tile_moments(name)
        return lambda: kernel(tile, np.float32(1), bias, order, starts, 0, mean, m2)

    ways = {
        "NumPy, and a copy": lambda name: on_copy(ACTIVATIONS[name]),
        "compiled, and a copy": lambda name: on_copy(lambda block: kernels.in_place(name)(block.reshape(-1))),
        "fused, moments and all": fused,
    }
    nanoseconds = 1e9 / tile.size
    seconds = fastest({f"{name}|{way}": make(name) for name in ACTIVATIONS for way, make in ways.items()}, rounds)
    others = fastest({"copy": lambda: np.copyto(z, tile), "add the bias": lambda: np.add(tile, bias, out=z)}, rounds)
    return Parts(
        {name: {way: seconds[f"{name}|{way}"] * nanoseconds for way in ways} for name in ACTIVATIONS},
        {name: value * nanoseconds for name, value in others.items()},
        {
            f"D = {D}, M = {M}": products(D, M, min(whole_rows, whole_rows * 1000 // M), -(-rounds // 3))
            for D in FEATURES
            for M in CANDIDATES
            if CANDIDATES[0] == M or FEATURES[0] == D
        },
    )


def products(D: int, M: int, N: int, rounds: int) -> dict[str, float]:
    """Return shape -> time of the product cut into tiles of that shape, results in kept memory, over that of the whole."""
    rng = np.random.default_rng(0)
    X, W = rng.standard_normal((N, D), dtype=np.float32), rng.standard_normal((D, M), dtype=np.float32)
    whole = np.empty((N, M), np.float32)

    def cut(rows: int, columns: int) -> Callable[[], object]:
        buffer = np.empty(rows * columns, np.float32)

        def call() -> None:
            for i in range(0, N, rows):
                for j in range(0, M, columns):
                    x, w = X[i : i + rows], W[:, j : j + columns]
                    np.matmul(x, w, out=buffer[: len(x) * w.shape[1]].reshape(len(x), -1))

        return call

    shapes = {f"{rows} x {columns}": cut(rows, columns) for rows, columns in SHAPES if columns <= M}
    seconds = fastest({"whole": lambda: np.matmul(X, W, out=whole), **shapes}, rounds)
    return {shape: seconds[shape] / seconds["whole"] for shape in shapes}


def show(title: str, rows: dict[str, dict[str, float]]) -> None:
    """Print a table of numbers by row and column."""
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    table = Table(title, *columns)
    for name, row in rows.items():
        table.add_row(name, *(f"{row[column]:.2f}" if column in row else "" for column in columns))
    Console(width=140).print(table)


def main(json_path: Annotated[Path | None, typer.Option("--json", help="Write the numbers there too.")] = None) -> None:
    """Show what the parts of the moments stage take on one thread, and their alternatives."""
    found = measure()
    show("ns an element", found.activations)
    show("ns an element", {"": found.others})
    shapes = dict.fromkeys(shape for row in found.products.values() for shape in row)
    by_shape = {shape: {case: row[shape] for case, row in found.products.items() if shape in row} for shape in shapes}
    show("tiles over whole", by_shape)
    if json_path:
        json_path.write_text(json.dumps(asdict(found), indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
