"""Where the GPU backend computes."""

from __future__ import annotations

import os
import warnings
from typing import Any

import numpy as np
import torch

OLDEST_TRITON = (3, 5)  # the first that multiplies float64; with torch 2.9


def interpreting() -> bool:
    """Whether Triton's interpreter is on, so that kernels run on CPU tensors."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def missing() -> str | None:
    """Return None where a GPU (or the interpreter) is there, else what is missing and what to do."""
    if not (torch.cuda.is_available() or interpreting()):
        return "torch sees no GPU: check the driver and that torch is a CUDA or ROCm build (nc-fast info shows both), or use backend='cpu'"
    if triton_version() < OLDEST_TRITON:
        needed, found = (".".join(map(str, version)) for version in (OLDEST_TRITON, triton_version()))
        return f"the GPU backend needs triton {needed} or later, not {found}: pip install \"nc_fast[gpu]\", or use backend='cpu'"
    return None


def triton_version() -> tuple[int, int]:
    """Return (major, minor)."""
    import triton  # not before it is needed: it reads TRITON_INTERPRET for its own functions when imported

    major, minor = triton.__version__.split(".")[:2]
    return int(major), int(minor)


def compute_device(W: Any) -> torch.device:
    """Return the tensor's own device where it is a GPU, else the current GPU; the CPU when interpreting without one."""
    if isinstance(W, torch.Tensor) and W.device.type != "cpu":
        return W.device
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def as_tensor(array: Any) -> torch.Tensor:
    """Return the array as a tensor, detached from autograd, where it already lives; memory is shared where torch can share it."""
    if isinstance(array, torch.Tensor):
        return array.detach()
    odd = not array.flags.aligned or any(stride < 0 or stride % array.itemsize for stride in array.strides)
    if odd or not array.dtype.isnative:
        array = np.array(array, array.dtype.newbyteorder("="), order="C")  # ascontiguousarray would keep a single row's negative stride
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # nothing here writes to it
        return torch.from_numpy(array)


def to_device(array: Any, device: torch.device) -> torch.Tensor:
    """Return the array or tensor on the device; shared with the caller where it is there already."""
    return as_tensor(array).to(device)
