"""The stages of a campaign on the ranks of a process group, for :func:`nc_fast.stages.campaign.campaign` to compose.

Every step that can fail on one rank alone is agreed on before the next exchange, so that all ranks raise the same error.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from nc_fast.distributed.candidates import pick_among_shards, score_over_ranks
from nc_fast.distributed.merge import merge_samples, union_of_classes
from nc_fast.distributed.ranks import Ranks
from nc_fast.inputs import checks
from nc_fast.inputs.arrays import Array, as_numpy, like
from nc_fast.inputs.means import feature_sums
from nc_fast.inputs.sources import Block, Slices, Source
from nc_fast.runtime.progress import Report
from nc_fast.stages.campaign import Picked, SelectionRules, Stages, picked, scored
from nc_fast.stages.checkpoint import fingerprint
from nc_fast.stages.moments import CandidatePool, class_moments
from nc_fast.types import ClassMoments, Picks, Scores

Prepared = tuple[CandidatePool, Source, SelectionRules]


def moments_on_ranks(
    group: Any, prepare: Callable[..., tuple[CandidatePool, Source]]
) -> tuple[CandidatePool, Source, Callable[..., ClassMoments]]:
    """Return the checked arguments of this rank, and the moments stage over all ranks' samples."""
    ranks = Ranks(group)
    pool, source = ranks.agree(lambda: prepare(may_be_empty=True), lambda found: {"call": "class_moments", **same_pool(found[0])})
    return centred_over_ranks(ranks, pool, source), source, partial(_merged_moments, ranks)


def campaign_on_ranks(group: Any, shard: str, prepare: Callable[..., Prepared]) -> tuple[CandidatePool, Source, SelectionRules, Stages]:
    """Return the checked arguments of this rank, and the stages over all ranks; X, or W_candidates, is in parts."""
    ranks = Ranks(group)
    return (_sharded_samples if shard == "samples" else _sharded_candidates)(ranks, prepare)


def _sharded_samples(ranks: Ranks, prepare: Callable[..., Prepared]) -> tuple[CandidatePool, Source, SelectionRules, Stages]:
    """Merge moments, then let every rank select in some of the groups."""

    def same(found: Prepared) -> dict[str, Any]:
        pool, _, rules = found
        return {**_same_rules(pool, rules, "samples"), **same_pool(pool)}

    pool, source, rules = ranks.agree(lambda: prepare(empty_source=True), same)
    pool = centred_over_ranks(ranks, pool, source)
    stages = Stages(
        moments=partial(_merged_moments, ranks),
        score=lambda moments, rules: ranks.agree(lambda: scored(moments, rules)),
        select=partial(picked, greedy=_pools_over_ranks(ranks, pool.backend.select)),
    )
    return pool, source, rules, stages


def _sharded_candidates(ranks: Ranks, prepare: Callable[..., Prepared]) -> tuple[CandidatePool, Source, SelectionRules, Stages]:
    """Take moments of this rank's candidates, score them by norms over all, and select among shortlists of all."""

    def same(found: Prepared) -> dict[str, Any]:
        pool, source, rules = found
        assert isinstance(source, (Block, Slices))
        samples = {"X": tuple(source.X.shape), "y": fingerprint(source.y)}
        return {**_same_rules(pool, rules, "candidates"), **samples}

    pool, source, rules = ranks.agree(lambda: prepare(empty_pool=True), same)
    widths = ranks.all_gather_numpy(np.array(pool.size), "agreement").tolist()
    checks.count("k", rules.k, sum(widths))
    if pool.centres:
        pool = ranks.agree(lambda: pool.centred(source))

    def moments(pool: CandidatePool, source: Source, report: Report | None, checkpoint: Path | None) -> ClassMoments:
        def own() -> ClassMoments:
            return class_moments(pool, source, report, _own_checkpoint(ranks, checkpoint)) if pool.size else _counts_alone(pool, source)

        return ranks.agree(own, lambda found: {"X, y": as_numpy(found.count).tolist()})

    def score(moments: ClassMoments, rules: SelectionRules) -> Scores:
        scores = score_over_ranks(ranks, moments, widths, rules.alpha, rules.criterion)
        ranks.agree(lambda: checks.finite("scores", scores.score))
        return scores

    def select(pool: CandidatePool, scores: Scores, rules: SelectionRules, report: Report | None) -> Picked:
        return pick_among_shards(ranks, pool, scores, rules, sum(widths[: ranks.rank]), report)

    return pool, source, rules, Stages(moments, score, select)


