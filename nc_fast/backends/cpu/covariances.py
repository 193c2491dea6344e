"""Class moments of the identity activation through class covariances: O(N D² + C M D²) instead of O(N D M).

Let S be the scatter matrix of a class about its mean mu, and S = L L'. A candidate w has the mean w·mu + bias and
m2 = w' S w = |L' w|²: a sum of squares, each of them as exact as an activation. S is summed in float64. A variance that it
cannot tell from 0 is left to the ordinary way: of candidates that are constant, or nearly so beside what they add up.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from nc_fast.runtime.threads import Stop, Stopped, ordered_map, thread_count
from nc_fast.types import ClassMoments

SCATTER_ROWS = 4096  # samples of a class that a thread takes at a time
FACTOR_ROWS = 32  # of L' that are multiplied together, for all classes; the zeros among them cost 4 % at D = 784
COLUMNS = 512  # candidates that a thread takes at a time
FACTOR_BYTES = 64 << 20  # of the factors held together, but for one
MOST_FEATURES = 2048  # a scatter matrix then takes 32 MiB, and each thread has one
WORTHWHILE = 1.5  # times as fast, by the count of `pays`

RIDGE = 1e-10  # a share of S's diagonal, added to it and taken off m2 again: a singular S has a factor too
DOUBTFUL = 1e-3  # m2 over what it would be without correlations: above it, S's rounding (1e-15 of the latter) is inside the budget
LOST = 1e-280  # sums of squares below it have lost some to underflow


def pays(n_samples: int, n_features: int, n_candidates: int, n_classes: int) -> bool:
    """Return whether covariances are faster for sure, by float32 operations; S, in float64, counts double."""
    N, D, M, C = n_samples, n_features, n_candidates, n_classes
    ordinary = N * M * (2 * D + 30)  # here and below, constants beside D are measured: memory traffic, in operations
    covariances = 2e8 + N * D * (2 * D + 400) + C * M * D * (D + FACTOR_ROWS + 60) + 4 * C * D**3
    return 4 * D < N and D <= MOST_FEATURES and WORTHWHILE * covariances <= ordinary


def class_moments(
    W: np.ndarray,
    X: np.ndarray,
    codes: np.ndarray,
    classes: np.ndarray,
    bias: np.ndarray,
    ordinary: Callable[..., ClassMoments],
    report: Callable[[int, int], None] | None,
) -> ClassMoments:
    """Return the class moments of ``X @ W + bias``.

    Parameters
    ----------
    W : (D, M or more) float32 or float64, the precision of the candidates' products; columns beyond the candidates are 0.
    X : (N, D) float32, float64 or integer.
    codes : (N,) int64, index into ``classes`` of each sample.
    classes : (C,) labels.
    bias : (M,) dtype of W.
    ordinary : returns the moments of candidates (D, m) on the same samples, computed one by one; takes their ``bias``.
    report : called with (the share of the work that is done times N, N).
    """
    n_classes, n_candidates, n_columns = len(classes), len(bias), W.shape[1]
    count = np.bincount(codes, minlength=n_classes)
    members = np.split(np.argsort(codes, kind="stable"), np.cumsum(count)[:-1])
    mean, m2 = np.zeros((2, n_classes, n_columns))
    certain, constant = np.ones((2, n_columns), bool)
    done = 0.0

    def advance(share: float) -> None:
        nonlocal done
        done += share / 2
        if report:
            report(round(done * len(X)), len(X))

    blocks = [slice(first, min(first + COLUMNS, n_columns)) for first in range(0, n_columns, COLUMNS)]
    held = max(1, FACTOR_BYTES // (W.itemsize * len(W) ** 2))
    for first in range(0, n_classes, held):
        group = slice(first, first + held)
        covariances = _covariances(X, members[group], W.dtype, advance)
        moments = partial(_moments, W, X[0].astype(np.float64), *covariances)
        for block, (own_mean, own_m2, uncorrelated) in zip(blocks, ordered_map(moments, blocks, thread_count()), strict=True):
            mean[group, block], m2[group, block] = own_mean, own_m2
            still = uncorrelated == 0
            certain[block] &= (still | (own_m2 > DOUBTFUL * uncorrelated) & (own_m2 < np.inf)).all(axis=0)
            constant[block] &= still.all(axis=0)
            advance(count[group].sum() / len(X) * own_m2.shape[1] / n_columns)
    mean, m2 = np.where(count[:, None] > 0, mean[:, :n_candidates] + bias, 0.0), m2[:, :n_candidates]
    left = np.flatnonzero((~certain | constant)[:n_candidates])
    if len(left):
        exact = ordinary(W[:, left], bias=bias[left])
        mean[:, left], m2[:, left] = exact.mean, exact.m2
    return ClassMoments(classes, count, mean, m2)


@np.errstate(over="ignore", invalid="ignore")  # what overflows is left to the ordinary way
def _covariances(
    X: np.ndarray, members: list[np.ndarray], dtype: np.dtype[Any], advance: Callable[[float], None]
) -> tuple[np.ndarray, np.ndarray, list[tuple[np.ndarray, np.ndarray]]]:
    """Return some classes' means beside X[0] (G, D), diagonals of S (G, D), and rows of all L' with the features they begin at."""
    n_features = X.shape[1]
    mean, squares = np.zeros((2, len(members), n_features))
    factors = np.zeros((len(members), n_features, n_features), dtype)
    parts = [(c, rows[i : i + SCATTER_ROWS]) for c, rows in enumerate(members) for i in range(0, len(rows), SCATTER_ROWS)]
    counts, centres, total = [], [], np.zeros((n_features, n_features))
    samples = [rows for _, rows in parts]
    for (c, rows), (centre, scatter) in zip(parts, ordered_map(partial(_scatter, X), samples, thread_count()), strict=True):
        counts.append(len(rows))
        centres.append(centre)
        total += scatter
        if sum(counts) == len(members[c]):
            deviations = np.array(centres) - centres[0]
            shift = np.array(counts) @ deviations / sum(counts)
            between = np.sqrt(counts)[:, None] * (deviations - shift)
            total += between.T @ between
            mean[c], squares[c] = centres[0] + shift, total.diagonal()
            factors[c] = _factor(total)
            counts, centres, total = [], [], np.zeros_like(total)
        advance(len(rows) / len(X))
    used = np.flatnonzero((squares != 0).any(axis=0))
    stacked = []
    for first in range(0, len(used), FACTOR_ROWS):
        rows = factors[:, used[first:, None], used[first : first + FACTOR_ROWS]].transpose(0, 2, 1)
        stacked.append((used[first:], rows.reshape(-1, len(used) - first)))
    return mean, squares, stacked


@np.errstate(over="ignore", invalid="ignore")  # what overflows is left to the ordinary way
def _scatter(X: np.ndarray, rows: np.ndarray, stop: Stop) -> tuple[np.ndarray, np.ndarray]:
    """Return samples' mean beside X[0] (D,) and scatter matrix (D, D), exactly 0 for constant features, and exact at any offset."""
    if stop.is_set():
        raise Stopped
    x = X[rows].astype(np.float64)
    first = x[0].copy()
    x -= first
    shift = x.mean(axis=0)
    x -= shift
    scatter = x.T @ x
    if x[:, scatter.diagonal() < LOST].any():
        scatter[:] = np.nan
    return first - X[0].astype(np.float64) + shift, scatter


