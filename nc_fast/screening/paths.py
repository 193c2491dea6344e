"""What the greedy selection picks, step by step, and the score from which it would have picked somebody else.

A candidate left out is picked exactly if at some step its gain reaches the gain of the step's pick. Its ratio at that step
depends on weights only and is known, so every (candidate, group) has an exact threshold for its score.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from nc_fast.backends.reference.select import gain, unit_columns
from nc_fast.runtime.threads import Stop, Stopped, ordered_map, thread_count
from nc_fast.screening.estimates import Estimates
from nc_fast.screening.evidence import Evidence
from nc_fast.tolerances import RANK_TOLERANCE

BLOCK_COLUMNS = 2048
SINGLE_FROM = 64  # dimensions: ratios do not come near 0, where float32 would round them away
FIRST_GUESS = 3  # times the quota: how many of a group take part in the first, predicted selection


@dataclass(frozen=True, eq=False)
class Path:
    """The picks of one group in order, and the spans they left."""

    quota: int  # picks wanted; there are fewer where the group lacks candidates
    picks: np.ndarray  # (T,) columns
    gains: np.ndarray  # (T,), at the moment of picking
    bases: list[np.ndarray]  # of every stretch between restarts, the orthonormal (D, n) that its n picks span, in order

    @staticmethod
    def of(quota: int, picks: np.ndarray, gains: np.ndarray, W: np.ndarray) -> Path:
        """Rebuild the spans from the picks' weights W (D, T)."""
        unit = _units(W)
        bases: list[np.ndarray] = []
        while unit.shape[1]:
            basis, triangle = np.linalg.qr(unit[:, : len(unit)])
            # The diagonal holds what a pick had left outside of the span before it: nothing, and the selection began anew.
            spent = np.flatnonzero(np.abs(np.diag(triangle)[1:]) <= RANK_TOLERANCE)
            n = int(spent[0]) + 1 if len(spent) else basis.shape[1]
            bases.append(basis[:, :n])
            unit = unit[:, n:]
        return Path(quota, picks, gains, bases or [unit])

    @property
    def complete(self) -> bool:
        """Whether there are as many picks as wanted."""
        return len(self.picks) == self.quota

    @property
    def lowest(self) -> float:
        """A threshold that holds for every candidate: no gain exceeds its score."""
        if not self.complete:
            return -np.inf
        return float(self.gains.min()) if len(self.gains) else np.inf

    def ratios(self, W: np.ndarray) -> np.ndarray:
        """Return (T, n): the ratio of every column of W just before every pick."""
        W = _units(W)
        parts = []
        for basis in self.bases:
            taken = basis.T.astype(W.dtype, copy=False) @ W
            np.square(taken, out=taken)
            left = np.subtract(W.dtype.type(1), np.cumsum(taken, axis=0)[:-1])
            parts += [np.ones((1, W.shape[1]), W.dtype), np.sqrt(np.maximum(left, 0, out=left), out=left)]
        ratio = np.concatenate(parts)
        ratio[ratio <= RANK_TOLERANCE] = 0
        return ratio

    def thresholds(self, columns: np.ndarray, weights: Callable[[np.ndarray], np.ndarray], stop: Stop) -> np.ndarray:
        """Return (n,): the score from which each column would have been picked instead of one of the picks.

        ``weights`` gives the (D, m) weights of some columns. While picks are lacking, everybody is picked.
        """
        thresholds = np.full(len(columns), -np.inf)
        for first in range(0, len(columns) if self.complete else 0, BLOCK_COLUMNS):
            if stop.is_set():
                raise Stopped
            block = slice(first, first + BLOCK_COLUMNS)
            # The score that has gain g: g / ratio where g > 0, else g * ratio. That is the gain's formula with both signs turned.
            thresholds[block] = -gain(-self.gains[:, None], self.ratios(weights(columns[block]))).max(axis=0)
        return thresholds


def provisional_paths(evidence: Evidence, estimates: Estimates, quota: np.ndarray, *, predicted: bool) -> list[Path]:
    """Run the backend's selection on the candidates known; if ``predicted``, on the best predicted ones of every group too."""
    known, live, competes_in, problem = evidence.known, estimates.live, estimates.competes_in, evidence.problem
    takes_part = known & live
    if predicted:
        for g, wanted in enumerate(quota):
            mine = np.flatnonzero(live & (competes_in == g) & ~known)
            best = np.argsort(-estimates.score[mine], kind="stable")
            takes_part[mine[best[: FIRST_GUESS * int(wanted) + 8]]] = True
    columns = np.flatnonzero(takes_part)
    group = competes_in[columns]
    asked = np.minimum(quota, np.bincount(group, minlength=len(quota)))
    W = problem.weights(columns)
    picks = problem.pick(W, estimates.score[columns], group, asked)
    indices, gains = (np.split(np.asarray(part), np.cumsum(asked)[:-1]) for part in (picks.indices, picks.gains))

    def path(g: int, _: Stop) -> Path:
        return Path.of(int(quota[g]), columns[indices[g]], gains[g], W[:, indices[g]])

    return list(ordered_map(path, range(len(asked)), thread_count()))


def _units(W: np.ndarray) -> np.ndarray:
    return unit_columns(W, np.float32 if W.dtype == np.float32 and len(W) >= SINGLE_FROM else np.float64)
