"""The mean of every feature over all samples of a source."""

from __future__ import annotations

import numpy as np

from nc_fast.inputs.arrays import array_namespace, as_numpy, is_tensor
from nc_fast.inputs.sources import Source, block_rows


def feature_sums(source: Source, n_features: int) -> np.ndarray:
    """Return the sum of every feature over all samples, (D,) float64; no BLAS in it, so no number of threads changes its bits."""
    total = np.zeros(n_features)
    for block in source.blocks(0, block_rows(n_features)):
        X = block.X if is_tensor(block.X) and block.X.device.type != "cpu" else as_numpy(block.X)
        total += as_numpy(X.sum(0, dtype=array_namespace(X).float64))
    return total
