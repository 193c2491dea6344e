"""Pursuit: draw samples, pick the candidates whose activations explain the targets, fit a head over all samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np

from nc_fast.gram import Gram, Sums, add_samples, gram_of, needs_float64, targets_of
from nc_fast.heads import solve
from nc_fast.inputs.arrays import Array, array_namespace, as_numpy, like
from nc_fast.inputs.draw import Drawn, draw
from nc_fast.inputs.labels import classified
from nc_fast.inputs.sources import Block, Source, block_rows
from nc_fast.inputs.targets import LEAST_TARGET
from nc_fast.picks import PursuitPicks
from nc_fast.runtime.caller import warn_caller
from nc_fast.runtime.progress import Progress, Report, reporting
from nc_fast.stages.moments import CandidatePool
from nc_fast.tolerances import NOTHING_EXPLAINED


@dataclass(frozen=True, eq=False)
class Pursuit:
    """Result of a pursuit: neurons in the order in which they were picked, and a linear head on them.

    The first j picks are what a pursuit of j would have picked: :meth:`take` gives its result.

    Attributes
    ----------
    weights : (D, k), library, dtype and device of W_candidates
        The picked columns.
    bias : (k,), dtype of W_candidates
        To be installed with them.
    indices : (k,) int64
        Columns of W_candidates.
    gains : (k,) float64
        What each pick added, squared correlation with the targets in units of samples; 0 beyond the rank.
    explained : (k,) float64 in [0, 1]
        Share of the targets' variance, on the samples drawn, that the first picks up to each account for.
    head : (k, C) float64
        Weights of the linear layer on the picks' activations: ``activations @ head + intercept``.
    intercept : (C,) float64
    classes : (C,) labels, or None with float targets
        The class each output stands for.
    ridge : float
        The head's strength, chosen by leave-one-out.
    gram : Gram
        What the head was solved from; ``nc_fast.ridge_head(result.gram, ridge=...)`` solves it anew.
    kept : int
        Candidates that competed: all of them, or those of the largest first gains where the activations of all do not fit.
    filled : int
        Picks beyond the rank of the activations, lowest index first.
    """

    weights: Array
    bias: Array
    indices: Array
    gains: Array
    explained: Array
    head: Array
    intercept: Array
    classes: np.ndarray | None
    ridge: float
    gram: Gram
    kept: int
    filled: int

    def take(self, j: int) -> Pursuit:
        """Return the result for the first j picks, with a head of their own.

        Raises
        ------
        TypeError, ValueError
            When j is no integer from 1 to k.
        """
        head = solve(self.gram.take(j), None, self.weights)
        return replace(
            self,
            **{name: getattr(self, name)[:j] for name in ("bias", "indices", "gains", "explained")},
            weights=self.weights[:, :j],
            head=head.weights,
            intercept=head.intercept,
            ridge=head.ridge,
            gram=head.gram,
            filled=max(0, self.filled - (len(self.indices) - j)),
        )


@dataclass(frozen=True)
class PursuitRules:
    """What the picks are chosen by: checked arguments of :func:`nc_fast.pursuit`."""

    k: int
    max_samples: int
    damping: float
    block: int | str
    seed: int


@dataclass(frozen=True)
class Steps:
    """The functions a pursuit is composed of, where a process group has its own.

    Attributes
    ----------
    draw : blocks, how many, seed -> Drawn, or None where the source has no samples
    sums : function that takes sums over this process's samples, None where it has none -> what it returns
    picks : function that picks -> what it returns
    total : sums over this process's samples -> sums over all
    """

    draw: Callable[[Iterable[Block], int, int], Drawn | None] = draw
    sums: Callable[[Callable[[], Sums | None]], Sums | None] = lambda work: work()
    picks: Callable[[Callable[[], PursuitPicks]], PursuitPicks] = lambda work: work()
    total: Callable[[Sums | None], Sums | None] = lambda own: own


def pursuit(pool: CandidatePool, source: Source, rules: PursuitRules, progress: Progress, steps: Steps = Steps()) -> Pursuit:
    """Compose the steps."""
    rows = block_rows(pool.n_features)
    drawn = steps.draw(source.blocks(0, rows), rules.max_samples, rules.seed)
    if drawn is None:
        raise ValueError("X: expected at least one sample, got none")
    codes, own = classified(drawn.y)
    targets = targets_of(codes, own, drawn)
    largest = np.abs(targets).max()
    targets = targets - targets.mean(axis=0)  # not in place: float targets are those drawn, which the head needs as they are
    if np.abs(targets).max() <= max(NOTHING_EXPLAINED * largest, LEAST_TARGET):
        raise ValueError(f"y: expected labels or targets that vary, got the same on all {len(codes)} samples drawn")
    with reporting(progress, "pursuit") as report:
        picks = steps.picks(lambda: _pursue(pool, drawn, targets, rules, report))
    neurons = pool.take(as_numpy(picks.indices))
    with reporting(progress, "head") as report:
        gram = _gram(neurons, source, drawn, rows, steps, report)
    head = solve(gram, None, pool.W)
    return Pursuit(
        weights=neurons.W,
        bias=array_namespace(pool.W).asarray(like(pool.W, neurons.bias), dtype=pool.W.dtype),
        indices=like(pool.W, picks.indices),
        gains=like(pool.W, picks.gains),
        explained=like(pool.W, picks.explained),
        head=head.weights,
        intercept=head.intercept,
        classes=head.classes,
        ridge=head.ridge,
        gram=gram,
        kept=picks.kept,
        filled=picks.filled,
    )


def _pursue(pool: CandidatePool, drawn: Drawn, targets: np.ndarray, rules: PursuitRules, report: Report | None) -> PursuitPicks:
    picks = pool.pursue(drawn.X, targets, rules.k, damping=rules.damping, block=rules.block, report=report)
    if picks.kept < pool.size:
        warn_caller(
            f"the activations of {pool.size} candidates on {len(targets)} samples do not fit in memory: only the {picks.kept} of the "
            "largest first gains compete; fewer max_samples make room for more"
        )
    if picks.filled:
        warn_caller(
            f"k = {rules.k} exceeds the rank of the activations on {len(targets)} samples: {picks.filled} candidates that add nothing "
            "to those picked fill up, lowest index first"
        )
    return picks


def _gram(neurons: CandidatePool, source: Source, drawn: Drawn, rows: int, steps: Steps, report: Report | None) -> Gram:
    """Return the Gram matrix of the picks' activations over all samples, by a second reading."""
    Z = neurons.activations(drawn.X)
    exact = needs_float64(Z, drawn.size)

    def sums() -> Sums | None:
        total: Sums | None = None
        for block in source.blocks(0, rows):
            T = targets_of(block.y, block.classes, drawn)
            total = add_samples(total, neurons.activations(block.X), T, None, exact=exact)
            if report and total:
                report(int(total.weight), drawn.size)
        return total

    whole = steps.total(steps.sums(sums))
    if whole is None or whole.weight != drawn.size:
        again = 0 if whole is None else int(whole.weight)
        raise ValueError(f"X: expected the same {drawn.size} samples at the second reading, got {again}")
    return gram_of(whole, replace(drawn, X=Z), "W, X, bias")
