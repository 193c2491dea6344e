"""A campaign whose candidates are spread over ranks: moments local, norms of the score over all, one greedy selection."""

from __future__ import annotations

import numpy as np
import torch

from nc_fast.criteria import Criterion, apply_criterion, scores_of
from nc_fast.distributed.greedy import Shard, ShardedGreedy
from nc_fast.distributed.merge import gather_candidates
from nc_fast.distributed.ranks import Ranks, count_selection
from nc_fast.inputs import checks
from nc_fast.inputs.arrays import Array, array_namespace, as_numpy, is_tensor, like
from nc_fast.quota import share_quota
from nc_fast.runtime.progress import Report
from nc_fast.stages.campaign import Picked, SelectionRules
from nc_fast.stages.moments import CandidatePool
from nc_fast.stages.selection import eligible, fill_up_with_dead, labels_like
from nc_fast.types import ClassMoments, Scores, Selection


def score_over_ranks(ranks: Ranks, moments: ClassMoments, widths: list[int], alpha: float, criterion: Criterion | None) -> Scores:
    """Return the scores of this rank's candidates; a criterion of the user's sees the whole pool's moments."""
    if criterion is None:
        return scores_of(moments, alpha, lambda v: _unit(ranks, v))
    whole = apply_criterion(criterion, gather_candidates(ranks, moments, widths))
    mine = slice(sum(widths[: ranks.rank]), sum(widths[: ranks.rank + 1]))
    return Scores(whole.score[mine], whole.group[mine], whole.live[mine], whole.classes)


def pick_among_shards(
    ranks: Ranks, pool: CandidatePool, scores: Scores, rules: SelectionRules, first: int, report: Report | None
) -> Picked:
    """Pick of all ranks' candidates; ``first`` is the number of this rank's first one among them."""
    W, k = _host(pool.W), rules.k
    live, competing = eligible(W, scores, rules.by_class)
    sizes = ranks.all_gather_numpy(np.bincount(competing[live], minlength=len(scores.classes)), "selection").sum(0)
    n_live = min(k, int(sizes.sum()))
    shard = Shard(W, as_numpy(scores.score), pool.bias, as_numpy(scores.group), competing, first)
    picked, gains, restarts = ShardedGreedy(ranks, shard, share_quota(sizes, n_live), sizes).run(report)
    if n_live < k:
        dead = ranks.all_gather_numpy(shard.records(fill_up_with_dead(live, k, n_live), k - n_live), "selection").reshape(-1)
        count_selection(records=k - n_live)
        dead = dead[np.argsort(dead["index"])][: k - n_live]  # empty places have the largest index
        picked, gains = np.concatenate([picked, dead]), np.append(gains, np.zeros(k - n_live))
    selection = Selection(
        indices=like(pool.W, picked["index"].copy()),
        scores=like(pool.W, picked["score"].copy()),
        gains=like(pool.W, gains),
        groups=labels_like(pool.W, scores.classes[picked["group"]]),
        restarts=restarts,
    )
    xp = array_namespace(pool.W)
    weights, bias = (
        xp.asarray(like(pool.W, part), dtype=pool.W.dtype) for part in (np.ascontiguousarray(picked["w"].T), picked["bias"].copy())
    )
    return Picked(selection, weights, bias)


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
