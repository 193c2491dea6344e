"""Tiles of samples: in which order they are read, and how they are converted for the product."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

TILE_ROWS = 1024  # with moments.BLOCK_COLUMNS: among the fastest of the shapes swept (docs/performance.md), at 4 MiB of float32
ROWS_PER_CLASS = 256  # rows are sorted by class within chunks this long per class: long runs, yet local reads of X
MIN_CHUNK_ROWS = 16 * TILE_ROWS

# A tile with fewer of its features in use is multiplied without the others, which add exactly 0 to every product.
# Of MNIST's 784 features a tile sorted by class uses 68 %: borders, and pixels that a class never inks.
DENSE_FROM = 0.95


@dataclass(frozen=True)
class Tile:
    """Some of the samples."""

    rows: np.ndarray  # (n,) int64, rows of X, sorted by class
    runs: np.ndarray  # (S,) int64, the classes present, ascending
    starts: np.ndarray  # (S + 1,) int64, where each class's run starts
    last: bool  # of its chunk


def tiles(codes: np.ndarray, n_classes: int) -> Iterator[Tile]:
    """Yield the samples in tiles, chunk by chunk."""
    chunk_rows = max(MIN_CHUNK_ROWS, ROWS_PER_CLASS * n_classes)
    for chunk in range(0, len(codes), chunk_rows):
        order = chunk + np.argsort(codes[chunk : chunk + chunk_rows], kind="stable")
        for first in range(0, len(order), TILE_ROWS):
            rows = order[first : first + TILE_ROWS]
            runs, starts = np.unique(codes[rows], return_index=True)
            yield Tile(rows, runs, np.append(starts, len(rows)), first + TILE_ROWS >= len(order))


def converted(X: np.ndarray, tile: Tile, dtype: np.dtype[Any]) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the tile's samples as the product takes them, and the features in use; None for all of them."""
    x = X[tile.rows]
    used = np.flatnonzero(x.any(axis=0))
    if len(used) < DENSE_FROM * x.shape[1]:
        return np.ascontiguousarray(x.take(used, axis=1), dtype), used
    return np.ascontiguousarray(x, dtype), None
