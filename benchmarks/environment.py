"""The device and the versions that a number belongs to."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import scipy
import torch
from threadpoolctl import ThreadpoolController

import nc_fast


def blas_threads() -> int:
    return max((library["num_threads"] for library in ThreadpoolController().select(user_api="blas").info()), default=1)


@lru_cache(maxsize=1)
def environment() -> dict[str, Any]:
    """Return the device and the versions a number belongs to; no host names."""
    blas = [f"{library['internal_api']} {library['version']}" for library in ThreadpoolController().select(user_api="blas").info()]
    return {
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "blas_threads": blas_threads(),
        "torch_threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "blas": ", ".join(sorted(set(blas))),
        "scipy": scipy.__version__,
        "torch": torch.__version__,
        "nc_fast": nc_fast.__version__,
        "commit": commit(),
    }


def cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    fields = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    numbers = f", family {fields['cpu family']} model {fields['model']}" if "cpu family" in fields else ""
    return fields.get("model name", platform.processor()) + numbers


def commit() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"
