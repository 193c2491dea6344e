"""Sparse times dense (SpMM) on the CPU: the product of a tile of samples that holds many zeros, without the multiplications by 0.

Rows are taken in pairs, as blocked CSR with blocks of 2 x 1: neighbours in a tile are of one class and share most of their
features, and a weight that is loaded once is used twice. Weights come from the level-2 cache, on Zen 4 at 32 bytes a clock, half
as fast as one row's multiply-adds would take them.

Every sum runs over the features in ascending order, and adding 0 changes nothing: the bits depend neither on the pairs nor on how
samples and candidates are cut into blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nc_fast.backends.cpu import spmm_kernels as kernels
from nc_fast.inputs.sparse import CSR

LINE_BYTES = 64  # vector loads that cross a cache line take twice as long
SAMPLED = 32  # one pair of rows in this many is looked at before the whole tile is
LOOKED_AFTER = 4  # rows, whether all features have been seen
# Measured (benchmarks/sparse_crossover.py): a block costs 1.05 to 1.5 times what BLAS takes for its two products, more the less of
# the candidates' panel the level-2 cache holds; finding the blocks costs an element as much as 40 candidates.
FULL, FINDING = 0.65, 40
REUSED = 4  # blocks of a tile per feature, from which on it pays to pack the candidates first


@dataclass(frozen=True, eq=False)
class PairedRows:
    """A tile's non-zeros, rows in pairs; the last row of an odd number is paired with zeros.

    Attributes
    ----------
    starts : (P + 1,) int64, where each pair's blocks start.
    columns : (B + 1,) int32, feature of each block, ascending within a pair; the last entry means nothing.
    values : (B, 2) float32 or float64, what the two rows have there.
    """

    starts: np.ndarray
    columns: np.ndarray
    values: np.ndarray


def used_features(x: np.ndarray) -> np.ndarray:
    """Return the features that are not 0 everywhere in x (n, D); stops reading as soon as all have been seen."""
    used = np.zeros(x.shape[1], np.bool_)
    kernels.mark_used(x, LOOKED_AFTER, used)
    return np.flatnonzero(used)


def most_blocks(n_candidates: int) -> float:
    """Return up to which share of blocks the sparse product beats the dense one, for so many candidates."""
    return FULL - FINDING / n_candidates


def paired_rows(x: np.ndarray, order: np.ndarray, most: float) -> PairedRows | None:
    """Return the non-zeros of x[order] (n, D), rows in pairs; None where they take more than the share ``most`` of all blocks.

    A dense tile is known after a few of its rows.
    """
    n_features, counts = x.shape[1], np.empty((len(order) + 1) // 2, np.int64)
    if kernels.count_blocks(x, order, SAMPLED, counts) > most * n_features * -(-len(counts) // SAMPLED):
        return None
    kernels.count_blocks(x, order, 1, counts)
    pairs = _counted(counts, n_features, most, x.dtype)
    if pairs:
        kernels.gather_blocks(x, order, pairs.starts, pairs.columns, pairs.values)
    return pairs


def merged_rows(X: CSR, rows: np.ndarray, most: float, dtype: np.dtype[Any]) -> PairedRows | None:
    """Return what :func:`paired_rows` does for these rows of X, in the precision of the product."""
    counts = np.empty((len(rows) + 1) // 2, np.int64)
    kernels.count_merged(X.starts, X.columns, rows, counts)
    pairs = _counted(counts, X.shape[1], most, dtype)
    if pairs:
        kernels.merge_rows(X.starts, X.columns, X.values, rows, pairs.columns, pairs.values)
    return pairs


def _counted(counts: np.ndarray, n_features: int, most: float, dtype: np.dtype[Any]) -> PairedRows | None:
    """Return memory for so many blocks of each pair, or None where they are too many in the sample or in the whole."""
    for some in (counts[::SAMPLED], counts):
        if some.sum() > most * n_features * len(some):
            return None
    starts = np.concatenate([[0], np.cumsum(counts)])
    return PairedRows(starts, np.empty(starts[-1] + 1, np.int32), np.empty((starts[-1], 2), dtype))


def multiply(x: PairedRows, W: np.ndarray, block: slice, out: np.ndarray) -> None:
    """Write the product of x with a block of W's columns to as many of the first columns of ``out`` (n, pitch), all in one dtype.

    W may have any layout; where the samples use a feature only a few times, C order is the fastest.
    """
    dtype = x.values.dtype
    if W.flags.c_contiguous and len(x.columns) < REUSED * len(W):
        scratch = np.empty(block.stop - block.start, dtype)
        kernels.multiply_unpacked(x.starts, x.columns, x.values, W, block.start, scratch, out)
    else:
        width = kernels.CHUNK_BYTES // dtype.itemsize
        panel, sums = _aligned((len(W), width), dtype), _aligned((2, width), dtype)
        kernels.multiply_pairs(x.starts, x.columns, x.values, W[:, block], panel, sums, out)


def _aligned(shape: tuple[int, int], dtype: np.dtype[Any]) -> np.ndarray:
    """Return memory that starts at a cache line."""
    size = shape[0] * shape[1] * dtype.itemsize
    memory = np.empty(size + LINE_BYTES, np.uint8)
    first = -memory.ctypes.data % LINE_BYTES
    return memory[first : first + size].view(dtype).reshape(shape)
