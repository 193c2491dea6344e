"""One layer: draw its candidates, pick on what arrives there, install the picks, report."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter

import numpy as np
import torch
from torch import Tensor

from nc_fast.init.arguments import CAMPAIGN, DRAWN, LEAST_SQUARES, PURSUIT, InitOptions
from nc_fast.init.candidates import GivenCandidates, InitFunction, LayerPool, compute_dtype, draw_pool, given_pool, pairs_pool
from nc_fast.init.head import FittedHead, fit_head
from nc_fast.init.labels import SampleLabels
from nc_fast.init.layers.base import BatchAxis, Layer, PatchDraw
from nc_fast.init.layers.convolution import ConvLayer
from nc_fast.init.objective import Answers
from nc_fast.init.pick import GroupPicks, PickRules, pick_neurons
from nc_fast.init.pursue import pursue_neurons
from nc_fast.init.report import LayerReport, Signal
from nc_fast.init.rows import draw_rows

SIGNAL_SAMPLES = 256  # the report's means, standard deviations and dead fractions are over the first so many samples

POOL, LEAST_POOL, WIDE_POOL = 10, 2, 640  # candidates for a neuron; fewer where a pursuit would have more than so many for a layer
ONE_PATCH = PatchDraw(1, 1, 0)  # for layers that are no convolutions
PAIRED_ROWS = 5000  # of a layer's samples, of which pairs are drawn

LayerInputs = Callable[[], Iterator[tuple[Tensor, SampleLabels]]]  # a layer's inputs with labels, from the start at every call


@dataclass(frozen=True)
class LayerPlan:
    """A layer to initialize, and how.

    Attributes
    ----------
    layer, axis : the layer, and where the samples are in its input.
    select : "pursuit" or "campaign"; "drawn": nothing is picked; "least_squares": the layer is the fitted head.
    rules : how its neurons are picked.
    base : what candidates are drawn by: a function, or DATA_PAIRS.
    gain : what candidates that are drawn are multiplied by.
    given : candidates to pick among instead.
    unseen : so many samples, the first, are not fitted on: the head is judged by them.
    draw : how many patches a convolution looks at.
    """

    layer: Layer
    axis: BatchAxis
    select: str
    rules: PickRules
    base: InitFunction | str
    gain: float
    given: GivenCandidates | None
    unseen: int = 0
    draw: PatchDraw = ONE_PATCH


@dataclass(frozen=True)
class Picked:
    """What a layer's report says of its neurons."""

    pool: int
    picks: tuple[int, ...]
    score: float | None
    pool_score: float | None
    notes: tuple[str, ...]


def fill(
    plan: LayerPlan, inputs: LayerInputs, before: Signal, answers: Answers, options: InitOptions
) -> tuple[LayerReport, FittedHead | None]:
    """Initialize a layer on its inputs; return its report, and the head if it is that."""
    started = perf_counter()
    layer, rules = plan.layer, plan.rules
    dtype = compute_dtype(layer.weight)

    held: dict[int, list[tuple[Tensor, np.ndarray]]] = {}

    def rows(group: int) -> Iterator[tuple[Tensor, np.ndarray]]:
        if not isinstance(layer, ConvLayer):
            for x, labels in inputs():
                for X, y in layer.rows(x, plan.axis, labels, group, plan.draw):
                    yield X.to(dtype), y
            return
        for x, labels in () if held else inputs():  # patches are few enough to be held: one reading for all groups
            for number in range(layer.groups):
                held.setdefault(number, []).extend((X.to(dtype), y) for X, y in layer.rows(x, plan.axis, labels, number, plan.draw))
        yield from held[group]

    if plan.select == LEAST_SQUARES:
        inputs = partial(unseen, inputs, plan.axis, plan.unseen)
    x, labels = next(inputs())  # what is no layer's input to fill raises here, before anything is written
    if plan.select == LEAST_SQUARES:
        head = fit_head(layer, rows(0), answers, rules.activation.name == "sigmoid")
        done = Picked(0, (), head.explained, None, tuple(_no_bias(layer, "its intercept is left out")))
    else:
        head = None
        done = _pick(plan, rows, answers, options)
    report = LayerReport(
        name=layer.name,
        kind=layer.kind,
        activation=f"batchnorm, {rules.activation.name}" if rules.activation.normalized else rules.activation.name,
        select=plan.select,
        alpha=rules.alpha if plan.select == CAMPAIGN else None,
        pool=done.pool,
        picks=done.picks,
        score=done.score,
        pool_score=done.pool_score,
        before=before,
        after=signal(plan, x, labels[:SIGNAL_SAMPLES]),
        seconds=perf_counter() - started,
        notes=(*rules.activation.notes, *done.notes),
    )
    return report, head


