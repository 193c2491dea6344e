"""Forward passes that stop where data meets a layer, so that it is initialized on what the layers before it now produce."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from nc_fast.init.arguments import Options
from nc_fast.init.candidates import Given
from nc_fast.init.fill import SIGNAL_SAMPLES, Arrivals, Step, fill, signal
from nc_fast.init.layers import Layer
from nc_fast.init.report import LayerReport, Signal
from nc_fast.init.sampling import Batch, Samples
from nc_fast.init.state import batch_statistics
from nc_fast.init.trace import Arguments, on_arrival
from nc_fast.runtime.progress import Progress, reporting

PASS_BYTES = 1 << 30  # of activations at a time: if all samples fit, one forward pass serves all layers
LIVE_TENSORS = 4  # taken to be alive at once in a forward pass, each as large as the largest


class _Enough(BaseException):
    """Ends a forward pass that has served its purpose; no Exception, so that no model catches it."""

    def __init__(self, arguments: Arguments | None = None) -> None:
        super().__init__()
        self.arguments = arguments


class Walk:
    """One walk through a model: forward passes that stop at layers, which are initialized there."""

    def __init__(
        self,
        model: nn.Module,
        device: torch.device,
        samples: Samples,
        bytes_per_sample: int,
        progress: Progress,
    ) -> None:
        self._model = model
        self._device = device
        self._samples = samples
        self._progress = progress
        self._batch_size = max(1, PASS_BYTES // (LIVE_TENSORS * max(1, bytes_per_sample)))

    def run(self, plan: Sequence[Step], brought: Mapping[str, Given], options: Options) -> list[LayerReport]:
        """Initialize the layers of the plan; return their reports."""
        if not plan:
            return []
        by_host: dict[nn.Module, list[Step]] = {}
        for step in plan:
            by_host.setdefault(step.met.layer.host, []).append(step)
        reports: list[LayerReport] = []
        with reporting(self._progress, "campaigns") as report, batch_statistics(self._model):
            before = self._signals(by_host)

            def initialize(step: Step, arrivals: Arrivals) -> None:
                name = step.met.layer.name
                try:
                    reports.append(fill(step, arrivals, before[name], brought.get(name), options))
                except (TypeError, ValueError) as error:
                    raise type(error)(f"layer {name!r}: {error}") from error
                if report:
                    report(len(reports), len(plan))

            if self._samples.held and self._samples.size <= self._batch_size:
                self._in_one_pass(by_host, initialize)
            else:
                self._pass_by_pass(by_host, initialize)
        return reports

    def _in_one_pass(self, by_host: Mapping[nn.Module, Sequence[Step]], initialize: Callable[[Step, Arrivals], None]) -> None:
        """Stop a forward pass of all samples at every layer, initialize it, and go on with the new weights."""
        batch = next(self._samples.read(self._batch_size))
        waiting = set(by_host)

        def arrived(host: nn.Module, arguments: Arguments) -> None:
            for step in by_host[host]:
                arrival = (step.met.layer.input(*arguments), batch.labels)
                initialize(step, lambda arrival=arrival: iter([arrival]))  # type: ignore[misc]
            waiting.discard(host)
            if not waiting:
                raise _Enough

        self._forward(batch, list(by_host), arrived)

    def _pass_by_pass(self, by_host: Mapping[nn.Module, Sequence[Step]], initialize: Callable[[Step, Arrivals], None]) -> None:
        """Bring every layer its inputs by forward passes of its own, batch by batch, which end there."""
        for host, steps in by_host.items():
            for step in steps:
                initialize(step, lambda host=host, layer=step.met.layer: self._arrivals(host, layer))  # type: ignore[misc]

    def _arrivals(self, host: nn.Module, layer: Layer) -> Iterator[tuple[Tensor, np.ndarray]]:
        def arrived(_host: nn.Module, arguments: Arguments) -> None:
            raise _Enough(arguments)

        for batch in self._samples.read(self._batch_size):
            arguments = self._forward(batch, [host], arrived)
            if arguments is not None:
                yield layer.input(*arguments), batch.labels

    def _forward(self, batch: Batch, hosts: Sequence[nn.Module], act: Callable[[nn.Module, Arguments], None]) -> Arguments | None:
        try:
            with on_arrival(hosts, act):
                batch.run(self._model, self._device)
        except _Enough as enough:
            return enough.arguments
        return None

    def _signals(self, by_host: Mapping[nn.Module, Sequence[Step]]) -> dict[str, Signal]:
        """Return the layers' signals in the model as it is."""
        batch = next(self._samples.read(min(self._batch_size, SIGNAL_SAMPLES)))
        found: dict[str, Signal] = {}

        def arrived(host: nn.Module, arguments: Arguments) -> None:
            for step in by_host[host]:
                found[step.met.layer.name] = signal(step, step.met.layer.input(*arguments), len(batch))

        self._forward(batch, list(by_host), arrived)
        return found
