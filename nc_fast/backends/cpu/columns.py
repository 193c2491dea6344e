"""Standardised activations of candidates on the CPU, held one candidate a row: what a pursuit looks at again and again."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nc_fast.backends.cpu.activations import Activation, activation_function, product_dtype
from nc_fast.backends.cpu.kernels import exact_products, standardize_rows
from nc_fast.backends.cpu.tiles import DENSE_FROM
from nc_fast.inputs import checks
from nc_fast.runtime.threads import Stop, Stopped, ordered_map, thread_count

BLOCK_CANDIDATES = 128  # whose activations are made at once by one thread: 2.5 MiB at 5000 samples
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


@dataclass(frozen=True, eq=False)
class Standardized:
    """Candidates' activations, centred and divided by their standard deviation.

    Attributes
    ----------
    rows : (m, n) float32 or float64; zero where dead.
    live : (m,) bool, whether the deviation is beyond rounding noise.
    """

    rows: np.ndarray
    live: np.ndarray


class Columns:
    """The candidates' activations on the samples, made in float32 for all and in float64 for a few."""

    def __init__(self, W: np.ndarray, X: np.ndarray, bias: np.ndarray, activation: Activation) -> None:
        self.dtype = product_dtype(W, X)
        self._W, self._bias, self._act = W, bias, activation_function(activation)
        self._features = _is_identity(W) and activation == "identity"  # a choice among the samples' own features: no product
        used = np.flatnonzero(X.any(axis=0))
        self._used = slice(None) if self._features or len(used) > DENSE_FROM * len(W) else used
        self._given = X
        self._packed: np.ndarray | None = None

    @property
    def n(self) -> int:
        """Samples."""
        return len(self._given)

    @property
    def size(self) -> int:
        """Candidates."""
        return int(self._W.shape[1])

    @property
    def _samples(self) -> np.ndarray:
        """The samples' features in use, as they are multiplied."""
        if self._packed is None:
            self._packed = np.ascontiguousarray(self._given[:, self._used], self.dtype)
        return self._packed

    def forget(self) -> None:
        """Give back the memory of the packed samples; they are packed again when they are needed."""
        self._packed = None

    def exact(self, columns: np.ndarray) -> Standardized:
        """Return a few candidates in float64 throughout."""
        rows = np.empty((len(columns), self.n))
        if self._features:
            return self._standardized(self._samples[:, columns].T.astype(np.float64), columns, rows)
        z = np.empty_like(rows)
        exact_products(self._weights(columns, np.float64), self._samples, z)
        return self._standardized(z, columns, rows)

    def each_block(self, columns: np.ndarray, use: Callable[[slice, Standardized], None], out: np.ndarray | None = None) -> None:
        """Call ``use`` with every block of these candidates, in float32, on threads: the place in ``columns``, and the block.

        With ``out`` (m, n) float32 the activations are written there.
        """
        X = self._samples  # packed before threads ask for it

        def made(first: int, stop: Stop) -> None:
            if stop.is_set():
                raise Stopped
            place = slice(first, min(first + BLOCK_CANDIDATES, len(columns)))
            z = np.ascontiguousarray(X[:, columns[place]].T) if self._features else self._weights(columns[place], self.dtype) @ X.T
            rows = np.empty(z.shape, np.float32) if out is None else out[place]
            use(place, self._standardized(z, columns[place], rows))

        for _ in ordered_map(made, range(0, len(columns), BLOCK_CANDIDATES), thread_count()):
            pass

    def _weights(self, columns: np.ndarray, dtype: Any) -> np.ndarray:
        """Return candidates (m, D) without the weights of features that no sample uses."""
        return np.ascontiguousarray(self._W[:, columns][self._used].T, dtype)

    def _standardized(self, z: np.ndarray, columns: np.ndarray, rows: np.ndarray) -> Standardized:
        """Standardize products into ``rows``; z is written on."""
        z += self._bias[columns, None].astype(z.dtype)
        z = self._act(z.T).T
        live = np.empty(len(z), bool)
        standardize_rows(z, rows, live)
        checks.no_overflow(float(np.abs(rows[:, 0]).max()))  # a number that is not finite makes its whole row NaN
        return Standardized(rows, live)


def _is_identity(W: np.ndarray) -> bool:
    return W.shape[0] == W.shape[1] and bool((W.diagonal() == 1).all()) and np.count_nonzero(W) == len(W)


def memory_budget() -> int:
    """Return how many bytes of activations are held at most: half of what the machine, or its control group, has."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 8 << 30
    if CGROUP_LIMIT.exists() and (limit := CGROUP_LIMIT.read_text().strip()).isdigit():
        total = min(total, int(limit))
    return total // 2
