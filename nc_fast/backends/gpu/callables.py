"""Class moments for an activation that is a Python function of tensors: through stored blocks, the product in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from nc_fast.backends.gpu.layout import sample_chunks
from nc_fast.backends.gpu.samples import SortedSamples, sample_tiles
from nc_fast.runtime.progress import Report

CALLABLE_BYTES = 64 << 20  # one float64 block of activations
BLOCK_SAMPLES = 256  # samples in a block at least, where that many are there


def moments_by_callable(
    W: torch.Tensor, samples: SortedSamples, bias: torch.Tensor, activation: Callable[[Any], Any], tell: Report
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (C, M) float64 means and squared deviations; deviations are summed from each candidate's first activation."""
    M, C, device = W.shape[1], len(samples.counts), W.device
    given = torch.float64 if torch.float64 in (W.dtype, samples.X.dtype) else torch.float32
    sorted_codes = np.repeat(np.arange(C), samples.counts)
    m = max(min(M, CALLABLE_BYTES // 8 // BLOCK_SAMPLES), 1)
    chunks = sample_chunks(len(samples.order), 1, max(CALLABLE_BYTES // 8 // m, 1))
    mean, m2 = torch.zeros((2, C, M), dtype=torch.float64, device=device)
    count, pivot = mean.new_zeros(C), mean.new_empty(M)
    for c, chunk in enumerate(chunks):
        x = torch.cat([tile.double() for tile in sample_tiles(samples.X, samples.order[chunk], device)])
        present, local = np.unique(sorted_codes[chunk], return_inverse=True)
        members = torch.nn.functional.one_hot(torch.from_numpy(local).to(device)).double().T
        rows, more = torch.from_numpy(present).to(device), members.sum(1)
        before, share = count[rows, None], (more / (count[rows] + more))[:, None]
        for first in range(0, M, m):
            block = slice(first, min(first + m, M))
            z = apply_callable(activation, (x @ W[:, block].double() + bias[block]).to(given))
            if c == 0:
                pivot[block] = z[0]
            z = z - pivot[block]
            chunk_mean = members @ z / more[:, None]
            chunk_m2 = members @ (z - members.T @ chunk_mean) ** 2
            delta = chunk_mean - mean[rows, block]
            mean[rows, block] += delta * share
            m2[rows, block] += chunk_m2 + delta**2 * (before * share)
            tell(c * M + block.stop, len(chunks) * M)
        count[rows] += more
    return mean.add_(pivot), m2


def apply_callable(activation: Callable[[Any], Any], z: torch.Tensor) -> torch.Tensor:
    """Return the activations of (n, m) pre-activations in float64."""
    shape, found = z.shape, activation(z)
    if not isinstance(found, torch.Tensor) or found.shape != shape:
        raise ValueError(f"activation: expected a tensor of shape {tuple(shape)}, got {tuple(getattr(found, 'shape', ()))}")
    return found.double()
