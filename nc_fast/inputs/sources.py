"""Samples with labels or float targets as users have them: in memory, in slices, in batches. Read as checked blocks.

What does not fit in memory comes in blocks of ``block_rows`` samples, whatever the sizes of the batches it came in, so that
the same samples in the same order give the same bits, also when the stream was interrupted and taken up again.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from nc_fast.inputs import checks
from nc_fast.inputs.arrays import Array, empty_rows, is_tensor
from nc_fast.inputs.labels import classified, join_labels
from nc_fast.inputs.sparse import SparseRows, is_sparse
from nc_fast.inputs.targets import labels_or_targets

BLOCK_BYTES = 128 << 20  # of float32 samples held at a time
BLOCK_ROWS = (256, 16_384)  # at least, so that a product is worth its call; at most, the chunk of the CPU backend


class Source(Protocol):
    """Samples to be read from the first to the last."""

    @property
    def size(self) -> int:
        """How many samples, 0 where nobody knows."""

    def blocks(self, done: int, rows: int) -> Iterator[Block]:
        """Yield the samples after the first ``done``, ``rows`` at a time."""


@dataclass(frozen=True, eq=False)
class Block:
    """Checked samples in memory.

    Attributes
    ----------
    X : (n, D)
    y : (n,) int64, index into ``classes`` of each sample; or (n, T) float64 targets.
    classes : (C,) sorted labels, some may have no sample here; empty where y are targets.
    """

    X: Array
    y: np.ndarray
    classes: np.ndarray

    @property
    def size(self) -> int:
        """How many samples."""
        return len(self.y)

    def blocks(self, done: int, rows: int) -> Iterator[Block]:
        """Yield views of the samples after the first ``done``."""
        for first in range(done, self.size, rows):
            yield Block(self.X[first : first + rows], self.y[first : first + rows], self.classes)


@dataclass(frozen=True, eq=False)
class Slices:
    """Samples of which slices are still to be read and checked: a memory map, or an array-like such as h5py's and Zarr's."""

    X: Any
    y: np.ndarray
    classes: np.ndarray

    @property
    def size(self) -> int:
        """How many samples."""
        return len(self.y)

    def blocks(self, done: int, rows: int) -> Iterator[Block]:
        """Read one slice a block."""
        for first in range(done, self.size, rows):
            stop = min(first + rows, self.size)
            X = read_rows(self.X, first, stop)
            checks.finite("X", X, first_row=first)
            yield Block(X, self.y[first:stop], self.classes)

    def csr_blocks(self, done: int, rows: int) -> Iterator[Block]:
        """Read the same blocks, those of a sparse matrix as CSR."""
        if not isinstance(self.X, SparseRows):
            yield from self.blocks(done, rows)
            return
        for first in range(done, self.size, rows):
            stop = min(first + rows, self.size)
            yield Block(self.X.compressed(first, stop), self.y[first:stop], self.classes)


@dataclass(frozen=True, eq=False)
class Batches:
    """Samples in (X, y) batches, each read once.

    Attributes
    ----------
    batches : of (X, y).
    checked : function that checks a batch's X and returns it in the library that computes.
    may_be_empty : whether there may be no batch at all.
    targets : whether y may be float targets.
    names : what the user calls samples and labels.
    """

    batches: Iterable[tuple[Array, Array]]
    checked: Callable[[Any], Array]
    may_be_empty: bool = False
    targets: bool = False
    names: tuple[str, str] = ("X", "y")

    size = 0

    def blocks(self, done: int, rows: int) -> Iterator[Block]:
        """Put batches together, or cut them; those within the first ``done`` samples are not looked at."""
        buffer: _Buffer | None = None
        for X, y in self._labelled(done):
            if buffer and not buffer.takes(X):
                yield buffer.block()
                buffer = None
            first = 0
            while first < len(X):
                if buffer is None and len(X) - first >= rows:
                    stop = first + rows
                    yield _block(X[first:stop], [y[first:stop]])
                else:
                    buffer = buffer or _Buffer(rows, X)
                    stop = min(first + buffer.room, len(X))
                    buffer.append(X[first:stop], y[first:stop])
                    if not buffer.room:
                        yield buffer.block()
                        buffer = None
                first = stop
        if buffer:
            yield buffer.block()

    def _labelled(self, done: int) -> Iterator[tuple[Array, np.ndarray]]:
        """Yield what of every batch comes after the first ``done`` samples, checked."""
        number, (X_name, y_name) = -1, self.names
        for number, pair in enumerate(self.batches):
            try:
                X, y = pair
            except (TypeError, ValueError):
                raise TypeError(f"{X_name}: expected batches ({X_name}, {y_name}), got {type(pair).__name__} as batch {number}") from None
            try:
                if done and (n := X.shape[0] if is_sparse(X) else len(X)) <= done:
                    done -= n
                    continue
                X = self.checked(X)
                y = labels_or_targets(y_name, y, X.shape[0], targets=self.targets)
            except (TypeError, ValueError) as error:
                raise type(error)(f"batch {number}: {error}") from None
            yield X[done:], y[done:]
            done = 0
        if done:
            raise ValueError(f"checkpoint: expected a stream with at least the samples it has, got {done} too few")
        if number < 0 and not self.may_be_empty:
            raise ValueError(f"{X_name}: expected at least one batch, got none")


class _Buffer:
    """Samples of small batches, copied together: a loader may use a batch's memory again."""

    def __init__(self, rows: int, like_X: Array) -> None:
        self._X = empty_rows(like_X, rows)
        self._y: list[np.ndarray] = []
        self._filled = 0

    @property
    def room(self) -> int:
        return len(self._X) - self._filled

    def takes(self, X: Array) -> bool:
        """Whether X can be appended as it is: same library, dtype and device."""
        alike = is_tensor(X) == is_tensor(self._X) and X.dtype == self._X.dtype
        return bool(alike and (not is_tensor(X) or X.device == self._X.device))

    def append(self, X: Array, y: np.ndarray) -> None:
        self._X[self._filled : self._filled + len(X)] = X
        self._y.append(y.copy())
        self._filled += len(X)

    def block(self) -> Block:
        return _block(self._X[: self._filled], self._y)


