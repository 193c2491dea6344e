"""Tiles of samples: which rows make a tile, in which order the moments' kernel takes them, and how they are multiplied."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from nc_fast.backends.cpu import spmm
from nc_fast.inputs.sparse import CSR

TILE_ROWS = 2048  # at most; swept with moments.MOST_COLUMNS (docs/performance.md)
CHUNK_ROWS = 8 * TILE_ROWS
ROWS_PER_CLASS = 256  # of a longer chunk, where there are many classes: rows sorted by class lie close together all the same
FEW_CLASSES = TILE_ROWS // 32  # of which a tile of consecutive rows has runs long enough for the kernel's groups of 8
MOST_MOMENTS = 1 << 20  # of a tile of consecutive rows: 16 MiB, for every thread and two more

# A tile with fewer of its features in use is multiplied without the others, which add exactly 0 to every product.
DENSE_FROM = 0.95


@dataclass(frozen=True)
class Tile:
    """Some of the samples."""

    rows: slice | np.ndarray  # of X: consecutive ones, read in place; or sorted by class
    size: int
    order: np.ndarray  # (n,) int64, the tile's rows, sorted by class
    runs: np.ndarray  # (S,) int64, the classes present, ascending
    starts: np.ndarray  # (S + 1,) int64, where each class's run starts in ``order``
    last: bool  # of its chunk


def tiles(codes: np.ndarray, n_classes: int, n_candidates: int) -> Iterator[Tile]:
    """Yield the samples in tiles, chunk by chunk.

    Where classes are many, a tile of consecutive rows has hardly two of a class, and where candidates are many too, the moments of
    all its classes take much memory: there, rows are sorted by class within a chunk.
    """
    few = n_classes <= FEW_CLASSES and n_classes * n_candidates <= MOST_MOMENTS
    small = codes.astype(np.min_scalar_type(n_classes))  # which NumPy sorts by radix, up to 16 bits
    chunk_rows = max(CHUNK_ROWS, 0 if few else ROWS_PER_CLASS * n_classes)
    for chunk in range(0, len(codes), chunk_rows):
        own = small[chunk : chunk + chunk_rows]
        by_class = None if few else np.argsort(own, kind="stable")
        cuts = np.linspace(0, len(own), n_tiles(len(own)) + 1).astype(np.int64)
        for first, stop in zip(cuts[:-1].tolist(), cuts[1:].tolist(), strict=True):
            rows = slice(chunk + first, chunk + stop) if by_class is None else chunk + by_class[first:stop]
            counts = np.bincount(small[rows])
            runs = np.flatnonzero(counts)
            starts = np.append(0, np.cumsum(counts[runs]))
            yield Tile(rows, stop - first, np.argsort(small[rows], kind="stable"), runs, starts, stop == len(own))


def n_tiles(n: int) -> int:
    """Return into how many tiles of equal size n samples are cut: an even number, so that two threads end together."""
    return max(2 * -(-n // (2 * TILE_ROWS)), 4) if n >= TILE_ROWS else 1 + (n >= TILE_ROWS // 2)


@dataclass(frozen=True, eq=False)
class Samples:
    """A tile's samples as they are multiplied.

    Attributes
    ----------
    x : (n, D) or fewer features, or only the non-zeros.
    features : that x holds, None for all.
    order : (n,) int64, the product's rows, sorted by class.
    """

    x: np.ndarray | spmm.PairedRows
    features: np.ndarray | None
    order: np.ndarray

    @staticmethod
    def of(X: np.ndarray | CSR, tile: Tile, dtype: np.dtype[Any], most: float) -> Samples:
        """Prepare a tile of X; only non-zeros are kept where they take up to the share ``most``."""
        if isinstance(X, CSR):
            pairs = spmm.merged_rows(X, np.arange(len(X))[tile.rows][tile.order], most, dtype)
        else:
            x = np.ascontiguousarray(X[tile.rows], dtype)
            pairs = spmm.paired_rows(x, tile.order, most)
        if pairs is not None:
            return Samples(pairs, None, np.arange(tile.size))
        if isinstance(X, CSR):
            x = X.dense(tile.rows).astype(dtype, copy=False)
        used = spmm.used_features(x)
        return Samples(x.take(used, axis=1), used, tile.order) if len(used) < DENSE_FROM * x.shape[1] else Samples(x, None, tile.order)

    def multiply(self, W: np.ndarray, block: slice, out: np.ndarray) -> None:
        """Write the product with a block of W's columns to the first columns of ``out`` (n, pitch)."""
        if isinstance(self.x, spmm.PairedRows):
            spmm.multiply(self.x, W, block, out)
        else:
            np.matmul(self.x, W[:, block] if self.features is None else W[self.features, block], out=out[:, : block.stop - block.start])
