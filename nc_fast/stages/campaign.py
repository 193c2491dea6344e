"""The campaign: moments -> score -> select, the one composition of the three stages.

Screening and process groups are other functions in the places of :class:`Stages`, not other compositions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nc_fast.criteria import Criterion, apply_criterion, ib_scores
from nc_fast.inputs.arrays import Array, array_namespace, like
from nc_fast.inputs.sources import Source
from nc_fast.runtime.progress import Progress, Report, reporting
from nc_fast.stages.moments import CandidatePool, class_moments
from nc_fast.stages.selection import select
from nc_fast.types import Campaign, Certificate, ClassMoments, Scores, Selection


@dataclass(frozen=True)
class SelectionRules:
    """What the picks are chosen by: checked arguments of :func:`nc_fast.campaign`."""

    k: int
    alpha: float
    by_class: bool
    criterion: Criterion | None


@dataclass(frozen=True, eq=False)
class Picked:
    """A selection, and the weights (D, k) and biases (k,) of the neurons in it."""

    selection: Selection
    weights: Array
    bias: Array


def scored(moments: ClassMoments, rules: SelectionRules) -> Scores:
    """Return the scores of candidates from their moments."""
    return ib_scores(moments, alpha=rules.alpha) if rules.criterion is None else apply_criterion(rules.criterion, moments)


def picked(pool: CandidatePool, scores: Scores, rules: SelectionRules, report: Report | None, **greedy: Any) -> Picked:
    """Select from the pool, and take the neurons selected."""
    selection = select(pool.backend, pool.W, scores, rules.k, rules.by_class, report, **greedy)
    xp, indices = array_namespace(pool.W), selection.indices
    return Picked(selection, pool.W[:, indices], xp.asarray(like(pool.W, pool.bias)[indices], dtype=pool.W.dtype))


@dataclass(frozen=True)
class Stages:
    """The functions a campaign is composed of.

    Attributes
    ----------
    moments : pool, source, report, checkpoint -> ClassMoments
    score : moments, rules -> Scores
    select : pool, scores, rules, report -> Picked
    screen : pool, source, rules, report, checkpoint -> (Scores, Certificate), or None for the scores where exact moments
        of the whole pool are to be taken
    """

    moments: Callable[[CandidatePool, Source, Report | None, Path | None], ClassMoments] = class_moments
    score: Callable[[ClassMoments, SelectionRules], Scores] = scored
    select: Callable[[CandidatePool, Scores, SelectionRules, Report | None], Picked] = picked
    screen: Callable[..., tuple[Scores | None, Certificate]] | None = None


def campaign(
    pool: CandidatePool, source: Source, rules: SelectionRules, stages: Stages, progress: Progress, checkpoint: Path | None
) -> Campaign:
    """Compose the stages."""
    scores = certificate = None
    if stages.screen:
        with reporting(progress, "screening") as report:
            scores, certificate = stages.screen(pool, source, rules, report, checkpoint)
    if scores is None:
        with reporting(progress, "moments") as report:
            moments = stages.moments(pool, source, report, checkpoint)
        scores = stages.score(moments, rules)
    with reporting(progress, "selection") as report:
        found = stages.select(pool, scores, rules, report)
    return Campaign(**vars(found.selection), weights=found.weights, bias=found.bias, candidates=scores, certificate=certificate)
