"""Forward orthogonal least squares, literally: the definition that every backend is tested against. NumPy, float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from nc_fast.backends.reference.activations import activations
from nc_fast.backends.reference.select import lowest_tied
from nc_fast.inputs import checks
from nc_fast.picks import PursuitPicks
from nc_fast.tolerances import EXHAUSTED, NOTHING_EXPLAINED, RANK_TOLERANCE


def pursue(
    W: np.ndarray,
    X: np.ndarray,
    T: np.ndarray,
    k: int,
    *,
    bias: np.ndarray,
    activation: str | Callable[[Any], Any],
    precision: str = "auto",
    damping: float,
    block: int | str,
    report: Callable[[int, int], None] | None = None,
) -> PursuitPicks:
    """Pick k candidates whose activations explain the targets, each the best one beside those already picked.

    Parameters
    ----------
    W : (D, M) float, columns are candidates.
    X : (n, D) samples.
    T : (n, C) float64, centred targets.
    k : picks, at most M.
    bias : (M,) float64.
    activation : name in the table, or a callable on an (n, m) block.
    precision : unused; part of the backends' common signature.
    damping : at least 0, in units of a column's squared length.
    block : unused; this backend looks at all candidates before every pick.
    report : called with (picks done, k) after every pick.
    """
    n, total = len(X), (T**2).sum()
    u, live = standardized(activations(W, X, bias=bias, activation=activation))
    left, basis = np.ones(W.shape[1], bool), np.zeros((n, 0))
    indices: list[int] = []
    gains: list[float] = []
    explained: list[float] = []
    while len(indices) < k:
        norm = (u**2).sum(axis=0)
        eligible = left & live & (norm > EXHAUSTED * n)
        if not eligible.any():
            break
        gain = ((T.T @ u) ** 2).sum(axis=0) / (np.where(eligible, norm, 1.0) + damping * n)
        gain[gain <= NOTHING_EXPLAINED * total] = 0
        gain[~eligible] = -np.inf
        pick = lowest_tied(gain, eligible)
        q = u[:, pick]
        q = q - basis @ (basis.T @ q)  # orthogonalised a second time: twice is enough
        q /= np.linalg.norm(q)
        u -= np.outer(q, q @ u)
        basis = np.column_stack([basis, q])
        left[pick] = False
        indices.append(pick)
        gains.append(gain[pick])
        explained.append(((basis.T @ T) ** 2).sum() / total if total else 0.0)
        if report:
            report(len(indices), k)
    filled = k - len(indices)
    indices.extend(np.flatnonzero(left)[:filled].tolist())
    gains.extend([0.0] * filled)
    explained.extend([explained[-1] if explained else 0.0] * filled)
    return PursuitPicks(np.array(indices, np.int64), np.array(gains), np.array(explained), W.shape[1], filled)


def standardized(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the columns centred and divided by their standard deviation, and which have one beyond rounding noise."""
    largest = np.abs(z).max(axis=0)
    checks.no_overflow(float(largest.max()))
    z = z / np.maximum(largest, np.finfo(np.float64).tiny)  # squares neither over- nor underflow
    z -= z[0].copy()  # a constant column becomes exactly 0
    z -= z.mean(axis=0)
    deviation = z.std(axis=0)
    live = deviation > RANK_TOLERANCE
    return np.where(live, z / np.where(live, deviation, 1.0), 0.0), live
