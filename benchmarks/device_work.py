"""What a call asks of a device, counted where there is none: torch's operations, launches of Triton kernels, copies, bytes.

Under the interpreter the kernels really run; inside :func:`gpu_launches.compiling` they are compiled only. ``python
benchmarks/device_work.py`` prints, as JSON, what the features of X and a call of ``class_moments`` ask for at N = 60000, D = 784,
M = 1000 and ten classes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves
from triton.runtime.interpreter import GridExecutor
from triton.runtime.jit import JITFunction

NO_WORK = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_unsafe_view", "scalar_tensor"}
FROM_DEVICE = ("cpu", "tolist")  # methods of a tensor; ``item`` is an operation


@dataclass
class Work:
    """What a call asked for."""

    operations: int = 0  # of torch that read or write tensors; each is one kernel on a device, or a few
    launches: int = 0  # of Triton kernels
    copies: int = 0  # of host arrays to the device, and back
    bytes: int = 0  # read and written: arguments and results of the operations, each argument of a launch once


def count_device_work(call: Callable[[], Any]) -> Work:
    """Return what ``call()`` asks of the device that its tensors, which lie on the CPU, stand for.

    Examples
    --------
    >>> X = torch.zeros((1000, 10))
    >>> count_device_work(lambda: X.T.sum(0))
    Work(operations=1, launches=0, copies=0, bytes=44000)
    """
    work = Work()
    with _counted_launches(work), _Copies(work), _Operations(work):
        call()
    return work


class _Operations(TorchDispatchMode):
    def __init__(self, work: Work) -> None:
        super().__init__()
        self._work = work

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = operation(*args, **kwargs or {})
        if not operation.is_view and operation.overloadpacket.__name__ not in NO_WORK:
            self._work.operations += 1
            self._work.bytes += _bytes((args, kwargs, result))
        return result


class _Copies(TorchFunctionMode):
    """On the CPU these are no operations; an array from NumPy is told by its storage, which torch cannot resize."""

    def __init__(self, work: Work) -> None:
        super().__init__()
        self._work = work

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **kwargs or {})
        name = getattr(function, "__name__", "")
        if function is torch.Tensor.to:
            moved = result is args[0] and any(isinstance(value, torch.device) for value in tree_leaves((args, kwargs)))
            self._work.copies += moved and not result.untyped_storage().resizable()
        elif function is torch.tensor:
            self._work.copies += "device" in (kwargs or {})
        elif name in FROM_DEVICE and function is getattr(torch.Tensor, name):
            self._work.copies += 1
        return result


@contextmanager
def _counted_launches(work: Work) -> Iterator[None]:
    def counted(kind: Any, name: str) -> Any:
        whole = getattr(kind, name)

        def launch(self: Any, *args: Any, **options: Any) -> Any:
            work.launches += 1
            work.bytes += _bytes([getattr(value, "base", value) for value in args])  # of a tensor map, the tensor
            with _disable_current_modes(), torch._C.DisableTorchFunction():  # what the interpreter itself does with tensors
                return whole(self, *args, **options)

        return patch.object(kind, name, launch)

    with counted(JITFunction, "run"), counted(GridExecutor, "__call__"):
        yield


def _bytes(values: Any) -> int:
    """Return the bytes of all tensors, of an expanded one those that it has."""
    tensors = [value for value in tree_leaves(values) if isinstance(value, torch.Tensor)]
    return sum(min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes()) for tensor in tensors)


def main() -> None:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a bare tree, or another one installed
    from gpu_launches import compiling  # not before a command asks: tests count under the interpreter

    from nc_fast.backends.gpu.features import measure_features
    from nc_fast.backends.gpu.moments import class_moments

    X, W, bias, codes = torch.zeros(60_000, 784), torch.zeros(784, 1000), torch.zeros(1000, dtype=torch.float64), torch.arange(60_000) % 10
    calls = {
        "features": lambda: measure_features(X, X.device),
        "class_moments": lambda: class_moments(W, X, codes, np.arange(10), bias=bias, activation="relu"),
    }
    with compiling("hopper"):
        found = {name: asdict(count_device_work(call)) for name, call in calls.items()}
    print(json.dumps(found | {"X": {"bytes": X.nbytes}}))


if __name__ == "__main__":
    main()
