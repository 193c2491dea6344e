"""What a forward pass shows: the order in which data meets the layers, where samples are, and the activation that follows.

The graph is recorded while the model runs on a few samples, below Python: every torch function a layer's output goes to
is seen, whether modules, functions or control flow call it. A symbolic trace (torch.fx) sees less, and fails on control flow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from nc_fast.init import activations
from nc_fast.init.activations import IDENTITY, LINEAR_ENDS, PASSED_THROUGH, Activation
from nc_fast.init.layers import BatchAxis, Layer
from nc_fast.init.sampling import Batch
from nc_fast.init.state import is_fresh_batchnorm

Arguments = tuple[tuple[Any, ...], dict[str, Any]]
TRACE_SAMPLES = (2, 3)  # two sizes: the dimension that grows is the samples'
ASSUMED = "identity assumed, name another with activations="


@dataclass(frozen=True)
class Met:
    """A layer the data meets.

    Attributes
    ----------
    layer : Layer
    position : its place in the order; query, key and value share one.
    axis : where the samples are in its input.
    activation : what follows; identity where nothing was found.
    normalized : whether a BatchNorm that has never seen a batch stands between the layer and its activation.
    notes : what was assumed.
    """

    layer: Layer
    position: int
    axis: BatchAxis
    activation: Activation
    normalized: bool
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Trace:
    """What was seen: layers in order, name -> reason of those that cannot be initialized, and the largest tensor."""

    met: tuple[Met, ...]
    unmet: dict[str, str]
    bytes_per_sample: int


@dataclass
class _Call:
    function: Callable[..., Any]
    args: Sequence[Any]
    kwargs: dict[str, Any]
    inputs: set[int]  # ids of tensors; all stay alive while the record does
    outputs: list[Tensor]

    @property
    def name(self) -> str:
        full = getattr(self.function, "__name__", "")
        return full if full.startswith("__") else full.removesuffix("_")


class _Recorder(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[_Call] = []

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        outputs = list(_tensors(result))
        if outputs:
            self.calls.append(_Call(function, args, kwargs, {id(t) for t in _tensors([args, kwargs])}, outputs))
        return result


@dataclass
class _Visit:
    inputs: dict[str, Tensor] = field(default_factory=dict)  # layer name -> its input
    output: Tensor | None = None
    calls_before: int = 0  # recorded when the output appeared
    times: int = 0
    looking: bool = False  # finding the input may itself call the host


def trace(model: nn.Module, layers: Sequence[Layer], samples: Callable[[int], Batch], device: torch.device) -> Trace:
    """Run the model on a few samples and return what was seen."""
    small, _ = _run(model, layers, samples(TRACE_SAMPLES[0]), device)
    large, calls = _run(model, layers, samples(TRACE_SAMPLES[1]), device)
    met: list[Met] = []
    unmet: dict[str, str] = {}
    hosts = {host: position for position, host in enumerate(large)}
    position = -1
    last_stage: tuple[nn.Module, bool] | None = None
    for layer in sorted((layer for layer in layers if layer.host in hosts), key=lambda layer: hosts[layer.host]):
        before, now = small.get(layer.host), large[layer.host]
        found = _sample_axis(before.inputs[layer.name], now.inputs[layer.name]) if before else "reached for some batches only"
        if now.times > 1:
            found = f"used {now.times} times in one pass, with different inputs"
        if isinstance(found, str):
            unmet[layer.name] = found
            continue
        stage = (layer.host, layer.module is layer.host)
        position += stage != last_stage
        last_stage = stage
        activation, normalized, notes = _following(model, layer, now, calls)
        met.append(Met(layer, position, found, activation, normalized, notes))
    unmet.update({layer.name: "the data never reaches it" for layer in layers if layer.host not in hosts})
    sizes = [t.numel() * t.element_size() for call in calls for t in call.outputs]
    return Trace(tuple(met), unmet, max(sizes, default=0) // TRACE_SAMPLES[1])


@contextmanager
def on_arrival(hosts: Sequence[nn.Module], act: Callable[[nn.Module, Arguments], None]) -> Iterator[None]:
    """Within the block, call ``act(host, (args, kwargs))`` whenever the model is about to call one of the hosts.

    Calls that ``act`` itself makes to a host are not reported.
    """
    busy = False

    def hook(host: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        nonlocal busy
        if not busy:
            busy = True
            try:
                act(host, (args, kwargs))
            finally:
                busy = False

    with ExitStack() as stack:
        for host in hosts:
            stack.callback(host.register_forward_pre_hook(hook, with_kwargs=True).remove)
        yield


def _run(model: nn.Module, layers: Sequence[Layer], batch: Batch, device: torch.device) -> tuple[dict[nn.Module, _Visit], list[_Call]]:
    visits: dict[nn.Module, _Visit] = {}
    recorder = _Recorder()
    by_host: dict[nn.Module, list[Layer]] = {}
    for layer in layers:
        by_host.setdefault(layer.host, []).append(layer)

    def arrived(host: nn.Module, arguments: Arguments) -> None:
        visit = visits.setdefault(host, _Visit())
        visit.times += 1
        recorded = len(recorder.calls)
        visit.looking = True
        for layer in by_host[host]:
            visit.inputs[layer.name] = layer.input(*arguments)
        visit.looking = False
        del recorder.calls[recorded:]  # what finding the input took is not the model's

    def left(host: nn.Module, _args: Any, output: Any) -> None:
        visit = visits[host]
        if visit.output is None and not visit.looking:
            visit.output = next(_tensors(output), None)
            visit.calls_before = len(recorder.calls)

    with ExitStack() as stack:
        stack.enter_context(on_arrival(list(by_host), arrived))
        for host in by_host:
            stack.callback(host.register_forward_hook(left).remove)
        stack.enter_context(recorder)
        try:
            batch.run(model, device)
        except Exception as error:
            raise RuntimeError(f"data: expected batches that the model can be called with, got {type(error).__name__}: {error}") from error
    return visits, recorder.calls


def _sample_axis(small: Tensor, large: Tensor) -> BatchAxis | str:
    """Return where the samples are in a layer's input, or why they are nowhere."""
    few, more = TRACE_SAMPLES
    grown = [dim for dim, (a, b) in enumerate(zip(small.shape, large.shape, strict=False)) if a != b]
    if small.ndim != large.ndim or len(grown) != 1 or small.ndim < 2:
        return "its input does not grow with the samples" if not grown else "the samples' dimension of its input was not found"
    (dim,) = grown
    rows, left = divmod(small.shape[dim], few)
    if left or large.shape[dim] != rows * more:
        return "the samples' dimension of its input was not found"
    if rows > 1 and not torch.allclose(large.narrow(dim, 0, few * rows), small, rtol=1e-3, atol=1e-5, equal_nan=True):
        return "the rows of one sample are not next to each other in its input"
    return BatchAxis(dim, rows)


