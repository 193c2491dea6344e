"""Surrogate moments: what a candidate's class moments should be, at a cost that does not depend on the number of samples.

Every surrogate is a function of column numbers -> ClassMoments of those columns, with the counts of the whole data, so that
a criterion applies to it as to exact moments.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from math import pi, sqrt
from typing import Any

import numpy as np

from nc_fast.activations import ACTIVATIONS, LEAKY_SLOPE
from nc_fast.runtime.threads import Stop, Stopped, ordered_map, thread_count
from nc_fast.types import ClassMoments

Activation = str | Callable[[Any], Any]

MAX_RANK = 96
FACTORS = 24  # per component: less error than whole covariances of rank 64 had, for less arithmetic
EXPLAINED = 0.995  # of the variance: beyond it a principal direction changes no score
MAX_COMPONENTS = 4  # per class: halves the error of a single Gaussian on MNIST; 8 gain another 10 %
ROWS_PER_COMPONENT = 100  # fewer do not give a covariance
PCA_ROWS = 4096
PCA_TILE_ROWS = 1024
FIT_ROWS = 1 << 14  # that covariances are fitted to; the means of the classes are those of all samples
TILE_ROWS = 2048
BLOCK_COLUMNS = 512
SLAB_COLUMNS = 16 * BLOCK_COLUMNS
QUADRATURE_NODES = 20
SUBSAMPLE_ROWS = 1500
NODE_FLOPS = 60  # of an activation at a quadrature node
CLOSED_FORM_FLOPS = 300
FIXED_FLOPS = 2e10  # the time of what screening does whatever the pool, a tenth of a second or two
CDF_ARGUMENT = 0.2316419
CDF_SERIES = (1.330274429, -1.821255978, 1.781477937, -0.356563782, 0.319381530)
LINEAR_PLUS_RELU = {"identity": (1.0, 0.0), "relu": (0.0, 1.0), "leaky_relu": (LEAKY_SLOPE, 1 - LEAKY_SLOPE)}


@dataclass(frozen=True, eq=False)
class GaussianMixture:
    """Every class as a few Gaussians, each with a covariance of a few factors in a common principal subspace plus a diagonal.

    A projection of high-dimensional data is nearly normal within a component (central limit theorem), so a candidate's
    pre-activation has a known mean and variance per component, and the activation's moments follow in closed form
    (identity, relu, leaky_relu) or by Gauss-Hermite quadrature.
    """

    basis: np.ndarray  # (D, r), orthonormal
    means: np.ndarray  # (P, D), component means
    factors: np.ndarray  # (P, q, r): factors[p].T @ factors[p] is the leading part of the covariance within the basis
    residual: np.ndarray  # (P, D), what the factors leave of each feature's variance
    share: np.ndarray  # (P,), the component's part of its class
    first: np.ndarray  # (C,), each class's first component
    classes: np.ndarray  # (C,) labels
    count: np.ndarray  # (C,), samples

    def moments(self, W: np.ndarray, bias: np.ndarray, activation: Activation) -> ClassMoments:
        """Return the surrogate moments of the columns of W."""
        M, dtype = W.shape[1], self.basis.dtype
        P, q, r = self.factors.shape
        mean, m2 = np.empty((2, len(self.classes), M))
        directions = np.concatenate([self.basis.T, self.means])  # (r + P, D): one product is faster than two narrow ones

        def slab(first: int, stop: Stop) -> None:
            # What is allocated anew for every block costs more in page faults than in arithmetic.
            square, inside = (np.empty((rows, BLOCK_COLUMNS), dtype) for rows in (len(self.basis), P * q))
            last = min(first + SLAB_COLUMNS, M)
            for start in range(first, last, BLOCK_COLUMNS):
                if stop.is_set():
                    raise Stopped
                where = slice(start, min(start + BLOCK_COLUMNS, last))
                n = where.stop - start
                w = W[:, where].astype(dtype, copy=False)
                product = directions @ w
                within = np.matmul(self.factors.reshape(P * q, r), product[:r], out=inside[:, :n]).reshape(P, q, n)
                variance = np.einsum("pqm,pqm->pm", within, within) + self.residual @ np.square(w, out=square[:, :n])
                mean[:, where], variance = self._of_classes(*activated(product[r:] + bias[where].astype(dtype), variance, activation))
                np.multiply(variance, self.count[:, None], out=m2[:, where])

        for _ in ordered_map(slab, range(0, M, SLAB_COLUMNS), thread_count()):
            pass
        return ClassMoments(self.classes, self.count, mean, m2)

    def _of_classes(self, mean: np.ndarray, variance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and variance (C, n) of the classes from those of their components (P, n), by the law of total variance."""
        share = self.share[:, None]
        class_mean = np.add.reduceat(share * mean, self.first, axis=0)
        owner = np.repeat(np.arange(len(self.first)), np.diff(np.append(self.first, len(mean))))
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
    safe = np.maximum(deviation, np.finfo(mean.dtype).tiny)
    t = np.clip(mean / safe, -30, 30)  # beyond, the normal tail is 0 in any precision
    pdf = np.exp(-0.5 * t * t) * mean.dtype.type(1 / sqrt(2 * pi))
    cdf = _normal_cdf(t, pdf)
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


