"""Checks of what is regressed on: labels or float targets, weights of samples, batches that are read more than once."""

from __future__ import annotations

from typing import Any

import numpy as np

from nc_fast.inputs.arrays import as_numpy
from nc_fast.inputs.checks import finite
from nc_fast.inputs.convert import as_array
from nc_fast.inputs.label_checks import absent, label_kind, label_values

LEAST_TARGET, LARGEST_TARGET = 1e-30, 1e30  # float32 products of targets neither under- nor overflow; nor do float64 squares


def labels_or_targets(name: str, value: object, n_samples: int, *, targets: bool) -> np.ndarray:
    """Check (N,) labels; or with ``targets`` also (N,) or (N, T) floats, and return those as (N, T) float64."""
    y = label_kind(name, value) if targets else np.zeros(0, bool)
    if y.dtype.kind != "f":
        return label_values(name, value, n_samples, or_targets=targets)
    if y.ndim not in (1, 2) or y.shape[0] != n_samples or 0 in y.shape:
        raise ValueError(f"{name}: expected float targets of shape (N,) or (N, T) with N = {n_samples}, got {y.shape}")
    if (gone := np.isnan(y)).any():
        raise absent(name, np.flatnonzero(gone).tolist(), y.shape, "target")
    finite(name, y)
    if (largest := np.abs(y).max()) > LARGEST_TARGET:
        raise ValueError(f"{name}: expected float targets of at most {LARGEST_TARGET:g}, got {largest:g}; scale them down")
    return y.reshape(n_samples, -1).astype(np.float64)


def sample_weight(value: object, n_samples: int, rows: np.ndarray | None = None) -> np.ndarray:
    """Check (N,) weights; return them as float64. With ``rows`` only these count, and are returned."""
    weights = as_numpy(as_array("sample_weight", value))
    if weights.dtype.kind not in "fiu":
        raise TypeError(f"sample_weight: expected (N,) numbers, got {weights.dtype}")
    if weights.shape != (n_samples,):
        raise ValueError(f"sample_weight: expected shape (N,) = ({n_samples},), got {weights.shape}")
    weights = weights if rows is None else weights[rows]
    finite("sample_weight", weights, rows)
    if weights.min() < 0 or not weights.any():
        raise ValueError(f"sample_weight: expected numbers >= 0, one of them more, got {weights.min()} to {weights.max()}")
    return weights.astype(np.float64)


def batches_read_twice(name: str, labels: str, value: Any) -> Any:
    """Check an iterable of batches that starts again each time."""
    got = type(value).__name__
    if hasattr(value, "shape") or not hasattr(value, "__iter__"):
        raise TypeError(f"{labels}: expected labels or float targets, or {name} as an iterable of batches, got None with {got}")
    if hasattr(value, "__next__"):  # an iterator; a loader is not asked for one here, which may start its workers
        raise TypeError(f"{name}: expected batches that can be read twice, such as a list or a DataLoader, got {got}")
    return value
