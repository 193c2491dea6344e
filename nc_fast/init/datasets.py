"""What a data set tells of its samples without loading them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, Subset, TensorDataset

from nc_fast.inputs.arrays import as_numpy
from nc_fast.inputs.labels import LABEL_KINDS


def known_labels(dataset: Dataset[Any], plain: bool) -> np.ndarray | None:
    """Return the labels of all samples, if they are to be had; not ``plain``: the user's function says which tensor they are."""
    if isinstance(dataset, Subset):
        labels = known_labels(dataset.dataset, plain)
        return None if labels is None else labels[np.asarray(dataset.indices)]
    if isinstance(dataset, TensorDataset):
        known = as_numpy(dataset.tensors[-1]) if len(dataset.tensors) == 2 or (plain and len(dataset.tensors) > 2) else None
        alone = known is not None and known.ndim == 2 and known.shape[1] == 1 and known.dtype.kind in LABEL_KINDS
        return known[:, 0] if known is not None and alone else known
    targets = getattr(dataset, "targets", None)
    if targets is None or not hasattr(dataset, "__len__") or not hasattr(targets, "__len__") or len(targets) != len(dataset):
        return None
    try:
        labels = as_numpy(targets)
    except ValueError:  # ragged
        return None
    return labels if labels.ndim == 1 and labels.dtype.kind in LABEL_KINDS else None


def tensors_of(dataset: Dataset[Any], rows: np.ndarray) -> tuple[torch.Tensor, ...] | None:
    """Return the samples of some rows, if they are in memory."""
    if isinstance(dataset, Subset):
        return tensors_of(dataset.dataset, np.asarray(dataset.indices)[rows])
    if isinstance(dataset, TensorDataset):
        return tuple(tensor[torch.from_numpy(rows).to(tensor.device)] for tensor in dataset.tensors)
    return None
