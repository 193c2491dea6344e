"""Sums of every feature over all samples, and the biases that centre candidates there."""

from __future__ import annotations

import numpy as np

from nc_fast.inputs import checks
from nc_fast.inputs.arrays import Array, array_namespace, as_numpy, is_tensor, like
from nc_fast.inputs.sources import Source, block_rows

ELEMENTS = {"cpu": 1 << 16, "gpu": 1 << 26}  # weights in float64 at once: on a CPU in a core's cache


def feature_sums(source: Source, n_features: int) -> np.ndarray:
    """Return the sum of every feature over all samples, and then their number, (D + 1,) float64.

    Neither here nor below is there any BLAS: no number of threads changes the bits.
    """
    total = np.zeros(n_features + 1)
    for block in source.blocks(0, block_rows(n_features)):
        X = block.X if is_tensor(block.X) and block.X.device.type != "cpu" else as_numpy(block.X)
        total[:-1] += as_numpy(X.sum(0, dtype=array_namespace(X).float64))
        total[-1] += block.size
    return total


def centring(W: Array, sums: np.ndarray) -> np.ndarray:
    """Return minus the mean of every candidate's x·w over the samples that the sums are of, (M,) float64.

    A candidate's bias has the same bits whichever others are beside it.
    """
    on_gpu = is_tensor(W) and W.device.type != "cpu"
    mean = like(W, sums[:-1] / max(sums[-1], 1)) if on_gpu else sums[:-1] / max(sums[-1], 1)
    step = max(1, ELEMENTS["gpu" if on_gpu else "cpu"] // len(mean))
    bias = np.zeros(W.shape[1])
    with np.errstate(over="ignore", invalid="ignore"):
        for first in range(0, len(bias), step):
            block = W[:, first : first + step]
            terms = block.double() if on_gpu else as_numpy(block).astype(np.float64, order="F")
            bias[first : first + step] = -as_numpy((terms * mean[:, None]).sum(0))
    checks.no_overflow(float(np.abs(bias).max(initial=0)))
    return bias
