"""Campaigns and class moments on the ranks of a process group; :func:`nc_fast.campaign` comes here with ``process_group``.

Every step that can fail on one rank alone is agreed on before the next exchange, so that all ranks raise the same error.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nc_fast.backends import registry
from nc_fast.criteria import Criterion, apply_criterion, ib_scores
from nc_fast.distributed import _candidates
from nc_fast.distributed._merge import merge_samples, union_of_classes
from nc_fast.distributed._ranks import Ranks
from nc_fast.inputs import checks
from nc_fast.inputs.arrays import array_namespace, as_numpy, like
from nc_fast.runtime.progress import Progress, Report, reporting
from nc_fast.stages import selection
from nc_fast.stages.checkpoint import fingerprint
from nc_fast.stages.moments import Batch, MomentsStage
from nc_fast.types import Array, Campaign, ClassMoments, Picks, Scores

SHARDS = ("samples", "candidates")


@dataclass(frozen=True)
class Options:
    """What a campaign is asked for, unchecked."""

    k: Any
    bias: Any
    activation: Any
    alpha: Any
    by_class: bool
    criterion: Any
    method: Any
    backend: Any
    precision: Any
    progress: Progress
    checkpoint: str | os.PathLike[str] | None


@dataclass(frozen=True, eq=False)
class _Prepared:
    """The checked arguments of this rank; no batch where it has no samples, no candidates where its pool is empty."""

    backend: registry.Backend
    W: Array
    stage: MomentsStage
    batch: Batch | None
    k: int
    alpha: float


def campaign(W: Array, X: Array, y: Array, options: Options, group: Any, shard: str) -> Campaign:
    """Run :func:`nc_fast.campaign` on all ranks; every rank returns the same picks."""
    checks.choice("shard", shard, SHARDS)
    ranks = Ranks(group)
    if shard == "samples":
        return _over_samples(ranks, W, X, y, options)
    return _over_candidates(ranks, W, X, y, options)


def class_moments(W: Array, X: Array | Iterable[tuple[Array, Array]], y: Array | None, options: Options, group: Any) -> ClassMoments:
    """Return the class moments of all ranks' samples on every rank; X may be an iterable of batches."""
    ranks = Ranks(group)

    def prepare() -> tuple[MomentsStage, Batch | None]:
        backend, pool = _pool("W", W, options.backend, may_be_empty=False)
        stage = MomentsStage(backend, pool, options.bias, options.activation, options.precision)
        return stage, None if y is None else _samples(stage, X, y, may_be_empty=True)

    stage, batch = ranks.agree(prepare, lambda found: {"call": "class_moments", **_same_pool(found[0])})

    def run(report: Report | None) -> ClassMoments:
        kept = _own_checkpoint(ranks, options)
        if y is None:
            return stage.run_batches(X, report, kept, may_be_empty=True)
        return stage.none(np.zeros(0)) if batch is None else stage.run(batch, report, kept)

    with reporting(options.progress, "moments") as report:
        return _merged(ranks, ranks.agree(lambda: run(report)))


def _over_samples(ranks: Ranks, W: Array, X: Array, y: Array, options: Options) -> Campaign:
    def prepare() -> _Prepared:
        return _prepare(W, X, y, options, empty_pool=False, empty_samples=True)

    ready = ranks.agree(prepare, lambda ready: _same_pool(ready.stage, **_asked(ready, options, "samples")))
    with reporting(options.progress, "moments") as report:
        own = ranks.agree(lambda: _local(ranks, ready, options, report))
        moments = _merged(ranks, own)

    def scored() -> Scores:
        if options.criterion is not None:
            return apply_criterion(options.criterion, moments)
        return ib_scores(moments, alpha=ready.alpha)

    scores = ranks.agree(scored)
    with reporting(options.progress, "selection") as report:
        greedy = _pools_over_ranks(ranks, ready.backend.select)
        chosen = selection.select(ready.backend, ready.W, scores, ready.k, options.by_class, report, greedy)
    return Campaign(
        weights=ready.W[:, chosen.indices],
        bias=array_namespace(ready.W).asarray(like(ready.W, ready.stage.bias)[chosen.indices], dtype=ready.W.dtype),
        indices=chosen.indices,
        scores=chosen.scores,
        gains=chosen.gains,
        groups=chosen.groups,
        restarts=chosen.restarts,
        candidates=scores,
    )


