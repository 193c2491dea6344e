"""What one pass over the samples says of every feature: mean, shift, range and spread."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from nc_fast.backends.gpu.samples import sample_tiles

CENTRED_ABOVE = 4.0  # |mean| / deviation from which a feature is centred; below, zeros stay exact zeros
SPREAD_BITS = 17.0  # largest over geometric mean of a feature, in bits, from which two float16 lose bits of most samples


@dataclass(frozen=True, eq=False)
class Features:
    """Each feature over all samples."""

    shift: torch.Tensor  # (D,) float64, subtracted before packing: the mean of a feature that lies far from zero, else 0
    mean: torch.Tensor  # (D,) float64
    largest: torch.Tensor  # (D,) float64, largest magnitude after the shift
    centred: bool  # whether any shift is not 0
    spread: bool  # whether a feature's magnitudes spread over more than two float16 hold


def measure_features(X: torch.Tensor, device: torch.device) -> Features:
    """Read X once, a tile at a time on the device."""
    zeros = torch.zeros(X.shape[1], dtype=torch.float64, device=device)
    low, high = zeros + torch.inf, zeros - torch.inf
    count, mean, m2, log_sum, log_count = 0, zeros.clone(), zeros.clone(), zeros.clone(), zeros.clone()
    for raw in sample_tiles(X, None, device):
        tile = raw.double()
        low, high = torch.minimum(low, tile.amin(0)), torch.maximum(high, tile.amax(0))
        tile_m2, tile_mean = torch.var_mean(tile, 0, correction=0)
        delta, share = tile_mean - mean, len(tile) / (count + len(tile))
        mean += delta * share
        m2 += tile_m2 * len(tile) + delta**2 * (count * share)
        count += len(tile)
        log_sum += tile.abs().log2().nan_to_num(neginf=0.0).sum(0)
        log_count += (tile != 0).sum(0)
    constant = low == high
    mean = torch.where(constant, low, mean)  # the rounded mean of equal numbers need not be that number
    deviation = (m2 / count).sqrt()
    shift = torch.where(constant | (mean.abs() > CENTRED_ABOVE * deviation), mean, zeros)
    largest = torch.maximum((high - shift).abs(), (low - shift).abs())
    uncentred = torch.maximum(high.abs(), low.abs())
    bits = torch.where(log_count > 0, uncentred.log2() - log_sum / log_count.clamp(min=1), zeros)
    centred, spread = torch.stack([(shift != 0).any(), (bits > SPREAD_BITS).any()]).tolist()
    return Features(shift, mean, largest, centred, spread)
