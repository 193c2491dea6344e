"""The walk through a model: forward passes stop where the data meets a layer, which is initialized on what arrives there.

So every layer is scored on what the layers before it, already initialized, produce.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial

import torch
from torch import Tensor, nn

from nc_fast.init.arguments import InitOptions
from nc_fast.init.fill import SIGNAL_SAMPLES, LayerInputs, LayerPlan, fill, signal
from nc_fast.init.forward_pass import on_arrival
from nc_fast.init.head import FittedHead
from nc_fast.init.labels import SampleLabels
from nc_fast.init.layers.base import CallArguments, Layer
from nc_fast.init.objective import Answers
from nc_fast.init.report import LayerReport, Signal
from nc_fast.init.sampling import LabelledBatch, SampledData
from nc_fast.runtime.progress import reporting

PASS_BYTES = 1 << 30  # of activations at a time: if all samples fit, one forward pass serves all layers
LIVE_TENSORS = 4  # taken to be alive at once in a forward pass, each as large as the largest


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
        self._batch_size = max(1, PASS_BYTES // (LIVE_TENSORS * max(1, largest_tensor)))
        self._plans: dict[nn.Module, list[LayerPlan]] = {}
        for plan in plans:
            self._plans.setdefault(plan.layer.host, []).append(plan)

    def run(self, options: InitOptions) -> tuple[list[LayerReport], FittedHead | None]:
        """Initialize the layers; return their reports, and the head that was fitted."""
        reports: list[LayerReport] = []
        heads: list[FittedHead] = []
        if not self._plans:
            return reports, None
        total = sum(map(len, self._plans.values()))
        with reporting(options.progress, "layers") as report_progress:
            before = self._signals()

            def initialize(plan: LayerPlan, inputs: LayerInputs) -> None:
                name = plan.layer.name
                try:
                    report, head = fill(plan, inputs, before[name], self._answers, options)
                except (TypeError, ValueError) as error:
                    raise type(error)(f"layer {name!r}: {error}") from error
                reports.append(report)
                heads.extend([head] if head else [])
                if report_progress:
                    report_progress(len(reports), total)

            if self._data.held and self._data.size <= self._batch_size:
                self._in_one_pass(initialize)
            else:
                for host, plans in self._plans.items():
                    for plan in plans:
                        initialize(plan, partial(self._inputs, host, plan.layer))
        return reports, heads[0] if heads else None

    def _in_one_pass(self, initialize: Callable[[LayerPlan, LayerInputs], None]) -> None:
        """Stop a forward pass of all samples at every layer, fill it, and go on with the new weights."""
        batch = next(self._data.read(self._batch_size))
        waiting = set(self._plans)

        def arrived(host: nn.Module, arguments: CallArguments) -> None:
            for plan in self._plans[host]:
                initialize(plan, partial(iter, [(plan.layer.input(*arguments), batch.labels)]))
            waiting.discard(host)
            if not waiting:
                raise _EndOfPass

        self._forward(batch, list(self._plans), arrived)

    def _inputs(self, host: nn.Module, layer: Layer) -> Iterator[tuple[Tensor, SampleLabels]]:
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
                signals[plan.layer.name] = signal(plan, plan.layer.input(*arguments), batch.labels)

        self._forward(batch, list(self._plans), arrived)
        return signals

    def _forward(self, batch: LabelledBatch, hosts: Sequence[nn.Module], act: Callable[[nn.Module, CallArguments], None]) -> None:
        with suppress(_EndOfPass), on_arrival(hosts, act):
            batch.run(self._model, self._device)