def _over_candidates(ranks: Ranks, W: Array, X: Array, y: Array, options: Options) -> Campaign:
    def prepare() -> _Prepared:
        return _prepare(W, X, y, options, empty_pool=True, empty_samples=False)

    def same(ready: _Prepared) -> dict[str, Any]:
        assert ready.batch is not None
        asked = _asked(ready, options, "candidates")
        return {**asked, "X": tuple(ready.batch.X.shape), "y": fingerprint(ready.batch.codes)}

    ready = ranks.agree(prepare, same)
    widths = ranks.all_gather_numpy(np.array(ready.W.shape[1]), "agreement").tolist()
    ready_k = checks.count("k", ready.k, sum(widths))
    with reporting(options.progress, "moments") as report:
        moments = ranks.agree(lambda: _local(ranks, ready, options, report), lambda found: {"X, y": as_numpy(found.count).tolist()})
    criterion: Criterion | None = options.criterion
    scores = _candidates.score(ranks, moments, widths, ready.alpha, criterion)
    ranks.agree(lambda: checks.finite("scores", scores.score))
    with reporting(options.progress, "selection") as report:
        first = sum(widths[: ranks.rank])
        picked = _candidates.select(ranks, ready.W, ready.stage.bias, scores, ready_k, options.by_class, first, report)
    xp = array_namespace(ready.W)

    def as_pool(array: np.ndarray) -> Array:
        return xp.asarray(like(ready.W, array), dtype=ready.W.dtype)

    return Campaign(
        weights=as_pool(picked.weights),
        bias=as_pool(picked.bias),
        indices=like(ready.W, picked.indices),
        scores=like(ready.W, picked.scores),
        gains=like(ready.W, picked.gains),
        groups=selection.labels_like(ready.W, picked.groups),
        restarts=picked.restarts,
        candidates=scores,
    )


def _prepare(W: Array, X: Array, y: Array, options: Options, *, empty_pool: bool, empty_samples: bool) -> _Prepared:
    backend, W = _pool("W_candidates", W, options.backend, may_be_empty=empty_pool)
    k = checks.count("k", options.k, np.iinfo(np.int64).max if empty_pool else W.shape[1])
    checks.choice("method", options.method, ("exact",))
    alpha = checks.alpha(options.alpha)
    if not (options.criterion is None or callable(options.criterion)):
        raise TypeError(f"criterion: expected a callable or None, got {type(options.criterion).__name__}")
    stage = MomentsStage(backend, W, options.bias, options.activation, options.precision)
    batch = _samples(stage, X, y, may_be_empty=empty_samples)
    if batch is not None and options.criterion is None and not empty_samples:
        checks.enough_classes(alpha, batch.classes)
    return _Prepared(backend, W, stage, batch, k, alpha)


def _pool(name: str, W: Array, backend: str, *, may_be_empty: bool) -> tuple[registry.Backend, Array]:
    chosen = registry.resolve(checks.choice("backend", backend, ("auto", *registry.BACKENDS)), W)
    if may_be_empty and getattr(W, "ndim", 0) == 2 and W.shape[1] == 0 and W.shape[0] > 0:
        return chosen, W
    return chosen, checks.weights(name, W, half=chosen.takes_tensors)


def _samples(stage: MomentsStage, X: Array, y: Array, *, may_be_empty: bool) -> Batch | None:
    shape = getattr(X, "shape", None)
    if may_be_empty and shape is not None and len(shape) == 2 and shape[0] == 0:
        if len(y) or shape[1] != stage.n_features:
            raise ValueError(
                f"X, y: expected shapes (0, {stage.n_features}) and (0,) of an empty shard, got {tuple(shape)} and {len(y)} labels"
            )
        return None
    return stage.check(X, y)


