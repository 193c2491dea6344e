"""What a result has to be, worked out independently of the library: NumPy float64 and long double, one step at a time.

Tolerances are a-priori bounds of the arithmetic that docs/numerics.md states, not differences that were once observed.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from test_moments import DEFINITIONS

from nc_fast.inputs.arrays import as_numpy
from nc_fast.quota import share_quota
from nc_fast.testing import CLEAR_GAP, GAIN_TOLERANCE, SURE_TIE
from nc_fast.tolerances import RANK_TOLERANCE
from nc_fast.types import ClassMoments, Scores

LIPSCHITZ = 1.2  # of every activation in the table
GPU_DIGITS = 2.0**-20  # two float16 hold 22 bits of an operand
DENORMALS = 8  # roundings among denormal numbers that a few operations may add up
FEW_DIGITS = 1e-150  # of deviations: squares below are denormal, and smaller ones vanish
NEAR_RANK = (0.5, 2.0)  # a ratio this close to RANK_TOLERANCE may count as 0 or not
ERROR = re.compile(r"^(batch \d+: )?[\w ,']+: expected [^\n]+$")


def assert_documented(error: BaseException) -> None:
    """Raise unless the error is of the one form: TypeError or ValueError, one line, argument, expected, got."""
    assert type(error) in (TypeError, ValueError), f"{type(error).__name__}: {error}"
    assert ERROR.match(str(error)), f"not of the form of errors: {error!s}"


@contextmanager
def unchanged(*arguments: Any) -> Iterator[None]:
    """Numbers may overflow, with NumPy's own warning, and dead candidates be picked; inputs are the same bytes afterwards."""
    before = [argument.snapshot() for argument in arguments]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "(overflow|invalid value) encountered", RuntimeWarning)
        warnings.filterwarnings("ignore", "k = .* live candidates", UserWarning)
        yield
    assert [argument.snapshot() for argument in arguments] == before, "an input was changed"


class Activations:
    """The (N, M) activations in float64, and how far an implementation in the data's precision may be off."""

    def __init__(self, W: np.ndarray, X: np.ndarray, bias: Any, activation: str, backend: str) -> None:
        dtype = np.result_type(W, X) if X.dtype.kind == "f" else W.dtype
        digits = np.finfo(np.float64).eps if backend == "reference" or dtype == np.float64 else np.finfo(np.float32).eps
        if backend == "gpu" and dtype != np.float64:
            digits = GPU_DIGITS
        W, X, bias = W.astype(np.float64), X.astype(np.float64), np.broadcast_to(np.asarray(bias, np.float64), W.shape[1])
        with np.errstate(all="ignore"):
            z = X @ W + bias
            size = np.abs(X).max(axis=0) @ np.abs(W) + np.abs(bias)  # (M,) no term of any sum is larger
            self.z = DEFINITIONS[activation](z)
            working = np.finfo(np.float64 if backend == "reference" else dtype)
            smallest = DENORMALS * float(working.smallest_subnormal) * max(len(W), 1)
            self.error = LIPSCHITZ * ((len(W) + 12) * digits * size + smallest * (1 + np.abs(X).max() + np.abs(W).max()))
            if activation not in ("identity", "relu", "leaky_relu"):
                self.error += 12 * digits * (activation in ("sigmoid", "softplus"))
            # Squares and cubes of what comes up stay in range: otherwise an overflow is what docs/numerics.md promises.
            most = float(working.max) ** (1 / 3 if activation == "gelu_tanh" else 1 / 2)
            room = len(X) * np.square(size, dtype=np.longdouble).max() < np.finfo(np.float64).max / 16
            self.fits = bool(
                room and size.max() < most / 16 and np.isfinite(size).all() and max(np.abs(X).max(), np.abs(W).max()) < most / 16
            )


