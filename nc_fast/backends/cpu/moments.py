"""Class moments on the CPU: one BLAS product per sample tile and candidate block, moments taken while the block is in cache.

Threads work on different tiles, each with a single-threaded BLAS; tiles are merged in order by the calling thread, so the
bits do not depend on the number of threads. Plain threads rather than Numba's: those may be neither forked nor shared.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from nc_fast.activations import ACTIVATIONS
from nc_fast.backends.cpu import kernels
from nc_fast.backends.cpu.tiles import Tile, converted, tiles
from nc_fast.merging import chan_merge
from nc_fast.runtime.threads import Stop, Stopped, ordered_map, single_threaded_blas, thread_count
from nc_fast.types import ClassMoments

BLOCK_COLUMNS = 1024

Activation = str | Callable[[Any], Any]


@single_threaded_blas
def class_moments(
    W: np.ndarray,
    X: np.ndarray,
    codes: np.ndarray,
    classes: np.ndarray,
    *,
    bias: np.ndarray,
    activation: Activation,
    precision: str = "auto",
    report: Callable[[int, int], None] | None = None,
) -> ClassMoments:
    """Return the class moments of ``activation(X @ W + bias)`` without ever holding it.

    Parameters
    ----------
    W : (D, M) float32 or float64; its dtype and X's decide the product's precision.
    X : (N, D) float32, float64 or integer; integers are converted tile by tile.
    codes : (N,) int64, index into ``classes`` of each sample.
    classes : (C,) labels.
    bias : (M,) float64.
    activation : name in the table, or a callable on an (n, m) block.
    precision : unused on the CPU; part of the backends' common signature.
    report : called with (samples done, samples in all) after every tile.
    """
    dtype = np.result_type(W, X) if X.dtype.kind == "f" else W.dtype
    W = np.asarray(W, dtype)
    bias = bias.astype(dtype)
    fused = kernels.FUSED.get(activation) if isinstance(activation, str) else None
    activate = ACTIVATIONS[activation] if isinstance(activation, str) else activation
    no_bias = np.zeros(min(BLOCK_COLUMNS, W.shape[1]), dtype)
    shape = (len(classes), W.shape[1])

    def nothing() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return np.zeros(shape[0], np.int64), np.zeros(shape), np.zeros(shape)

    def moments_of(tile: Tile, stop: Stop) -> tuple[Tile, np.ndarray, np.ndarray]:
        x, used = converted(X, tile, dtype)
        tile_mean, tile_m2 = np.empty((2, len(tile.runs), shape[1]))
        buffer = np.empty(len(x) * min(BLOCK_COLUMNS, shape[1]), dtype)
        for first in range(0, shape[1], BLOCK_COLUMNS):
            if stop.is_set():
                raise Stopped
            block = slice(first, min(first + BLOCK_COLUMNS, shape[1]))
            z = buffer[: len(x) * (block.stop - first)].reshape(len(x), -1)
            np.matmul(x, W[:, block] if used is None else W[used, block], out=z)
            if fused is None:
                z += bias[block]
                kernels.tile_moments(activate(z), no_bias, kernels.NONE, tile.starts, first, tile_mean, tile_m2)
            else:
                kernels.tile_moments(z, bias[block], fused, tile.starts, first, tile_mean, tile_m2)
        return tile, tile_mean, tile_m2

    # Tiles are merged to chunks and chunks to the whole, so that a stream cut at chunks has the bits of the whole.
    total, chunk, done = nothing(), nothing(), 0
    for tile, tile_mean, tile_m2 in ordered_map(moments_of, tiles(codes, shape[0]), thread_count()):
        count, mean, m2 = (array[tile.runs] for array in chunk)
        sums = chan_merge((count, mean, m2), (np.diff(tile.starts), tile_mean, tile_m2))
        for array, value in zip(chunk, sums, strict=True):
            array[tile.runs] = value
        if tile.last:
            total, chunk = chan_merge(total, chunk), nothing()
        done += len(tile.rows)
        if report:
            report(done, len(codes))
    return ClassMoments(classes, *total)
