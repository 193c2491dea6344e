"""Gram matrices of activations and targets, summed over blocks of samples: what a linear head is solved from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from nc_fast.inputs import checks
from nc_fast.inputs.arrays import Array, array_namespace, as_numpy, is_tensor, like
from nc_fast.inputs.draw import Drawn
from nc_fast.inputs.labels import classified
from nc_fast.inputs.sources import Block
from nc_fast.runtime.threads import Stop, Stopped, ordered_map, single_threaded_blas, thread_count

TILE_ROWS = 2048  # samples whose activations are multiplied at once, by one thread
EXACT_BELOW = 10  # samples per activation below which float32 is not enough for a Gram matrix that is nearly singular
FLOAT32_SQUARES = (1e-12, 1e12)  # activations whose squares, summed, float32 holds with room to spare


@dataclass(frozen=True, eq=False)
class Sums:
    """Weighted sums over samples, about their means; two are merged by :func:`merge_sums`."""

    weight: float  # of all samples
    mean: Array  # (k,) float64, of the activations
    target_mean: Array  # (C,) float64
    gram: Array  # (k, k) float64, of the centred activations
    cross: Array  # (k, C) float64, of the centred activations and targets


@dataclass(frozen=True, eq=False)
class Gram:
    """What a ridge head of any strength, on the first j activations for any j, is solved from.

    Attributes
    ----------
    weight : number
        Sum of the samples' weights; their number where they have none.
    mean, target_mean : (k,), (C,) float64
        Of the activations and of the targets (one-hot where there are labels).
    gram, cross : (k, k), (k, C) float64
        Products of the centred activations with themselves and with the centred targets, summed over the samples.
    classes : (C,) labels, or None with float targets
    rows : (n, k) activations, (n, C) targets and (n,) weights
        Of up to 5000 samples, by whose leave-one-out errors the strength is chosen.

    Notes
    -----
    Float32 activations are multiplied in float32, 2048 samples at a time, and summed in float64.
    """

    weight: float
    mean: np.ndarray
    target_mean: np.ndarray
    gram: np.ndarray
    cross: np.ndarray
    classes: np.ndarray | None
    rows: tuple[np.ndarray, np.ndarray, np.ndarray]

    def take(self, j: int) -> Gram:
        """Return the matrices of the first j activations."""
        j = checks.count("j", j, len(self.mean), of="activations")
        Z, T, weights = self.rows
        return replace(self, mean=self.mean[:j], gram=self.gram[:j, :j], cross=self.cross[:j], rows=(Z[:, :j], T, weights))


def targets_of(y: np.ndarray, own: np.ndarray, drawn: Drawn) -> np.ndarray:
    """Return (n, C) float64 targets: y itself, or one-hot of y, indices into ``own``, over all classes of the first reading."""
    if y.shape[1:] != drawn.y.shape[1:]:
        first, again = (f"{part.shape[1]} float targets" if part.ndim > 1 else "labels" for part in (drawn.y, y))
        raise ValueError(f"y: expected {first} as at the first reading, got {again}")
    classes = drawn.classes
    if not len(classes):
        return y
    columns = np.searchsorted(classes, own.astype(classes.dtype))
    if not np.array_equal(classes.take(columns, mode="clip"), own):
        raise ValueError(f"y: expected the labels of the first reading, {classes.tolist()}, got {own.tolist()}")
    one_hot = np.zeros((len(y), len(classes)))
    one_hot[np.arange(len(y)), columns[y]] = 1.0
    return one_hot


def needs_float64(Z: Array, size: int) -> bool:
    """Whether float32 is not enough to multiply activations of ``size`` samples, judged by those drawn, Z (n, k)."""
    largest = as_numpy(array_namespace(Z).amax(abs(Z), 0))
    least, most = FLOAT32_SQUARES
    return size < EXACT_BELOW * len(largest) or bool(((largest > 0) & (largest < least) | (largest > most)).any())


def stream_gram(
    blocks: Iterable[tuple[Array, Block]], drawn: Drawn, weights: np.ndarray | None = None, rows: np.ndarray | None = None
) -> Gram:
    """Return the Gram matrix over blocks of activations and the samples they are of.

    Parameters
    ----------
    blocks : of activations (n, k) and samples, whose y counts.
    drawn : X is activations (n, k) of samples drawn from all of them, whose leave-one-out errors will be averaged.
    weights : (N,) of all samples; None for ones.
    rows : (n,) which of them were drawn; with weights.
    """
    total: Sums | None = None
    exact, first = needs_float64(drawn.X, drawn.size), 0
    for Z, block in blocks:
        T = targets_of(block.y, block.classes, drawn)
        own = None if weights is None else weights[first : first + block.size]
        total = add_samples(total, like(drawn.X, Z), T, own, exact=exact)
        first += block.size
    assert total is not None
    if weights is None and total.weight != drawn.size:
        raise ValueError(f"Z: expected the same {drawn.size} samples at the second reading, got {int(total.weight)}")
    return gram_of(total, drawn, "Z, T", None if weights is None else weights[rows])


def gram_of(total: Sums, drawn: Drawn, names: str, weights: np.ndarray | None = None) -> Gram:
    """Return the sums over all samples as what is solved, with the activations of those drawn."""
    codes, own = classified(drawn.y)
    T = targets_of(codes, own, drawn)
    kept = (as_numpy(drawn.X), T, np.ones(len(T)) if weights is None else weights)
    mean, target_mean, gram, cross = (as_numpy(array) for array in (total.mean, total.target_mean, total.gram, total.cross))
    checks.no_overflow(float(max(np.abs(gram).max(), np.abs(cross).max())), names)
    return Gram(total.weight, mean, target_mean, gram, cross, drawn.classes if len(drawn.classes) else None, kept)


@single_threaded_blas
def add_samples(total: Sums | None, Z: Array, T: np.ndarray, weights: np.ndarray | None, *, exact: bool) -> Sums | None:
    """Return the sums with more samples; None while there are none of any weight. ``exact``: multiply in float64."""
    xp = array_namespace(Z)

    def sums(rows: slice, stop: Stop) -> Sums | None:
        if stop.is_set():
            raise Stopped
        z, t = Z[rows], like(Z, T[rows])
        weight, share = float(len(z)), None
        if weights is not None:
            weight = float(weights[rows].sum())
            if not weight:
                return None
            share = like(Z, weights[rows] / weight)
        mean, target_mean = (_mean(array, share) for array in (z, t))
        dtype = xp.float64 if exact else z.dtype
        z = xp.asarray(z, dtype=dtype) - xp.asarray(mean, dtype=dtype)
        t = xp.asarray(t - target_mean, dtype=dtype)  # centred in float64: targets may be far from 0
        if share is not None:
            root = xp.asarray(xp.sqrt(share * weight), dtype=dtype)[:, None]
            z, t = z * root, t * root
        gram, cross = (xp.asarray(product, dtype=xp.float64) for product in (z.T @ z, z.T @ t))
        return Sums(weight, mean, target_mean, gram, cross)

    spans = [slice(first, first + TILE_ROWS) for first in range(0, len(Z), TILE_ROWS)]
    on_host = not is_tensor(Z) or Z.device.type == "cpu"
    for found in ordered_map(sums, spans, thread_count() if on_host else 1):
        if found:
            total = found if total is None else merge_sums(total, found)
    return total


def _mean(array: Array, share: Array | None) -> Array:
    xp = array_namespace(array)
    return array.mean(0, dtype=xp.float64) if share is None else share @ xp.asarray(array, dtype=xp.float64)


def merge_sums(a: Sums, b: Sums) -> Sums:
    """Return the sums over both sets of samples; writes on those of a. Chan, Golub and LeVeque (1979)."""
    weight = a.weight + b.weight
    delta, target_delta = b.mean - a.mean, b.target_mean - a.target_mean
    between = delta * (a.weight * b.weight / weight)
    for mine, theirs, difference in ((a.gram, b.gram, delta), (a.cross, b.cross, target_delta)):
        mine += theirs
        mine += between[:, None] * difference
    share = b.weight / weight
    return Sums(weight, a.mean + delta * share, a.target_mean + target_delta * share, a.gram, a.cross)