def assert_moments(found: ClassMoments, given: Activations, y: np.ndarray) -> None:
    """Raise unless these are the class moments of the activations."""
    classes, codes = np.unique(y, return_inverse=True)
    assert found.classes.dtype.isnative
    np.testing.assert_array_equal(found.classes, classes)
    count, mean, m2 = (as_numpy(array) for array in (found.count, found.mean, found.m2))
    assert (count.dtype, mean.dtype, m2.dtype) == (np.int64, np.float64, np.float64)
    assert mean.shape == m2.shape == (len(classes), given.z.shape[1])
    np.testing.assert_array_equal(count, np.bincount(codes))
    assert not (m2 < 0).any()
    if not given.fits:
        return
    z, error = given.z.astype(np.longdouble), given.error + 1e-14 * np.abs(given.z).max(axis=0)
    tiny = np.finfo(np.float64).tiny
    for c in range(len(classes)):
        own = z[codes == c]
        exact = own.mean(axis=0)
        squares = np.square(own - exact).sum(axis=0)
        assert (np.abs(mean[c] - exact) <= error + tiny).all(), f"mean of class {c}: {mean[c]} for {exact}, allowed {error}"
        slack = (
            2 * error * (2 * np.sqrt(squares * len(own)) + 2 * error * len(own)) + 1e-5 * squares * (error > 1e-9 * np.abs(exact)) + tiny
        )
        assert (np.abs(m2[c] - squares) <= slack + 1e-9 * squares).all(), f"m2 of class {c}: {m2[c]} for {squares}, allowed {slack}"


def assert_scores(found: Scores, moments: ClassMoments, alpha: float) -> None:
    """Raise unless these are the scores of the moments, by docs/algorithm.md in long double."""
    count, mean, m2 = (as_numpy(array).astype(np.longdouble) for array in (moments.count, moments.mean, moments.m2))
    score, group, live = (as_numpy(array) for array in (found.score, found.group, found.live))
    assert (score.dtype, group.dtype, live.dtype) == (np.float64, np.int64, np.bool_)
    np.testing.assert_array_equal(found.classes, moments.classes)
    np.testing.assert_array_equal(group, mean.argmax(axis=0))
    middle = (count[:, None] * mean).sum(axis=0) / count.sum()
    total = (m2 + count[:, None] * np.square(mean - middle)).sum(axis=0)
    spread = np.sqrt(total / max(count.sum() - 1, 1))
    constant = ~m2.any(axis=0) & (mean == mean[0]).all(axis=0)
    assert not live[constant].any(), "a candidate that never changes counts as live"
    # Squares below the smallest float64 vanish: what differs by less than that counts as constant.
    assert live[(spread > FEW_DIGITS) & (spread > 1e-13 * np.abs(mean).max(axis=0))].all(), "a candidate that changes counts as dead"
    expected, doubt = alpha * _unit(spread), 1e-9
    if alpha < 1:
        within = np.sqrt(m2 / np.maximum(count - 1, 1)[:, None]).mean(axis=0)
        apart = mean - mean[0]
        between = np.sqrt(np.square(apart - apart.mean(axis=0)).sum(axis=0) / (len(mean) - 1))
        rounding = 1e-14 * float(np.abs(mean).max() / between.max()) if between.any() else 0.0
        difference = _unit(between) - _unit(within)
        length = np.sqrt(np.square(difference).sum())
        doubt += (1e-10 + rounding) / max(float(length), 1e-300)
        expected = expected + (1 - alpha) * _unit(difference)
        if any(0 < v.max() < FEW_DIGITS for v in (within, between)):
            doubt = np.inf
    largest = np.abs(mean).max()
    if spread.max() > FEW_DIGITS and spread.max() > 1e-9 * largest and doubt < 1:  # otherwise rounding is all there is
        np.testing.assert_allclose(score, expected.astype(float), rtol=0, atol=doubt)
    assert np.isfinite(score).all()


def _unit(v: np.ndarray) -> np.ndarray:
    largest = np.abs(v).max()
    if largest == 0:
        return v
    v = v / largest
    return v / np.sqrt(np.square(v).sum())