def _normal_cdf(t: np.ndarray, pdf: np.ndarray) -> np.ndarray:
    """Return the normal distribution function, to 7.5e-8, from its density (Abramowitz and Stegun, 1964, 26.2.17).

    A tenth of the time of scipy.special.ndtr, which was a quarter of the surrogate's.
    """
    u = 1 / (1 + CDF_ARGUMENT * np.abs(t))
    tail = np.zeros_like(u)
    for coefficient in CDF_SERIES:
        tail += coefficient
        tail *= u
    tail *= pdf
    return np.asarray(np.where(t > 0, 1 - tail, tail))


def fit_mixture(X: np.ndarray, codes: np.ndarray, classes: np.ndarray, dtype: Any, rng: np.random.Generator) -> GaussianMixture:
    """Fit the mixture: principal subspace of a subsample, components by halving each class along its leading direction.

    X (N, D), floating or integer, is read in tiles; ``dtype`` is that of the weights that will be asked about.
    """
    count = np.bincount(codes, minlength=len(classes))
    rows = stratified_rows(codes, len(classes), FIT_ROWS, rng)
    centre, basis = _principal(X[np.sort(rng.choice(rows, min(PCA_ROWS, len(rows)), replace=False))].astype(dtype), rng)
    projected = np.concatenate(list(ordered_map(lambda tile, _: (X[tile].astype(dtype) - centre) @ basis, _tiles(rows), thread_count())))

    def of_class(c: int, stop: Stop) -> list[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
        """Return rows, mean, factors and residual variances of each of its components."""
        mine = np.flatnonzero(codes[rows] == c)
        halvings = int(np.log2(np.clip(len(mine) // ROWS_PER_COMPONENT, 1, MAX_COMPONENTS)))
        return [component(part, stop) for part in _halved(mine, projected, halvings)]

    def component(mine: np.ndarray, stop: Stop) -> tuple[int, np.ndarray, np.ndarray, np.ndarray]:
        total, squares = np.zeros((2, X.shape[1]))
        for tile in _tiles(mine):
            if stop.is_set():
                raise Stopped
            x = X[rows[tile]].astype(dtype) - centre
            total += x.sum(axis=0)
            squares += np.square(x, out=x).sum(axis=0)
        own = projected[mine] - projected[mine].mean(axis=0)
        values, vectors = np.linalg.eigh(own.T @ own / len(mine))
        leading = slice(None, -FACTORS - 1, -1)
        factors = np.sqrt(np.maximum(values[leading], 0))[:, None] * vectors[:, leading].T
        variance = squares / len(mine) - np.square(total / len(mine))
        residual = np.maximum(variance - np.square(basis @ factors.T).sum(axis=1), 0)
        return len(mine), centre + total / len(mine), factors, residual

    parts = list(ordered_map(of_class, range(len(classes)), thread_count()))
    parts_of = np.array([len(of) for of in parts])
    first = np.cumsum(parts_of) - parts_of
    sizes, means, factors, residual = (np.stack(values) for values in zip(*chain.from_iterable(parts), strict=True))
    share = sizes / np.repeat(np.add.reduceat(sizes, first), parts_of)
    class_means = _class_means(X, codes, len(classes), dtype)
    means += np.repeat(class_means - np.add.reduceat(share[:, None] * means, first, axis=0), parts_of, axis=0)
    means, factors, residual = (part.astype(dtype) for part in (means, factors, residual))
    return GaussianMixture(basis, means, factors, residual, share, first, classes, count)


def _class_means(X: np.ndarray, codes: np.ndarray, n_classes: int, dtype: Any) -> np.ndarray:
    """Return (C, D) float64."""

    def sums(tile: slice, _: Stop) -> np.ndarray:
        of_class = np.equal.outer(np.arange(n_classes), codes[tile]).astype(dtype)
        return np.asarray(of_class @ X[tile].astype(dtype, copy=False))

    tiles = (slice(first, first + TILE_ROWS) for first in range(0, len(X), TILE_ROWS))
    total = sum(ordered_map(sums, tiles, thread_count()), np.zeros((n_classes, X.shape[1])))
    return np.asarray(total / np.bincount(codes, minlength=n_classes)[:, None])


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


def _principal(sample: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return the sample's mean (D,) and an orthonormal basis (D, r) of its leading directions, by subspace iteration."""
    centre = sample.mean(axis=0)
    sample = sample - centre
    D = sample.shape[1]
    width = min(D, len(sample), MAX_RANK + 16)
    basis = rng.standard_normal((D, width)).astype(sample.dtype)
    tiles = np.array_split(sample, -(-len(sample) // PCA_TILE_ROWS))

    def scatter(basis: np.ndarray) -> np.ndarray:
        """Return the sample's scatter matrix times the basis."""
        return np.asarray(sum(ordered_map(lambda tile, _: tile.T @ (tile @ basis), tiles, thread_count())))

    for _ in range(3):
        basis = np.linalg.qr(scatter(basis))[0]
    values, vectors = np.linalg.eigh(basis.T @ scatter(basis))
    captured = np.cumsum(values[::-1])
    rank = min(MAX_RANK, width, 1 + int(np.searchsorted(captured, EXPLAINED * float(np.square(sample).sum()))))
    return centre, np.ascontiguousarray(basis @ vectors[:, ::-1][:, :rank])


def _halved(mine: np.ndarray, projected: np.ndarray, halvings: int) -> list[np.ndarray]:
    """Return parts of these rows, halved so many times along their leading direction, or fewer where a half gets too small."""
    if halvings == 0:
        return [mine]
    own = projected[mine] - projected[mine].mean(axis=0)
    along = own @ np.linalg.eigh(own.T @ own)[1][:, -1]
    halves = mine[along <= 0], mine[along > 0]
    if min(map(len, halves)) < ROWS_PER_COMPONENT:
        return [mine]
    return [part for half in halves for part in _halved(half, projected, halvings - 1)]


def _tiles(rows: np.ndarray) -> list[np.ndarray]:
    return [rows[first : first + TILE_ROWS] for first in range(0, len(rows), TILE_ROWS)]


def mixture_cost(N: int, D: int, M: int, count: np.ndarray, activation: Activation) -> float:
    """Return what fitting and asking the mixture, and looking at the pool, cost in exact columns."""
    rank = min(MAX_RANK, D)
    components = int(np.clip(count // ROWS_PER_COMPONENT, 1, MAX_COMPONENTS).sum())
    elementwise = CLOSED_FORM_FLOPS if activation in LINEAR_PLUS_RELU else QUADRATURE_NODES * NODE_FLOPS
    fit = 2 * N * D * len(count) + 3 * min(N, FIT_ROWS) * D * rank
    ask = M * (2 * D * (rank + 2 * components) + components * (2 * FACTORS * rank + elementwise))
    return float((FIXED_FLOPS + fit + ask) / (N * (2 * D + NODE_FLOPS)))
