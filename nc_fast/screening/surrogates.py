"""Surrogate moments: what a candidate's class moments should be, at a cost that does not depend on the number of samples.

Every surrogate is a function of column numbers -> ClassMoments of those columns, with the counts of the whole data, so that
a criterion applies to it as to exact moments.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import pi, sqrt
from typing import Any

import numpy as np

from nc_fast._threads import Stop, Stopped, ordered_map, single_threaded_blas, thread_count
from nc_fast.activations import ACTIVATIONS, LEAKY_SLOPE
from nc_fast.types import ClassMoments

Activation = str | Callable[[Any], Any]

MAX_RANK = 64
EXPLAINED = 0.995  # of the variance: beyond it a principal direction changes no score
MAX_COMPONENTS = 4  # per class: halves the error of a single Gaussian on MNIST; 8 gain another 10 %
ROWS_PER_COMPONENT = 100  # fewer do not give a covariance
PCA_ROWS = 4096
FIT_ROWS = 1 << 16
TILE_ROWS = 2048
BLOCK_COLUMNS = 512
QUADRATURE_NODES = 20
SUBSAMPLE_ROWS = 1500
LINEAR_PLUS_RELU = {"identity": (1.0, 0.0), "relu": (0.0, 1.0), "leaky_relu": (LEAKY_SLOPE, 1 - LEAKY_SLOPE)}


@dataclass(frozen=True, eq=False)
class GaussianMixture:
    """Every class as a few Gaussians: covariances in a common principal subspace, a diagonal outside of it.

    A projection of high-dimensional data is nearly normal within a component (central limit theorem), so a candidate's
    pre-activation has a known mean and variance per component, and the activation's moments follow in closed form
    (identity, relu, leaky_relu) or by Gauss-Hermite quadrature.

    Attributes
    ----------
    basis : (D, r), orthonormal.
    means : (P, D), component means.
    factors : (P, r, r), ``factors[p].T @ factors[p]`` is the covariance within the basis.
    residual : (P, D), variances of the features outside the basis.
    share : (P,), the component's part of its class.
    first : (C,), each class's first component.
    """

    basis: np.ndarray
    means: np.ndarray
    factors: np.ndarray
    residual: np.ndarray
    share: np.ndarray
    first: np.ndarray
    classes: np.ndarray
    count: np.ndarray

    def moments(self, W: np.ndarray, bias: np.ndarray, activation: Activation) -> ClassMoments:
        """Return the surrogate moments of the columns of W."""
        M = W.shape[1]
        mean, m2 = np.empty((2, len(self.classes), M))

        def block(first: int, stop: Stop) -> tuple[slice, np.ndarray, np.ndarray]:
            if stop.is_set():
                raise Stopped
            where = slice(first, min(first + BLOCK_COLUMNS, M))
            return where, *self._block(W[:, where], bias[where], activation)

        def fill() -> None:
            for where, block_mean, variance in ordered_map(block, range(0, M, BLOCK_COLUMNS), threads):
                mean[:, where], m2[:, where] = block_mean, variance * self.count[:, None]

        threads = thread_count()
        single_threaded_blas(fill)
        return ClassMoments(self.classes, self.count, mean, m2)

    def _block(self, W: np.ndarray, bias: np.ndarray, activation: Activation) -> tuple[np.ndarray, np.ndarray]:
        W = np.ascontiguousarray(W, self.basis.dtype)
        inside = self.basis.T @ W
        outside = W - self.basis @ inside
        P, r = self.factors.shape[:2]
        within = (self.factors.reshape(P * r, r) @ inside).reshape(P, r, -1)
        variance = np.einsum("prm,prm->pm", within, within) + self.residual @ np.square(outside, out=outside)
        mean, variance = activated(self.means @ W + bias.astype(W.dtype), variance, activation)
        share = self.share[:, None]
        class_mean = np.add.reduceat(share * mean, self.first, axis=0)
        owner = np.repeat(np.arange(len(self.first)), np.diff(np.append(self.first, P)))
        shift = mean - class_mean[owner]
        return class_mean, np.add.reduceat(share * (variance + shift * shift), self.first, axis=0)


def activated(mean: np.ndarray, variance: np.ndarray, activation: Activation) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and variance of ``activation(z)`` for normal z, element by element."""
    deviation = np.sqrt(np.maximum(variance, 0))
    if isinstance(activation, str) and activation in LINEAR_PLUS_RELU:
        linear, relu = LINEAR_PLUS_RELU[activation]
        return _linear_plus_relu(mean, deviation, linear, relu)
    function = ACTIVATIONS[activation] if isinstance(activation, str) else activation
    nodes, weights = np.polynomial.hermite_e.hermegauss(QUADRATURE_NODES)
    weights = weights / weights.sum()
    values = [np.array(function(mean + mean.dtype.type(node) * deviation), np.float64) for node in nodes]
    first = sum(weight * value for weight, value in zip(weights, values, strict=True))
    second = sum(weight * np.square(value - first) for weight, value in zip(weights, values, strict=True))
    return np.asarray(first), np.asarray(second)


