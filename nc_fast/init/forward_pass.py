"""What can be seen of a running forward pass: the torch functions it calls, and the modules it is about to call."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from nc_fast.init.layers.base import CallArguments


@dataclass(frozen=True)
class TorchCall:
    """A call of a torch function or tensor method."""

    function: Callable[..., Any]
    args: Sequence[Any]
    kwargs: dict[str, Any]
    inputs: set[int]  # ids of tensors; all stay alive while the record does
    outputs: list[Tensor]

    @property
    def name(self) -> str:
        """The function's name, without the underscores of in-place and inner forms and an operator's overload."""
        full: str = getattr(self.function, "__name__", "")
        return full if full.startswith("__") else full.partition(".")[0].strip("_")

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """Return an argument that may have been given by position or by name."""
        return self.args[position] if len(self.args) > position else self.kwargs.get(name, default)


class CallRecorder(TorchFunctionMode):
    """Within its block, records every call of a torch function that returns tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[TorchCall] = []

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        outputs = list(tensors_in(result))
        if outputs:
            self.calls.append(TorchCall(function, args, kwargs, {id(t) for t in tensors_in([args, kwargs])}, outputs))
        return result


@contextmanager
def on_arrival(hosts: Sequence[nn.Module], act: Callable[[nn.Module, CallArguments], None]) -> Iterator[None]:
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


@contextmanager
def on_output(module: nn.Module, act: Callable[[Tensor], None]) -> Iterator[None]:
    """Within the block, call ``act`` with what the module returns."""

    def hook(_module: nn.Module, _args: Any, output: Tensor) -> None:
        act(output)

    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in nested tuples, lists, dicts and dataclasses."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from tensors_in(item)
    elif is_dataclass(value) and not isinstance(value, type):
        yield from tensors_in([getattr(value, field.name) for field in fields(value)])
