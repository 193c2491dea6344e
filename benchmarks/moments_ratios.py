"""`class_moments` over the product that it contains, `np.matmul(X, W, out=)`: one run, all sizes, all activations.

    python benchmarks/moments_ratios.py --json benchmarks/results/moments_ratios.json

Ratios of medians of interleaved rounds, float32. X is dense and Gaussian, or MNIST; labels are 10 classes. Before every call nothing
runs for a while: BLAS's threads go on spinning after a product, and would take a core from whoever comes next. The identity, which
needs no product of that size, is compared with the same samples as one activation among others: a callable.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from time import perf_counter, sleep
from typing import Annotated

import numpy as np
import typer
from environment import environment
from inputs import DataMissingError, inputs
from rich.console import Console
from rich.table import Table
from sizes import Size

import nc_fast
from nc_fast.activations import ACTIVATIONS

PAUSE_S = 0.3
SECONDS = 5.0  # a case, at least
ROUNDS = (5, 25)
DENSE = [(60000, 784, 1000), (60000, 784, 5000), (60000, 256, 1000), (60000, 64, 1000), (60000, 32, 1000), (2000, 784, 2560)]


@dataclass(frozen=True)
class Row:
    """One ratio: of the medians of ``rounds`` rounds, and that of the fastest."""

    case: str
    ratio: float
    fastest: float
    seconds: float  # median, of the contender
    rounds: int


def compare(case: str, baseline: Callable[[], object], contenders: dict[str, Callable[[], object]], pause: float = PAUSE_S) -> list[Row]:
    """Return a row for every contender."""
    calls = {"baseline": baseline, **contenders}
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()  # compiles and warms up
    start = perf_counter()
    while len(times["baseline"]) < ROUNDS[0] or (perf_counter() - start < SECONDS * len(calls) and len(times["baseline"]) < ROUNDS[1]):
        for name, call in calls.items():
            sleep(pause)
            begun = perf_counter()
            call()
            times[name].append(perf_counter() - begun)
    base = times.pop("baseline")
    return [
        Row(f"{case}{name and f', {name}'}", median(own) / median(base), min(own) / min(base), median(own), len(own))
        for name, own in times.items()
    ]


def dense(N: int, D: int, M: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return W in C order, as the product likes it best, X and y."""
    rng = np.random.default_rng(0)
    return np.ascontiguousarray(nc_fast.candidates.gaussian(D, M)), rng.standard_normal((N, D), dtype=np.float32), rng.integers(0, 10, N)


def against_the_product(case: str, W: np.ndarray, X: np.ndarray, y: np.ndarray, **pools: np.ndarray) -> list[Row]:
    z = X @ W
    contenders = {name.replace("_", " "): lambda pool=pool: nc_fast.class_moments(pool, X, y) for name, pool in {"": W, **pools}.items()}
    return compare(case, lambda: np.matmul(X, W, out=z), contenders)


def by_activation(N: int, D: int, M: int) -> list[Row]:
    W, X, y = dense(N, D, M)
    calls = {name: lambda name=name: nc_fast.class_moments(W, X, y, activation=name) for name in ACTIVATIONS}
    return compare(f"N = {N}, D = {D}, M = {M}, over relu", calls.pop("relu"), calls)


def identity(N: int, D: int, M: int) -> list[Row]:
    W, X, y = dense(N, D, M)
    z = X @ W
    ours = {"": lambda: nc_fast.class_moments(W, X, y, activation="identity")}
    ordinary = lambda: nc_fast.class_moments(W, X, y, activation=np.positive)  # noqa: E731
    case = f"identity, N = {N}, D = {D}, M = {M}"
    return [
        *compare(f"{case}, over activations one by one", ordinary, ours),
        *compare(case, lambda: np.matmul(X, W, out=z), ours),
    ]


def measure(sizes: list[tuple[int, int, int]], activations_at: tuple[int, int, int], identity_at: tuple[int, int, int]) -> list[Row]:
    """Return all ratios."""
    rows = []
    for N, D, M in sizes:
        W, X, y = dense(N, D, M)
        pairs = {"antithetic": np.stack([W[:, : M // 2], -W[:, : M // 2]], axis=2).reshape(D, M)} if M % 2 == 0 else {}
        rows += against_the_product(f"N = {N}, D = {D}, M = {M}", W, X, y, **pairs)
    try:
        given = inputs(Size("mnist", "mnist", 60000, 5000, 500))
        rows += against_the_product("MNIST, M = 5000", given.W, given.X, given.y)
    except DataMissingError as missing:
        Console().print(str(missing))
    return [*rows, *by_activation(*activations_at), *identity(*identity_at)]


def main(json_path: Annotated[Path | None, typer.Option("--json", help="Write the numbers there too.")] = None) -> None:
    """Show what the moments stage takes beside the product that it contains."""
    found = measure(DENSE, (60000, 64, 1000), (60000, 784, 10000))
    table = Table("float32, relu unless said", "ratio", "of the fastest", "ms", "rounds")
    for row in found:
        table.add_row(row.case, f"{row.ratio:.3f}", f"{row.fastest:.3f}", f"{row.seconds * 1e3:.1f}", str(row.rounds))
    Console(width=120).print(table)
    if json_path:
        json_path.write_text(json.dumps({"environment": environment(), "rows": [asdict(row) for row in found]}, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