def _block(X: Array, parts: list[np.ndarray]) -> Block:
    return Block(X, *classified(join_labels(parts)))


def labelled(X: Any, y: object, W: Array | None, *, half: bool, targets: bool = False) -> Block | Slices:
    """Check samples, for the checked weights W if any, and their labels, or with ``targets`` their labels or float targets."""
    if sliced := is_sparse(X) or _is_sliced(X):
        checks.sample_form("X", tuple(X.shape), dtype_of(X).name, W, half=half)
        X = SparseRows(X) if is_sparse(X) else X
    else:
        X = checks.samples("X", X, W, half=half)
    found = classified(labels_or_targets("y", y, X.shape[0], targets=targets))
    return (Slices if sliced else Block)(X, *found)


def batch(X: Any, W: Array, *, half: bool) -> Array:
    """Check the samples of a batch, for the checked weights W; return them dense."""
    if is_sparse(X):
        checks.sample_form("X", tuple(X.shape), X.dtype.name, W, half=half)
        X = SparseRows(X)[:]
    return checks.samples("X", X, W, half=half)


def block_rows(n_features: int) -> int:
    """Return how many samples form a block: a function of D alone, so that a stream's bits depend on nothing else."""
    least, most = BLOCK_ROWS
    return min(most, max(least, BLOCK_BYTES // (4 * n_features)))


def read_rows(X: Any, first: int, stop: int) -> np.ndarray:
    """Return rows of X in memory, read in one slice; pages of a memory map are given back, so that they do not add up."""
    rows = X[first:stop]
    if np.ma.is_masked(rows):  # netCDF4's slices are masked arrays, most of them with nothing masked
        raise TypeError(f"X: expected an array without a mask, got masked values in rows {first} to {stop - 1}; fill them first")
    block = np.array(rows)
    map_ = _mapped(X) if isinstance(X, np.ndarray) else None
    if map_ is not None and hasattr(mmap, "MADV_DONTNEED"):
        _release(map_, X[first:stop])
    return block


def _is_sliced(X: object) -> bool:
    """Whether X is read slice by slice: a view of a memory map, or an array-like that is neither NumPy's nor torch's."""
    if isinstance(X, np.ma.MaskedArray):  # also one around a memory map: to be refused, not to be read without its mask
        return False
    if isinstance(X, np.ndarray):
        return _mapped(X) is not None
    return not is_tensor(X) and all(hasattr(X, name) for name in ("shape", "dtype", "__getitem__", "__len__"))


def dtype_of(X: Any) -> np.dtype[Any]:
    """Return the NumPy dtype of an array-like's slices."""
    try:
        dtype: np.dtype[Any] = np.dtype(X.dtype)
    except TypeError:  # a library with dtypes of its own
        dtype = np.asarray(X[:1]).dtype
    return dtype


def _mapped(X: Any) -> mmap.mmap | None:
    """Return the file map behind an array; not a copy-on-write one, whose changed pages exist nowhere else."""
    while isinstance(X, np.ndarray):
        if isinstance(X, np.memmap) and X.mode == "c":
            return None
        X = X.base
    return X if isinstance(X, mmap.mmap) else None


def _release(map_: mmap.mmap, rows: np.ndarray) -> None:
    """Drop the rows' pages from this process; the file's cache keeps them, changed ones too (the map is shared)."""
    start = np.frombuffer(map_, np.uint8).ctypes.data
    reach = [(length - 1) * stride for length, stride in zip(rows.shape, rows.strides, strict=True)]
    low = rows.ctypes.data - start + sum(step for step in reach if step < 0)
    high = rows.ctypes.data - start + sum(step for step in reach if step > 0) + rows.itemsize
    first = low // mmap.PAGESIZE * mmap.PAGESIZE
    map_.madvise(mmap.MADV_DONTNEED, first, high - first)
