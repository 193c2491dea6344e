"""A campaign for one group of a layer's neurons: score the candidates on the layer's samples, select, put the picks in order."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nc_fast.api import campaign, class_moments
from nc_fast.backends import registry
from nc_fast.criteria import Criterion, apply_criterion, ib_scores
from nc_fast.greedy import select
from nc_fast.init.activations import FollowingActivation
from nc_fast.init.candidates import inverse
from nc_fast.inputs.arrays import as_numpy
from nc_fast.inputs.labels import join_labels
from nc_fast.types import Certificate, Scores

SCREENED_BYTES = 1 << 30  # of a layer's samples: screening reads them more than once, so they are held; beyond, scoring is exact

NAMED_LABELS = 5  # in a message

SampleBlocks = Callable[[], Iterator[tuple[Tensor, np.ndarray]]]  # (n, D) and (n,) blocks, from the start at every call


@dataclass(frozen=True)
class PickRules:
    """How a layer's neurons are scored and picked.

    Attributes
    ----------
    activation : what follows the layer; after a fresh BatchNorm, neurons are compared at mean 0 and standard deviation 1.
    alpha : weight of I(X;Z).
    by_class : share the picks over the classes.
    criterion : scores and groups the candidates instead of ``ib_scores``, or None.
    screened : estimate the scores of candidates that cannot be picked (``method="screened"``).
    assigned : the classes are the outputs': neuron j stands for class j.
    """

    activation: FollowingActivation
    alpha: float
    by_class: bool
    criterion: Criterion | None
    screened: bool
    assigned: bool


@dataclass(frozen=True)
class GroupPicks:
    """The picks for one group of neurons.

    Attributes
    ----------
    indices : their row numbers among the candidates, in the order of the layer's neurons.
    score, pool_score : mean scores of the picks and of all candidates; of a pursuit, the share that is explained, and None.
    live : how many candidates were fit to be picked.
    certificate : of a screened campaign.
    """

    indices: np.ndarray
    score: float
    pool_score: float | None
    live: int
    certificate: Certificate | None


def pick_neurons(weight: Tensor, bias: Tensor, samples: SampleBlocks, k: int, rules: PickRules) -> GroupPicks:
    """Pick k of the candidates, the rows of ``weight`` (M, D), which will be installed with ``bias`` (M,)."""
    device = compute_device(weight)
    W, b = weight.to(device).T, bias.to(device)  # the array API wants columns; a transposed view, no copy

    def blocks() -> Iterator[tuple[Tensor, np.ndarray]]:
        for X, y in samples():
            yield X.to(device), y

    one_output = rules.assigned and k == 1
    with warnings.catch_warnings():  # the report says it when dead candidates had to be picked
        warnings.simplefilter("ignore", UserWarning)
        held = _held(blocks()) if rules.screened and not (rules.activation.normalized or one_output) else None
        return _exact(W, b, blocks, k, rules) if held is None else _screened(W, b, *held, k, rules)


def compute_device(weight: Tensor) -> torch.device:
    """Return where a layer's candidates are looked at: on its GPU if that backend is there, else on the CPU."""
    on_gpu = weight.device.type == "cuda" and registry.BACKENDS["gpu"].missing() is None
    return weight.device if on_gpu else torch.device("cpu")


