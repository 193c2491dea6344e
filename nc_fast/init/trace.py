"""Forward passes on a few samples show in which order the data meets the layers, where the samples are, and what follows.

Every torch function a layer's output goes through is recorded while the model runs, whether modules, functions or control flow
call it; a symbolic trace (torch.fx) would fail on control flow.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from nc_fast.init.activations import FollowingActivation, activation_after, output_of_model
from nc_fast.init.displaced import displaced
from nc_fast.init.forward_pass import CallRecorder, TorchCall, on_arrival, tensors_in
from nc_fast.init.labels import Grids
from nc_fast.init.layers.attention import ProjectionLayer
from nc_fast.init.layers.base import BatchAxis, CallArguments, Layer, kind_of, parameters_behind
from nc_fast.init.marks import strays
from nc_fast.init.positions import label_grids
from nc_fast.init.report import KeptLayer
from nc_fast.init.sampling import LabelledBatch, SampledData
from nc_fast.init.state import is_fresh_batchnorm

TRACE_SAMPLES = (2, 3)  # two sizes: the dimension that grows is the samples'
CALLED_WITH = "what it is called with is what batch=lambda b: (inputs, labels) says"
MARKED_SAMPLES = 64  # in two orders: rows of samples that are all alike, or all sent to one expert by chance, would tell nothing
PASS_BYTES = 1 << 30  # of activations at a time: if all samples fit, one forward pass serves all layers
LIVE_TENSORS = 4  # taken to be alive at once in a forward pass, each as large as the largest


@dataclass(frozen=True)
class TracedLayer:
    """A layer the data meets.

    Attributes
    ----------
    layer : Layer
    position : its place in the order; query, key and value share one.
    axis : where the samples are in its input.
    activation : what follows; identity where nothing was found.
    output : which of the model's output tensors is its output, reshaped, averaged or after a softmax; None if none is.
    returned : that tensor's shape for one sample, (rows, ...).
    """

    layer: Layer
    position: int
    axis: BatchAxis
    activation: FollowingActivation
    output: int | None
    returned: tuple[int, ...] = ()


@dataclass(frozen=True)
class Trace:
    """What was seen.

    Attributes
    ----------
    layers : in the order the data meets them.
    kept : those that cannot be initialized.
    largest_tensor, all_tensors : bytes per sample of the largest tensor of the forward pass, and of all.
    """

    layers: tuple[TracedLayer, ...]
    kept: tuple[KeptLayer, ...]
    largest_tensor: int
    all_tensors: int


@dataclass
class _HostVisit:
    inputs: dict[str, Tensor] = field(default_factory=dict)  # layer name -> its input
    output: Tensor | None = None
    as_left: Tensor | None = None  # a copy: what follows may overwrite the output
    calls_before: int = 0  # recorded when the output appeared
    times: int = 0


def trace(model: nn.Module, layers: Sequence[Layer], data: SampledData, device: torch.device) -> Trace:
    """Run the model on a few samples and return what was seen."""
    small, _, _ = _run(model, layers, data.first(TRACE_SAMPLES[0]), device)
    batch = data.first(TRACE_SAMPLES[1])
    large, calls, returned = _run(model, layers, batch, device)
    sizes = [t.numel() * t.element_size() for call in calls for t in call.outputs]
    largest = max(sizes, default=0) // TRACE_SAMPLES[1]
    axes = _axes(layers, small, large, label_grids(calls, batch.labels.positions))
    found = [(layer, axis) for layer, axis in axes.items() if isinstance(axis, BatchAxis)]
    if found:
        marked = max(TRACE_SAMPLES[1], min(MARKED_SAMPLES, PASS_BYTES // (LIVE_TENSORS * max(1, largest))))
        differing = data.differing(marked)
        reasons = strays(model, found, differing, device)
        found = [(layer, axis) for layer, axis in found if layer.name not in reasons]
        reasons |= displaced(model, found, differing, device)
        axes |= {layer: reasons[layer.name] for layer in axes if layer.name in reasons}
    fresh_means = {id(module.running_mean) for module in model.modules() if is_fresh_batchnorm(module)}
    order = {host: number for number, host in enumerate(large)}
    traced: list[TracedLayer] = []
    kept: list[KeptLayer] = []
    for layer in sorted((layer for layer in layers if layer.host in order), key=lambda layer: order[layer.host]):
        visit, axis = large[layer.host], axes[layer]
        if isinstance(axis, str):
            kept.append(KeptLayer(layer.name, layer.kind, axis))
            continue
        before = traced[-1] if traced else None
        # Only the projections of one attention share a module.
        position = before.position + (before.layer.module is not layer.module) if before else 0
        if visit.output is None or isinstance(layer, ProjectionLayer):  # query, key and value enter the attention linearly
            activation, output = FollowingActivation("identity", "identity"), None
        else:
            later = calls[visit.calls_before :]
            assert visit.as_left is not None
            activation = activation_after(visit.output, visit.as_left, later, returned, fresh_means)
            output = output_of_model(visit.output, later, returned)
        shape = () if output is None else (len(returned[output]) // TRACE_SAMPLES[1], *returned[output].shape[1:])
        traced.append(TracedLayer(layer, position, axis, activation, output, shape))
    read = {id_ for call in calls for id_ in call.inputs}
    for layer in layers:
        if layer.host not in order:
            called = any(id(parameter) in read for parameter in parameters_behind(layer.module, layer.weight_name))
            reason = "the model uses its weight without calling it" if called else "the data never reaches it"
            kept.append(KeptLayer(layer.name, layer.kind, reason))
    return Trace(tuple(traced), tuple(kept), largest, sum(sizes) // TRACE_SAMPLES[1])


def _axes(
    layers: Sequence[Layer], small: dict[nn.Module, _HostVisit], large: dict[nn.Module, _HostVisit], grids: Grids
) -> dict[Layer, BatchAxis | str]:
    """Return where the samples are in the layers' inputs, or why a layer cannot be initialized."""
    axes: dict[Layer, BatchAxis | str] = {}
    for layer in layers:
        visit = large.get(layer.host)
        if visit is None:
            continue
        if visit.times > 1:
            axes[layer] = f"used {visit.times} times in one pass, with different inputs"
        elif layer.host not in small:
            axes[layer] = "reached for some batches only"
        elif layer.own_forward and not (visit.as_left is not None and layer.computes(visit.inputs[layer.name], visit.as_left)):
            axes[layer] = f"{kind_of(layer.host)} has a forward of its own, which is not x W + b"
        else:
            axes[layer] = _sample_axis(small[layer.host].inputs[layer.name], visit.inputs[layer.name], grids)
    return axes