@np.errstate(over="ignore", invalid="ignore")  # what overflows is left to the ordinary way
def _factor(scatter: np.ndarray) -> np.ndarray:
    """Return L (D, D), lower triangular, with the rows of constant features 0; NaN where there is none."""
    diagonal = scatter.diagonal().copy()
    scatter.flat[:: len(scatter) + 1] += np.where(diagonal > 0, RIDGE * diagonal, 1.0)
    try:
        factor = np.linalg.cholesky(scatter)
    except np.linalg.LinAlgError:
        return np.full_like(scatter, np.nan)
    factor[diagonal == 0] = 0
    return factor


@np.errstate(over="ignore", invalid="ignore")  # what overflows is left to the ordinary way
def _moments(
    W: np.ndarray,
    first: np.ndarray,
    mean: np.ndarray,
    squares: np.ndarray,
    stacked: list[tuple[np.ndarray, np.ndarray]],
    block: slice,
    stop: Stop,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return candidates' means, m2 and sums of w² S_ii, (G, m) float64 each."""
    w = W[:, block].astype(np.float64)
    uncorrelated = squares @ w**2
    m2 = -RIDGE * uncorrelated
    if stacked:
        w_used = np.ascontiguousarray(W[stacked[0][0], block])
    for features, rows in stacked:
        if stop.is_set():
            raise Stopped
        products = (rows @ w_used[-len(features) :]).astype(np.float64).reshape(len(m2), -1, m2.shape[1])
        m2 += np.square(products, out=products).sum(axis=1)
    offset, *means = np.vstack([first, mean]) @ w  # of constant features, in one place: exactly the same for every class
    return offset + np.array(means), m2, uncorrelated
