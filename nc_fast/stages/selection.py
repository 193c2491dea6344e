"""The selection stage bound to scores: quotas for the live candidates, the greedy loop, dead candidates to fill up."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from nc_fast.backends.registry import Backend
from nc_fast.inputs.arrays import as_numpy, like
from nc_fast.quota import share_quota
from nc_fast.runtime.progress import Report
from nc_fast.types import Array, Picks, Scores, Selection

Greedy = Callable[..., Picks]


def select(
    backend: Backend,
    W: Array,
    scores: Scores,
    k: int,
    by_class: bool,
    report: Report | None,
    greedy: Greedy | None = None,
) -> Selection:
    """Pick k candidates; ``greedy`` replaces the backend's loop."""
    live = as_numpy(scores.live) & nonzero_columns(W)
    group = as_numpy(scores.group)
    pool = np.where(live, group if by_class else 0, -1)
    quota = scores.quota
    if quota is None:
        quota = share_quota(np.bincount(pool[live], minlength=len(scores.classes)), min(k, int(live.sum())))
    elif k != quota.sum() or len(quota) != (len(scores.classes) if by_class else 1):
        raise ValueError(
            f"k, by_class: expected what the scores were screened for, {quota.sum()} picks in {len(quota)} groups, got {k}, {by_class}"
        )
    place = backend.place
    picks = (greedy or backend.select)(place(W, W), place(W, scores.score), place(W, pool), place(W, quota), report=report)
    indices, gains = as_numpy(picks.indices), as_numpy(picks.gains)
    if len(indices) < k:
        filled = np.flatnonzero(~live)[: k - len(indices)]
        warn_of_dead(k, len(indices), stacklevel=4)
        indices, gains = np.append(indices, filled), np.append(gains, np.zeros(len(filled)))
    return Selection(
        indices=like(W, indices),
        scores=like(W, as_numpy(scores.score)[indices]),
        gains=like(W, gains),
        groups=labels_like(W, scores.classes[group[indices]]),
        restarts=picks.restarts,
    )


def warn_of_dead(k: int, n_live: int, stacklevel: int) -> None:
    """Say that dead candidates fill up."""
    warnings.warn(
        f"k = {k} exceeds the {n_live} live candidates; {k - n_live} dead ones (zero weights, or the same activation on "
        "every sample) fill up, lowest index first",
        stacklevel=stacklevel,
    )


def labels_like(W: Array, labels: np.ndarray) -> Any:
    """Return labels in the library of W, where it has such: torch has no strings."""
    return labels if labels.dtype.kind in "US" else like(W, labels)


def nonzero_columns(W: Array) -> np.ndarray:
    """Return (M,) bool: which columns have a weight that is not 0; reads on only where all so far were 0."""
    nonzero = as_numpy(W[0] != 0).copy()
    for row in W[1:]:
        if nonzero.all():
            break
        nonzero |= as_numpy(row != 0)
    return nonzero