def _merged_moments(ranks: Ranks, pool: CandidatePool, source: Source, report: Report | None, checkpoint: Path | None) -> ClassMoments:
    own = ranks.agree(lambda: class_moments(pool, source, report, _own_checkpoint(ranks, checkpoint)))
    classes = union_of_classes(ranks, own.classes if len(own.classes) else None)
    if not len(own.classes):
        own = ClassMoments(classes[:0], own.count, own.mean, own.m2)
    return merge_samples(ranks, own.over(classes))


def centred_over_ranks(ranks: Ranks, pool: CandidatePool, source: Source) -> CandidatePool:
    """Return the pool, the same on every rank, with biases that centre it over all ranks' samples."""

    def sums(source: Source, n_features: int) -> np.ndarray:
        own = ranks.agree(lambda: feature_sums(source, n_features))
        total: np.ndarray = ranks.all_gather_numpy(own, "moments").sum(axis=0)
        return total

    return pool.centred(source, sums)


def _counts_alone(pool: CandidatePool, source: Source) -> ClassMoments:
    """Return the moments of a pool of no candidates."""
    assert isinstance(source, (Block, Slices))
    C = len(source.classes)
    arrays = (np.bincount(source.y, minlength=C), *np.zeros((2, C, 0)))
    return ClassMoments(source.classes, *(like(pool.W, array) for array in arrays))


def _same_rules(pool: CandidatePool, rules: SelectionRules, shard: str) -> dict[str, Any]:
    """Return what has to be the same on all ranks, whatever is in parts."""
    return {
        "call": f"campaign with shard={shard!r}",
        "W_candidates": f"{pool.n_features} features of {checks.dtype_name(pool.W)}",
        "k": rules.k,
        "alpha": rules.alpha,
        "by_class": rules.by_class,
        "criterion": rules.criterion and getattr(rules.criterion, "__name__", "a callable"),
        **pool.described,
    }


def same_pool(pool: CandidatePool) -> dict[str, Any]:
    """Return what makes the pools of two ranks one pool."""
    shape = f"{tuple(pool.W.shape)} {checks.dtype_name(pool.W)}"
    bias = "center" if pool.centres else fingerprint(pool.bias)[:16]
    return {**pool.described, "pool's shape and dtype": shape, "pool": fingerprint(pool.W)[:16] + bias}


def _own_checkpoint(ranks: Ranks, path: Path | None) -> Path | None:
    """Return this rank's checkpoint file: the user's name with the rank in it."""
    return path and path.with_name(f"{path.stem}.{ranks.rank}-of-{ranks.size}{path.suffix}")


def _pools_over_ranks(ranks: Ranks, greedy: Callable[..., Picks]) -> Callable[..., Picks]:
    """Return a greedy loop that shares the pools over the ranks: each picks in its own, all get all picks."""

    def shared(W: Array, score: Array, pool: Array, quota: Array, *, report: Report | None = None) -> Picks:
        picks_of = as_numpy(quota)
        members = np.bincount(as_numpy(pool) + 1, minlength=len(picks_of) + 1)[1:]
        owner = _balanced(members * picks_of, ranks.size)

        def own() -> Picks:
            return greedy(W, score, pool, like(quota, np.where(owner == ranks.rank, picks_of, 0)), report=report)

        found = ranks.agree(own)
        picker = np.repeat(owner, picks_of)  # the rank that makes each pick
        mine = picker == ranks.rank
        sent = np.zeros(len(picker) + 1, np.dtype([("index", np.int64), ("gain", np.float64)]))
        sent["index"][:-1][mine], sent["gain"][:-1][mine] = as_numpy(found.indices), as_numpy(found.gains)
        sent["index"][-1] = found.restarts
        everyone = ranks.all_gather_numpy(sent, "selection")
        picks = everyone[picker, np.arange(len(picker))]
        return Picks(picks["index"].copy(), picks["gain"].copy(), int(everyone["index"][:, -1].sum()))

    return shared


def _balanced(work: np.ndarray, n_ranks: int) -> np.ndarray:
    """Return the rank that takes each piece of work: the largest first, each to the rank with the least so far."""
    owner = np.zeros(len(work), np.int64)
    load = np.zeros(n_ranks, np.int64)
    for piece in np.argsort(-work, kind="stable"):
        owner[piece] = np.argmin(load)
        load[owner[piece]] += work[piece]
    return owner
