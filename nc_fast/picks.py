"""What a backend's pursuit returns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nc_fast.inputs.arrays import Array


@dataclass(frozen=True, eq=False)
class PursuitPicks:
    """The picks of a pursuit, in order.

    Attributes
    ----------
    indices : (k,) int64
        Candidates; those that fill up beyond the rank last.
    gains : (k,) float64
        Gain of each pick at the moment it was picked; 0 beyond the rank.
    explained : (k,) float64
        Share of the targets' squares that the first picks up to each account for.
    kept : int
        Candidates that competed: all of them, or those of the largest first gains where the activations of all do not fit.
    filled : int
        Picks beyond the rank.
    """

    indices: Array
    gains: Array
    explained: Array
    kept: int
    filled: int


def filled(picks: np.ndarray, k: int) -> np.ndarray:
    """Return the picks, and after them the first others of the pool, up to k."""
    return np.concatenate([picks, np.setdiff1d(np.arange(k), picks)[: k - len(picks)]])
