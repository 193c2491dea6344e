"""scipy.sparse matrices, read like a memory map in slices of rows: without zeros, or dense. scipy is never imported here."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import numpy as np


def is_sparse(value: object) -> bool:
    """Whether ``value`` is a scipy.sparse matrix or array of any format (False when nobody has imported scipy.sparse)."""
    sparse = sys.modules.get("scipy.sparse")
    return sparse is not None and bool(sparse.issparse(value))


@dataclass(frozen=True, eq=False)
class CSR:
    """Samples as their non-zeros, for a backend that multiplies no others.

    Attributes
    ----------
    starts : (n + 1,) integer, where each row starts.
    columns : (E,) integer, ascending within a row, each once.
    values : (E,) numbers other than 0.
    shape : (n, D).
    """

    starts: np.ndarray
    columns: np.ndarray
    values: np.ndarray
    shape: tuple[int, int]

    @property
    def dtype(self) -> np.dtype[Any]:
        """The values' dtype."""
        return self.values.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def dense(self, rows: slice | np.ndarray) -> np.ndarray:
        """Return some of the rows (n, D) with their zeros."""
        first, length = self.starts[:-1][rows], np.diff(self.starts)[rows]
        row = np.repeat(np.arange(len(length)), length)
        entries = np.arange(len(row)) + (first - np.cumsum(length) + length)[row]
        found = np.zeros((len(length), self.shape[1]), self.dtype)
        found[row, self.columns[entries]] = self.values[entries]
        return found


class SparseRows:
    """A sparse (N, D) matrix of finite numbers; its slices are dense, those of :meth:`compressed` are not.

    With ``rows`` only these are in it. Booleans are 0 and 1.

    Raises
    ------
    ValueError
        At a NaN or an infinity, naming the argument X and its position.
    """

    def __init__(self, matrix: Any, rows: np.ndarray | None = None) -> None:
        self._rows = matrix.tocsr()  # itself where it is CSR already
        if self._rows.dtype == bool:
            self._rows = self._rows.astype(np.uint8)
        if rows is not None:
            self._rows = self._rows[rows]
        self.shape: tuple[int, int] = self._rows.shape
        self.dtype: np.dtype[Any] = self._rows.dtype
        fine = np.isfinite(self._rows.data)
        if not fine.all():
            entry = int(fine.argmin())
            row = int(np.searchsorted(self._rows.indptr, entry, side="right")) - 1
            position = (row if rows is None else int(rows[row]), int(self._rows.indices[entry]))
            raise ValueError(f"X: expected finite numbers, got {self._rows.data[entry]} at {position}")

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        dense: np.ndarray = self._rows[rows].toarray()
        return dense

    def compressed(self, first: int, stop: int) -> CSR:
        """Return some rows without their zeros: the very numbers of the dense slice."""
        rows = self._rows[first:stop]
        if rows.has_canonical_format and rows.data.all():
            return CSR(rows.indptr, rows.indices, rows.data, rows.shape)
        dense = self[first:stop]  # entries out of order, several at one place, or zeros among them
        row, column = np.nonzero(dense)
        return CSR(np.searchsorted(row, np.arange(len(dense) + 1)), column, dense[row, column], rows.shape)
