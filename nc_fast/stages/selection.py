"""The selection stage: quotas for the live candidates, the greedy loop, dead candidates to fill up."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from nc_fast.backends.registry import Backend
from nc_fast.inputs.arrays import Array, as_numpy, like
from nc_fast.quota import share_quota_beside
from nc_fast.runtime.caller import warn_caller
from nc_fast.runtime.progress import Report
from nc_fast.types import Picks, Scores, Selection

Greedy = Callable[..., Picks]


def select(
    backend: Backend,
    W: Array,
    scores: Scores,
    k: int,
    by_class: bool,
    report: Report | None,
    greedy: Greedy | None = None,
    given: np.ndarray | None = None,
) -> Selection:
    """Pick k candidates beside those ``given``, (n,) int64; ``greedy`` replaces the backend's loop, where none are."""
    live, group = eligible(W, scores, by_class)
    given = np.zeros(0, np.int64) if given is None else given
    spanning = given[live[given]]
    quota = scores.quota
    if quota is None:
        sizes, have = (np.bincount(group[of], minlength=len(scores.classes)) for of in (live, spanning))
        quota = share_quota_beside(sizes, have, min(k + len(spanning), int(live.sum())))
    elif len(given):
        raise ValueError("given: expected none with scores of a screened campaign, which hold for its own k picks alone")
    elif k != quota.sum() or len(quota) != (len(scores.classes) if by_class else 1):
        raise ValueError(
            f"k, by_class: expected what the scores were screened for, {quota.sum()} picks in {len(quota)} groups, got {k}, {by_class}"
        )
    put = backend.put
    loop = greedy or partial(backend.select, given=put(spanning))
    picks = loop(put(W), put(scores.score), put(group), put(quota), report=report)
    indices, gains = as_numpy(picks.indices), as_numpy(picks.gains)
    if len(spanning):
        new = ~np.isin(indices, spanning)
        indices, gains = indices[new], gains[new]
    if len(indices) < k:
        filled = fill_up_with_dead(live, k, len(indices), given)
        indices, gains = np.append(indices, filled), np.append(gains, np.zeros(len(filled)))
    return Selection(
        indices=like(W, indices),
        scores=like(W, as_numpy(scores.score)[indices]),
        gains=like(W, gains),
        groups=labels_like(W, scores.classes[as_numpy(scores.group)[indices]]),
        restarts=picks.restarts,
    )


def eligible(W: Array, scores: Scores, by_class: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return which candidates are live (M,), and the group each competes in (M,), -1 for the dead."""
    live = as_numpy(scores.live) & nonzero_columns(W)
    return live, np.where(live, as_numpy(scores.group) if by_class else 0, -1)


def fill_up_with_dead(live: np.ndarray, k: int, n_live: int, given: np.ndarray | tuple[()] = ()) -> np.ndarray:
    """Return the lowest dead candidates, none of those given, that k takes beyond the ``n_live`` to be picked, and say so."""
    beside = " beside the given" if len(given) else ""
    warn_caller(
        f"k = {k} exceeds the {n_live} live candidates{beside}; {k - n_live} dead ones (zero weights, or the same activation on "
        "every sample) fill up, lowest index first"
    )
    return np.setdiff1d(np.flatnonzero(~live), given)[: k - n_live]


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
