"""Class moments on the CPU: one product per sample tile and candidate block, moments taken while the block is in cache.

Threads work on different tiles, each with a single-threaded BLAS; tiles are merged in order by the calling thread, so the
bits do not depend on the number of threads. Plain threads rather than Numba's: those may be neither forked nor shared.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

import numpy as np

from nc_fast.backends.cpu import covariances, kernels, spmm
from nc_fast.backends.cpu.activations import Activation, product_dtype
from nc_fast.backends.cpu.tiles import TILE_ROWS, Samples, Tile, n_tiles, tiles
from nc_fast.inputs.sparse import CSR
from nc_fast.merging import chan_merge
from nc_fast.runtime.threads import Stop, Stopped, ordered_map, single_threaded_blas, thread_count
from nc_fast.types import ClassMoments

MOST_COLUMNS = 1700  # multiplied with a tile at once: swept (docs/performance.md); 14 MB of float32
LINE_BYTES = 64
GROUP = 16  # columns that BLAS works on together
PAIR_COLUMNS = 256  # compared at once


@single_threaded_blas
def class_moments(
    W: np.ndarray,
    X: np.ndarray | CSR,
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
    X : (N, D) float32, float64 or integer; integers are converted tile by tile. CSR gives the bits of its dense slice.
    codes : (N,) int64, index into ``classes`` of each sample.
    classes : (C,) labels.
    bias : (M,) float64.
    activation : name in the table, or a callable on an (n, m) block.
    precision : unused on the CPU; part of the backends' common signature.
    report : called with (samples done, samples in all) as the work goes on.
    """
    dtype = product_dtype(W, X)
    W, bias, shape = np.asarray(W, dtype), bias.astype(dtype), (len(classes), W.shape[1])
    if activation == "identity" and covariances.pays(len(X), len(W), shape[1], shape[0]):
        X = X.dense(slice(None)) if isinstance(X, CSR) else X
        ordinary = partial(class_moments, X=X, codes=codes, classes=classes, activation=np.positive)
        return covariances.class_moments(padded(W), X, codes, classes, bias, ordinary, report)
    kernel = kernels.tile_moments(activation if isinstance(activation, str) else "identity")
    signs = (1, -1) if isinstance(activation, str) and antithetic(W) else (1,)
    W, biases = W[:, :: len(signs)], [np.ascontiguousarray(bias[i :: len(signs)]) for i in range(len(signs))]
    n_products = W.shape[1]
    W = padded(W)
    width = -(-W.shape[1] // -(-W.shape[1] // MOST_COLUMNS) // GROUP) * GROUP  # blocks of about equal size
    # Rows an odd number of cache lines apart: at multiples of 4 KiB they would drive each other out of the cache.
    pitch = (width * dtype.itemsize // LINE_BYTES | 1) * LINE_BYTES // dtype.itemsize
    no_bias, own = np.zeros(width, dtype), threading.local()

    def moments_of(tile: Tile, stop: Stop) -> tuple[Tile, np.ndarray, np.ndarray]:
        samples = Samples.of(X, tile, dtype, spmm.most_blocks(n_products))
        mean, m2 = np.empty((2, len(tile.runs), shape[1]))
        if not hasattr(own, "z"):  # kept from tile to tile: fresh memory costs page faults
            own.z = np.empty((TILE_ROWS, pitch), dtype)
        for first in range(0, n_products, width):
            if stop.is_set():
                raise Stopped
            z = own.z[: tile.size]
            samples.multiply(W, slice(first, min(first + width, W.shape[1])), z)
            for i, sign in enumerate(signs):
                b = biases[i][first : first + width]
                if not isinstance(activation, str):
                    z, b = np.ascontiguousarray(activation(z[:, : len(b)] + b)), no_bias[: len(b)]
                kernel(z, dtype.type(sign), b, samples.order, tile.starts, i * n_products + first, mean, m2)
        return tile, mean, m2

    def nothing() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return np.zeros(shape[0], np.int64), np.zeros(shape), np.zeros(shape)

    # Tiles are merged to chunks and chunks to the whole, so that a stream cut at chunks has the bits of the whole.
    total, chunk, done = nothing(), nothing(), 0
    for tile, mean, m2 in ordered_map(moments_of, tiles(codes, *shape), min(thread_count(), n_tiles(len(codes)))):
        kernels.merge_runs(tile.runs, tile.starts, mean, m2, *chunk)
        if tile.last:
            total, chunk = chan_merge(total, chunk), nothing()
        done += tile.size
        if report:
            report(done, len(codes))
    count, *moments = total
    return ClassMoments(classes, count, *(value.reshape(shape[0], len(signs), -1).swapaxes(1, 2).reshape(shape) for value in moments))


def padded(W: np.ndarray) -> np.ndarray:
    """Return W with zeros for columns up to a multiple of GROUP, and in a layout that BLAS does not copy for every tile.

    BLAS computes the last columns of other numbers in another way, with other last bits for some rows than for others: a candidate
    that is constant would not come out constant.
    """
    n_columns = -(-W.shape[1] // GROUP) * GROUP
    if n_columns == W.shape[1] and W.itemsize in W.strides:
        return W
    whole = np.zeros((len(W), n_columns), W.dtype)
    whole[:, : W.shape[1]] = W
    return whole


def antithetic(W: np.ndarray) -> bool:
    """Whether every other column of W is minus the one before it: both activations then come from one product."""
    pairs = [slice(0, 2), *(slice(first, first + PAIR_COLUMNS) for first in range(0, W.shape[1], PAIR_COLUMNS))]
    return W.shape[1] % 2 == 0 and all(np.array_equal(W[:, pair][:, 1::2], -W[:, pair][:, ::2]) for pair in pairs)
