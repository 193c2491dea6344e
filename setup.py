"""Builds the one compiled module, nc_fast._projector; everything else is declared in pyproject.toml.

The SIMD level is chosen at run time, so one build runs on every machine of its architecture.
"""

from glob import glob

from pybind11.setup_helpers import Pybind11Extension
from setuptools import setup

setup(
    ext_modules=[
        Pybind11Extension(
            "nc_fast._projector",
            [f"csrc/{name}.cpp" for name in ("bindings", "columns", "greedy", "projector", "simd", "task_runner")],
            depends=glob("csrc/*.hpp"),
            cxx_std=17,
            # Contracting a * b + c into one rounding would give every instruction set its own bits.
            extra_compile_args=["-O3", "-ffp-contract=off", "-pthread", "-Wall", "-Wextra", "-Wconversion"],
            extra_link_args=["-pthread"],
        )
    ]
)
