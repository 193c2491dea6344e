"""One layer: draw its pool, score it on the layer's samples, install the picks, report."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import torch
from torch import Tensor

from nc_fast.init.arguments import Options
from nc_fast.init.candidates import Given, Pool, drawn, given
from nc_fast.init.layers import Layer
from nc_fast.init.pick import Choice, Rules, choose
from nc_fast.init.report import LayerReport, Signal
from nc_fast.init.trace import Met

SIGNAL_SAMPLES = 256  # the report's means, standard deviations and dead fractions are over the first so many samples
CHANGED = 1e-3  # relative; a parametrization that moves a weight by more is reported

Arrivals = Callable[[], Iterator[tuple[Tensor, np.ndarray]]]  # a layer's inputs with labels, from the start at every call


@dataclass(frozen=True)
class Step:
    """A layer to initialize, how to pick, and what its drawn weights are multiplied by."""

    met: Met
    rules: Rules
    gain: float


def fill(step: Step, arrivals: Arrivals, before: Signal, brought: Given | None, options: Options) -> LayerReport:
    """Initialize one layer and return its report."""
    started = perf_counter()
    layer, rules = step.met.layer, step.rules
    pool = given(layer, brought, options.gain) if brought else drawn(layer, options.base, options.pool, step.gain)

    def rows(group: int) -> Iterator[tuple[Tensor, np.ndarray]]:
        for x, labels in arrivals():
            for X, y in layer.rows(x, step.met.axis, labels, group):
                yield X.to(pool.weight.dtype), y

    centred = rules.normalized or (options.bias == "center" and layer.trains_bias and pool.bias is None)
    means = [_feature_mean(rows(group)) if centred else None for group in range(layer.groups)]
    chosen: list[Tensor] = []
    choices: list[Choice] = []
    per_group = len(layer.weight) // layer.groups
    for group, members in enumerate(pool.members):
        W = pool.weight[members]
        own = None if pool.bias is None else pool.bias[members]
        scored = _centring(W, means[group]) if rules.normalized else _biases(W, means[group], own, layer, options)
        choice = choose(W, scored, lambda group=group: rows(group), per_group, rules)  # type: ignore[misc]
        choices.append(choice)
        picks = torch.from_numpy(choice.indices).to(W.device)
        chosen.append(picks if isinstance(members, slice) else members[picks])
    rows_chosen = torch.cat(chosen)
    moved = _install(layer, pool, rows_chosen, means, options)
    x, labels = next(arrivals())
    return LayerReport(
        name=layer.name,
        kind=layer.kind,
        activation=f"batchnorm, {rules.activation.name}" if rules.normalized else rules.activation.name,
        alpha=rules.alpha,
        pool=len(pool.weight),
        picks=tuple(rows_chosen.tolist()),
        score=float(np.mean([choice.score for choice in choices])),
        pool_score=float(np.mean([choice.pool_score for choice in choices])),
        before=before,
        after=signal(step, x, min(len(labels), SIGNAL_SAMPLES)),
        seconds=perf_counter() - started,
        notes=(*step.met.notes, *moved, *_notes(layer, rules, choices, per_group)),
    )


def signal(step: Step, x: Tensor, n: int) -> Signal:
    """Return the layer's signal for the first n samples of an input."""
    z = step.met.layer.preactivation(x, step.met.axis, n).float()
    std, mean = torch.std_mean(z, correction=0)
    lowest, highest = torch.aminmax(z, dim=0)
    dead = highest <= 0 if step.rules.activation.function == "relu" and not step.rules.normalized else lowest == highest
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


def _biases(W: Tensor, mean: Tensor | None, own: Tensor | None, layer: Layer, options: Options) -> Tensor:
    """Return the bias each neuron will be installed with; 0 where the layer has none to set."""
    if not layer.trains_bias:
        return W.new_zeros(len(W))
    if own is not None:
        return own
    if isinstance(options.bias, float):
        return W.new_full((len(W),), options.bias)
    return _centring(W, mean if options.bias == "center" else None)


def _install(layer: Layer, pool: Pool, chosen: Tensor, means: list[Tensor | None], options: Options) -> tuple[str, ...]:
    """Install the picks, with biases for the weights as they are then: a parametrization may change them."""
    wanted = pool.weight[chosen]
    layer.install(wanted)
    actual = layer.weight.reshape(wanted.shape).to(wanted.dtype)
    if layer.trains_bias:
        own = None if pool.bias is None else pool.bias[chosen].chunk(layer.groups)
        blocks = enumerate(actual.chunk(layer.groups))
        layer.install_bias(torch.cat([_biases(W, means[group], own[group] if own else None, layer, options) for group, W in blocks]))
    moved = float((actual - wanted).norm() / wanted.norm().clamp(min=torch.finfo(wanted.dtype).tiny))
    tolerance = max(CHANGED, 4 * torch.finfo(layer.weight.dtype).eps)
    return (f"its parametrization changed the weights by {moved:.0%}",) if moved > tolerance else ()


def _notes(layer: Layer, rules: Rules, choices: list[Choice], per_group: int) -> Iterator[str]:
    if not layer.trains_bias and not rules.normalized:
        yield "it has no bias parameter; scores use 0" if layer.bias is None else "its bias is frozen and was kept; scores use 0"
    screened = [choice.certificate for choice in choices if choice.certificate and not choice.certificate.exact]
    if screened:
        known, pool = (sum(part) for part in zip(*((one.shortlist + one.audit, one.pool) for one in screened), strict=True))
        differ = 1 - float(np.prod([1 - one.probability for one in screened]))
        yield f"screened: {known} of {pool} candidates scored exactly; picks differ from the exact method's with probability {differ:.1%}"
    dead = sum(max(0, per_group - choice.live) for choice in choices)
    if dead:
        yield f"{dead} of its neurons say nothing about the data: the pool had no more that do"
