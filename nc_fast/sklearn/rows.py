"""The distinct rows of X: what the estimators fit on, so that a weight of 2 and a row that is there twice are the same thing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any

import numpy as np
from scipy.sparse import csr_array, issparse
from sklearn.preprocessing import StandardScaler

from nc_fast.inputs.sources import block_rows


@dataclass(frozen=True, eq=False)
class Sample:
    """Rows in memory, as neurons are picked on them.

    Attributes
    ----------
    X : (n, D), standardized where that is asked for.
    T : (n, C) float64 targets.
    weight : (n,) float64
    labels : (n,) int64, the most frequent class of each; None where the targets are no classes.
    """

    X: np.ndarray
    T: np.ndarray
    weight: np.ndarray
    labels: np.ndarray | None

    @property
    def size(self) -> int:
        """n."""
        return len(self.X)

    def take(self, rows: np.ndarray) -> Sample:
        """Return some of them."""
        return Sample(self.X[rows], self.T[rows], self.weight[rows], None if self.labels is None else self.labels[rows])


@dataclass(frozen=True, eq=False)
class Rows:
    """Distinct rows of samples, in a random order that depends on what is in them and on a seed, not on where they stand.

    Attributes
    ----------
    X : (N, D) array or scipy.sparse CSR
        All samples.
    places : (n,) int64
        Where in X each distinct row of positive weight is.
    T : (n, C) float64
        Weighted mean of the targets of all samples with that row.
    weight : (n,) float64
        Sum of their weights.
    classes : whether T are classes.
    shift, scale : (D,) float64
        What a standardized row is less by, and then divided by.
    """

    X: Any
    places: np.ndarray
    T: np.ndarray
    weight: np.ndarray
    classes: bool
    shift: np.ndarray
    scale: np.ndarray

    @property
    def size(self) -> int:
        """How many rows are distinct."""
        return len(self.places)

    def raw(self, rows: slice) -> np.ndarray:
        """Return some of the distinct rows as they came, dense."""
        return dense(self.X[self.places[rows]])

    def sample(self, rows: slice) -> Sample:
        """Return some of the distinct rows, standardized."""
        X = self.raw(rows)
        T = self.T[rows]
        scaled = ((X - self.shift) / self.scale).astype(X.dtype, copy=False)
        return Sample(scaled, T, self.weight[rows], T.argmax(axis=1) if self.classes else None)

    def blocks(self, first: int, stop: int) -> Iterator[slice]:
        """Yield slices of distinct rows that are worth reading at once."""
        return blocks(first, stop, self.X.shape[1])

    def standardized(self) -> Rows:
        """Return the same rows, with the mean and the deviation of their features; sparse ones are not centred."""
        scaler = StandardScaler(with_mean=not issparse(self.X))
        for block in self.blocks(0, self.size):
            scaler.partial_fit(self.X[self.places[block]], sample_weight=self.weight[block])
        return replace(self, scale=scaler.scale_, shift=self.shift if issparse(self.X) else scaler.mean_)


def distinct_rows(X: Any, T: np.ndarray, weight: np.ndarray, seed: int, *, classes: bool) -> Rows:
    """Merge the samples that are alike; those of weight 0 are left out."""
    counted = np.flatnonzero(weight)
    _, first, merged = np.unique(_fingerprints(X, seed)[counted], return_index=True, return_inverse=True)
    places, weight, T = counted[first], weight[counted], T[counted]
    total = np.bincount(merged, weight)
    mean = T[first]
    beyond = T - mean[merged]  # 0 where all targets of a row are the same, so that their mean is that very number
    for column in range(T.shape[1]):
        mean[:, column] += np.bincount(merged, weight * beyond[:, column]) / total
    D = X.shape[1]
    return Rows(X, places, mean, total, classes, np.zeros(D), np.ones(D))


def blocks(first: int, stop: int, n_features: int) -> Iterator[slice]:
    """Yield slices of rows that are worth reading at once."""
    step = block_rows(n_features)
    return (slice(start, min(start + step, stop)) for start in range(first, stop, step))


def dense(X: Any) -> np.ndarray:
    """Return rows as an array."""
    return np.asarray(X.toarray() if issparse(X) else X)


def _fingerprints(X: Any, seed: int) -> np.ndarray:
    """Return a number of 64 bits for every row, by its entries other than 0: sparse and dense rows have the same one."""
    key, digests = seed.to_bytes(8, "little"), []
    for rows in blocks(0, X.shape[0], X.shape[1]):
        part = csr_array(X[rows])
        part.sum_duplicates()
        part.eliminate_zeros()
        indices = part.indices.astype(np.int64)
        for start, stop in zip(part.indptr[:-1], part.indptr[1:], strict=True):
            digest = blake2b(part.data[start:stop], digest_size=8, key=key)
            digest.update(indices[start:stop])
            digests.append(digest.digest())
    return np.frombuffer(b"".join(digests), np.uint64)
