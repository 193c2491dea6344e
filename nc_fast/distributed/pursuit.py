"""A pursuit whose samples are spread over the ranks of a process group.

Every rank draws from its own samples; the draws are put together, every rank picks on all that were drawn, and the ranks'
Gram matrices are added up in rank order. So all have the same result, and the picks of one process that has all samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np

from nc_fast.distributed.campaign import centred_over_ranks, same_pool
from nc_fast.distributed.merge import union_of_classes
from nc_fast.distributed.ranks import Ranks
from nc_fast.gram import Sums, merge_sums
from nc_fast.inputs import checks
from nc_fast.inputs.arrays import as_numpy, like
from nc_fast.inputs.draw import Drawn, draw
from nc_fast.inputs.sources import Batches, Block, Source
from nc_fast.picks import PursuitPicks
from nc_fast.stages.moments import CandidatePool
from nc_fast.stages.pursuit import PursuitRules, Steps

Prepared = tuple[CandidatePool, Source, PursuitRules]
STREAM = 1 << 64  # keys set aside for every rank whose number of samples nobody knows


def pursuit_on_ranks(group: Any, prepare: Callable[..., Prepared]) -> tuple[CandidatePool, Source, PursuitRules, Steps]:
    """Return the checked arguments of this rank, and the steps over all ranks' samples."""
    ranks = Ranks(group)

    def same(found: Prepared) -> dict[str, Any]:
        pool, _, rules = found
        return {"call": "pursuit", **same_pool(pool), **{"rng" if name == "seed" else name: value for name, value in vars(rules).items()}}

    pool, source, rules = ranks.agree(lambda: prepare(may_be_empty=True), same)
    pool = centred_over_ranks(ranks, pool, source)
    sizes = ranks.all_gather_numpy(np.array(source.size), "agreement")
    first = ranks.rank * STREAM if isinstance(source, Batches) else int(sizes[: ranks.rank].sum())
    return (
        pool,
        source,
        rules,
        Steps(partial(_draw, ranks, pool, first), ranks.agree, partial(_picks, ranks, pool), partial(_total, ranks, rules.k)),
    )


def _draw(ranks: Ranks, pool: CandidatePool, first: int, blocks: Iterable[Block], n: int, seed: int) -> Drawn:
    """Return the draw from all ranks' samples, the same on every rank."""
    own = ranks.agree(lambda: draw(blocks, n, seed, first))
    classes = union_of_classes(ranks, None if own is None else own.classes)  # or no samples anywhere: its own error
    own = own or Drawn(np.zeros((0, pool.n_features)), classes[:0], np.zeros(0), classes, 0)
    width = 0 if not own.size else -1 if own.y.ndim == 1 else own.y.shape[1]
    double = "float64" in (checks.dtype_name(pool.W), checks.dtype_name(own.X) if own.size else "")
    facts = ranks.all_gather_numpy(np.array([own.size, width, double]), "agreement")
    ranks.agree(lambda: _same_targets(facts[:, 1]))
    if len(classes):
        y = np.searchsorted(classes, own.y.astype(classes.dtype)).astype(np.float64)[:, None]
    else:
        y = own.y.astype(np.float64).reshape(len(own.keys), int(facts[:, 1].max()))
    n = min(n, int(facts[:, 0].sum()))
    keys = np.full(n, np.inf)
    keys[: len(own.keys)] = own.keys
    everyone = ranks.all_gather_numpy(keys, "samples")
    kept = everyone <= np.partition(everyone.ravel(), n - 1)[n - 1]
    kept &= everyone < np.inf
    mine = kept[ranks.rank, : len(own.keys)]
    X = as_numpy(own.X).astype(np.float64 if facts[:, 2].any() else np.float32)[mine]
    X, y = (_gathered(ranks, part, kept.sum(axis=1)) for part in (X, y[mine]))
    return Drawn(X, classes[y[:, 0].astype(np.int64)] if len(classes) else y, everyone[kept], classes, int(facts[:, 0].sum()))


def _same_targets(widths: np.ndarray) -> None:
    """Check that ranks with samples have the same kind of y: labels (-1), or that many targets a sample."""
    if len(set(widths[widths != 0].tolist())) > 1:
        raise ValueError(f"y: expected labels on every rank, or as many targets a sample, got targets {widths.tolist()} (-1: labels)")


def _gathered(ranks: Ranks, part: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the rows (n, m) of all ranks, in rank order; ``counts`` are their numbers."""
    padded = np.zeros((counts.max(), part.shape[1]), part.dtype)
    padded[: len(part)] = part
    return np.concatenate([rows[:count] for rows, count in zip(ranks.all_gather_numpy(padded, "samples"), counts, strict=True)])


def _picks(ranks: Ranks, pool: CandidatePool, work: Callable[[], PursuitPicks]) -> PursuitPicks:
    """Return the first rank's picks: machines of different kinds may round differently."""
    own = ranks.agree(work)
    sent = np.stack([as_numpy(own.indices).astype(np.float64), as_numpy(own.gains), as_numpy(own.explained)])
    indices, gains, explained = (like(pool.W, row) for row in ranks.all_gather_numpy(sent, "selection")[0])
    return PursuitPicks(like(pool.W, as_numpy(indices).astype(np.int64)), gains, explained, own.kept, own.filled)


def _total(ranks: Ranks, k: int, own: Sums | None) -> Sums | None:
    """Return the sums over all ranks' samples, added up in rank order."""
    parts = (
        [] if own is None else [np.array([own.weight]), *(as_numpy(a).ravel() for a in (own.mean, own.target_mean, own.gram, own.cross))]
    )
    flat = np.concatenate([np.zeros(0), *parts])
    length = int(ranks.all_gather_numpy(np.array(len(flat)), "moments").max())
    sent = np.zeros(length)
    sent[: len(flat)] = flat
    total: Sums | None = None
    for row in ranks.all_gather_numpy(sent, "moments"):
        if row[0]:
            C = (length - 1 - k - k * k) // (k + 1)
            mean, target_mean, gram, cross = np.split(row[1:], np.cumsum([k, C, k * k]))
            part = Sums(float(row[0]), mean.copy(), target_mean.copy(), gram.reshape(k, k).copy(), cross.reshape(k, C).copy())
            total = part if total is None else merge_sums(total, part)
    return total
