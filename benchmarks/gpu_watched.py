"""Small programs for the tools that watch a device: ``python benchmarks/gpu_watched.py everything | products | consan``.

``everything`` is for compute-sanitizer: moments at every precision, a selection and a pursuit. ``products`` is for a profiler: one
launch of the product kernels for each precision, N = 60000, D = 784, M = 10,000. ``consan`` runs both product kernels under
Triton's concurrency sanitizer, each in a process of its own, for it compiles slowly: a read of shared memory that is not yet
written ends in a device-side assertion. On the CPU (TRITON_INTERPRET=1) sizes are toys and nothing is watched.
"""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import torch
import triton
from gpu_machine import Machine, Shape, draw
from gpu_parts import Parts, launched
from gpu_rows import PRECISIONS
from triton.runtime import _allocation

from nc_fast.backends.gpu.kernels import moments as kernels
from nc_fast.backends.gpu.moments import class_moments
from nc_fast.backends.gpu.pursue import pursue
from nc_fast.backends.gpu.select import select

CONSAN = {"pure_runs": (1024, 96, 1), "mixed_tiles": (300, 30, 5)}  # samples, as many interpreted, classes: they run in this kernel alone
SECONDS = 55  # for a process of ``consan``


def everything(machine: Machine) -> None:
    """Run every kernel on small data."""
    N, D, M = (700, 50, 300) if machine.gpu else (40, 8, 24)
    rng, device = np.random.default_rng(0), machine.device
    X = torch.from_numpy(rng.standard_normal((N, D), dtype=np.float32)).to(device)
    W = torch.from_numpy(rng.standard_normal((D, M), dtype=np.float32)).to(device)
    codes, bias = torch.arange(N, device=device) % 3, torch.zeros(M, dtype=torch.float64, device=device)
    for precision in PRECISIONS:
        class_moments(W, X, codes, np.arange(3), bias=bias, activation="relu", precision=precision)
    class_moments(W.double(), X, codes, np.arange(3), bias=bias, activation="relu")
    score, group = torch.rand(M, dtype=torch.float64, device=device), torch.arange(M, device=device) % 2
    select(W, score, group, torch.tensor([M // 15, M // 15], device=device))
    T = torch.randn(N, 3, dtype=torch.float64, device=device)
    pursue(W, X, T - T.mean(0), M // 15, bias=bias, activation="relu", damping=1e-3, block=1)
    machine.wait()


def products(machine: Machine) -> None:
    """Run the product kernels once at each precision."""
    given = draw(Shape(60_000, 784, 10_000, 10) if machine.gpu else Shape(60, 9, 40, 3), machine)
    for precision in PRECISIONS:
        parts = Parts(machine, *given, precision)
        parts.products(*parts.packed())
    machine.wait()


def consan() -> None:
    """Run each product kernel under the sanitizer in a process of its own, at the same time."""
    environment = os.environ | {"CUDA_LAUNCH_BLOCKING": "1"}  # an assertion is reported at its launch
    watched = {name: subprocess.Popen([sys.executable, __file__, f"consan:{name}"], env=environment) for name in CONSAN}
    try:
        failed = [name for name, process in watched.items() if process.wait(SECONDS)]
    finally:
        for process in watched.values():
            process.kill()
    if failed:
        raise SystemExit(f"ConSan: {', '.join(failed)} failed")


def consan_of(machine: Machine, name: str) -> None:
    """Run one product kernel under the sanitizer; its results are the bits that it gives without."""
    N, toy, classes = CONSAN[name]
    shape = Shape(N, 200, 512, classes) if machine.gpu else Shape(toy, 9, 24, classes)
    parts = Parts(machine, *draw(shape, machine), "auto")
    packed = parts.packed()
    used = torch.from_numpy(packed[0].chunk.slot).long().to(machine.device)
    plain = parts.products(*packed)
    scratch: list[torch.Tensor] = []

    def allocate(size: int, alignment: int, stream: int | None) -> torch.Tensor:  # noqa: ARG001 - Triton's signature
        scratch.append(torch.zeros(size, dtype=torch.int8, device=machine.device))
        return scratch[-1]

    triton.set_allocator(allocate)
    _allocation.set_profile_allocator(allocate)  # where Triton takes the sanitizer's memory from, in later versions
    triton.knobs.compilation.instrumentation_mode = "consan"
    with launched(getattr(kernels, name)) as launches:
        watched = parts.products(*packed)
    machine.wait()  # raises where an assertion failed
    if not launches:
        raise SystemExit(f"{name} was not launched")
    if machine.gpu and not scratch:
        raise SystemExit(f"{name} was compiled without the sanitizer: it asked for no memory")
    pairs = [pair for block, other in zip(plain, watched, strict=True) for pair in zip(block, other, strict=True)]
    if not all(torch.equal(a[used], b[used]) for a, b in pairs):
        raise SystemExit(f"{name} gives other bits under the sanitizer")
    print(f"{name}: nothing found" if machine.gpu else f"{name}: interpreted, not watched")


def main(program: str) -> None:
    if program == "consan":
        consan()
    elif program.startswith("consan:"):
        consan_of(Machine(), program.partition(":")[2])
    else:
        {"everything": everything, "products": products}[program](Machine())


if __name__ == "__main__":
    main(sys.argv[1])
