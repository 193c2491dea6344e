"""The samples in order of class, a tile at a time on the device, wherever X lies."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

TILE_BYTES = 32 << 20  # samples on their way to the device, in float64
CHUNK_ROWS, CHUNK_BYTES = 512, 32 << 20  # of a chunk, the rows whose features one program sums up; in float64
SAME_BITS = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}  # torch 2.9 gathers no rows of the left


@dataclass(frozen=True, eq=False)
class SortedSamples:
    """The samples and their order by class."""

    X: torch.Tensor  # (N, D) floating or integer, as the caller gave it: on the device that computes or in host memory
    order: torch.Tensor  # (N,) int64, rows of X, class after class; beside X
    counts: np.ndarray  # (C,) int64, samples of each class


def chunk_rows(D: int) -> int:
    """Return the rows of a chunk: what is summed up about them does not depend on how the samples come."""
    return max(min(CHUNK_ROWS, CHUNK_BYTES // 8 // D) // 8 * 8, 8)


def in_place(X: torch.Tensor, device: torch.device) -> torch.Tensor | None:
    """Return X as kernels read it where it lies, or None where it must come in tiles."""
    if X.device != device or X.dtype in SAME_BITS:
        return None
    return _loadable(X)


def readable_tiles(X: torch.Tensor, rows: torch.Tensor | None, device: torch.device) -> Iterator[tuple[torch.Tensor, torch.Tensor | None]]:
    """Yield X as it lies on the device, with the rows to be read there, or tiles as :func:`sample_tiles` does, with None: all of them."""
    X_read = in_place(X, device)
    if X_read is not None:
        yield X_read, rows
    else:
        yield from ((tile, None) for tile in sample_tiles(X, rows, device))


def sample_tiles(X: torch.Tensor, rows: torch.Tensor | None, device: torch.device) -> Iterator[torch.Tensor]:
    """Yield tiles of X, in whole chunks, or of its given rows, on the device."""
    n, D = (len(X) if rows is None else len(rows)), X.shape[1]
    whole = chunk_rows(D) if rows is None else 1
    size = max(TILE_BYTES // 8 // D // whole, 1) * whole
    spans = [slice(first, min(first + size, n)) for first in range(0, n, size)]
    given, X = X.dtype, X.view(SAME_BITS.get(X.dtype, X.dtype))
    tiles = (X[span] if rows is None else X[rows[span]] for span in spans)
    for tile in tiles if X.device == device else streamed(X, rows, spans, device):
        yield _loadable(tile.view(given))


def streamed(X: torch.Tensor, rows: torch.Tensor | None, spans: list[slice], device: torch.device) -> Iterator[torch.Tensor]:
    """Yield tiles of X in host memory through two pinned buffers: while the device takes one, the other is filled."""
    gpu = device.type == "cuda"
    longest = max(span.stop - span.start for span in spans)
    buffers = [torch.empty((longest, X.shape[1]), dtype=X.dtype, pin_memory=gpu) for _ in range(2)]
    taken = [torch.cuda.Event() for _ in buffers] if gpu else []  # type: ignore[no-untyped-call]
    for turn, span in enumerate(spans):
        buffer = buffers[turn % 2][: span.stop - span.start]
        if gpu:
            taken[turn % 2].synchronize()  # returns at once before the event's first use
        if rows is None:
            buffer.copy_(X[span])
        else:
            torch.index_select(X, 0, rows[span], out=buffer)
        tile = buffer.to(device, non_blocking=True)
        if gpu:
            taken[turn % 2].record()
        yield tile


def _loadable(tile: torch.Tensor) -> torch.Tensor:
    """Return the tile in a type that kernels load: bool as bytes, rare integers as int64, or float64 where that is too small."""
    if tile.dtype == torch.bool:
        return tile.view(torch.uint8)
    if tile.dtype == torch.uint64:
        return tile.double()
    return tile.long() if tile.dtype in (torch.uint16, torch.uint32) else tile