def _linear_plus_relu(mean: np.ndarray, deviation: np.ndarray, linear: float, relu: float) -> tuple[np.ndarray, np.ndarray]:
    """Moments of ``linear * z + relu * max(z, 0)``."""
    from scipy.special import ndtr

    safe = np.maximum(deviation, np.finfo(mean.dtype).tiny)
    t = np.clip(mean / safe, -30, 30)  # beyond, the normal tail is 0 in any precision
    cdf, pdf = ndtr(t), np.exp(-0.5 * t * t) * mean.dtype.type(1 / sqrt(2 * pi))
    # In units of the deviation: the square of the mean would cancel.
    positive = np.where(deviation > 0, t * cdf + pdf, 0)
    second = (t * t + 1) * cdf + t * pdf
    inner = linear * t + relu * positive
    variance = linear * linear * (t * t + 1) + (2 * linear * relu + relu * relu) * second - inner * inner
    far = np.abs(mean) > 30 * safe  # there the activation is a line
    slope = np.where(mean > 0, linear + relu, linear)
    return (
        np.where(far, slope * mean, inner * deviation).astype(np.float64),
        (np.where(far, slope * slope, np.maximum(variance, 0)) * np.square(deviation)).astype(np.float64),
    )


def fit_mixture(X: np.ndarray, codes: np.ndarray, classes: np.ndarray, dtype: Any, rng: np.random.Generator) -> GaussianMixture:
    """Fit the mixture: principal subspace of a subsample, components by halving each class along its leading direction.

    Parameters
    ----------
    X : (N, D) floating or integer; read in tiles.
    codes : (N,) int64, index into ``classes``.
    classes : (C,) labels.
    dtype : of the weights that will be asked about.
    """
    return single_threaded_blas(lambda: _fit(X, codes, classes, dtype, rng))


