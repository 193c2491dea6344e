"""What is measured with on a GPU: the device and how its time is taken, its ceilings, inputs drawn on it.

Imported first by every program of the first run: a bare tree, with nothing installed and PYTHONPATH unset, is importable from then
on, and Triton's interpreter works. ``python benchmarks/gpu_machine.py`` prints what the numbers belong to.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import triton
from gpu_results import Row
from interpreter import mend_interpreter

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
if os.environ.get("TRITON_INTERPRET") == "1":
    mend_interpreter()

import nc_fast  # noqa: E402 - a bare tree has it from here on

GEMM_COLUMNS = 8192  # of a product at a time: its output fits anywhere, and is large enough for the full rate
REPEATS, FEWEST, PATIENCE = 9, 3, 2.0  # timed calls: at most, at least, and the seconds after which no more than the least
AHEAD = 20_000_000  # cycles, about 10 ms, that the device sleeps so that the host's launches are queued when it starts


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


@dataclass(frozen=True)
class Timing:
    """Repeated calls: the seconds of each, the bytes allocated on the device at most, a result where one is kept."""

    each: list[float]
    peak: int
    result: Any

    @property
    def seconds(self) -> float:
        """Median."""
        return median(self.each)

    @property
    def spread(self) -> dict[str, Any]:
        """Fastest and slowest, as a row's notes."""
        return {"spread": f"{min(self.each) * 1e3:.4g} to {max(self.each) * 1e3:.4g} ms in {len(self.each)}"}


class Machine:
    """A device and the way its time is taken."""

    def __init__(self, repeats: int = REPEATS) -> None:
        self.gpu = torch.cuda.is_available()
        self.device = torch.device("cuda", torch.cuda.current_device()) if self.gpu else torch.device("cpu")
        self.repeats = repeats

    def wait(self) -> None:
        if self.gpu:
            torch.cuda.synchronize(self.device)

    def free(self) -> None:
        """Return the memory that torch's allocator holds but does not use, so that the next measurement finds all of it."""
        if self.gpu:
            torch.cuda.empty_cache()

    def measure(self, call: Callable[[], Any], *, events: bool = False) -> Timing:
        """Time a call: wall clock with the device's work, or with ``events`` the device's own clock, without the host's part.

        The first call, which compiles, is not counted. With ``events`` no result is kept: it would count in the next one's peak.
        """
        call()
        self.wait()
        if self.gpu:
            torch.cuda.reset_peak_memory_stats(self.device)
        once, result = self._by_wall_clock(call)
        peak = torch.cuda.max_memory_allocated(self.device) if self.gpu else 0
        repeats = min(self.repeats, max(FEWEST, int(PATIENCE / once)))
        if events:
            result = None
        if events and self.gpu:
            return Timing(self._by_events(call, repeats), peak, result)
        return Timing([once, *(self._by_wall_clock(call)[0] for _ in range(repeats - 1))], peak, result)

    def _by_wall_clock(self, call: Callable[[], Any]) -> tuple[float, Any]:
        start = time.perf_counter()
        result = call()
        self.wait()
        return time.perf_counter() - start, result

    def _by_events(self, call: Callable[[], Any], repeats: int) -> list[float]:
        pairs = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(repeats)]
        torch.cuda._sleep(AHEAD)
        for start, end in pairs:
            start.record()
            call()
            end.record()
        self.wait()
        return [start.elapsed_time(end) / 1e3 for start, end in pairs]

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
        if self.gpu and shutil.which("nvidia-smi"):
            query = ["nvidia-smi", "--query-gpu=driver_version,clocks.max.sm,power.limit", "--format=csv,noheader"]
            said = subprocess.run(query, capture_output=True, text=True, check=False, timeout=20).stdout
            found["driver, clock, power"] = said.partition("\n")[0]
        return found


def begin(description: str | None, file: str, given: list[str] | None) -> tuple[argparse.Namespace, Machine]:
    """Return the command line of a program that writes results, to ``file`` if it does not say where, and the machine to measure."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "out" / file)
    parser.add_argument("--tiny", action="store_true")
    arguments = parser.parse_args(given)
    machine = Machine(1) if arguments.tiny else Machine()
    if not (machine.gpu or arguments.tiny):
        parser.error("torch sees no GPU; --tiny runs everything at toy sizes, interpreted")
    return arguments, machine


class Ceilings:
    """Measured rates of the machine: what no kernel here can beat."""

    def __init__(self, machine: Machine, side: int, copied: int) -> None:
        self._machine, self._side, self._copied = machine, side, copied

    @cached_property
    def copy(self) -> float:
        """Bytes a second of a device copy, read and written."""
        given = torch.randint(256, (self._copied,), dtype=torch.uint8, device=self._machine.device)
        return 2 * self._copied / copy_seconds(self._machine, given)

    def rows(self) -> Iterator[Row]:
        """Yield the ceilings as rows; ``seconds`` is unused."""
        yield Row("ceiling", "device copy", notes={"GB/s": round(self.copy / 1e9)})
        for kind in (torch.float16, torch.bfloat16, "tf32", torch.float32, torch.float64):
            square = torch.randn(2, self._side, self._side, device=self._machine.device)
            rate = 2 * self._side**3 / product_seconds(self._machine, *square, kind)
            yield Row("ceiling", f"GEMM {kind}".replace("torch.", ""), notes={"TFLOP/s": round(rate / 1e12, 1)})


class tf32:  # noqa: N801 - used as a statement
    """Lets float32 products run in tf32 inside the block, or forbids it; the setting is put back."""

    def __init__(self, allowed: bool) -> None:
        self._allowed = allowed

    def __enter__(self) -> None:
        self._before = torch.backends.cuda.matmul.fp32_precision
        torch.backends.cuda.matmul.fp32_precision = "tf32" if self._allowed else "ieee"

    def __exit__(self, *_: object) -> None:
        torch.backends.cuda.matmul.fp32_precision = self._before


def copy_seconds(machine: Machine, source: torch.Tensor) -> float:
    """Return the seconds in which the device copies a tensor."""
    target = torch.empty_like(source)
    return machine.measure(lambda: target.copy_(source), events=True).seconds


def product_seconds(machine: Machine, X: torch.Tensor, W: torch.Tensor, kind: Any) -> float:
    """Return the seconds of X @ W by torch (cuBLAS) alone, measured on one block of columns; ``kind`` is a type of numbers or "tf32"."""
    m = min(W.shape[1], GEMM_COLUMNS)
    number = torch.float32 if kind == "tf32" else kind
    X, block = X.to(number), W[:, :m].to(number).contiguous()
    out = torch.empty(len(X), m, dtype=number, device=machine.device)
    with tf32(kind == "tf32"):
        return machine.measure(lambda: torch.mm(X, block, out=out), events=True).seconds * W.shape[1] / m


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


if __name__ == "__main__":
    print("\n".join(f"{key}: {value}" for key, value in Machine().facts().items()))