def _following(model: nn.Module, layer: Layer, visit: _Visit, calls: Sequence[_Call]) -> tuple[Activation, bool, tuple[str, ...]]:
    """Return the activation after a layer, whether a fresh BatchNorm comes before it, and notes."""
    if visit.output is None or (layer.module is layer.host and isinstance(layer.host, nn.MultiheadAttention)):
        return IDENTITY, False, ()  # query, key and value enter the attention linearly
    fresh = {id(module.running_mean) for module in model.modules() if is_fresh_batchnorm(module)}
    value, normalized, start = visit.output, False, visit.calls_before
    while True:
        consumers = [(index, call) for index, call in enumerate(calls[start:], start) if id(value) in call.inputs]
        if not consumers:
            return IDENTITY, normalized, ()  # the model's output
        index, call = consumers[0]
        in_place = any(output is value for output in call.outputs)
        if len(consumers) > 1 and not in_place:
            kinds = [activations.from_call(c.function, c.args, c.kwargs) for _, c in consumers]
            names = {kind.name if kind else "" for kind in kinds}
            if len(names) > 1 or not kinds[0]:
                linear = all(c.name in LINEAR_ENDS | PASSED_THROUGH for _, c in consumers)
                uses = ", ".join(c.name for _, c in consumers)
                note = () if linear else (f"its output goes to {uses}; {ASSUMED}",)
                return IDENTITY, normalized, note
        activation = activations.from_call(call.function, call.args, call.kwargs)
        if activation is not None:
            return activation, normalized, ()
        if call.name in LINEAR_ENDS:
            return IDENTITY, normalized, ()
        if call.name not in PASSED_THROUGH:
            return IDENTITY, normalized, (f"followed by {call.name}, no known activation; {ASSUMED}",)
        if call.name == "batch_norm":
            normalized |= id(_argument(call, 1, "running_mean")) in fresh or bool(_argument(call, 5, "training"))
        value, start = call.outputs[0], index + 1


def _argument(call: _Call, position: int, key: str) -> Any:
    return call.args[position] if len(call.args) > position else call.kwargs.get(key)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)
