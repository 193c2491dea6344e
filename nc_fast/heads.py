"""Linear heads on activations: ridge regression from a streamed Gram matrix, its strength by leave-one-out in closed form."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np

from nc_fast.gram import TILE_ROWS, Gram, stream_gram
from nc_fast.inputs import checks
from nc_fast.inputs.arrays import Array, as_numpy, like, take_rows
from nc_fast.inputs.convert import warn_of_other_order
from nc_fast.inputs.draw import Drawn, draw
from nc_fast.inputs.labels import IGNORE_INDEX, classified
from nc_fast.inputs.left_out import LeftOut
from nc_fast.inputs.sources import Batches, Block, chosen
from nc_fast.inputs.targets import batches_read_twice, labels_or_targets
from nc_fast.inputs.targets import sample_weight as checked_weights
from nc_fast.runtime.threads import Stop, Stopped, ordered_map, single_threaded_blas, thread_count
from nc_fast.tolerances import RANK_TOLERANCE

__all__ = ["Gram", "RidgeHead", "ridge_head"]

LOO_ROWS = 5000  # samples whose leave-one-out errors are averaged, at most
RIDGES = 10.0 ** np.arange(2, -8.1, -0.5)  # tried from the strongest, which wins a tie
LOO_TILE = 512  # samples whose errors for all strengths are computed at once, by one thread
RANK_FLOOR = 1e-12  # an eigenvalue below this share of the largest is rounding noise
LEVERAGE_GAP = 1e-12  # 1 - leverage is never taken as less


@dataclass(frozen=True, eq=False)
class RidgeHead:
    """A linear layer on activations: ``Z @ weights + intercept``.

    Attributes
    ----------
    weights : (k, C) float64
    intercept : (C,) float64
    classes : (C,) labels, or None with float targets
        The class each output stands for.
    ridge : float
        The strength, in units of the mean squared deviation of an activation.
    scale : (k,) float64
        What activations were divided by.
    loo_error : float
        Mean over samples of the squared error of the head that was fitted without the sample, summed over outputs.
    gram : Gram
        What it was solved from.
    """

    weights: Array
    intercept: Array
    classes: np.ndarray | None
    ridge: float
    scale: np.ndarray
    loo_error: float
    gram: Gram


def ridge_head(
    Z: Array | Gram | Iterable[tuple[Array, Array]],
    T: Array | None = None,
    *,
    ridge: float | str = "loo",
    standardize: bool = True,
    sample_weight: Array | None = None,
    ignore_index: int | str | Sequence[int | str] | None = IGNORE_INDEX,
) -> RidgeHead:
    """Fit a linear head on activations by ridge regression.

    Activations are centred, and divided by their standard deviations, before the weights are penalised, and the head is given
    for them as they came; constant ones get weight 0, the intercept is not penalised.

    Parameters
    ----------
    Z : (N, k) floating; or, with ``T=None``, an iterable of (Z, T) batches, or a :class:`Gram`
        Read in tiles: a memory map is never held.
    T : (N,) or (N, 1) integer, boolean or string labels, or (N,) or (N, C) float targets
        Labels become one-hot targets.
    ridge : "loo" or float >= 0, default "loo"
        "loo" takes, out of 1e-8 to 1e2 in half decades, the strength with the least leave-one-out error.
    standardize : bool, default True
        False divides all activations by the root of their mean variance instead: those that hardly vary are then penalised
        more and get no large weights, as a layer that is trained afterwards wants it.
    sample_weight : (N,) numbers >= 0, optional
        A sample of weight 2 counts like two samples.
    ignore_index : label, sequence of labels or None, default -100
        Samples of these labels are left out, with their weights; float targets never are. Where the default leaves some out,
        a warning says so.

    Returns
    -------
    RidgeHead
        ``weights`` (k, C), ``intercept`` (C,), in the library and on the device of Z.

    Raises
    ------
    TypeError, ValueError
        For arguments of the wrong kind or value, before any work; a bad batch is named by its number. Missing labels, several
        labels a sample and labels of several kinds are among them, and ``ignore_index`` that leaves none.

    Notes
    -----
    Source: Hoerl and Kennard, "Ridge regression", 1970; leave-one-out residuals (t - z'b) / (1 - h) by Allen, "The
    relationship between variable selection and data augmentation and a method for prediction", 1974. With more than 5000
    samples the errors of 5000, drawn at random, are averaged.

    Examples
    --------
    >>> import numpy as np, nc_fast
    >>> Z = np.array([[0.0, 5.0], [1.0, 5.0], [2.0, 5.0], [3.0, 5.0]])  # the second activation is constant
    >>> head = nc_fast.ridge_head(Z, np.array([1.0, 3.0, 5.0, 7.0]), ridge=0.0)
    >>> head.weights.round(6).tolist(), head.intercept.round(6).tolist()
    ([[2.0], [0.0]], [1.0])
    """
    strength, standardize = ridge_strength(ridge), checks.flag("standardize", standardize)
    left_out = LeftOut(checks.ignore_index(ignore_index))
    if isinstance(Z, Gram):
        if T is not None or sample_weight is not None:
            raise TypeError("T, sample_weight: expected None with a Gram, which has them, got values")
        return solve(Z, strength, standardize=standardize)
    if T is None:
        if sample_weight is not None:
            raise TypeError("sample_weight: expected None with batches, got values")
        source = Batches(batches_read_twice("Z", "T", Z), _checked_alike(), targets=True, names=("Z", "T"), left_out=left_out)
        drawn = draw(source.blocks(0, TILE_ROWS), LOO_ROWS, seed=0)
        assert drawn, "batches of no samples are refused where they are read"
        return solve(
            stream_gram(((block.X, block) for block in source.blocks(0, 8 * TILE_ROWS)), drawn), strength, drawn.X, standardize=standardize
        )
    warn_of_other_order("Z", Z, "T", T)
    Z = _checked(Z)
    y = labels_or_targets("T", T, Z.shape[0], targets=True)
    kept = left_out.kept(y)
    weights = None if sample_weight is None else checked_weights(sample_weight, Z.shape[0], kept)
    left_out.tell("T", 0 if kept is None else len(y) - len(kept), len(y))
    y = take_rows(y, kept)
    whole = Block(checks.finite_rows("Z", Z, None), *classified(y)) if kept is None else chosen("Z", Z, y, kept)
    counted = np.arange(whole.size) if weights is None else np.flatnonzero(weights)
    numbers = draw([Block(counted[:, None], whole.y[counted], whole.classes)], LOO_ROWS, seed=0)
    assert numbers
    rows = numbers.X[:, 0]
    drawn = Drawn(take_rows(Z, rows if kept is None else kept[rows]), numbers.y, numbers.keys, numbers.classes, numbers.size)
    pieces = whole.blocks(0, whole.size if isinstance(whole, Block) else 8 * TILE_ROWS)
    return solve(stream_gram(((block.X, block) for block in pieces), drawn, weights, rows), strength, Z, standardize=standardize)


def ridge_strength(value: object) -> float | None:
    """Check the strength of a head; None stands for the one of the least leave-one-out error."""
    if isinstance(value, str):
        checks.choice("ridge", value, ("loo",))
        return None
    return checks.non_negative("ridge", value)


@single_threaded_blas
def solve(gram: Gram, ridge: float | None, template: object = None, *, standardize: bool = True) -> RidgeHead:
    """Return the head of a strength, or of the one with the least leave-one-out error; in the library of ``template``."""
    Z, T, weights = gram.rows
    scale = np.sqrt(np.maximum(gram.gram.diagonal(), 0.0) / gram.weight)
    live = scale > RANK_TOLERANCE * np.maximum(np.abs(gram.mean), scale)
    if not standardize:
        scale = np.full_like(scale, np.sqrt(np.mean(scale**2)))
    inverse_scale = np.where(live, 1.0 / np.where(live, scale, 1.0), 0.0)
    if len(Z) < len(scale) and weights.sum() == gram.weight:  # these are all samples, fewer than activations
        spread = (Z - gram.mean) * inverse_scale * np.sqrt(weights / gram.weight)[:, None]
        _, singular, basis = np.linalg.svd(spread, full_matrices=False)
        eigenvalue, vectors = singular[::-1] ** 2, basis[::-1].T
    else:
        eigenvalue, vectors = np.linalg.eigh(gram.gram * (inverse_scale[:, None] * inverse_scale / gram.weight))
        eigenvalue = np.maximum(eigenvalue, 0.0)
    vectors = vectors * inverse_scale[:, None]  # from here on they take activations as they came
    projected = vectors.T @ (gram.cross / gram.weight)
    ridges = RIDGES if ridge is None else np.array([ridge])
    shrunk = eigenvalue + ridges[:, None]
    inverse = np.where(shrunk > eigenvalue[-1:] * RANK_FLOOR, 1.0 / np.where(shrunk > 0, shrunk, 1.0), 0.0)  # (R, k)

    def squared_errors(rows: slice, stop: Stop) -> np.ndarray:
        if stop.is_set():
            raise Stopped
        z = (Z[rows] - gram.mean) @ vectors
        leverage = weights[rows, None] * (1.0 + (z * z) @ inverse.T) / gram.weight  # (n, R)
        t = T[rows] - gram.target_mean
        residual = np.stack([((t - z @ (inverse[r, :, None] * projected)) ** 2).sum(axis=1) for r in range(len(ridges))], axis=1)
        errors: np.ndarray = weights[rows] @ (residual / np.maximum(1.0 - leverage, LEVERAGE_GAP) ** 2)
        return errors

    spans = [slice(first, first + LOO_TILE) for first in range(0, len(Z), LOO_TILE)]
    errors = reduce(np.add, ordered_map(squared_errors, spans, thread_count())) / weights.sum()
    best = int(np.argmin(errors))
    coefficients = vectors @ (inverse[best, :, None] * projected)
    intercept = gram.target_mean - gram.mean @ coefficients
    return RidgeHead(
        like(template, coefficients), like(template, intercept), gram.classes, float(ridges[best]), scale, float(errors[best]), gram
    )


@single_threaded_blas
def loo_predictions(head: RidgeHead) -> np.ndarray:
    """Return (n, C): what the head, fitted without a sample, predicts for it, for each of the samples in ``gram.rows``.

    The head's strength has to be above 0.
    """
    gram = head.gram
    Z, T, weights = gram.rows
    penalised = gram.gram / gram.weight + head.ridge * np.diag(np.where(head.scale > 0, head.scale**2, 1.0))
    z = np.linalg.solve(np.linalg.cholesky(penalised), (Z - gram.mean).T)
    leverage = weights[:, None] * (1.0 + (z * z).sum(axis=0)[:, None]) / gram.weight
    residual = T - (Z @ as_numpy(head.weights) + as_numpy(head.intercept))
    predictions: np.ndarray = T - residual / np.maximum(1.0 - leverage, LEVERAGE_GAP)
    return predictions


def _checked(Z: Any) -> Array:
    return checks.float_matrix("Z", Z, half=False, form="(N, k)")


def _checked_alike() -> Callable[[Any], Array]:
    """Return a check of batches, which are all of as many activations as the first."""
    widths: list[int] = []

    def checked(Z: Any) -> Array:
        Z = _checked(Z)
        widths.append(Z.shape[1])
        if Z.shape[1] != widths[0]:
            raise ValueError(f"Z: expected {widths[0]} activations as in the first batch, got {Z.shape[1]}")
        return Z

    return checked
