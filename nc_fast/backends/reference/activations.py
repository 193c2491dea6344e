"""Activations of a pool, literally: NumPy, float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from nc_fast.activations import ACTIVATIONS


def activations(
    W: np.ndarray, X: np.ndarray, *, bias: np.ndarray, activation: str | Callable[[Any], Any], precision: str = "auto"
) -> np.ndarray:
    """Return ``activation(X @ W + bias)``, (n, M); parameters as in :func:`nc_fast.backends.cpu.activations.activations`."""
    act = ACTIVATIONS[activation] if isinstance(activation, str) else activation
    return np.asarray(act(X.astype(np.float64) @ W.astype(np.float64) + bias))
