"""What is to be screened, and how a backend's moments stage is bound to parts of a pool."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nc_fast.inputs.arrays import as_numpy, take_columns
from nc_fast.inputs.sources import Block
from nc_fast.runtime.progress import Report
from nc_fast.screening.surrogates import (
    FACTORS,
    FIT_ROWS,
    LINEAR_PLUS_RELU,
    MAX_COMPONENTS,
    MAX_RANK,
    QUADRATURE_NODES,
    ROWS_PER_COMPONENT,
    SUBSAMPLE_ROWS,
    fit_mixture,
    rescaled,
    stratified_rows,
)
from nc_fast.stages.campaign import SelectionRules
from nc_fast.stages.moments import CandidatePool, class_moments
from nc_fast.stages.selection import nonzero_columns
from nc_fast.types import ClassMoments, Picks

SEED = 6
COLUMNS_AT_ONCE = 8192  # of exact moments: bounds the copy of the weights
ONE_PASS = "fp16"  # the GPU's cheapest precision: a third of the exact product
NODE_FLOPS = 60  # of an activation at a quadrature node
CLOSED_FORM_FLOPS = 300
FIXED_FLOPS = 2e10  # the time of what screening does whatever the pool, a tenth of a second or two


@dataclass(frozen=True, eq=False)
class Problem:
    """A pool to be screened.

    Attributes
    ----------
    shape : (D, M).
    rules : how the picks are chosen.
    weights : columns -> (D, n) NumPy array.
    live : (M,) bool, which columns have a weight other than 0.
    exact : columns -> their exact moments, NumPy.
    surrogate : () -> surrogate moments of the whole pool, NumPy.
    second : columns -> moments by another surrogate, or None.
    pick : W, score, pool, quota -> Picks, the backend's selection.
    overhead, second_cost : what screening and its second surrogate cost besides exact moments, in exact columns.
    surrogate_name, second_name : in words.
    """

    shape: tuple[int, int]
    rules: SelectionRules
    weights: Callable[[np.ndarray], np.ndarray]
    live: np.ndarray
    exact: Callable[[np.ndarray], ClassMoments]
    surrogate: Callable[[], ClassMoments]
    second: Callable[[np.ndarray], ClassMoments] | None
    pick: Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], Picks]
    overhead: float
    second_cost: float
    surrogate_name: str
    second_name: str = "a subsample of the samples"


def problem(pool: CandidatePool, block: Block, rules: SelectionRules, report: Report | None) -> Problem:
    """Bind a checked campaign to its backend.

    On a GPU the surrogate is the backend itself in its cheapest precision; elsewhere it is the Gaussian mixture, and a
    subsample of the samples the alternative.
    """
    backend, codes, classes = pool.backend, block.codes, block.classes
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
    return Problem(
        shape=(D, M),
        rules=rules,
        weights=lambda columns: as_numpy(take_columns(pool.W, columns)),
        live=nonzero_columns(pool.W),
        exact=exact,
        surrogate=(lambda: moments(replace(pool, precision=ONE_PASS))) if on_gpu else mixture,
        second=None if small else subsample,
        pick=pick,
        overhead=M / 3 if on_gpu else _mixture_cost(N, D, M, count, pool.activation),
        second_cost=M * (0 if rows is None else len(rows)) / N,
        surrogate_name=f"the whole data in {ONE_PASS}" if on_gpu else "a Gaussian mixture per class",
    )


def _mixture_cost(N: int, D: int, M: int, count: np.ndarray, activation: Any) -> float:
    """Return what fitting and asking the mixture, and looking at the pool, cost in exact columns."""
    rank = min(MAX_RANK, D)
    components = int(np.clip(count // ROWS_PER_COMPONENT, 1, MAX_COMPONENTS).sum())
    elementwise = CLOSED_FORM_FLOPS if activation in LINEAR_PLUS_RELU else QUADRATURE_NODES * NODE_FLOPS
    fit = 2 * N * D * len(count) + 3 * min(N, FIT_ROWS) * D * rank
    ask = M * (2 * D * (rank + 2 * components) + components * (2 * FACTORS * rank + elementwise))
    return float((FIXED_FLOPS + fit + ask) / (N * (2 * D + NODE_FLOPS)))
