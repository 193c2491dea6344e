"""The walk through a model: forward passes stop where the data meets a layer, which is initialized on what arrives there.

So every layer is scored on what the layers before it, already initialized, produce.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cache, partial

import torch
from torch import Tensor, nn

from nc_fast.init.arguments import InitOptions
from nc_fast.init.fill import SIGNAL_SAMPLES, LayerInputs, LayerPlan, fill, signal
from nc_fast.init.forward_pass import on_arrival
from nc_fast.init.head import FittedHead
from nc_fast.init.labels import LabelsDoNotFitError, SampleLabels
from nc_fast.init.layers.base import CallArguments
from nc_fast.init.marks import rows_of
from nc_fast.init.objective import Answers
from nc_fast.init.report import KeptLayer, LayerReport, Signal
from nc_fast.init.sampling import LabelledBatch, SampledData
from nc_fast.init.trace import LIVE_TENSORS, PASS_BYTES
from nc_fast.runtime.progress import reporting

LEAST_AT_ONCE = 3  # so that no pass has one sample, which a BatchNorm that has seen no batch cannot normalize


class _EndOfPass(BaseException):
    """Ends a forward pass that has served its purpose; no Exception, so that no model catches it."""


class Walk:
    """One walk through a model along the layers of a plan."""

    def __init__(
        self, model: nn.Module, device: torch.device, data: SampledData, largest_tensor: int, answers: Answers, plans: Sequence[LayerPlan]
    ) -> None:
        self._model = model
        self._device = device
        self._data = data
        self._answers = answers
        self._batch_size = max(LEAST_AT_ONCE, PASS_BYTES // (LIVE_TENSORS * max(1, largest_tensor)))
        self._plans: dict[nn.Module, list[LayerPlan]] = {}
        for plan in plans:
            self._plans.setdefault(plan.layer.host, []).append(plan)

    def run(self, options: InitOptions) -> tuple[list[LayerReport], FittedHead | None, list[KeptLayer]]:
        """Initialize the layers; return their reports, the head that was fitted, and the layers whose rows were not the samples'."""
        reports: list[LayerReport] = []
        heads: list[FittedHead] = []
        kept: list[KeptLayer] = []
        if not self._plans:
            return reports, None, kept
        total = sum(map(len, self._plans.values()))
        with reporting(options.progress, "layers") as report_progress:
            before, unfit = self._signals()

            def initialize(plan: LayerPlan, inputs: LayerInputs) -> None:
                name = plan.layer.name
                try:
                    if name in unfit:
                        raise unfit[name]
                    report, head = fill(plan, inputs, before[name], self._answers, options)
                    reports.append(report)
                    heads.extend([head] if head else [])
                except LabelsDoNotFitError as reason:
                    kept.append(KeptLayer(name, plan.layer.kind, str(reason)))
                except (TypeError, ValueError) as error:
                    raise type(error)(f"layer {name!r}: {error}") from error
                if report_progress:
                    report_progress(len(reports) + len(kept), total)

            if self._data.held and self._data.size <= self._batch_size:
                self._in_one_pass(initialize)
            else:
                for host, plans in self._plans.items():
                    for plan in plans:
                        initialize(plan, partial(self._inputs, host, plan))
        return reports, heads[0] if heads else None, kept

    def _in_one_pass(self, initialize: Callable[[LayerPlan, LayerInputs], None]) -> None:
        """Stop a forward pass of all samples at every layer, fill it, and go on with the new weights."""
        batch = next(self._data.read(self._batch_size))
        waiting = set(self._plans)

        def arrived(host: nn.Module, arguments: CallArguments) -> None:
            for plan in self._plans[host] if host in waiting else ():
                found = cache(partial(_arrival, plan, arguments, batch.labels))  # attention is computed to find its input
                initialize(plan, partial(_once, found))
            waiting.discard(host)
            if not waiting:
                raise _EndOfPass

        self._forward(batch, list(self._plans), arrived)
        for plan in [plan for host in self._plans if host in waiting for plan in self._plans[host]]:
            initialize(plan, partial(_once, partial(_arrival, plan, None, batch.labels)))

    def _inputs(self, host: nn.Module, plan: LayerPlan) -> Iterator[tuple[Tensor, SampleLabels]]:
        """Yield a layer's inputs by forward passes of its own, batch by batch, which end there."""
        arrivals: list[CallArguments] = []

        def arrived(_host: nn.Module, arguments: CallArguments) -> None:
            arrivals.append(arguments)
            raise _EndOfPass

        for batch in self._data.read(self._batch_size):
            self._forward(batch, [host], arrived)
            yield _arrival(plan, arrivals.pop() if arrivals else None, batch.labels)

    def _signals(self) -> tuple[dict[str, Signal], dict[str, LabelsDoNotFitError]]:
        """Return the layers' signals in the model as it is, by name; and why labels do not fit there."""
        batch = next(self._data.read(min(self._batch_size, SIGNAL_SAMPLES)))
        signals = {plan.layer.name: Signal(math.nan, math.nan, math.nan) for plans in self._plans.values() for plan in plans}
        unfit: dict[str, LabelsDoNotFitError] = {}

        def arrived(host: nn.Module, arguments: CallArguments) -> None:
            for plan in self._plans[host]:
                try:
                    x, labels = _arrival(plan, arguments, batch.labels)
                    signals[plan.layer.name] = signal(plan, x, labels)
                except LabelsDoNotFitError as error:  # the layer will be kept
                    unfit[plan.layer.name] = error

        self._forward(batch, list(self._plans), arrived)
        return signals, unfit

    def _forward(self, batch: LabelledBatch, hosts: Sequence[nn.Module], act: Callable[[nn.Module, CallArguments], None]) -> None:
        with suppress(_EndOfPass), on_arrival(hosts, act):
            batch.run(self._model, self._device)


def _arrival(plan: LayerPlan, arguments: CallArguments | None, labels: SampleLabels) -> tuple[Tensor, SampleLabels]:
    """Return a layer's input with the labels of its samples, after checking that it has as many."""
    if arguments is None:
        raise LabelsDoNotFitError("the data does not always reach it")
    x = plan.layer.input(*arguments)
    rows_of(x, plan.axis, len(labels))
    return x, labels


def _once(arrival: Callable[[], tuple[Tensor, SampleLabels]]) -> Iterator[tuple[Tensor, SampleLabels]]:
    """Yield what arrived, as the whole of a layer's inputs."""
    yield arrival()