def _run(
    model: nn.Module, layers: Sequence[Layer], batch: LabelledBatch, device: torch.device
) -> tuple[dict[nn.Module, _HostVisit], list[TorchCall], list[Tensor]]:
    visits: dict[nn.Module, _HostVisit] = {}
    recorder = CallRecorder()
    by_host: dict[nn.Module, list[Layer]] = {}
    for layer in layers:
        by_host.setdefault(layer.host, []).append(layer)

    def arrived(host: nn.Module, arguments: CallArguments) -> None:
        visit = visits.setdefault(host, _HostVisit())
        visit.times += 1
        recorded = len(recorder.calls)
        for layer in by_host[host]:
            visit.inputs[layer.name] = layer.input(*arguments)
        del recorder.calls[recorded:]  # what finding the input took is not the model's

    def left(host: nn.Module, _args: Any, output: Any) -> None:
        visit = visits[host]  # the model's own call ends last: finding the input, which may call the host too, comes before it
        visit.output = next(tensors_in(output), None)
        visit.calls_before = len(recorder.calls)
        visit.as_left = None if visit.output is None else visit.output.clone()
        del recorder.calls[visit.calls_before :]

    with ExitStack() as stack:
        stack.enter_context(on_arrival(list(by_host), arrived))
        for host in by_host:
            stack.callback(host.register_forward_hook(left).remove)
        stack.enter_context(recorder)
        try:
            returned = list(tensors_in(batch.run(model, device)))
        except Exception as error:
            got = f"{type(error).__name__}: {error}"
            one = batch.inputs[0] if isinstance(batch.inputs, tuple) and len(batch.inputs) == 1 else None
            given = f", called with one dict of {list(one)}" if isinstance(one, dict) else ""
            raise RuntimeError(f"data: expected batches that the model can be called with, got {got}{given}; {CALLED_WITH}") from error
    return visits, recorder.calls, returned


def _sample_axis(small: Tensor, large: Tensor, grids: Grids) -> BatchAxis | str:
    """Return where the samples are in a layer's input, or why they are nowhere."""
    few, more = TRACE_SAMPLES
    grown = [dim for dim, (a, b) in enumerate(zip(small.shape, large.shape, strict=False)) if a != b]
    if small.ndim != large.ndim or len(grown) != 1 or small.ndim < 2:
        return "its input does not grow with the samples" if not grown else "the samples' dimension of its input was not found"
    (dim,) = grown
    rows, left = divmod(small.shape[dim], few)
    if left or large.shape[dim] != rows * more:
        return "the samples' dimension of its input was not found"
    return BatchAxis(dim, rows, grids)
