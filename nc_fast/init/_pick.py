"""One group's campaign: score a pool on the layer's samples, select, and put the picks in order."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

import nc_fast
from nc_fast import _dispatch
from nc_fast._arrays import as_numpy
from nc_fast.init._activations import Activation
from nc_fast.types import ClassMoments, Scores

Samples = Callable[[], Iterator[tuple[Tensor, np.ndarray]]]  # (n, D) and (n,) blocks, from the start at every call
Scorer = Callable[[ClassMoments, float], Scores]


@dataclass(frozen=True)
class Rules:
    """How a layer's neurons are scored and picked.

    Attributes
    ----------
    activation : what follows the layer.
    alpha : weight of I(X;Z).
    by_class : share the picks over the classes.
    scorer : moments, alpha -> Scores.
    normalized : a BatchNorm follows: neurons are compared at mean 0 and standard deviation 1.
    assigned : the classes are the outputs': neuron j stands for class j.
    """

    activation: Activation
    alpha: float
    by_class: bool
    scorer: Scorer
    normalized: bool
    assigned: bool


@dataclass(frozen=True)
class Choice:
    """The picks: their row numbers in the pool, in the order of the layer's neurons; mean scores; how many candidates were live."""

    indices: np.ndarray
    score: float
    pool_score: float
    live: int


def choose(weight: Tensor, bias: Tensor, samples: Samples, k: int, rules: Rules) -> Choice:
    """Pick k of the candidates, the rows of ``weight`` (M, D), which will be installed with ``bias`` (M,)."""
    device = _compute_device(weight)
    W, b = weight.to(device).T, bias.to(device)  # the array API wants columns; a transposed view, no copy

    def blocks() -> Iterator[tuple[Tensor, np.ndarray]]:
        for X, y in samples():
            yield X.to(device), y

    scored_W, scored_b = W, b
    if rules.normalized:
        spread = nc_fast.class_moments(W, blocks(), activation="identity").spread()
        scale = torch.where(spread > 0, 1 / spread.clamp(min=torch.finfo(W.dtype).tiny), torch.ones_like(spread)).to(W.dtype)
        scored_W, scored_b = W * scale, b * scale
    moments = nc_fast.class_moments(scored_W, blocks(), bias=scored_b, activation=rules.activation.function)
    scores = rules.scorer(moments, rules.alpha)
    with warnings.catch_warnings():  # the report says it when dead candidates had to be picked
        warnings.simplefilter("ignore", UserWarning)
        indices = _select(W, scores, moments, k, rules)
    score = as_numpy(scores.score)
    return Choice(indices, float(score[indices].mean()), float(score.mean()), int(as_numpy(scores.live).sum()))


def _select(W: Tensor, scores: Scores, moments: ClassMoments, k: int, rules: Rules) -> np.ndarray:
    if rules.assigned and k == 1 and len(moments.classes) == 2:
        second = np.flatnonzero(as_numpy(scores.group) == 1)  # one output for two classes: high stands for the second
        if len(second):
            rows = torch.from_numpy(second).to(W.device)
            subset = Scores(scores.score[rows], scores.group[rows], scores.live[rows], scores.classes)
            best: np.ndarray = second[as_numpy(nc_fast.select(W[:, rows], subset, 1).indices)]
            return best
    chosen = nc_fast.select(W, scores, k, by_class=rules.by_class)
    indices = as_numpy(chosen.indices)
    outputs = output_of_class(moments.classes, k) if rules.assigned else None
    if outputs is None:
        return deal(indices, as_numpy(scores.group)[indices])
    return assign(indices, as_numpy(moments.mean)[:, indices], outputs)


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
    on_gpu = weight.device.type == "cuda" and _dispatch.BACKENDS["gpu"].missing() is None
    return weight.device if on_gpu else torch.device("cpu")
