"""What one pass over the samples says of every feature: mean, shift, scale and spread."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton

from nc_fast.backends.gpu.kernels.prepare import feature_sums, finish_features
from nc_fast.backends.gpu.samples import chunk_rows, readable_tiles

CENTRED_ABOVE = 4.0  # |mean| / deviation from which a feature is centred; below, zeros stay exact zeros
SPREAD_BITS = 17.0  # largest over geometric mean of a feature, in bits, from which two float16 lose bits of most samples
SUMS = 6  # of a feature, for each chunk


@dataclass(frozen=True, eq=False)
class Features:
    """Each feature over all samples."""

    shift: torch.Tensor  # (D,) float64, subtracted before packing: the mean of a feature that lies far from zero, else 0
    mean: torch.Tensor  # (D,) float64
    scale: torch.Tensor  # (D,) float64, power of two that brings the largest magnitude after the shift just below 1
    unscale: torch.Tensor  # (D,) float64, 1 / scale
    centred: bool  # whether any shift is not 0
    spread: bool  # whether a feature's magnitudes spread over more than two float16 hold


def sums_constants() -> dict[str, int]:
    """Return the compile-time arguments of ``kernels.prepare.feature_sums``: 8 numbers a thread, 16 bytes of them side by side."""
    return {"BLOCK_N": 8, "BLOCK_D": 128}


def finish_constants() -> dict[str, float]:
    """Return the compile-time arguments of ``kernels.prepare.finish_features``."""
    return {"CENTRED_ABOVE": CENTRED_ABOVE, "SPREAD_BITS": SPREAD_BITS, "BLOCK_S": 64, "BLOCK_D": 16}


def measure_features(X: torch.Tensor, device: torch.device) -> Features:
    """Read X once, in place where it lies on the device, else a tile at a time."""
    N, D = X.shape
    rows, constants, sums_blocks = chunk_rows(D), finish_constants(), triton.cdiv(D, sums_constants()["BLOCK_D"])
    n_chunks = triton.cdiv(N, rows)
    sums = torch.empty((n_chunks, SUMS, D), dtype=torch.float64, device=device)
    first = 0
    for tile, _ in readable_tiles(X, None, device):
        chunks = triton.cdiv(len(tile), rows)
        feature_sums[(chunks, sums_blocks)](tile, sums[first:], *tile.shape, rows, *tile.stride(), **sums_constants())
        first += chunks
    programs = triton.cdiv(D, int(constants["BLOCK_D"]))
    found = torch.empty((4, D), dtype=torch.float64, device=device)
    flags = torch.empty((2, programs), dtype=torch.int32, device=device)
    finish_features[(programs,)](sums, found, flags, N, D, rows, n_chunks, **constants)
    shift, mean, scale, unscale = found
    centred, spread = flags.cpu().numpy() != 0
    return Features(shift, mean, scale, unscale, bool(centred.any()), bool(spread.any()))
