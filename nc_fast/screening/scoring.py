"""Scores of candidates when only some of the pool is known exactly.

The information-bottleneck score of a candidate is a fixed combination of its own three measures (spread, between, within);
the three weights depend on the pool through four totals: the sums of spread², between², within² and between · within.
Totals are estimated from the candidates known exactly and a random audit of the rest; a common positive factor of the
weights changes no pick, so what counts is their ratios.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nc_fast.criteria import Criterion, apply_criterion
from nc_fast.types import ClassMoments

SPREAD, BETWEEN, WITHIN = range(3)
DERIVATIVE_STEP = 1e-6
ROWS_PER_FEATURE = 12  # audit members a regression coefficient needs; with fewer the plain difference is used
SAME_SCORE = 1e-9


@dataclass(frozen=True, eq=False)
class Totals:
    """The pool's four totals as estimated, and the covariance of the estimate's error."""

    value: np.ndarray  # (4,)
    covariance: np.ndarray  # (4, 4)


def measures(moments: ClassMoments) -> np.ndarray:
    """Return (3, M): spread, between and within of every candidate."""
    between = moments.between() if len(moments.classes) > 1 else np.zeros(moments.n_candidates)
    return np.stack([moments.spread(), between, moments.within()])


def products(measured: np.ndarray) -> np.ndarray:
    """Return (4, M): what the totals sum."""
    spread, between, within = measured
    return np.stack([spread * spread, between * between, within * within, between * within])


def weights(totals: np.ndarray, alpha: float) -> np.ndarray:
    """Return (3,): the weights of spread, between and within in the score, given the pool's totals."""

    def inverse(square: float) -> float:
        return 1 / float(np.sqrt(square)) if square > 0 else 0.0

    spread, between, within = map(inverse, totals[:3])
    length = float(totals[1] > 0) + float(totals[2] > 0) - 2 * totals[3] * between * within  # ||unit(between) - unit(within)||²
    label = (1 - alpha) * inverse(length)
    return np.array([alpha * spread, label * between, -label * within])


def relative_weights(totals: Totals, alpha: float, draws: np.ndarray) -> np.ndarray:
    """Return (n, 3): weights as they might be, draws (n, 4) being standard normal, to first order in the totals' error.

    Scaled so that a common factor, which changes no pick, does not count as error.
    """
    centre = weights(totals.value, alpha)
    jacobian = np.zeros((3, 4))
    for i, value in enumerate(totals.value):
        if value > 0:
            moved = totals.value.copy()
            moved[i] *= 1 + DERIVATIVE_STEP
            jacobian[:, i] = (weights(moved, alpha) - centre) / (DERIVATIVE_STEP * value)
    scale = np.sqrt(np.maximum(np.diag(totals.covariance), np.finfo(np.float64).tiny))
    values, vectors = np.linalg.eigh(totals.covariance / np.outer(scale, scale))
    root = scale[:, None] * vectors * np.sqrt(np.maximum(values, 0))
    moved_weights = centre + draws @ (jacobian @ root).T
    anchor = SPREAD if alpha == 1 else WITHIN
    if centre[anchor] == 0:
        return np.asarray(moved_weights)
    return np.asarray(moved_weights * (centre[anchor] / moved_weights[:, anchor : anchor + 1]))


def estimate_totals(exact: np.ndarray, surrogate: np.ndarray, rest: np.ndarray, audit: np.ndarray) -> Totals:
    """Estimate the pool's totals from exact measures (3, M), read where known, and a surrogate's.

    Outside of ``rest`` (M,) bool every candidate is known. Within, the columns ``audit`` are a random sample of known ones: the
    surrogate's totals are corrected by regression on it (a difference estimator where it is small).
    """
    fixed = products(exact[:, ~rest]).sum(axis=1)
    size, n = int(rest.sum()), len(audit)
    if size == 0:
        return Totals(fixed, np.zeros((4, 4)))
    features = np.concatenate([np.ones((1, exact.shape[1])), surrogate, products(surrogate)])
    guess = products(surrogate)
    scale = guess[:, rest].mean(axis=1)
    found = products(exact[:, audit])
    spare = 1
    if n >= ROWS_PER_FEATURE * len(features):
        coefficients = np.linalg.lstsq(features[:, audit].T, found.T, rcond=None)[0]
        guess = coefficients.T @ features
        spare = len(features)
    error = found - guess[:, audit]
    mean_error = error.mean(axis=1)
    centred = error - mean_error[:, None]
    variance = centred @ centred.T / max(n - spare, 1)
    covariance = size * size * max(1 / n - 1 / size, 0) * variance
    value = fixed + guess[:, rest].sum(axis=1) + size * mean_error
    return Totals(np.maximum(value, np.maximum(fixed, 1e-12 * size * np.abs(scale)) * np.array([1, 1, 1, 0])), covariance)


def pool_independent(criterion: Criterion, moments: ClassMoments) -> bool:
    """Whether a criterion scores every candidate by itself, so that scores of a part of the pool are those of the whole."""
    half = moments.n_candidates // 2
    if half == 0:
        return False
    parts = [apply_criterion(criterion, columns(moments, part)) for part in (slice(0, half), slice(half, None))]
    whole = apply_criterion(criterion, moments)
    score = np.concatenate([part.score for part in parts])
    group = np.concatenate([part.group for part in parts])
    close = np.abs(score - whole.score) <= SAME_SCORE * np.maximum(np.abs(whole.score), np.abs(whole.score).max() * SAME_SCORE)
    return bool(close.all() and (group == whole.group).all())


def columns(moments: ClassMoments, where: np.ndarray | slice) -> ClassMoments:
    """Return the moments of some of the candidates."""
    return ClassMoments(moments.classes, moments.count, moments.mean[:, where], moments.m2[:, where])
