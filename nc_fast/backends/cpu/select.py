"""The selection stage on the CPU: the C++ greedy loop, on as many threads as the process's BLAS has."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from nc_fast._projector import greedy_select
from nc_fast.runtime.threads import thread_count
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
    W : (D, M) float32 or float64, any memory layout, columns are candidates.
    score : (M,) float64.
    group : (M,) int64, the group each candidate competes in; -1: not eligible.
    quota : (G,) int64, picks per group, at most its members.
    given : (n,) int64, distinct candidates of groups: the first picks of each group, in their order, at most its quota.
    report : called with (picks done, picks in all) now and then, and at the end.
    """
    return Picks(*greedy_select(W, score, group, quota, given=given, threads=thread_count(), report=report))
