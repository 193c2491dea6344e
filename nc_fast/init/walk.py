"""The walk through a model: forward passes stop where the data meets a layer, which is initialized on what arrives there.

So every layer is scored on what the layers before it, already initialized, produce.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from time import perf_counter

import numpy as np
import torch
from torch import Tensor, nn

from nc_fast.init.arguments import InitOptions
from nc_fast.init.candidates import GivenCandidates, LayerPool, draw_pool, given_pool
from nc_fast.init.forward_pass import on_arrival
from nc_fast.init.layers.base import BatchAxis, CallArguments, Layer
from nc_fast.init.pick import GroupPicks, PickRules, pick_neurons
from nc_fast.init.report import LayerReport, Signal
from nc_fast.init.sampling import LabelledBatch, SampledData
from nc_fast.init.state import batch_statistics
from nc_fast.runtime.progress import reporting

PASS_BYTES = 1 << 30  # of activations at a time: if all samples fit, one forward pass serves all layers
LIVE_TENSORS = 4  # taken to be alive at once in a forward pass, each as large as the largest
SIGNAL_SAMPLES = 256  # the report's means, standard deviations and dead fractions are over the first so many samples
CHANGED = 1e-3  # relative; a parametrization that moves a weight by more is reported

LayerInputs = Callable[[], Iterator[tuple[Tensor, np.ndarray]]]  # a layer's inputs with labels, from the start at every call


@dataclass(frozen=True)
class LayerPlan:
    """A layer to initialize, and how.

    Attributes
    ----------
    layer, axis : the layer, and where the samples are in its input.
    rules : how its neurons are picked.
    gain : what candidates that are drawn are multiplied by.
    given : candidates to pick among instead.
    """

    layer: Layer
    axis: BatchAxis
    rules: PickRules
    gain: float
    given: GivenCandidates | None


class _EndOfPass(BaseException):
    """Ends a forward pass that has served its purpose; no Exception, so that no model catches it."""


class Walk:
    """One walk through a model along the layers of a plan."""

    def __init__(
        self, model: nn.Module, device: torch.device, data: SampledData, bytes_per_sample: int, plans: Sequence[LayerPlan]
    ) -> None:
        self._model = model
        self._device = device
        self._data = data
        self._batch_size = max(1, PASS_BYTES // (LIVE_TENSORS * max(1, bytes_per_sample)))
        self._plans: dict[nn.Module, list[LayerPlan]] = {}
        for plan in plans:
            self._plans.setdefault(plan.layer.host, []).append(plan)

    def run(self, options: InitOptions) -> list[LayerReport]:
        """Initialize the layers; return their reports."""
        if not self._plans:
            return []
        reports: list[LayerReport] = []
        total = sum(map(len, self._plans.values()))
        with reporting(options.progress, "campaigns") as report_progress, batch_statistics(self._model):
            before = self._signals()

            def fill(plan: LayerPlan, inputs: LayerInputs) -> None:
                name = plan.layer.name
                try:
                    reports.append(_fill(plan, inputs, before[name], options))
                except (TypeError, ValueError) as error:
                    raise type(error)(f"layer {name!r}: {error}") from error
                if report_progress:
                    report_progress(len(reports), total)

            if self._data.held and self._data.size <= self._batch_size:
                self._in_one_pass(fill)
            else:
                for host, plans in self._plans.items():
                    for plan in plans:
                        fill(plan, partial(self._inputs, host, plan.layer))
        return reports

    def _in_one_pass(self, fill: Callable[[LayerPlan, LayerInputs], None]) -> None:
        """Stop a forward pass of all samples at every layer, fill it, and go on with the new weights."""
        batch = next(self._data.read(self._batch_size))
        waiting = set(self._plans)

        def arrived(host: nn.Module, arguments: CallArguments) -> None:
            for plan in self._plans[host]:
                fill(plan, partial(iter, [(plan.layer.input(*arguments), batch.labels)]))
            waiting.discard(host)
            if not waiting:
                raise _EndOfPass

        self._forward(batch, list(self._plans), arrived)

    def _inputs(self, host: nn.Module, layer: Layer) -> Iterator[tuple[Tensor, np.ndarray]]:
        """Yield a layer's inputs by forward passes of its own, batch by batch, which end there."""
        arrivals: list[CallArguments] = []

        def arrived(_host: nn.Module, arguments: CallArguments) -> None:
            arrivals.append(arguments)
            raise _EndOfPass

        for batch in self._data.read(self._batch_size):
            self._forward(batch, [host], arrived)
            while arrivals:
                yield layer.input(*arrivals.pop()), batch.labels

    def _signals(self) -> dict[str, Signal]:
        """Return the layers' signals in the model as it is, by name."""
        batch = next(self._data.read(min(self._batch_size, SIGNAL_SAMPLES)))
        signals: dict[str, Signal] = {}

        def arrived(host: nn.Module, arguments: CallArguments) -> None:
            for plan in self._plans[host]:
                signals[plan.layer.name] = _signal(plan, plan.layer.input(*arguments), len(batch))

        self._forward(batch, list(self._plans), arrived)
        return signals

    def _forward(self, batch: LabelledBatch, hosts: Sequence[nn.Module], act: Callable[[nn.Module, CallArguments], None]) -> None:
        with suppress(_EndOfPass), on_arrival(hosts, act):
            batch.run(self._model, self._device)


