"""What is to be screened, and how a backend's moments stage is bound to parts of a pool."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from nc_fast.inputs.arrays import as_numpy, take_columns
from nc_fast.inputs.sources import Block
from nc_fast.runtime.progress import Report
from nc_fast.screening.surrogates import SUBSAMPLE_ROWS, fit_mixture, mixture_cost, rescaled, stratified_rows
from nc_fast.stages.campaign import SelectionRules
from nc_fast.stages.moments import CandidatePool, class_moments
from nc_fast.stages.selection import nonzero_columns
from nc_fast.types import ClassMoments, Picks

SEED = 6
COLUMNS_AT_ONCE = 8192  # of exact moments: bounds the copy of the weights
ONE_PASS = "fp16"  # the GPU's cheapest precision: a third of the exact product


@dataclass(frozen=True, eq=False)
class ScreeningProblem:
    """A pool to be screened, and what may be asked of it; all in NumPy."""

    shape: tuple[int, int]  # (D, M)
    rules: SelectionRules
    weights: Callable[[np.ndarray], np.ndarray]  # columns -> (D, n)
    live: np.ndarray  # (M,) bool, which columns have a weight other than 0
    exact: Callable[[np.ndarray], ClassMoments]  # columns -> their exact moments
    surrogate: Callable[[], ClassMoments]  # moments of all columns by a surrogate
    second: Callable[[np.ndarray], ClassMoments] | None  # columns -> their moments by another surrogate
    pick: Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], Picks]  # W, score, pool, quota: the backend's selection
    overhead: float  # what screening costs besides exact moments, in exact columns
    second_cost: float  # of the second surrogate, in exact columns
    surrogate_name: str  # in words
    second_name: str = "a subsample of the samples"


def problem(pool: CandidatePool, block: Block, rules: SelectionRules, report: Report | None) -> ScreeningProblem:
    """Bind a checked campaign to its backend.

    On a GPU the surrogate is the backend itself in its cheapest precision; elsewhere it is the Gaussian mixture, and a
    subsample of the samples the alternative.
    """
    backend, codes, classes = pool.backend, block.y, block.classes
    D, M = pool.n_features, pool.size
    N, C = len(codes), len(classes)
    put, on_gpu = backend.put, backend.on_gpu
    samples, count = backend.samples(block.X), np.bincount(codes, minlength=C)
    rng = np.random.default_rng(SEED)
    done = 0

    def moments(some: CandidatePool, rows: np.ndarray | None = None) -> ClassMoments:
        part = Block(samples, codes, classes) if rows is None else Block(samples[rows], codes[rows], classes)
        found = class_moments(some, part, None)
        return ClassMoments(classes, *(as_numpy(array) for array in (found.count, found.mean, found.m2)))

    def exact(columns: np.ndarray) -> ClassMoments:
        nonlocal done
        parts = []
        for first in range(0, len(columns), COLUMNS_AT_ONCE):
            part = columns[first : first + COLUMNS_AT_ONCE]
            parts.append(moments(pool.take(part)))
            done += len(part)
            if report:
                report(done, 0)
        return ClassMoments(classes, count, *(np.concatenate([getattr(p, name) for p in parts], axis=1) for name in ("mean", "m2")))

    def mixture() -> ClassMoments:
        weights = as_numpy(pool.W)
        dtype = np.result_type(weights, samples) if samples.dtype.kind == "f" else weights.dtype
        return fit_mixture(samples, codes, classes, dtype, rng).moments(weights, pool.bias, pool.activation)

    def subsample(columns: np.ndarray) -> ClassMoments:
        whole = len(columns) == M
        return rescaled(moments(pool if whole else pool.take(columns), rows), count)

    def pick(W: np.ndarray, score: np.ndarray, competing: np.ndarray, quota: np.ndarray) -> Picks:
        found = backend.select(put(W), put(score), put(competing), put(quota))
        return Picks(as_numpy(found.indices), as_numpy(found.gains), found.restarts)

    rows = None if on_gpu else stratified_rows(codes, C, SUBSAMPLE_ROWS, rng)
    small = rows is None or 4 * len(rows) > N
    return ScreeningProblem(
        shape=(D, M),
        rules=rules,
        weights=lambda columns: as_numpy(take_columns(pool.W, columns)),
        live=nonzero_columns(pool.W),
        exact=exact,
        surrogate=(lambda: moments(replace(pool, precision=ONE_PASS))) if on_gpu else mixture,
        second=None if small else subsample,
        pick=pick,
        overhead=M / 3 if on_gpu else mixture_cost(N, D, M, count, pool.activation),
        second_cost=M * (0 if rows is None else len(rows)) / N,
        surrogate_name=f"the whole data in {ONE_PASS}" if on_gpu else "a Gaussian mixture per class",
    )