def _exact(W: Tensor, b: Tensor, blocks: SampleBlocks, k: int, rules: PickRules) -> GroupPicks:
    """Score every candidate on all samples."""
    scored_W, scored_b = W, b
    if rules.activation.normalized:
        scale = inverse(class_moments(W, blocks(), activation="identity", ignore_index=None).spread()).to(W.dtype)
        scored_W, scored_b = W * scale, b * scale
    moments = class_moments(scored_W, blocks(), bias=scored_b, activation=rules.activation.function, ignore_index=None)
    scores = ib_scores(moments, alpha=rules.alpha) if rules.criterion is None else apply_criterion(rules.criterion, moments)
    second = np.flatnonzero(as_numpy(scores.group) == 1)
    if rules.assigned and k == 1 and len(scores.classes) == 2 and len(second):  # one output for two classes: high for the second
        rows = torch.from_numpy(second).to(W.device)
        subset = Scores(scores.score[rows], scores.group[rows], scores.live[rows], scores.classes)
        indices = second[as_numpy(select(W[:, rows], subset, 1).indices)]
    else:
        indices = as_numpy(select(W, scores, k, by_class=rules.by_class).indices)
    return _in_order(indices, scores, lambda: as_numpy(moments.mean)[:, indices], rules)


def _screened(W: Tensor, b: Tensor, X: Tensor, y: np.ndarray, k: int, rules: PickRules) -> GroupPicks:
    """Score those candidates exactly that may be picked."""
    function = rules.activation.function
    result = campaign(
        W,
        X,
        y,
        k,
        bias=b,
        activation=function,
        alpha=rules.alpha,
        by_class=rules.by_class,
        criterion=rules.criterion,
        method="screened",
        ignore_index=None,
    )
    rows = result.indices

    def class_means() -> np.ndarray:
        return as_numpy(class_moments(W[:, rows], X, y, bias=b[rows], activation=function, ignore_index=None).mean)

    return _in_order(as_numpy(rows), result.candidates, class_means, rules, result.certificate)


def _in_order(
    indices: np.ndarray, scores: Scores, class_means: Callable[[], np.ndarray], rules: PickRules, certificate: Certificate | None = None
) -> GroupPicks:
    """Put the picks in the order of the layer's neurons; ``class_means`` gives theirs, (C, k)."""
    outputs = output_of_class(scores.classes, len(indices)) if rules.assigned else None
    ordered = deal(indices, as_numpy(scores.group)[indices]) if outputs is None else assign(indices, class_means(), outputs)
    score = as_numpy(scores.score)
    return GroupPicks(ordered, float(score[ordered].mean()), float(score.mean()), int(as_numpy(scores.live).sum()), certificate)


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

    Integer labels are output numbers, and stand for themselves; strings and booleans for the outputs in sorted order.
    """
    if len(classes) > n_outputs or len(_stray(classes, n_outputs)):
        return None
    return np.asarray(classes, np.int64) if classes.dtype.kind in "iu" else np.arange(len(classes))


def stray_labels(classes: np.ndarray, n_outputs: int) -> str | None:
    """Say which integer labels are no numbers of outputs; None where all are, or where 0, 1, 2, ... are more than the outputs."""
    n_outputs = max(2, n_outputs)  # one output stands for two classes
    stray = _stray(classes, n_outputs)
    if not len(stray) or np.array_equal(classes, np.arange(len(classes))):
        return None
    more = f" and {len(stray) - NAMED_LABELS} more" if len(stray) > NAMED_LABELS else ""
    named = ", ".join(map(str, stray[:NAMED_LABELS].tolist())) + more
    outputs = f"{n_outputs} outputs, which are 0 to {n_outputs - 1}"
    return f"labels {named} stand for none of {outputs}; leave them out with ignore_index=, or renumber"


def _stray(classes: np.ndarray, n_outputs: int) -> np.ndarray:
    return classes[(classes < 0) | (classes >= n_outputs)] if classes.dtype.kind in "iu" else classes[:0]


def assign(indices: np.ndarray, class_mean: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    """Order the picks so that ``outputs[c]`` is the one assigned to class c, by the largest sum of class means; the rest fill up."""
    from scipy.optimize import linear_sum_assignment

    classes, picks = linear_sum_assignment(class_mean, maximize=True)
    ordered = np.full(len(indices), -1)
    ordered[outputs[classes]] = picks
    ordered[ordered < 0] = np.setdiff1d(np.arange(len(indices)), picks)
    return np.asarray(indices[ordered])
