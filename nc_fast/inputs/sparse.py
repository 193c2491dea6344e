"""scipy.sparse matrices, read like a memory map: in slices of rows, dense only a slice at a time. scipy is never imported here."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np


def is_sparse(value: object) -> bool:
    """Whether ``value`` is a scipy.sparse matrix or array of any format (False when nobody has imported scipy.sparse)."""
    sparse = sys.modules.get("scipy.sparse")
    return sparse is not None and bool(sparse.issparse(value))


class SparseRows:
    """A sparse (N, D) matrix of finite numbers whose slices are dense.

    Raises
    ------
    ValueError
        At a NaN or an infinity, naming the argument X and its position.
    """

    def __init__(self, matrix: Any) -> None:
        self._rows = matrix.tocsr()  # itself where it is CSR already
        self.shape: tuple[int, int] = self._rows.shape
        self.dtype: np.dtype[Any] = self._rows.dtype
        fine = np.isfinite(self._rows.data)
        if not fine.all():
            entry = int(fine.argmin())
            position = (int(np.searchsorted(self._rows.indptr, entry, side="right")) - 1, int(self._rows.indices[entry]))
            raise ValueError(f"X: expected finite numbers, got {self._rows.data[entry]} at {position}")

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        dense: np.ndarray = self._rows[rows].toarray()
        return dense
