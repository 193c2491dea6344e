"""A data set as tensors on a device, with classes numbered and test samples set apart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nc_fast.files.read import Dataset

HELD_OUT = 5  # every fifth sample, class by class, where a data set has no test samples of its own


@dataclass(frozen=True, eq=False)
class Samples:
    """Training and test samples.

    Attributes
    ----------
    name : str
    X, X_test : (N, D) and (n, D) float32
    y, y_test : (N,) and (n,) int64, class numbers
    n_classes : int
    image_shape : (height, width), or None
    """

    name: str
    X: Tensor
    y: Tensor
    X_test: Tensor
    y_test: Tensor
    n_classes: int
    image_shape: tuple[int, int] | None


def prepare(dataset: Dataset, device: str = "cpu") -> Samples:
    """Return a data set's samples scaled to [0, 1]; without test samples of its own, a fifth of each class is held out.

    Raises
    ------
    ValueError
        With fewer than two classes, too few samples to hold some out, or when a test label does not occur among the training labels.
    """
    dataset = dataset.scaled()
    X, y, X_test, y_test = dataset.X_train, dataset.y_train, dataset.X_test, dataset.y_test
    if X_test is None or y_test is None:
        held_out = _held_out(y)
        if not held_out.any():
            raise ValueError(f"{dataset.name}: expected at least {HELD_OUT} samples, in classes of two or more, got {len(y)}")
        X, y, X_test, y_test = X[~held_out], y[~held_out], X[held_out], y[held_out]
    classes, numbers = np.unique(y, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(f"{dataset.name}: expected at least two classes, got {len(classes)}")
    unknown = np.setdiff1d(y_test, classes)
    if len(unknown):
        raise ValueError(f"{dataset.name}: expected test labels that occur in training, got {unknown[0]}")
    return Samples(
        name=dataset.name,
        X=_tensor(X, np.float32, device),
        y=_tensor(numbers, np.int64, device),
        X_test=_tensor(X_test, np.float32, device),
        y_test=_tensor(np.searchsorted(classes, y_test), np.int64, device),
        n_classes=len(classes),
        image_shape=dataset.image_shape,
    )


def _held_out(y: np.ndarray) -> np.ndarray:
    """Return which samples to test on, (N,) booleans; of a class at least one sample is left."""
    _, numbers, sizes = np.unique(y, return_inverse=True, return_counts=True)
    held_out = np.zeros(len(y), bool)
    held_out[np.argsort(numbers, kind="stable")[HELD_OUT - 1 :: HELD_OUT]] = True
    return np.asarray(held_out & (sizes[numbers] > 1))


def _tensor(array: np.ndarray, dtype: type, device: str) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype)).to(device)
