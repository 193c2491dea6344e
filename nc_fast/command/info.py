"""What ``nc-fast info`` prints: the facts a bug report needs."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from threadpoolctl import threadpool_info

from nc_fast import _projector
from nc_fast._version import __version__
from nc_fast.backends.registry import BACKENDS
from nc_fast.runtime.threads import thread_count

PACKAGES = ("numpy", "scipy", "numba", "threadpoolctl", "torch", "triton")
VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_CACHE_DIR", "CUDA_VISIBLE_DEVICES", "TRITON_INTERPRET")


def facts() -> Iterator[tuple[str, str]]:
    """Yield (name, value), most telling first."""
    yield "nc_fast", __version__
    yield "Python", f"{platform.python_version()} ({platform.python_implementation()}), {platform.platform()}"
    for package in PACKAGES:
        yield package, _version(package)
    yield "CPU", f"{_cpu_model()}, {os.cpu_count()} logical cores"
    yield "threads", str(thread_count())
    for library in threadpool_info():
        if library["user_api"] == "blas":
            name = " ".join(str(library[key]) for key in ("internal_api", "version", "architecture") if library.get(key))
            yield "BLAS", f"{name}, {library['num_threads']} threads, {Path(library['filepath']).name}"
    yield "SIMD", _projector.simd_level()
    for backend in BACKENDS.values():
        yield f"backend {backend.name}", backend.missing() or "available"
    yield from _gpus()
    for variable in VARIABLES:
        if variable in os.environ:
            yield variable, os.environ[variable]


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _cpu_model() -> str:
    """Return the model's name; platform.processor() is empty on most Linux systems."""
    cpuinfo = Path("/proc/cpuinfo")
    for line in cpuinfo.read_text().splitlines() if cpuinfo.exists() else ():
        name, _, value = line.partition(":")
        if name.strip() in ("model name", "Model"):
            return value.strip()
    return platform.processor() or platform.machine()


def _gpus() -> Iterator[tuple[str, str]]:
    if _version("torch") == "not installed":
        return
    import torch

    cuda, rocm = torch.version.cuda, torch.version.hip
    yield "torch built for", f"CUDA {cuda}" if cuda else f"ROCm {rocm}" if rocm else "CPU"
    for number in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(number)
        yield f"GPU {number}", f"{device.name}, {device.total_memory / 2**30:.0f} GiB, compute capability {device.major}.{device.minor}"
