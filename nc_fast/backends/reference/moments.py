"""Class moments, literally: the definition that every backend is tested against. NumPy, float64, all of (N, M) at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from nc_fast.activations import ACTIVATIONS
from nc_fast.types import ClassMoments


def class_moments(
    W: np.ndarray,
    X: np.ndarray,
    codes: np.ndarray,
    classes: np.ndarray,
    *,
    bias: np.ndarray,
    activation: str | Callable[[Any], Any],
    precision: str = "auto",
    report: Callable[[int, int], None] | None = None,
) -> ClassMoments:
    """Return the class moments of ``activation(X @ W + bias)``; parameters as in :func:`nc_fast.backends.cpu.moments.class_moments`."""
    act = ACTIVATIONS[activation] if isinstance(activation, str) else activation
    z = act(X.astype(np.float64) @ W.astype(np.float64) + bias)
    count = np.bincount(codes, minlength=len(classes))
    mean, m2 = np.zeros((2, len(classes), W.shape[1]))
    for c in np.flatnonzero(count):
        own = z[codes == c]
        # The mean as the first row plus the mean deviation from it: exact where all rows are equal.
        mean[c] = own[0] + (own - own[0]).mean(axis=0)
        m2[c] = ((own - mean[c]) ** 2).sum(axis=0)
    if report:
        report(len(X), len(X))
    return ClassMoments(classes, count, mean, m2)
