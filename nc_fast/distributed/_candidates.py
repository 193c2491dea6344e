"""A campaign whose candidates are spread over ranks: moments local, norms of the score over all, one greedy selection."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from nc_fast.criteria import Criterion, apply_criterion, scores_of
from nc_fast.distributed._greedy import Shard, ShardedGreedy
from nc_fast.distributed._merge import gather_candidates
from nc_fast.distributed._ranks import Ranks, count_selection
from nc_fast.inputs import checks
from nc_fast.inputs.arrays import as_numpy, is_tensor
from nc_fast.quota import share_quota
from nc_fast.runtime.progress import Report
from nc_fast.stages.selection import nonzero_columns, warn_of_dead
from nc_fast.types import Array, ClassMoments, Scores


@dataclass(frozen=True, eq=False)
class Picked:
    """The picks, in NumPy: (D, k) weights and (k,) of everything else, index in the whole pool."""

    weights: np.ndarray
    bias: np.ndarray
    indices: np.ndarray
    scores: np.ndarray
    gains: np.ndarray
    groups: np.ndarray
    restarts: int


def score(ranks: Ranks, moments: ClassMoments, widths: list[int], alpha: float, criterion: Criterion | None) -> Scores:
    """Return the scores of this rank's candidates; a criterion of the user's sees the whole pool's moments."""
    if criterion is None:
        return scores_of(moments, alpha, lambda v: _unit(ranks, v))
    whole = apply_criterion(criterion, gather_candidates(ranks, moments, widths))
    mine = slice(sum(widths[: ranks.rank]), sum(widths[: ranks.rank + 1]))
    return Scores(whole.score[mine], whole.group[mine], whole.live[mine], whole.classes)


def select(
    ranks: Ranks,
    W: Array,
    bias: np.ndarray,
    scores: Scores,
    k: int,
    by_class: bool,
    first: int,
    report: Report | None,
) -> Picked:
    """Pick k candidates of the whole pool; ``first`` is the number of this rank's first one in it."""
    columns = _host(W)
    score, group = as_numpy(scores.score), as_numpy(scores.group)
    checks.finite("scores", score)
    live = as_numpy(scores.live) & nonzero_columns(columns)
    pool = np.where(live, group if by_class else 0, -1)
    n_pools = len(scores.classes)
    sizes = ranks.all_gather_numpy(np.bincount(pool[live], minlength=n_pools), "selection").sum(0)
    n_live = min(k, int(sizes.sum()))
    shard = Shard(columns, score, bias, group, pool, first)
    picked, gains, restarts = ShardedGreedy(ranks, shard, share_quota(sizes, n_live), sizes).run(report)
    if n_live < k:
        dead = ranks.all_gather_numpy(shard.records(np.flatnonzero(~live)[: k - n_live], k - n_live), "selection").reshape(-1)
        count_selection(records=k - n_live)
        dead = dead[np.argsort(dead["index"])][: k - n_live]  # empty places have the largest index
        warn_of_dead(k, n_live, stacklevel=6)
        picked, gains = np.concatenate([picked, dead]), np.append(gains, np.zeros(k - n_live))
    return Picked(
        weights=np.ascontiguousarray(picked["w"].T),
        bias=picked["bias"].copy(),
        indices=picked["index"].copy(),
        scores=picked["score"].copy(),
        gains=gains,
        groups=scores.classes[picked["group"]],
        restarts=restarts,
    )


def _host(W: Array) -> np.ndarray:
    """Return the candidates in host memory; 16-bit floats as float32, which holds them exactly."""
    if is_tensor(W) and W.dtype in (torch.float16, torch.bfloat16):
        W = W.float()
    return as_numpy(W)


def _unit(ranks: Ranks, v: Array) -> Array:
    """Return v divided by its norm over all ranks; two numbers a rank are exchanged."""
    own = as_numpy(v)
    largest = float(np.abs(own).max(initial=0))
    squares = float(np.square(own / largest).sum()) if largest else 0.0
    found = ranks.all_gather_numpy(np.array([largest, squares]), "scores")
    top = float(found[:, 0].max())
    checks.no_overflow(top)
    if top == 0:
        return v
    total = sum(float(part) * (float(scale) / top) ** 2 for scale, part in found)
    return v / top / float(np.sqrt(total))
