"""Samples with labels or float targets as users have them: in memory, in slices, in batches. Read as checked blocks.

What does not fit in memory comes in blocks of ``block_rows`` samples, whatever the sizes of the batches it came in, so that
the same samples in the same order give the same bits, also when the stream was interrupted and taken up again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from nc_fast.inputs import checks
from nc_fast.inputs.arrays import Array, empty_rows, is_tensor, take_rows
from nc_fast.inputs.convert import warn_of_other_order
from nc_fast.inputs.labels import classified, join_labels
from nc_fast.inputs.left_out import LeftOut
from nc_fast.inputs.slices import dtype_of, is_sliced, read_rows
from nc_fast.inputs.sparse import SparseRows, is_sparse
from nc_fast.inputs.targets import labels_or_targets

BLOCK_BYTES = 128 << 20  # of float32 samples held at a time
BLOCK_ROWS = (256, 16_384)  # at least, so that a product is worth its call; at most, the chunk of the CPU backend
FIRST_ROWS, SAMPLED_ROWS = 256, 4096  # where samples are only recognised: all of the first rows are looked at, then one in so many
Skipped = Callable[[Any, np.ndarray, np.ndarray], None]  # gets X, y and classes, as in a Block


class Source(Protocol):
    """Samples to be read from the first to the last; those that are left out are not among them."""

    @property
    def size(self) -> int:
        """How many samples, 0 where nobody knows."""

    def blocks(self, done: int, rows: int, skipped: Skipped | None = None) -> Iterator[Block]:
        """Yield the samples after the first ``done``, ``rows`` at a time; ``skipped`` gets the first ``done``, before any other.

        It may rely on no more of their X than the ``FIRST_ROWS`` and the rows at multiples of ``SAMPLED_ROWS``.
        """


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

    def blocks(self, done: int, rows: int, skipped: Skipped | None = None) -> Iterator[Block]:
        """Yield views of the samples after the first ``done``."""
        if skipped:
            skipped(self.X[:done], self.y[:done], self.classes)
        for first in range(done, self.size, rows):
            yield Block(self.X[first : first + rows], self.y[first : first + rows], self.classes)


@dataclass(frozen=True, eq=False)
class Slices:
    """Samples of which slices are still to be read and checked: a memory map, or an array-like such as h5py's and Zarr's.

    Attributes
    ----------
    X : (N, D), only sliced.
    y : (n,) int64, index into ``classes`` of each sample; or (n, T) float64 targets.
    classes : (C,) sorted labels; empty where y are targets.
    rows : (n,) ascending, where in X the samples are; None for all of X.
    name : what the user calls X.
    """

    X: Any
    y: np.ndarray
    classes: np.ndarray
    rows: np.ndarray | None = None
    name: str = "X"

    @property
    def size(self) -> int:
        """How many samples."""
        return len(self.y)

    def blocks(self, done: int, rows: int, skipped: Skipped | None = None) -> Iterator[Block]:
        """Read one slice a block, or, where samples are left out, as many as it takes; none twice."""
        self._skip(done, skipped)
        for first in range(done, self.size, rows):
            stop = min(first + rows, self.size)
            places = range(first, stop) if self.rows is None else self.rows[first:stop]
            X = self._read(places, rows)
            checks.finite(self.name, X, places)
            yield Block(X, self.y[first:stop], self.classes)

    def csr_blocks(self, done: int, rows: int, skipped: Skipped | None = None) -> Iterator[Block]:
        """Read the same blocks, those of a sparse matrix as CSR."""
        if not isinstance(self.X, SparseRows):
            yield from self.blocks(done, rows, skipped)
            return
        self._skip(done, skipped)
        for first in range(done, self.size, rows):
            stop = min(first + rows, self.size)
            yield Block(self.X.compressed(first, stop), self.y[first:stop], self.classes)

    def _skip(self, done: int, skipped: Skipped | None) -> None:
        for first in range(0, done if skipped else 0, SAMPLED_ROWS):
            stop, looked_at = min(first + SAMPLED_ROWS, done), 1 if first else min(FIRST_ROWS, done)
            places = range(first, first + looked_at) if self.rows is None else self.rows[first : first + looked_at]
            assert skipped
            skipped(self._read(places, FIRST_ROWS), self.y[first:stop], self.classes)

    def _read(self, places: Sequence[int] | np.ndarray, rows: int) -> np.ndarray:
        """Return the rows at some places, of which no more than ``rows`` are read at a time."""
        first, stop = int(places[0]), int(places[-1]) + 1
        if stop - first == len(places):
            return read_rows(self.X, first, stop, self.name)
        cuts = [(start, *np.searchsorted(places, [start, start + rows])) for start in range(first, stop, rows)]
        wanted = [(start, np.asarray(places[low:high]) - start) for start, low, high in cuts if low < high]
        return np.concatenate([read_rows(self.X, start, start + int(own[-1]) + 1, self.name)[own] for start, own in wanted])


@dataclass(frozen=True, eq=False)
class Batches:
    """Samples in (X, y) batches, each read once.

    Attributes
    ----------
    batches : of (X, y).
    checked : function that checks all of a batch's X but its numbers, and returns it as an array.
    put : function that returns checked X in the library that computes.
    may_be_empty : whether there may be no batch at all.
    targets : whether y may be float targets.
    names : what the user calls samples and labels.
    left_out : the labels of samples that are left out.
    """

    batches: Iterable[tuple[Array, Array]]
    checked: Callable[[Any], Array]
    put: Callable[[Array], Array] = lambda X: X
    may_be_empty: bool = False
    targets: bool = False
    names: tuple[str, str] = ("X", "y")
    left_out: LeftOut = field(default_factory=LeftOut)

    size = 0

    def blocks(self, done: int, rows: int, skipped: Skipped | None = None) -> Iterator[Block]:
        """Put batches together, or cut them; of those within the first ``done`` samples only the labels are checked."""
        buffer: _Buffer | None = None
        for X, y in self._labelled(done, skipped):
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

    def _labelled(self, done: int, skipped: Skipped | None) -> Iterator[tuple[Array, np.ndarray]]:
        """Yield what of every batch comes after the first ``done`` samples, checked."""
        number, (X_name, y_name), n_samples, n_left_out = -1, self.names, 0, 0
        for number, pair in enumerate(self.batches):
            if isinstance(pair, Mapping) or not hasattr(pair, "__len__") or len(pair) != 2:
                got = f"{type(pair).__name__} of {list(pair)}" if isinstance(pair, Mapping) else type(pair).__name__
                got = f"{got} of length {len(pair)}" if isinstance(pair, (tuple, list)) else got
                raise TypeError(f"{X_name}: expected batches ({X_name}, {y_name}), got {got} as batch {number}")
            X, y = pair
            try:
                X = self.checked(X)
                y = labels_or_targets(y_name, y, X.shape[0], targets=self.targets)
                rows = self.left_out.kept(y)
                n_samples, n_left_out = n_samples + len(y), n_left_out + (0 if rows is None else len(y) - len(rows))
                y = take_rows(y, rows)
                coming = self.put(checks.finite_rows(X_name, X, rows)) if len(y) > done else None
            except (TypeError, ValueError) as error:
                raise type(error)(f"batch {number}: {error}") from None
            if done and skipped:
                skipped(take_rows(X, rows), *classified(y[:done]))
            if coming is not None:
                yield coming[done:], y[done:]
            done = max(0, done - len(y))
        if done:
            raise ValueError(f"checkpoint: expected a stream with at least the samples it has, got {done} too few")
        if number < 0 and not self.may_be_empty:
            raise ValueError(f"{X_name}: expected at least one batch, got none")
        self.left_out.tell(y_name, n_left_out, n_samples, may_be_all=self.may_be_empty)


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


def labelled(
    X: Any, y: object, W: Array | None, left_out: LeftOut, *, half: bool, targets: bool = False, may_be_empty: bool = False
) -> Block | Slices:
    """Check samples, for the checked weights W if any, and their labels, or with ``targets`` their labels or float targets.

    With ``may_be_empty`` all samples may be left out.
    """
    warn_of_other_order("X", X, "y", y)
    if is_sparse(X) or is_sliced(X):
        checks.sample_form("X", tuple(X.shape), dtype_of(X).name, W, half=half)
    else:
        X = checks.sample_matrix("X", X, W, half=half)
    y = labels_or_targets("y", y, X.shape[0], targets=targets)
    rows = left_out.kept(y)
    left_out.tell("y", 0 if rows is None else len(y) - len(rows), len(y), may_be_all=may_be_empty)
    return chosen("X", X, take_rows(y, rows), rows)


def chosen(name: str, X: Any, y: np.ndarray, rows: np.ndarray | None) -> Block | Slices:
    """Return the rows of X that checked labels or targets are of, None standing for all; what is in memory is copied."""
    if is_sparse(X):
        return Slices(SparseRows(X, rows), *classified(y), name=name)
    if is_sliced(X):
        return Slices(X, *classified(y), rows, name)
    return Block(checks.finite_rows(name, X, rows), *classified(y))


def batch(X: Any, W: Array, *, half: bool) -> Array:
    """Check all of a batch's samples but their numbers, for the checked weights W; return them dense."""
    if is_sparse(X):
        checks.sample_form("X", tuple(X.shape), X.dtype.name, W, half=half)
        X = X.toarray()
    return checks.sample_matrix("X", X, W, half=half)


def block_rows(n_features: int) -> int:
    """Return how many samples form a block: a function of D alone, so that a stream's bits depend on nothing else."""
    least, most = BLOCK_ROWS
    return min(most, max(least, BLOCK_BYTES // (4 * n_features)))
