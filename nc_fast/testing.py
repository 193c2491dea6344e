"""Named cases, tolerances and comparers, shared by tests and benchmarks; for authors of backends too.

Comparers raise AssertionError. Moments have an error budget: what plain NumPy in the data's own precision loses, plus
``TOLERANCE``. Picks must be the reference's where its gap is clear; elsewhere they are replayed in the reference, every
gain within ``CLEAR_GAP`` of the best at its step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nc_fast.backends.reference.moments import class_moments as reference_moments
from nc_fast.backends.reference.select import Span, gain
from nc_fast.inputs.arrays import as_numpy
from nc_fast.types import ClassMoments, Picks

__all__ = ["CASES", "Case", "assert_moments_match", "assert_picks_follow_rules"]

TOLERANCE = {"float64": 1e-12, "float32": 2e-6}  # relative to the scale of the activations
CLEAR_GAP = 1e-6  # gains closer than this, relative, may come out either way on a fast backend
SURE_TIE = 1e-10  # gains closer than this, relative, are tied on every backend: the lowest index must win
GAIN_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Case:
    """A problem size: N samples, D features, M candidates, C classes, k picks."""

    name: str
    N: int
    D: int
    M: int
    C: int
    k: int

    def draw(self, rng: np.random.Generator, dtype: Any = np.float64) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return random W (D, M), X (N, D) with class structure, and y (N,) in which every class occurs."""
        y = rng.permutation(np.arange(self.N) % self.C)
        X = rng.normal(size=(self.N, self.D)) + rng.normal(size=(self.C, self.D))[y]
        return rng.normal(size=(self.D, self.M)).astype(dtype), X.astype(dtype), y


CASES = (
    Case("round", 256, 16, 64, 4, 16),
    Case("primes", 317, 13, 101, 7, 31),
    Case("one row a class", 5, 3, 11, 5, 4),
    Case("one feature", 40, 1, 9, 2, 4),
    Case("one candidate", 30, 4, 1, 3, 1),
    Case("more picks than features", 60, 3, 40, 3, 30),
    Case("every candidate", 50, 8, 20, 2, 20),
    Case("several tiles and blocks", 2500, 5, 1900, 3, 12),
)
"""Problem sizes at which backends go wrong: odd shapes beside round ones."""


def assert_moments_match(found: ClassMoments, W: Any, X: Any, codes: np.ndarray, *, bias: Any = 0.0, activation: Any = "relu") -> None:
    """Raise unless ``found`` are the moments of the float64 reference within the data's error budget."""
    W, X = as_numpy(W), as_numpy(X)
    bias = np.broadcast_to(np.asarray(bias, np.float64), W.shape[1:])
    exact = reference_moments(W, X, codes, found.classes, bias=bias, activation=activation)
    dtype = np.result_type(W, X) if X.dtype.kind == "f" else W.dtype
    rounded = (X.astype(dtype) @ W).astype(np.float64) - X.astype(np.float64) @ W.astype(np.float64)
    scale = np.abs(X.astype(np.float64) @ W.astype(np.float64) + bias).max(axis=0)
    budget = np.abs(rounded).max(axis=0) + TOLERANCE[dtype.name] * scale + np.finfo(np.float64).tiny
    count = as_numpy(exact.count)
    np.testing.assert_array_equal(as_numpy(found.count), count)
    mean_error = np.abs(as_numpy(found.mean) - exact.mean)
    assert (mean_error <= budget).all(), f"mean off by {(mean_error / budget).max():.3g} budgets"
    # Each deviation may be off by twice the budget of one activation.
    slack = 2 * budget * (2 * np.sqrt(exact.m2 * count[:, None]) + 2 * budget * count[:, None])
    m2_error = np.abs(as_numpy(found.m2) - exact.m2)
    assert (m2_error <= slack + TOLERANCE[dtype.name] * exact.m2).all(), f"m2 off by {m2_error.max():.3g}"


def assert_picks_follow_rules(picks: Picks, W: Any, score: Any, group: Any, quota: Any, given: Any = None) -> None:
    """Raise unless every pick, replayed in the reference, is given or the rule's choice at its step, ties included."""
    W, score, group, quota = (as_numpy(array) for array in (W, score, group, quota))
    first_picks = np.zeros(0, np.int64) if given is None else as_numpy(given)
    indices, gains = as_numpy(picks.indices), as_numpy(picks.gains)
    assert len(indices) == len(gains) == quota.sum(), f"expected {quota.sum()} picks, got {len(indices)}"
    assert len(np.unique(indices)) == len(indices), "a candidate is picked twice"
    restarts, done = 0, 0
    for g, n in enumerate(quota):
        members = np.flatnonzero(group == g)
        prescribed = first_picks[group[first_picks] == g]
        left = np.ones(len(members), dtype=bool)
        span = Span(W[:, members])
        for step in range(done, done + n):
            assert group[indices[step]] == g, f"pick {step} is not in group {g}"
            pick = int(np.searchsorted(members, indices[step]))
            restarts += span.restart_if_exhausted(left)
            value = np.where(left, gain(score[members], span.ratios()), -np.inf)
            if step - done < len(prescribed):
                assert indices[step] == prescribed[step - done], f"pick {step}: expected {prescribed[step - done]}, which is given"
            else:
                _assert_rule(value, left, pick, step)
            if np.isfinite(value[pick]):
                np.testing.assert_allclose(gains[step], value[pick], rtol=GAIN_TOLERANCE, atol=1e-12, err_msg=f"gain of pick {step}")
            left[pick] = False
            span.add(pick)
        done += n
    assert picks.restarts == restarts, f"expected {restarts} restarts, got {picks.restarts}"


def _assert_rule(value: np.ndarray, left: np.ndarray, pick: int, step: int) -> None:
    best = value.max()
    if not np.isfinite(best):  # every member left has gain -inf: all are tied
        assert pick == np.argmax(left), f"pick {step}: expected the lowest index among equals"
        return
    short = best - value[pick]
    assert short <= CLEAR_GAP * abs(best), f"pick {step}: gain {value[pick]:.9g}, but {best:.9g} was to be had"
    if short <= SURE_TIE * abs(best):
        tied = left & (value >= best - SURE_TIE * abs(best))
        assert pick == np.argmax(tied), f"pick {step}: expected the lowest index among ties"