def _fill(plan: LayerPlan, inputs: LayerInputs, before: Signal, options: InitOptions) -> LayerReport:
    """Draw a layer's candidates, pick on its inputs, install the picks; return its report."""
    started = perf_counter()
    layer, rules = plan.layer, plan.rules
    pool = given_pool(layer, plan.given, options.gain) if plan.given else draw_pool(layer, options.base, options.pool, plan.gain)

    def rows(group: int) -> Iterator[tuple[Tensor, np.ndarray]]:
        for x, labels in inputs():
            for X, y in layer.rows(x, plan.axis, labels, group):
                yield X.to(pool.weight.dtype), y

    normalized = rules.activation.normalized
    centred = normalized or (options.bias == "center" and layer.trains_bias and pool.bias is None)
    means = [_feature_mean(rows(group)) if centred else None for group in range(layer.groups)]
    picked: list[GroupPicks] = []
    per_group = len(layer.weight) // layer.groups
    for group, members in enumerate(pool.members):
        W = pool.weight if layer.groups == 1 else pool.weight[members]
        own = None if pool.bias is None else pool.bias[members]
        scored = _centring(W, means[group]) if normalized else _biases(W, means[group], own, layer, options)
        picked.append(pick_neurons(W, scored, partial(rows, group), per_group, rules))
    chosen = torch.cat(
        [members[torch.from_numpy(group.indices).to(members.device)] for members, group in zip(pool.members, picked, strict=True)]
    )
    moved = _install(layer, pool, chosen, means, options)
    x, labels = next(inputs())
    return LayerReport(
        name=layer.name,
        kind=layer.kind,
        activation=f"batchnorm, {rules.activation.name}" if normalized else rules.activation.name,
        alpha=rules.alpha,
        pool=len(pool.weight),
        picks=tuple(chosen.tolist()),
        score=float(np.mean([group.score for group in picked])),
        pool_score=float(np.mean([group.pool_score for group in picked])),
        before=before,
        after=_signal(plan, x, min(len(labels), SIGNAL_SAMPLES)),
        seconds=perf_counter() - started,
        notes=(*rules.activation.notes, *moved, *_notes(layer, rules, picked, per_group)),
    )


def _signal(plan: LayerPlan, x: Tensor, n: int) -> Signal:
    """Return the layer's signal for the first n samples of an input."""
    z = plan.layer.preactivation(x, plan.axis, n).float()
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
    moved = float((actual - wanted).norm() / wanted.norm().clamp(min=torch.finfo(wanted.dtype).tiny))
    tolerance = max(CHANGED, 4 * torch.finfo(layer.weight.dtype).eps)
    return (f"its parametrization changed the weights by {moved:.0%}",) if moved > tolerance else ()


def _notes(layer: Layer, rules: PickRules, picked: Sequence[GroupPicks], per_group: int) -> Iterator[str]:
    if not layer.trains_bias and not rules.activation.normalized:
        yield "it has no bias parameter; scores use 0" if layer.bias is None else "its bias is frozen and was kept; scores use 0"
    screened = [group.certificate for group in picked if group.certificate and not group.certificate.exact]
    if screened:
        known, pool = sum(one.shortlist + one.audit for one in screened), sum(one.pool for one in screened)
        differ = 1 - float(np.prod([1 - one.probability for one in screened]))
        yield f"screened: {known} of {pool} candidates scored exactly; picks differ from the exact method's with probability {differ:.1%}"
    dead = sum(max(0, per_group - group.live) for group in picked)
    if dead:
        yield f"{dead} of its neurons say nothing about the data: the pool had no more that do"
