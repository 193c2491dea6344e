"""Rows of memory maps and of array-likes that only slice, read into memory."""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np

from nc_fast.inputs.arrays import is_tensor
from nc_fast.inputs.convert import booleans_as_numbers


def read_rows(X: Any, first: int, stop: int, name: str = "X") -> np.ndarray:
    """Return rows of X in memory, read in one slice; pages of a memory map are given back, so that they do not add up.

    Booleans are returned as 0 and 1.
    """
    rows = X[first:stop]
    if np.ma.is_masked(rows):  # netCDF4's slices are masked arrays, most of them with nothing masked
        raise TypeError(f"{name}: expected an array without a mask, got masked values in rows {first} to {stop - 1}; fill them first")
    block = np.array(rows)
    map_ = _mapped(X) if isinstance(X, np.ndarray) else None
    if map_ is not None and hasattr(mmap, "MADV_DONTNEED"):
        _release(map_, X[first:stop])
    return np.asarray(booleans_as_numbers(block))


def is_sliced(X: object) -> bool:
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
