"""Candidates of one pool and their gains against the pool's span: exact where they decide, bounds elsewhere."""

from __future__ import annotations

import numpy as np

from nc_fast._projector import NullSpaceProjector
from nc_fast.backends.reference.select import gain
from nc_fast.tolerances import least_tied

REFRESHED = 8  # candidates whose gains are brought up to date at once: a call costs as much as some of them


class Span:
    """The span of a pool's picks, and how often it has changed."""

    def __init__(self, dim: int) -> None:
        self._projector = NullSpaceProjector(dim)
        self.step = 0

    @property
    def is_empty(self) -> bool:
        """Whether nothing has been picked since the start or the last restart."""
        return self._projector.rank == 0

    def add(self, w: np.ndarray) -> None:
        """Add a picked candidate."""
        rank = self._projector.rank
        self._projector.add(np.ascontiguousarray(w))
        self.step += self._projector.rank > rank

    def restart(self) -> None:
        """Empty the span."""
        self._projector.reset()
        self.step += 1

    def ratios(self, W: np.ndarray) -> np.ndarray:
        """Return the ratio of every column."""
        return self._projector.ratios(W)


class Members:
    """Candidates with their scores; ``bound`` is never below the gain, and is the gain where it is fresh.

    Parameters
    ----------
    span : of the pool's picks; changed by the owner.
    W : (D, m) float32 or float64, columns are candidates, others among them.
    columns : (n,) int64, where in W the members are.
    score : (n,) float64.
    index : (n,) int64, numbers in the whole pool, ascending.
    """

    def __init__(self, span: Span, W: np.ndarray, columns: np.ndarray, score: np.ndarray, index: np.ndarray) -> None:
        self._span = span
        self._W = W
        self.columns, self.score, self.index = columns, score, index
        self.left = np.ones(len(index), bool)
        self.restart()

    def restart(self) -> None:
        """Forget all gains: the span was emptied."""
        self._bound = self.score.copy()  # a ratio is at most 1, and score / ratio falls as the ratio does
        self._alive = np.ones(len(self.index), bool)
        self._fresh = np.full(len(self.index), -1)

    @property
    def n_left(self) -> int:
        """How many are left."""
        return int(self.left.sum())

    def any_alive(self) -> bool:
        """Whether any that is left has a part outside the span."""
        while True:
            alive = np.flatnonzero(self.left & self._alive)
            stale = alive[self._fresh[alive] < self._span.step]
            if len(stale) < len(alive):
                return True
            if not len(stale):
                return False
            self._refresh(stale[:REFRESHED])

    def best(self, n: int) -> np.ndarray:
        """Return the rows of the n largest gains, all of them exact, largest first; fewer where fewer are left."""
        while True:
            rows = np.flatnonzero(self.left)
            if n < len(rows):
                rows = rows[np.argpartition(-self._bound[rows], n - 1)[:n]]
            stale = rows[self._fresh[rows] < self._span.step]
            if not len(stale):
                return rows[np.lexsort((rows, -self._bound[rows]))]
            self._refresh(stale)

    def gain(self, row: int) -> float:
        """Return a row's gain."""
        if self._fresh[row] < self._span.step:
            self._refresh(np.array([row]))
        return float(self._bound[row])

    def inherit(self, other: Members) -> None:
        """Take over what others, some of the same candidates, know of themselves."""
        rows = np.searchsorted(self.index, other.index)
        for mine, theirs in zip(self._state(), other._state(), strict=True):
            mine[rows] = theirs

    def _state(self) -> tuple[np.ndarray, ...]:
        return self.left, self._bound, self._alive, self._fresh

    def largest(self) -> float:
        """Return the largest gain, -inf where none is left."""
        row = self.best(1)
        return self.gain(int(row[0])) if len(row) else -np.inf

    def tied(self, best: float) -> np.ndarray:
        """Return the rows left whose gain is tied with ``best``, by ascending index; all of them when that is not finite."""
        if not np.isfinite(best):
            return np.flatnonzero(self.left)
        while True:
            rows = np.flatnonzero(self.left & (self._bound >= least_tied(best)))
            stale = rows[self._fresh[rows] < self._span.step]
            if not len(stale):
                return rows
            self._refresh(stale[:REFRESHED])

    def _refresh(self, rows: np.ndarray) -> None:
        ratio = self._span.ratios(self._W[:, self.columns[rows]])
        self._bound[rows] = gain(self.score[rows], ratio)
        self._alive[rows] = ratio > 0
        self._fresh[rows] = self._span.step
