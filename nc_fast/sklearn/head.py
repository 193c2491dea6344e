"""The head of the estimators that predict: streamed over all distinct rows; and how well narrower layers do."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.linalg import cholesky, solve_triangular

from nc_fast.gram import Gram, Sums, add_samples, needs_float64
from nc_fast.heads import LOO_ROWS
from nc_fast.sklearn.rows import Rows
from nc_fast.sklearn.selection import activations, gram_of
from nc_fast.stages.moments import CandidatePool
from nc_fast.tolerances import RANK_TOLERANCE

Score = Callable[[np.ndarray, np.ndarray, np.ndarray], float]  # predicted (n, C), targets (n, C), weights (n,)
LEAST_RIDGE = 1e-10  # keeps the factor of a singular matrix finite


def layer_gram(layer: CandidatePool, rows: Rows, *parts: slice) -> Gram:
    """Return what a head on a layer is solved from, over some parts of the rows: strengths are judged by the first rows."""
    sums: Sums | None = None
    first = slice(0, min(LOO_ROWS, parts[0].stop))
    Z = activations(layer, rows.raw(first))
    exact = needs_float64(Z, rows.size)
    for part in parts:
        for block in rows.blocks(part.start, part.stop):
            sums = add_samples(sums, activations(layer, rows.raw(block)), rows.T[block], rows.weight[block], exact=exact)
    return gram_of(sums, Z, rows.T[first], rows.weight[first])


def scores_by_width(gram: Gram, ridge: float, Z: np.ndarray, T: np.ndarray, weight: np.ndarray, score: Score) -> np.ndarray:
    """Return the scores (k + 1,) of the heads on the first 0 to k neurons, on samples with activations Z and targets T.

    All heads come from one Cholesky factor L of the matrix that is solved: the leading j x j block of L is the factor for the
    first j neurons, so that every neuron adds one term to the prediction.
    """
    deviation = np.sqrt(np.maximum(gram.gram.diagonal(), 0.0) / gram.weight)
    live = deviation > RANK_TOLERANCE * np.maximum(np.abs(gram.mean), deviation)
    inverse = np.where(live, 1.0 / np.where(live, deviation, 1.0), 0.0)
    matrix = gram.gram * (inverse[:, None] * inverse / gram.weight)
    matrix[np.diag_indices_from(matrix)] += max(ridge, LEAST_RIDGE)
    factor = cholesky(matrix, lower=True)
    terms = solve_triangular(factor, ((Z - gram.mean) * inverse).T, lower=True)  # (k, n)
    coefficients = solve_triangular(factor, inverse[:, None] * gram.cross / gram.weight, lower=True)  # (k, C)
    predicted = np.tile(gram.target_mean, (len(Z), 1))
    found = [score(predicted, T, weight)]
    for term, coefficient in zip(terms, coefficients, strict=True):
        predicted += term[:, None] * coefficient
        found.append(score(predicted, T, weight))
    return np.array(found)
