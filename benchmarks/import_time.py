"""What ``import nc_fast`` costs in fresh processes, and that it brings no heavy library along.

python benchmarks/import_time.py
"""

from __future__ import annotations

import json
import subprocess
import sys
from statistics import median
from typing import Annotated

import typer
from rich.console import Console

HEAVY = ("torch", "numba", "triton", "scipy", "sklearn", "matplotlib")
PROGRAM = """
import json, sys, time
start = time.perf_counter(); import numpy; numpy_done = time.perf_counter(); import nc_fast; done = time.perf_counter()
heavy = [name for name in {heavy!r} if name in sys.modules]
print(json.dumps({{"numpy": numpy_done - start, "nc_fast": done - start, "heavy": heavy}}))
"""


def measure(processes: int = 20) -> dict[str, object]:
    """Return median seconds of ``import numpy`` and of ``import nc_fast`` (NumPy included), and the heavy modules it loads."""
    command = [sys.executable, "-c", PROGRAM.format(heavy=HEAVY)]
    runs = [json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout) for _ in range(processes)]
    return {
        "numpy": median(run["numpy"] for run in runs),
        "nc_fast": median(run["nc_fast"] for run in runs),
        "heavy": sorted({name for run in runs for name in run["heavy"]}),
    }


def main(processes: Annotated[int, typer.Option(help="Fresh processes to take the median of.")] = 20) -> None:
    """Show what importing nc_fast costs."""
    found = measure(processes)
    Console().print(
        f"import nc_fast: {found['nc_fast'] * 1e3:.0f} ms, of which NumPy {found['numpy'] * 1e3:.0f} ms; "
        f"heavy libraries imported: {', '.join(found['heavy']) or 'none'}"
    )


if __name__ == "__main__":
    typer.run(main)