def _fit(X: np.ndarray, codes: np.ndarray, classes: np.ndarray, dtype: Any, rng: np.random.Generator) -> GaussianMixture:
    count = np.bincount(codes, minlength=len(classes))
    rows = stratified_rows(codes, len(classes), FIT_ROWS, rng)
    centre, basis = _principal(X[np.sort(rng.choice(rows, min(PCA_ROWS, len(rows)), replace=False))].astype(dtype), rng)
    projected = np.concatenate(list(ordered_map(lambda tile, _: (X[tile].astype(dtype) - centre) @ basis, _tiles(rows), thread_count())))
    members: list[np.ndarray] = []
    first = []
    for c in range(len(classes)):
        mine = np.flatnonzero(codes[rows] == c)
        first.append(len(members))
        members += _halved(mine, projected, _components(len(mine)))

    def component(mine: np.ndarray, _: Stop) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        total, outside, squares = np.zeros((3, X.shape[1]))
        for tile in _tiles(mine):
            x = X[rows[tile]].astype(dtype) - centre
            total += x.sum(axis=0, dtype=np.float64)
            x -= projected[tile] @ basis.T
            outside += x.sum(axis=0, dtype=np.float64)
            squares += np.square(x, out=x).sum(axis=0, dtype=np.float64)
        own = projected[mine].astype(np.float64)
        own -= own.mean(axis=0)
        values, vectors = np.linalg.eigh(own.T @ own / len(mine))
        factor = np.sqrt(np.maximum(values, 0))[:, None] * vectors.T
        return centre + total / len(mine), factor, np.maximum(squares / len(mine) - np.square(outside / len(mine)), 0)

    parts = list(ordered_map(component, members, thread_count()))
    sizes = np.array([len(mine) for mine in members], np.float64)
    per_class = np.add.reduceat(sizes, first)
    share = sizes / np.repeat(per_class, np.diff([*first, len(members)]))
    means, factors, residual = (np.stack(part).astype(dtype) for part in zip(*parts, strict=True))
    return GaussianMixture(basis, means, factors, residual, share, np.array(first), classes, count)


def stratified_rows(codes: np.ndarray, n_classes: int, most: int, rng: np.random.Generator) -> np.ndarray:
    """Return row numbers, ascending: about ``most``, drawn from every class in proportion, at least 30 of each or all there are."""
    if len(codes) <= most:
        return np.arange(len(codes))
    order = np.argsort(codes, kind="stable")
    ends = np.cumsum(np.bincount(codes, minlength=n_classes))
    chosen = []
    for mine in np.split(order, ends[:-1]):
        wanted = min(len(mine), max(30, round(most * len(mine) / len(codes))))
        chosen.append(rng.choice(mine, wanted, replace=False))
    return np.sort(np.concatenate(chosen))


def rescaled(moments: ClassMoments, count: np.ndarray) -> ClassMoments:
    """Return a subsample's moments as estimates of the moments of ``count`` samples per class."""
    factor = np.maximum(count - 1, 0) / np.maximum(moments.count - 1, 1)
    return ClassMoments(moments.classes, count, moments.mean, moments.m2 * factor[:, None])


def _components(rows: int) -> int:
    number = 1
    while number < MAX_COMPONENTS and rows >= 2 * number * ROWS_PER_COMPONENT:
        number *= 2
    return number


def _principal(sample: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return the sample's mean (D,) and an orthonormal basis (D, r) of its leading directions, by subspace iteration."""
    centre = sample.mean(axis=0)
    sample = sample - centre
    D = sample.shape[1]
    width = min(D, len(sample), MAX_RANK + 16)
    basis = rng.standard_normal((D, width)).astype(sample.dtype)
    for _ in range(3):
        basis = np.linalg.qr(sample.T @ (sample @ basis))[0]
    inside = sample @ basis
    values, vectors = np.linalg.eigh(inside.T @ inside)
    captured = np.cumsum(values[::-1])
    rank = min(MAX_RANK, width, 1 + int(np.searchsorted(captured, EXPLAINED * float(np.square(sample).sum()))))
    return centre, np.ascontiguousarray(basis @ vectors[:, ::-1][:, :rank])


def _halved(mine: np.ndarray, projected: np.ndarray, parts: int) -> list[np.ndarray]:
    if parts == 1:
        return [mine]
    own = projected[mine] - projected[mine].mean(axis=0)
    along = own @ np.linalg.eigh(own.T @ own)[1][:, -1]
    halves = mine[along <= 0], mine[along > 0]
    if min(map(len, halves)) < ROWS_PER_COMPONENT:
        return [mine]
    return [part for half in halves for part in _halved(half, projected, parts // 2)]


def _tiles(rows: np.ndarray) -> list[np.ndarray]:
    return [rows[first : first + TILE_ROWS] for first in range(0, len(rows), TILE_ROWS)]
