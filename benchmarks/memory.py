"""How far a campaign raises the peak memory of its process over its inputs.

    python benchmarks/memory.py                     # all sizes, float32 and uint8 X
    python benchmarks/memory.py 60000x784x20000 --json out/memory.json
    python benchmarks/memory.py 60000x784x20000 --method screened

Each measurement is a fresh process: it makes the inputs, sets the kernel's high-water mark back to what is resident, runs the
campaign, and reads the mark (VmHWM). Where that mark cannot be set back, the peak before the call counts as the inputs. Cold
counts everything the first call brings, importing Numba and loading compiled code; warm is after a campaign of tiny size.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import sizes
import typer
from inputs import inputs
from rich.console import Console
from rich.table import Table

import nc_fast

KIB = 1024
MIB = 1024 * KIB
X_KINDS = ("float32", "uint8")
STATUS, CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def reset_peak() -> None:
    try:
        CLEAR_REFS.write_text("5")  # 5: the high-water mark only (man proc_pid_clear_refs)
    except OSError:
        return


def peak_bytes() -> int:
    if STATUS.is_file():
        fields = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
        return int(fields["VmHWM"].split()[0]) * KIB
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * KIB


def measure_here(name: str, kind: str, method: str, warm: bool) -> dict[str, int]:
    """Return, in bytes, the inputs' size and by how much a campaign raises the peak; warm: after a campaign of tiny size."""
    if warm:
        W, X, y = arrays(sizes.TINY.name, kind)
        nc_fast.campaign(W, X, y, sizes.TINY.k, method=method)
    W, X, y = arrays(name, kind)
    reset_peak()
    before = peak_bytes()
    nc_fast.campaign(W, X, y, next(size.k for size in sizes.MEMORY if size.name == name), method=method)
    return {"inputs": W.nbytes + X.nbytes + y.nbytes, "raised": peak_bytes() - before}


def arrays(name: str, kind: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return W, X and y of a size; nothing else of the inputs stays in memory."""
    given = inputs(next(size for size in sizes.MEMORY if size.name == name))
    inputs.cache_clear()
    return given.W, given.X if kind == "float32" else given.X_bytes, given.y


def measure(name: str, kind: str, method: str) -> dict[str, int]:
    """Return bytes: inputs, and how far a first (cold) and a later (warm) campaign raise the peak, each in a fresh process."""
    found = {}
    for call in ("cold", "warm"):
        program = f"import json, memory; print(json.dumps(memory.measure_here({name!r}, {kind!r}, {method!r}, {call == 'warm'})))"
        folder = Path(__file__).resolve().parent
        done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=True)
        result = json.loads(done.stdout)
        found["inputs"], found[call] = result["inputs"], result["raised"]
    return found


def main(
    names: Annotated[list[str] | None, typer.Argument(help="Names of sizes; default: all.")] = None,
    method: str = "exact",
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the bytes there too.")] = None,
) -> None:
    """Show by how many MiB a campaign raises the peak memory over its inputs."""
    table = Table("size", "X", "inputs, MiB", "cold: raised by, MiB", "warm: raised by, MiB")
    found = {}
    for name in names or [size.name for size in sizes.MEMORY]:
        for kind in X_KINDS:
            found[f"{name} {kind}"] = result = measure(name, kind, method)
            table.add_row(name, kind, *(f"{result[what] / MIB:.0f}" for what in ("inputs", "cold", "warm")))
    Console().print(table)
    if json_path:
        json_path.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
