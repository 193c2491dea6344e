"""Greedy null-space selection, literally: the definition that every backend is tested against. NumPy, float64."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from nc_fast.tolerances import RANK_TOLERANCE, least_tied
from nc_fast.types import Picks


def select(
    W: np.ndarray,
    score: np.ndarray,
    group: np.ndarray,
    quota: np.ndarray,
    *,
    given: np.ndarray | None = None,
    report: Callable[[int, int], None] | None = None,
) -> Picks:
    """Pick ``quota[g]`` candidates from every group g, greedily, in the null space of what the group has picked.

    Parameters
    ----------
    W : (D, M) float, columns are candidates.
    score : (M,) float64.
    group : (M,) int64, the group each candidate competes in; -1: not eligible.
    quota : (G,) int64, picks per group, at most its members.
    given : (n,) int64, distinct candidates of groups: the first picks of each group, in their order, at most its quota.
    report : called with (picks done, picks in all) after every group.
    """
    first_picks = np.zeros(0, np.int64) if given is None else given
    indices, gains, restarts = [], [], 0
    for g, picks in enumerate(quota):
        members = np.flatnonzero(group == g)
        prescribed = np.searchsorted(members, first_picks[group[first_picks] == g])
        span = Span(W[:, members])
        left = np.ones(len(members), dtype=bool)
        for n in range(picks):
            restarts += span.restart_if_exhausted(left)
            value = np.where(left, gain(score[members], span.ratios()), -np.inf)
            pick = prescribed[n] if n < len(prescribed) else lowest_tied(value, left)
            indices.append(members[pick])
            gains.append(value[pick])
            left[pick] = False
            span.add(pick)
        if report:
            report(len(indices), int(quota.sum()))
    return Picks(np.array(indices, dtype=np.int64), np.array(gains, dtype=np.float64), restarts)


def lowest_tied(value: np.ndarray, left: np.ndarray) -> int:
    """Return the lowest index among the gains that are left and tied with the best of them; at -inf all are."""
    return int(np.argmax(left & (value >= least_tied(value.max()))))


class Span:
    """The span of a group's picks, and what every member keeps outside it."""

    def __init__(self, W: np.ndarray) -> None:
        self._units = unit_columns(W)
        self._empty()

    def _empty(self) -> None:
        self._residual = self._units.copy()
        self._basis = np.zeros((len(self._units), 0))

    def ratios(self) -> np.ndarray:
        """Return every member's ratio; at most RANK_TOLERANCE is rounding noise and counts as 0."""
        norm = np.linalg.norm(self._residual, axis=0)
        return np.where(norm > RANK_TOLERANCE, norm, 0.0)

    def restart_if_exhausted(self, left: np.ndarray) -> bool:
        """Empty the span when no member that is left keeps anything outside it; return whether that happened."""
        exhausted = self._basis.size > 0 and not self.ratios()[left].any()
        if exhausted:
            self._empty()
        return exhausted

    def add(self, member: int) -> None:
        """Add a member; one with ratio 0 adds nothing."""
        if self.ratios()[member] == 0:
            return
        q = self._residual[:, member]
        q = q - self._basis @ (self._basis.T @ q)  # orthogonalised a second time: twice is enough
        q /= np.linalg.norm(q)
        self._residual -= np.outer(q, q @ self._residual)
        self._basis = np.column_stack([self._basis, q])


def unit_columns(W: np.ndarray, dtype: npt.DTypeLike = np.float64) -> np.ndarray:
    """Return the columns of W at length 1; a zero column stays zero."""
    W = W.astype(dtype)
    tiny = np.finfo(W.dtype).tiny
    W /= np.maximum(np.abs(W).max(axis=0), tiny)  # squares neither over- nor underflow
    units: np.ndarray = W / np.maximum(np.linalg.norm(W, axis=0), tiny)
    return units


def gain(score: np.ndarray, ratio: np.ndarray) -> np.ndarray:
    """Return score * ratio where score >= 0, else score / ratio (-inf at ratio 0); the two broadcast."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):  # mostly where the product counts, not the quotient
        return np.asarray(np.where(score >= 0, score * ratio, score / ratio))
