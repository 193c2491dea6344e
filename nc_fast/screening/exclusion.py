"""What the greedy selection would have asked of a candidate it did not see: geometry of the picks, no samples.

A candidate left out is picked exactly if at some step its gain reaches the gain of the step's pick. Its ratio at that step
depends on weights only and is known, so every (candidate, group) has an exact threshold for its score.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from nc_fast.runtime.threads import Stop, Stopped
from nc_fast.tolerances import RANK_TOLERANCE

BLOCK_COLUMNS = 2048
SINGLE_FROM = 64  # dimensions: ratios do not come near 0, where float32 would round them away
STEPS_LOOKED_AT = 128  # of a long path, when contenders are compared under many weights
FOREMOST = 16  # of a group at each of them: nobody else comes first under weights that are nearly the same


@dataclass(frozen=True, eq=False)
class Path:
    """The picks of one group in order, and the spans they left.

    Attributes
    ----------
    picks : (T,) columns.
    gains : (T,), at the moment of picking.
    bases : of every stretch between restarts, the orthonormal (D, n) that its n picks span, in order.
    """

    picks: np.ndarray
    gains: np.ndarray
    bases: list[np.ndarray]

    @staticmethod
    def of(picks: np.ndarray, gains: np.ndarray, W: np.ndarray) -> Path:
        """Rebuild the spans from the picks' weights W (D, T)."""
        unit = _unit_columns(W)
        bases: list[np.ndarray] = []
        while unit.shape[1]:
            basis, triangle = np.linalg.qr(unit[:, : len(unit)])
            # The diagonal holds what a pick had left outside of the span before it: nothing, and the selection began anew.
            spent = np.flatnonzero(np.abs(np.diag(triangle)[1:]) <= RANK_TOLERANCE)
            n = int(spent[0]) + 1 if len(spent) else basis.shape[1]
            bases.append(basis[:, :n])
            unit = unit[:, n:]
        return Path(picks, gains, bases or [unit])

    def ratios(self, W: np.ndarray) -> np.ndarray:
        """Return (T, n): the ratio of every column of W just before every pick."""
        W = _unit_columns(W)
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

        ``weights`` gives the (D, m) weights of some columns.
        """
        found = np.empty(len(columns))
        gains = self.gains[:, None]
        for first in range(0, len(columns), BLOCK_COLUMNS):
            if stop.is_set():
                raise Stopped
            block = slice(first, first + BLOCK_COLUMNS)
            ratio = self.ratios(weights(columns[block]))
            with np.errstate(divide="ignore"):
                found[block] = np.where(gains > 0, gains / ratio, gains * ratio).min(axis=0)
        return found

    @property
    def lowest(self) -> float:
        """A threshold that holds for every candidate: no gain exceeds its score."""
        return float(self.gains.min()) if len(self.gains) else np.inf


def share_displaced(path: Path, picked: tuple[np.ndarray, np.ndarray], others: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Return (n,) bool: under which of n scorings somebody else would be picked.

    Parameters
    ----------
    picked, others : weights (D, T) and scores (n, T) of the picks; (D, U) and (n, U) of the contenders known exactly.
    """
    (W_picked, s_picked), (W_others, s_others) = picked, others
    steps = np.unique(np.linspace(0, len(path.picks) - 1, STEPS_LOOKED_AT).astype(int))
    own, foreign = path.ratios(W_picked)[steps], path.ratios(W_others)[steps]
    # Order among the picks may change freely: at each step the best pick still to come defends.
    to_come = np.arange(len(path.picks)) >= steps[:, None]
    defenders = _foremost(np.where(to_come, _gain(s_picked[0], own), -np.inf))
    contenders = _foremost(_gain(s_others[0], foreign))

    def best(score: np.ndarray, ratio: np.ndarray, columns: np.ndarray) -> np.ndarray:
        return _gain(score[:, columns], np.take_along_axis(ratio, columns, axis=1))

    defence = np.where(np.take_along_axis(to_come, defenders, axis=1), best(s_picked, own, defenders), -np.inf).max(axis=2)
    return np.asarray((best(s_others, foreign, contenders).max(axis=2, initial=-np.inf) > defence).any(axis=1))


def _foremost(gain: np.ndarray) -> np.ndarray:
    """Return (S, n): of each row (S, T) the columns of the largest, unordered."""
    n = min(FOREMOST, gain.shape[1])
    return np.argpartition(-gain, max(n - 1, 0), axis=1)[:, :n] if n else np.empty((len(gain), 0), int)


def _gain(score: np.ndarray, ratio: np.ndarray) -> np.ndarray:
    if (score >= 0).all():
        return np.asarray(score * ratio)
    with np.errstate(divide="ignore"):
        return np.asarray(np.where(score >= 0, score * ratio, score / ratio))


def _unit_columns(W: np.ndarray) -> np.ndarray:
    W = W.astype(np.float32 if W.dtype == np.float32 and len(W) >= SINGLE_FROM else np.float64)
    largest = np.abs(W).max(axis=0)
    W /= np.where(largest > 0, largest, 1)
    length = np.linalg.norm(W, axis=0)
    return np.asarray(W / np.where(length > 0, length, 1))