class NullSpace:
    """What every column keeps outside the span of those added, in long double, by Gram and Schmidt, twice each."""

    def __init__(self, W: np.ndarray) -> None:
        W = W.astype(np.longdouble)
        W = W / np.where(W.any(axis=0), np.abs(W).max(axis=0), 1)
        self.units = W / np.maximum(np.sqrt(np.square(W).sum(axis=0)), np.finfo(np.longdouble).tiny)
        self.basis: list[np.ndarray] = []

    def residuals(self) -> np.ndarray:
        """(D, M), of the columns at length 1."""
        left = self.units.copy()
        for _ in range(2):
            for q in self.basis:
                left -= np.outer(q, q @ left)
        return left

    def ratios(self) -> tuple[np.ndarray, bool]:
        """Return the ratios, and whether one of them is so near to the rank tolerance that it may count as 0 or not."""
        ratio = np.sqrt(np.square(self.residuals()).sum(axis=0)).astype(float)
        near = (ratio > NEAR_RANK[0] * RANK_TOLERANCE) & (ratio < NEAR_RANK[1] * RANK_TOLERANCE)
        return np.where(ratio > RANK_TOLERANCE, ratio, 0.0), bool(near.any())

    def add(self, column: int) -> None:
        """Add a column; one inside the span adds nothing."""
        if self.ratios()[0][column] > 0:
            q = self.residuals()[:, column]
            self.basis.append(q / np.sqrt(np.square(q).sum()))


def assert_selection(found: Any, W: np.ndarray, scores: Scores, k: int, by_class: bool) -> None:
    """Raise unless every pick, replayed one by one, is the rule's choice, and the dead come last."""
    score, group = as_numpy(scores.score), as_numpy(scores.group)
    indices, gains = as_numpy(found.indices), as_numpy(found.gains)
    assert (indices.dtype, gains.dtype, as_numpy(found.scores).dtype) == (np.int64, np.float64, np.float64)
    assert indices.shape == gains.shape == (k,)
    assert len(set(indices.tolist())) == k, "a candidate is picked twice"
    np.testing.assert_array_equal(as_numpy(found.scores), score[indices])
    np.testing.assert_array_equal(as_numpy(found.groups), scores.classes[group[indices]])
    live = as_numpy(scores.live) & W.any(axis=0)
    pool = np.where(live, group if by_class else 0, -1)
    quota = share_quota(np.bincount(pool[live], minlength=len(scores.classes)), min(k, int(live.sum())))
    done = restarts = 0
    sure = True
    for p, picks in enumerate(quota):
        members = np.flatnonzero(pool == p)
        restarted, certain = _replay(members, W, score, indices[done : done + picks], gains[done : done + picks])
        restarts, sure, done = restarts + restarted, sure and certain, done + picks
    assert not sure or found.restarts == restarts, f"expected {restarts} restarts, got {found.restarts}"
    np.testing.assert_array_equal(indices[done:], np.flatnonzero(~live)[: k - done])
    assert not gains[done:].any()


def _replay(members: np.ndarray, W: np.ndarray, score: np.ndarray, indices: np.ndarray, gains: np.ndarray) -> tuple[int, bool]:
    space, left, restarts = NullSpace(W[:, members]), np.ones(len(members), bool), 0
    for index, got in zip(indices, gains, strict=True):
        assert index in members, f"{index} is picked for another group"
        ratio, doubtful = space.ratios()
        if doubtful:
            return restarts, False
        if space.basis and not ratio[left].any():
            space.basis.clear()
            ratio, restarts = space.ratios()[0], restarts + 1
        own = score[members]
        with np.errstate(all="ignore"):
            gain = np.where(own >= 0, own * ratio, own / ratio)
        gain, best, pick = np.where(left, gain, -np.inf), gain[left].max(), int(np.searchsorted(members, index))
        assert left[pick], "a candidate is picked twice"
        slack = np.finfo(np.float64).smallest_subnormal * DENORMALS
        if not np.isfinite(best):
            assert pick == np.argmax(left), "expected the lowest index among equals"
        else:
            assert gain[pick] >= best - CLEAR_GAP * abs(best) - slack, f"pick {index}: gain {gain[pick]}, {best} was to be had"
            if gain[pick] >= best - SURE_TIE * abs(best):
                assert pick == np.argmax(gain >= best - SURE_TIE * abs(best)) or abs(best) < 1e-300, "expected the lowest index among ties"
            np.testing.assert_allclose(got, gain[pick], rtol=GAIN_TOLERANCE, atol=slack)
        left[pick] = False
        space.add(pick)
    return restarts, True
