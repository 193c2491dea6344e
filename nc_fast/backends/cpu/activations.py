"""Activations of a pool on the CPU: tiles of samples on threads, each with a single-threaded BLAS."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from nc_fast.backends.cpu import kernels
from nc_fast.inputs.sparse import CSR
from nc_fast.runtime.threads import Stop, Stopped, ordered_map, single_threaded_blas, thread_count

TILE_ROWS = 1024

Activation = str | Callable[[Any], Any]


@single_threaded_blas
def activations(W: np.ndarray, X: np.ndarray, *, bias: np.ndarray, activation: Activation, precision: str = "auto") -> np.ndarray:
    """Return ``activation(X @ W + bias)``.

    Parameters
    ----------
    W : (D, M) float32 or float64; its dtype and X's decide the product's precision, and the result's.
    X : (n, D) float32, float64 or integer; integers are converted tile by tile.
    bias : (M,) float64.
    activation : name in the table, or a callable on an (n, m) block.
    precision : unused on the CPU; part of the backends' common signature.
    """
    dtype = product_dtype(W, X)
    W, bias, act = np.asarray(W, dtype), bias.astype(dtype), activation_function(activation)
    z = np.empty((len(X), W.shape[1]), dtype)

    def fill(first: int, stop: Stop) -> None:
        if stop.is_set():
            raise Stopped
        tile = z[first : first + TILE_ROWS]
        np.matmul(np.ascontiguousarray(X[first : first + TILE_ROWS], dtype), W, out=tile)
        tile += bias
        found = act(tile)
        if found is not tile:
            tile[...] = found

    for _ in ordered_map(fill, range(0, len(X), TILE_ROWS), thread_count()):
        pass
    return z


def product_dtype(W: np.ndarray, X: np.ndarray | CSR) -> np.dtype[Any]:
    """Return the dtype that samples and candidates are multiplied in."""
    return np.result_type(W, X.dtype) if X.dtype.kind == "f" else W.dtype


def activation_function(activation: Activation) -> Callable[[Any], Any]:
    """Return a function that may write on the contiguous block it is given, and returns the result."""
    if not isinstance(activation, str):
        return activation
    kernel = kernels.in_place(activation)

    def activate(block: np.ndarray) -> np.ndarray:
        kernel(block.ravel(order="K"))
        return block

    return activate
