"""One group's campaign: score a pool on the layer's samples, select, and put the picks in order."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nc_fast.api import campaign, class_moments, select
from nc_fast.backends import registry
from nc_fast.criteria import Criterion, apply_criterion, ib_scores
from nc_fast.init.activations import Activation
from nc_fast.inputs.arrays import as_numpy
from nc_fast.inputs.labels import join_labels
from nc_fast.types import Certificate, ClassMoments, Scores

SCREENED_BYTES = 1 << 30  # of a layer's samples: screening reads them more than once, so they are held; beyond, scoring is exact

Samples = Callable[[], Iterator[tuple[Tensor, np.ndarray]]]  # (n, D) and (n,) blocks, from the start at every call


@dataclass(frozen=True)
class Rules:
    """How a layer's neurons are scored and picked.

    Attributes
    ----------
    activation : what follows the layer.
    alpha : weight of I(X;Z).
    by_class : share the picks over the classes.
    criterion : scores and groups instead of the contract's, or None.
    screened : estimate the scores of candidates that cannot be picked (``method="screened"``).
    normalized : a BatchNorm follows: neurons are compared at mean 0 and standard deviation 1.
    assigned : the classes are the outputs': neuron j stands for class j.
    """

    activation: Activation
    alpha: float
    by_class: bool
    criterion: Criterion | None
    screened: bool
    normalized: bool
    assigned: bool

    def scores(self, moments: ClassMoments) -> Scores:
        """Score the candidates."""
        return ib_scores(moments, alpha=self.alpha) if self.criterion is None else apply_criterion(self.criterion, moments)


@dataclass(frozen=True)
class Choice:
    """The picks.

    Attributes
    ----------
    indices : their row numbers in the pool, in the order of the layer's neurons.
    score, pool_score : mean scores of the picks and of the pool.
    live : how many candidates were fit to be picked.
    certificate : of a screened campaign.
    """

    indices: np.ndarray
    score: float
    pool_score: float
    live: int
    certificate: Certificate | None = None


def choose(weight: Tensor, bias: Tensor, samples: Samples, k: int, rules: Rules) -> Choice:
    """Pick k of the candidates, the rows of ``weight`` (M, D), which will be installed with ``bias`` (M,)."""
    device = _compute_device(weight)
    W, b = weight.to(device).T, bias.to(device)  # the array API wants columns; a transposed view, no copy

    def blocks() -> Iterator[tuple[Tensor, np.ndarray]]:
        for X, y in samples():
            yield X.to(device), y

    with warnings.catch_warnings():  # the report says it when dead candidates had to be picked
        warnings.simplefilter("ignore", UserWarning)
        held = _held(blocks()) if rules.screened and not (rules.normalized or _one_output(rules, k)) else None
        return _exact(W, b, blocks, k, rules) if held is None else _screened(W, b, *held, k, rules)


def _exact(W: Tensor, b: Tensor, blocks: Samples, k: int, rules: Rules) -> Choice:
    scored_W, scored_b = W, b
    if rules.normalized:
        spread = class_moments(W, blocks(), activation="identity").spread()
        scale = torch.where(spread > 0, 1 / spread.clamp(min=torch.finfo(W.dtype).tiny), torch.ones_like(spread)).to(W.dtype)
        scored_W, scored_b = W * scale, b * scale
    moments = class_moments(scored_W, blocks(), bias=scored_b, activation=rules.activation.function)
    scores = rules.scores(moments)
    indices = _select(W, scores, moments, k, rules)
    score = as_numpy(scores.score)
    return Choice(indices, float(score[indices].mean()), float(score.mean()), int(as_numpy(scores.live).sum()))


def _screened(W: Tensor, b: Tensor, X: Tensor, y: np.ndarray, k: int, rules: Rules) -> Choice:
    found = campaign(
        W,
        X,
        y,
        k,
        bias=b,
        activation=rules.activation.function,
        alpha=rules.alpha,
        by_class=rules.by_class,
        criterion=rules.criterion,
        method="screened",
    )
    indices, scores = as_numpy(found.indices), found.candidates

    def means(picks: np.ndarray) -> np.ndarray:
        rows = torch.from_numpy(picks).to(W.device)
        moments = class_moments(W[:, rows], X, y, bias=b[rows], activation=rules.activation.function)
        return as_numpy(moments.mean)

    score = as_numpy(scores.score)
    ordered = _ordered(indices, as_numpy(scores.group), scores.classes, means, rules)
    live = int(as_numpy(scores.live).sum())
    return Choice(ordered, float(score[indices].mean()), float(score.mean()), live, found.certificate)


def _held(blocks: Iterator[tuple[Tensor, np.ndarray]]) -> tuple[Tensor, np.ndarray] | None:
    """Return all samples and labels; None where they are more than is to be held."""
    parts: list[tuple[Tensor, np.ndarray]] = []
    size = 0
    for X, y in blocks:
        size += X.nbytes
        if parts and size > SCREENED_BYTES:
            return None
        parts.append((X, y))
    return parts[0] if len(parts) == 1 else (torch.cat([X for X, _ in parts]), join_labels([y for _, y in parts]))


def _one_output(rules: Rules, k: int) -> bool:
    return rules.assigned and k == 1


def _select(W: Tensor, scores: Scores, moments: ClassMoments, k: int, rules: Rules) -> np.ndarray:
    if _one_output(rules, k) and len(moments.classes) == 2:
        second = np.flatnonzero(as_numpy(scores.group) == 1)  # one output for two classes: high stands for the second
        if len(second):
            rows = torch.from_numpy(second).to(W.device)
            subset = Scores(scores.score[rows], scores.group[rows], scores.live[rows], scores.classes)
            best: np.ndarray = second[as_numpy(select(W[:, rows], subset, 1).indices)]
            return best
    indices = as_numpy(select(W, scores, k, by_class=rules.by_class).indices)
    return _ordered(indices, as_numpy(scores.group), moments.classes, lambda picks: as_numpy(moments.mean)[:, picks], rules)


def _ordered(
    indices: np.ndarray, group: np.ndarray, classes: np.ndarray, means: Callable[[np.ndarray], np.ndarray], rules: Rules
) -> np.ndarray:
    """Return the picks in the order of the layer's neurons; ``means`` gives the class means (C, k) of picks."""
    outputs = output_of_class(classes, len(indices)) if rules.assigned else None
    return deal(indices, group[indices]) if outputs is None else assign(indices, means(indices), outputs)


