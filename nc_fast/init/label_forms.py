"""What labels look like: of samples or of their positions, one-hot, several a sample, or float targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from nc_fast.inputs import checks
from nc_fast.inputs.arrays import as_numpy, is_tensor
from nc_fast.inputs.label_checks import CLOSE_TO_ONE

NAMED_INPUTS = 4  # in a message
ONE_OF = "batch=lambda b: (b[0], b[1]"


def labels_or_targets_of(name: str, value: Any, inputs: Sequence[torch.Tensor], targets: bool) -> np.ndarray:
    """Return checked labels, (n,) or (n, *positions), or, where ``targets`` will do, floats as they are."""
    if isinstance(value, Mapping):
        raise TypeError(f"{name}: y: expected labels, got a dict of {list(value)}; say which: {ONE_OF}[{next(iter(value), None)!r}])")
    y = as_numpy(checks.as_array(f"{name}: y", value))
    if isinstance(value, (tuple, list)) and y.ndim == 2 and y.shape[1] == len(inputs[0]) != len(y):
        raise ValueError(f"{name}: y: expected one label a sample, got {len(y)} of them; say which: {ONE_OF}[0])")
    if targets and y.dtype.kind == "f":
        if y.ndim > 2:
            hint = "labels of positions are integers: y.long()" if bool(np.isin(y[:1], (0, 1)).all()) else "y.flatten(1)"
            raise ValueError(f"{name}: y: expected float targets of shape (n,) or (n, T), got {y.shape}; {hint}")
        return y
    if axis := _one_hot_axis(y, inputs):
        raise ValueError(f"{name}: y: expected a label for each position, got one-hot ones of shape {y.shape}; y.argmax({axis})")
    if y.ndim == 2 and y.shape[1] > 1 and not _of_positions(y, inputs):
        try:
            checks.label_values("y", value, len(y), or_targets=targets)
        except ValueError as error:
            more = "" if y.max() <= 1 else f"; one task of several: y[:, 0]; positions are as many as a dimension of X: {shapes_of(inputs)}"
            raise ValueError(f"{name}: {error}{more}") from None
    y = checks.label_array(name, value, part="y", binning="torch.bucketize(y, edges)")
    return y[:, 0] if y.ndim > 1 and y.shape[1] == 1 else y  # (n, 1), and masks of pixels (n, 1, H, W)


def _one_hot_axis(y: np.ndarray, inputs: Sequence[torch.Tensor]) -> int | None:
    """Return along which dimension labels of positions are one-hot: the channels' of images, or the last; None where they are not."""
    if y.ndim < 3 or y.dtype.kind not in "iub":
        return None
    axes = [1] if any(x.ndim == y.ndim and x.shape[2:] == y.shape[2:] for x in inputs) else []
    axes += [-1] if any(x.shape[1 : y.ndim - 1] == y.shape[1:-1] for x in inputs) else []
    return next((axis for axis in axes if y.shape[axis] > 1 and all(_is_one_hot(part, axis) for part in (y[:1], y))), None)


def _is_one_hot(y: np.ndarray, axis: int) -> bool:
    return bool(((y == 0) | (y == 1)).all() and (y.sum(axis) == 1).all())


def _of_positions(y: np.ndarray, inputs: Sequence[torch.Tensor]) -> bool:
    """Whether a matrix may be labels of positions, which have a dimension of the inputs', and not one-hot, soft or several labels."""
    if y.dtype.kind == "f":
        return not np.allclose(y.sum(axis=1), 1, atol=CLOSE_TO_ONE)
    return any(y.shape[1] in x.shape[1:] for x in inputs)


def looks_like_labels(part: Any, last: Any) -> bool:
    """Whether the last but one part of an item are labels, and the last numbers of rows, or weights."""
    if not (is_array(part) and is_array(last)) or part.ndim != 1 or last.ndim != 1:
        return False
    labels, others = as_numpy(part), as_numpy(last)
    repeated = labels.dtype.kind in "iub" and 2 * len(np.unique(labels)) <= len(labels)
    return repeated and (others.dtype.kind == "f" or all_differ(others))


def all_differ(labels: np.ndarray) -> bool:
    """Whether no two of labels (n,) are the same."""
    return len(np.unique(labels)) == len(labels)


def shapes_of(inputs: Sequence[torch.Tensor]) -> str:
    """Return the inputs' shapes in words."""
    more = f" and {len(inputs) - NAMED_INPUTS} more" if len(inputs) > NAMED_INPUTS else ""
    return ", ".join(str(tuple(x.shape)) for x in inputs[:NAMED_INPUTS]) + more


def is_array(value: Any) -> bool:
    """Whether a value is a tensor or a NumPy array."""
    return is_tensor(value) or isinstance(value, np.ndarray)
