"""What gpu_report.py measures with: a device and how its time is taken, its ceilings, inputs drawn on it."""

from __future__ import annotations

import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np
import torch
import triton

import nc_fast

GEMM_COLUMNS = 8192  # of a product at a time: its output fits anywhere, and is large enough for the full rate


@dataclass(frozen=True)
class Shape:
    """N samples, D features, M candidates, C classes, k picks."""

    N: int
    D: int
    M: int
    C: int
    k: int = 0

    def __str__(self) -> str:
        return f"N={self.N} D={self.D} M={self.M} C={self.C}" + (f" k={self.k}" if self.k else "")


@dataclass
class Row:
    """One measurement.

    Attributes
    ----------
    stage, name, shape : what was measured
    seconds : median
    floor : seconds that the machine's own ceiling allows; 0 where none is known
    peak : bytes allocated on the device at most, inputs included
    notes : anything else
    """

    stage: str
    name: str
    shape: str
    seconds: float = 0.0
    floor: float = 0.0
    peak: int = 0
    notes: dict[str, Any] = field(default_factory=dict)


class Machine:
    """A device and the way its time is taken."""

    def __init__(self, device: torch.device, repeats: int) -> None:
        self.device, self.repeats = device, repeats
        self.gpu = device.type == "cuda"

    def wait(self) -> None:
        if self.gpu:
            torch.cuda.synchronize(self.device)

    def measure(self, call: Callable[[], Any], repeats: int | None = None) -> tuple[float, int, Any]:
        """Return (median seconds, peak bytes, last result); the first call, which compiles, is not counted."""
        call()
        self.wait()
        if self.gpu:
            torch.cuda.reset_peak_memory_stats(self.device)
        seconds = []
        for _ in range(repeats or self.repeats):
            start = time.perf_counter()
            result = call()
            self.wait()
            seconds.append(time.perf_counter() - start)
        return median(seconds), torch.cuda.max_memory_allocated(self.device) if self.gpu else 0, result

    def facts(self) -> dict[str, Any]:
        """Return what the numbers belong to; no host names."""
        found = {
            "device": torch.cuda.get_device_name(self.device) if self.gpu else "CPU, interpreting",
            "torch": torch.__version__,
            "triton": triton.__version__,
            "cuda": torch.version.cuda,
            "hip": torch.version.hip,
            "python": platform.python_version(),
            "numpy": np.__version__,
            "nc_fast": nc_fast.__version__,
        }
        if shutil.which("nvidia-smi"):
            query = ["nvidia-smi", "--query-gpu=driver_version,clocks.max.sm,power.limit", "--format=csv,noheader"]
            said = subprocess.run(query, capture_output=True, text=True, check=False).stdout
            found["driver, clock, power"] = said.partition("\n")[0]
        return found


class Ceilings:
    """Measured rates of the machine: what no kernel here can beat."""

    def __init__(self, machine: Machine, side: int, copied: int) -> None:
        self.copy = self._copy(machine, copied)
        kinds = (torch.float16, torch.bfloat16, "tf32", torch.float32, torch.float64)
        self.rate = {str(kind): self._gemm(machine, kind, side) for kind in kinds}

    def _copy(self, machine: Machine, size: int) -> float:
        source = torch.empty(size, dtype=torch.uint8, device=machine.device)
        target = torch.empty_like(source)
        return 2 * size / machine.measure(lambda: target.copy_(source))[0]

    def _gemm(self, machine: Machine, kind: Any, side: int) -> float:
        a, b = (torch.randn(side, side, device=machine.device).to(torch.float32 if kind == "tf32" else kind) for _ in range(2))
        out = torch.empty_like(a)
        with tf32(kind == "tf32"):
            return 2 * side**3 / machine.measure(lambda: torch.mm(a, b, out=out))[0]

    def rows(self) -> Iterator[Row]:
        """Yield the ceilings as rows; ``seconds`` is unused."""
        yield Row("ceiling", "device copy", "", notes={"GB/s": round(self.copy / 1e9)})
        for kind, rate in self.rate.items():
            yield Row("ceiling", f"GEMM {kind.removeprefix('torch.')}", "", notes={"TFLOP/s": round(rate / 1e12, 1)})


class tf32:  # noqa: N801 - used as a statement
    """Lets float32 products run in tf32 inside the block, or forbids it; the setting is put back."""

    def __init__(self, allowed: bool) -> None:
        self._allowed = allowed

    def __enter__(self) -> None:
        self._before = torch.backends.cuda.matmul.fp32_precision
        torch.backends.cuda.matmul.fp32_precision = "tf32" if self._allowed else "ieee"

    def __exit__(self, *_: object) -> None:
        torch.backends.cuda.matmul.fp32_precision = self._before


def draw(shape: Shape, machine: Machine) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return W (D, M) float32, X (N, D) float32 with class structure, y (N,), drawn on the device."""
    generator = torch.Generator(machine.device).manual_seed(0)
    options = {"generator": generator, "device": machine.device}
    y = torch.randperm(shape.N, **options) % shape.C
    X = torch.rand(shape.N, shape.D, **options) + 0.3 * torch.randn(shape.C, shape.D, **options)[y]
    W = torch.empty(shape.D, shape.M, device=machine.device)
    for first in range(0, shape.M, GEMM_COLUMNS):  # drawn in blocks: the generator's temporaries stay small
        block = W[:, first : first + GEMM_COLUMNS]
        block.copy_(torch.randn(block.shape, **options))
    return W.mul_((2 / shape.D) ** 0.5), X, y


def bare_product(machine: Machine, shape: Shape, kind: Any) -> float:
    """Return the seconds of X @ W by cuBLAS alone, measured on one block of columns."""
    number = torch.float32 if kind == "tf32" else kind
    m = min(shape.M, GEMM_COLUMNS)
    X, W = torch.randn(shape.N, shape.D, device=machine.device).to(number), torch.randn(shape.D, m, device=machine.device).to(number)
    out = torch.empty(shape.N, m, dtype=number, device=machine.device)
    with tf32(kind == "tf32"):
        return machine.measure(lambda: torch.mm(X, W, out=out))[0] * shape.M / m