def deal(indices: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Deal the picks out class by class in turn, best first.

    Neighbouring neurons then differ in class: blocks of them (attention heads, GroupNorm's groups) see all classes. A plain
    layer's function does not depend on the order.
    """
    turn = np.empty(len(group), np.int64)
    for c in np.unique(group):
        mine = np.flatnonzero(group == c)
        turn[mine] = np.arange(len(mine))
    return np.asarray(indices[np.lexsort((group, turn))])


def output_of_class(classes: np.ndarray, n_outputs: int) -> np.ndarray | None:
    """Return the output that stands for each class; None where classes and outputs do not correspond.

    Integer labels that are output numbers (the usual case) stand for themselves; other labels for the outputs in sorted order.
    """
    if len(classes) > n_outputs:
        return None
    if classes.dtype.kind in "iu" and classes.min() >= 0 and classes.max() < n_outputs:
        return np.asarray(classes, np.int64)
    return np.arange(len(classes))


def assign(indices: np.ndarray, class_mean: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    """Order the picks so that ``outputs[c]`` is the one assigned to class c, by the largest sum of class means; the rest fill up."""
    from scipy.optimize import linear_sum_assignment

    classes, picks = linear_sum_assignment(class_mean, maximize=True)
    ordered = np.full(len(indices), -1)
    ordered[outputs[classes]] = picks
    ordered[ordered < 0] = np.setdiff1d(np.arange(len(indices)), picks)
    return np.asarray(indices[ordered])


def _compute_device(weight: Tensor) -> torch.device:
    on_gpu = weight.device.type == "cuda" and registry.BACKENDS["gpu"].missing() is None
    return weight.device if on_gpu else torch.device("cpu")