def candidates_per_neuron(plan: LayerPlan) -> int:
    """Return the default: of many neurons, fewer candidates each are enough."""
    n = len(plan.layer.weight)
    return max(LEAST_POOL, min(POOL, WIDE_POOL // n)) if plan.select == PURSUIT else POOL


def _pick(plan: LayerPlan, rows: Callable[[int], Iterator[tuple[Tensor, np.ndarray]]], answers: Answers, options: InitOptions) -> Picked:
    """Draw a layer's candidates, pick and install."""
    layer, rules = plan.layer, plan.rules
    size = 1 if plan.select == DRAWN else options.pool or candidates_per_neuron(plan)
    if plan.given:
        pool = given_pool(layer, plan.given, options.gain)
    elif callable(plan.base):
        pool = draw_pool(layer, plan.base, size, plan.gain)
    else:
        pool = pairs_pool(layer, size, plan.gain, [draw_rows(rows(group), PAIRED_ROWS) for group in range(layer.groups)], answers)
    normalized = rules.activation.normalized and plan.select != DRAWN
    centred = normalized or (options.bias == "center" and layer.trains_bias and pool.bias is None)
    means = [_feature_mean(rows(group)) if centred else None for group in range(layer.groups)]
    picked: list[GroupPicks] = []
    per_group = len(layer.weight) // layer.groups
    for group, members in enumerate(pool.members if plan.select != DRAWN else ()):
        W = pool.weight if layer.groups == 1 else pool.weight[members]
        own = None if pool.bias is None else pool.bias[members]
        bias = _centring(W, means[group]) if normalized else _biases(W, means[group], own, layer, options)
        samples = partial(rows, group)
        if plan.select == PURSUIT:
            picked.append(pursue_neurons(W, bias, samples, per_group, rules, answers))
        else:
            picked.append(pick_neurons(W, bias, samples, per_group, rules))
    rank = [torch.from_numpy(group.indices) for group in picked] or [torch.arange(per_group)] * layer.groups
    chosen = torch.cat([members[indices.to(members.device)] for members, indices in zip(pool.members, rank, strict=True)])
    moved = _install(layer, pool, chosen, means, options)
    score = float(np.mean([group.score for group in picked])) if picked else None
    pool_scores = [group.pool_score for group in picked if group.pool_score is not None]
    pool_score = float(np.mean(pool_scores)) if pool_scores else None
    return Picked(len(pool.weight), tuple(chosen.tolist()), score, pool_score, (*moved, *_notes(layer, rules, picked, per_group)))


def unseen(inputs: LayerInputs, axis: BatchAxis, n: int) -> Iterator[tuple[Tensor, SampleLabels]]:
    """Yield a layer's inputs without the first n samples."""
    for x, labels in inputs():
        first = min(n, len(labels))
        n -= first
        if first < len(labels):
            yield x.narrow(axis.dim, first * axis.rows, x.shape[axis.dim] - first * axis.rows), labels[first:]


def signal(plan: LayerPlan, x: Tensor, labels: SampleLabels) -> Signal:
    """Return the layer's signal for the first samples of an input, those that the labels are of."""
    z = plan.layer.preactivation(x, plan.axis, labels).float()
    std, mean = torch.std_mean(z, correction=0)
    lowest, highest = torch.aminmax(z, dim=0)
    activation = plan.rules.activation
    dead = highest <= 0 if activation.function == "relu" and not activation.normalized else lowest == highest
    return Signal(float(mean), float(std), float(dead.float().mean()))


def _feature_mean(rows: Iterator[tuple[Tensor, np.ndarray]]) -> Tensor:
    """Return the mean of every feature, (D,) float64."""
    count, total = 0, torch.zeros(())
    for X, _ in rows:
        # A product with ones: five times as fast as X.sum(0, dtype=float64), and exact enough for a bias.
        count, total = count + len(X), total.to(X.device) + (X.T @ X.new_ones(len(X))).double()
    if not torch.isfinite(total).all():
        raise ValueError("its inputs are not finite: look at the data, gain, and the layers before it")
    return total / count


def _centring(W: Tensor, mean: Tensor | None) -> Tensor:
    """Return the biases that give every neuron a mean pre-activation of 0."""
    return W.new_zeros(len(W)) if mean is None else -(W @ mean.to(W.dtype))


def _biases(W: Tensor, mean: Tensor | None, own: Tensor | None, layer: Layer, options: InitOptions) -> Tensor:
    """Return the bias each neuron will be installed with; 0 where the layer has none to set."""
    if not layer.trains_bias:
        return W.new_zeros(len(W))
    if own is not None:
        return own
    if isinstance(options.bias, float):
        return W.new_full((len(W),), options.bias)
    return _centring(W, mean if options.bias == "center" else None)


def _install(layer: Layer, pool: LayerPool, chosen: Tensor, means: list[Tensor | None], options: InitOptions) -> tuple[str, ...]:
    """Install the picks, with biases for the weights as they are then: a parametrization may change them."""
    wanted = pool.weight[chosen]
    layer.install(wanted)
    actual = layer.weight.reshape(wanted.shape).to(wanted.dtype)
    if layer.trains_bias:
        own = None if pool.bias is None else pool.bias[chosen].chunk(layer.groups)
        blocks = enumerate(actual.chunk(layer.groups))
        layer.install_bias(torch.cat([_biases(W, means[group], own[group] if own else None, layer, options) for group, W in blocks]))
    return layer.changes_of(wanted)


def _notes(layer: Layer, rules: PickRules, picked: Sequence[GroupPicks], per_group: int) -> Iterator[str]:
    if not rules.activation.normalized:
        yield from _no_bias(layer, "scores use 0")
    screened = [group.certificate for group in picked if group.certificate and not group.certificate.exact]
    if screened:
        known, pool = sum(one.shortlist + one.audit for one in screened), sum(one.pool for one in screened)
        differ = 1 - float(np.prod([1 - one.probability for one in screened]))
        yield f"screened: {known} of {pool} candidates scored exactly; picks differ from the exact method's with probability {differ:.1%}"
    dead = sum(max(0, per_group - group.live) for group in picked)
    if dead:
        yield f"{dead} of its neurons say nothing about the data: the pool had no more that do"


def _no_bias(layer: Layer, so: str) -> Iterator[str]:
    if not layer.trains_bias:
        yield f"it has no bias parameter; {so}" if layer.bias is None else f"its bias is frozen and was kept; {so}"