def _asked(ready: _Prepared, options: Options, shard: str) -> dict[str, Any]:
    """Return what has to be the same on all ranks in both modes."""
    criterion = None if options.criterion is None else getattr(options.criterion, "__name__", "a callable")
    return {
        "call": f"campaign with shard={shard!r}",
        "W_candidates": f"{ready.W.shape[0]} features of {str(ready.W.dtype).removeprefix('torch.')}",
        "k": ready.k,
        "alpha": ready.alpha,
        "by_class": bool(options.by_class),
        "criterion": criterion,
        **ready.stage.described,
    }


def _same_pool(stage: MomentsStage, **more: Any) -> dict[str, Any]:
    """Return what makes the pools of two ranks one pool."""
    return {**more, **stage.described, "pool's shape and dtype": stage.pool, "pool": stage.fingerprint()}


def _local(ranks: Ranks, ready: _Prepared, options: Options, report: Report | None) -> ClassMoments:
    if ready.batch is None:
        return ready.stage.none(np.zeros(0))
    if ready.W.shape[1] == 0:
        none = ready.stage.none(ready.batch.classes)
        count = np.bincount(ready.batch.codes, minlength=len(ready.batch.classes))
        return ClassMoments(none.classes, like(ready.W, count), none.mean, none.m2)
    return ready.stage.run(ready.batch, report, _own_checkpoint(ranks, options))


def _merged(ranks: Ranks, own: ClassMoments) -> ClassMoments:
    classes = union_of_classes(ranks, own.classes if len(own.classes) else None)
    if not len(own.classes):
        own = ClassMoments(classes[:0], own.count, own.mean, own.m2)
    return merge_samples(ranks, own.over(classes))


def _own_checkpoint(ranks: Ranks, options: Options) -> Path | None:
    """Return this rank's checkpoint file: the user's name with the rank in it."""
    if options.checkpoint is None:
        return None
    path = Path(options.checkpoint)
    return path.with_name(f"{path.stem}.{ranks.rank}-of-{ranks.size}{path.suffix}")


def _pools_over_ranks(ranks: Ranks, greedy: Callable[..., Picks]) -> Callable[..., Picks]:
    """Return a greedy loop that shares the pools over the ranks: each picks in its own, all get all picks."""

    def shared(W: Array, score: Array, pool: Array, quota: Array, *, report: Report | None = None) -> Picks:
        picks_of = as_numpy(quota)
        members = np.bincount(as_numpy(pool) + 1, minlength=len(picks_of) + 1)[1:]
        owner = _balanced(members * picks_of, ranks.size)

        def own() -> Picks:
            return greedy(W, score, pool, like(quota, np.where(owner == ranks.rank, picks_of, 0)), report=report)

        found = ranks.agree(own)
        total = int(picks_of.sum())
        sent = np.zeros(total + 1, np.dtype([("index", np.int64), ("gain", np.float64)]))
        n_found = len(found.indices)
        sent["index"][:n_found], sent["gain"][:n_found] = as_numpy(found.indices), as_numpy(found.gains)
        sent["index"][total] = found.restarts
        everyone = ranks.all_gather_numpy(sent, "selection")
        place = np.zeros(ranks.size, np.int64)
        pieces = []
        for picks, rank in zip(picks_of.tolist(), owner.tolist(), strict=True):
            pieces.append(everyone[rank, place[rank] : place[rank] + picks])
            place[rank] += picks
        picked = np.concatenate(pieces)
        return Picks(picked["index"].copy(), picked["gain"].copy(), int(everyone["index"][:, total].sum()))

    return shared


def _balanced(work: np.ndarray, n_ranks: int) -> np.ndarray:
    """Return the rank that takes each piece of work: the largest first, each to the rank with the least so far."""
    owner = np.zeros(len(work), np.int64)
    load = np.zeros(n_ranks, np.int64)
    for piece in np.argsort(-work, kind="stable"):
        owner[piece] = np.argmin(load)
        load[owner[piece]] += work[piece]
    return owner
