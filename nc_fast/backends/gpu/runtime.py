"""What the launchers ask of the machine they run on."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from triton.runtime.interpreter import InterpretedFunction

from nc_fast.backends.gpu.kernels.activation import activate
from nc_fast.backends.gpu.tiles import Target
from nc_fast.runtime.progress import Report

FREE_BYTES_INTERPRETED = 256 << 20  # no device to ask


def on_device(tensor: torch.Tensor) -> AbstractContextManager[Any]:
    """Return a context in which kernels start on the tensor's GPU, whichever is current outside.

    Raises
    ------
    ValueError
        When the tensor lies neither on a GPU nor, under the interpreter, on the CPU.
    """
    if tensor.device.type == "cuda":
        return torch.cuda.device(tensor.device)
    if not isinstance(activate, InterpretedFunction):  # decided when triton decorated it, not by the variable's value now
        raise ValueError(f"W: expected a tensor on a GPU, got one on {tensor.device}; Triton runs there only with TRITON_INTERPRET=1")
    return nullcontext()


def target(device: torch.device) -> Target:
    """Return the kind of device the tile shapes are chosen for."""
    if device.type == "cpu":
        return "interpreter"
    if torch.version.hip:
        return "amd"
    known: dict[tuple[int, int], Target] = {(9, 0): "hopper", (8, 0): "ampere"}
    return known.get(torch.cuda.get_device_capability(device), "nvidia")


def free_bytes(device: torch.device) -> int:
    """Return the device's free memory, counting what torch's allocator holds but does not use."""
    if device.type == "cpu":
        return FREE_BYTES_INTERPRETED
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + cached


def reporter(report: Report | None, device: torch.device) -> Report:
    """Return a function that waits for the device, so that what is reported as done is done; without ``report`` it does nothing."""

    def tell(done: int, total: int) -> None:
        if report:
            if device.type == "cuda":
                torch.cuda.current_stream().synchronize()
            report(done, total)

    return tell
