"""Everything that only a device can tell, in one run: ``python benchmarks/gpu_report.py``.

For a machine with one NVIDIA or AMD GPU, torch, triton, numpy, numba, pybind11 and a C++ compiler; no network. Builds the extension,
runs the tests, measures, writes JSON, and prints a short table last. A row that fails says so and the others go on.

``--skip-tests`` and ``--quick`` (one repeat, M up to 1e4) shorten it; ``--tiny`` runs every measurement at toy sizes, on
the CPU too (TRITON_INTERPRET=1), where its times mean nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import original
import torch
from gpu_machine import Ceilings, Machine, Row, Shape, bare_product, draw
from inputs import shared_folder

import nc_fast
from nc_fast.backends.gpu.moments import class_moments
from nc_fast.backends.gpu.pursue import pursue
from nc_fast.backends.gpu.select import select
from nc_fast.files.read import load_idx_folder

ROOT = Path(__file__).resolve().parents[1]
PRODUCTS = {"auto": (torch.float16, 3), "fp16": (torch.float16, 1), "tf32": ("tf32", 1), "ieee": (torch.float32, 1)}  # cuBLAS type, passes
SANITIZED = """
import numpy as np, torch
from nc_fast.backends.gpu.moments import class_moments
from nc_fast.backends.gpu.pursue import pursue
from nc_fast.backends.gpu.select import select
rng = np.random.default_rng(0)
codes = torch.arange(700, device="cuda") % 3
X = torch.from_numpy(rng.standard_normal((700, 50), dtype=np.float32)).cuda()
W = torch.from_numpy(rng.standard_normal((50, 300), dtype=np.float32)).cuda()
bias = torch.zeros(300, dtype=torch.float64, device="cuda")
class_moments(W, X, codes, np.arange(3), bias=bias, activation="relu")
score, pool = torch.rand(300, dtype=torch.float64, device="cuda"), torch.arange(300, device="cuda") % 2
select(W, score, pool, torch.tensor([20, 20], device="cuda"))
T = torch.randn(700, 3, dtype=torch.float64, device="cuda")
pursue(W, X, T - T.mean(0), 20, bias=bias, activation="relu", damping=1e-3, block=1)
torch.cuda.synchronize()
"""


def moments_rows(machine: Machine, shape: Shape, ceilings: Ceilings) -> Iterator[Row]:
    """Yield the moments at every precision; ``floor`` is the bare product's time by cuBLAS at the same precision."""
    W, X, y = draw(shape, machine)
    bias = torch.zeros(shape.M, dtype=torch.float64, device=machine.device)
    for precision, (kind, passes) in PRODUCTS.items():

        def call(precision: str = precision) -> Any:
            return class_moments(W, X, y, np.arange(shape.C), bias=bias, activation="relu", precision=precision)

        seconds, peak, _ = machine.measure(call, 1 if shape.M >= 10**6 else None)
        product = passes * bare_product(machine, shape, kind)
        beyond = peak - W.nbytes - X.nbytes
        at_peak = passes * 2 * shape.N * shape.D * shape.M / ceilings.rate[str(kind)]
        notes = {"over the bare product": round(seconds / product, 2), "seconds at GEMM peak": at_peak, "bytes beyond inputs": beyond}
        yield Row("moments", precision, str(shape), seconds, product, peak, notes)


def selection_rows(machine: Machine, shape: Shape, ceilings: Ceilings) -> Iterator[Row]:
    """Yield the selection by class and over one pool; ``floor`` is one pass over the weights at copy rate."""
    W, _, _ = draw(shape, machine)
    score = torch.rand(shape.M, dtype=torch.float64, generator=torch.Generator(machine.device).manual_seed(1), device=machine.device) + 0.5
    for name, groups in (("by class", shape.C), ("one pool", 1)):
        pool = torch.arange(shape.M, device=machine.device) % groups
        quota = torch.from_numpy(nc_fast.share_quota(torch.bincount(pool).cpu().numpy(), shape.k)).to(machine.device)
        rounds: list[tuple[int, int]] = []
        seconds, peak, _ = machine.measure(lambda pool=pool, quota=quota: select(W, score, pool, quota))
        select(W, score, pool, quota, report=lambda *now, rounds=rounds: rounds.append(now))
        yield Row("selection", name, str(shape), seconds, W.nbytes / ceilings.copy, peak, {"rounds": len(rounds)})


def pursuit_rows(machine: Machine, shape: Shape, ceilings: Ceilings) -> Iterator[Row]:
    """Yield a pursuit of the classes; ``floor`` is the time in which a device copy reads the columns as often as there are picks."""
    W, X, y = draw(shape, machine)
    T = torch.nn.functional.one_hot(y, shape.C).double()
    options = {"bias": torch.zeros(shape.M, dtype=torch.float64, device=machine.device), "activation": "relu", "damping": 1e-3, "block": 1}
    columns = 4 * shape.N * shape.M

    def call(k: int = shape.k) -> Any:
        return pursue(W, X, T - T.mean(0), k, **options)

    seconds, peak, found = machine.measure(call, 1)
    start, _, _ = machine.measure(lambda: call(1), 1)
    notes = {
        "ms a pick": 1e3 * (seconds - start) / (shape.k - 1),
        "ms a device copy of the columns": 2e3 * columns / ceilings.copy,
        "seconds to the first pick": start,
        "kept": found.kept,
        "filled": found.filled,
        "bytes beyond inputs": peak - W.nbytes - X.nbytes,
    }
    yield Row("pursuit", "a pass per pick", str(shape), seconds, shape.k * columns / ceilings.copy, peak, notes)


def campaign_rows(machine: Machine, shape: Shape, originals: bool) -> Iterator[Row]:
    """Yield a whole campaign, and the original restated on the same device where its (N, M) activations fit."""
    W, X, y = draw(shape, machine)
    seconds, peak, _ = machine.measure(lambda: nc_fast.campaign(W, X, y, shape.k, backend="gpu"), 1 if shape.M >= 10**6 else None)
    notes = {"microseconds per candidate": seconds / shape.M * 1e6, "bytes beyond inputs": peak - W.nbytes - X.nbytes}
    yield Row("campaign", "nc_fast", str(shape), seconds, 0.0, peak, notes)
    if originals:
        for projection in original.PROJECTIONS:
            call = lambda projection=projection: original.campaign_torch(W, X, y, shape.k, projection=projection)  # noqa: E731
            seconds, peak, _ = machine.measure(call, 1)
            notes = {"microseconds per candidate": seconds / shape.M * 1e6}
            yield Row("campaign", f"original restated, {projection}", str(shape), seconds, 0.0, peak, notes)


def agreement_rows(machine: Machine, M: int, k: int, N: int | None, alphas: tuple[float, ...] = (0.0, 0.5, 1.0)) -> Iterator[Row]:
    """Yield how many picks on MNIST equal those of the CPU backend in float64, position by position and as a set."""
    folder = shared_folder() / "data" / "mnist"
    if not folder.is_dir():
        yield Row("agreement", "skipped: no MNIST, set NC_FAST_SHARED", "")
        return
    data = load_idx_folder(folder)
    X, y = (data.X_train[:N] / data.full_scale).astype(np.float32), data.y_train[:N]
    W = (np.random.default_rng(0).standard_normal((X.shape[1], M)) * (2 / X.shape[1]) ** 0.5).astype(np.float32)
    exact = nc_fast.class_moments(W.astype(np.float64), X.astype(np.float64), y, backend="cpu")
    for alpha in alphas:
        expected = nc_fast.select(W, nc_fast.ib_scores(exact, alpha=alpha), k, backend="cpu").indices
        for precision in PRODUCTS:
            on_device = torch.from_numpy(W).to(machine.device), torch.from_numpy(X).to(machine.device)
            found = nc_fast.campaign(*on_device, y, k, alpha=alpha, precision=precision, backend="gpu").indices.cpu().numpy()
            notes = {"same position": int((found == expected).sum()), "same set": len(np.intersect1d(found, expected)), "of": k}
            yield Row("agreement", f"{precision}, alpha {alpha}", f"MNIST M={M} k={k}", notes=notes)


def cpu_rows(machine: Machine, shape: Shape) -> Iterator[Row]:
    """Yield the same campaign on the CPU backend of this machine."""
    W, X, y = (tensor.cpu().numpy() for tensor in draw(shape, machine))
    nc_fast.campaign(W[:, :64], X[:500], y[:500], 2, backend="cpu", alpha=1.0)  # compiles
    start = time.perf_counter()
    nc_fast.campaign(W, X, y, shape.k, backend="cpu")
    yield Row("campaign", "nc_fast, CPU backend", str(shape), time.perf_counter() - start)


def sanitizer_rows() -> Iterator[Row]:
    """Yield compute-sanitizer's verdict on one small campaign."""
    tool = shutil.which("compute-sanitizer")
    if tool is None:
        yield Row("sanitizer", "skipped: no compute-sanitizer on the path", "")
        return
    for check in ("memcheck", "racecheck"):
        command = [tool, "--tool", check, "--error-exitcode", "1", sys.executable, "-c", SANITIZED]
        done = subprocess.run(command, capture_output=True, text=True, env=clean_environment(), cwd=ROOT, check=False)
        yield Row("sanitizer", check, "", notes={"clean": done.returncode == 0, "says": done.stdout.splitlines()[-3:]})


def test_rows() -> Iterator[Row]:
    """Build the extension in place, then run the tests that need a device, then the whole suite as CI does."""
    build = [sys.executable, "setup.py", "build_ext", "--inplace"]
    yield command_row("extension", build, clean_environment())
    pytest = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    yield command_row("tests marked gpu", [*pytest, "-m", "gpu", "tests"], clean_environment())
    yield command_row("whole suite, interpreting", pytest, clean_environment() | {"TRITON_INTERPRET": "1"})


def command_row(name: str, command: list[str], environment: dict[str, str]) -> Row:
    """Run a command; return how it ended."""
    start = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    says = (done.stdout + done.stderr).splitlines()[-8:]
    return Row("tests", name, "", time.perf_counter() - start, notes={"exit": done.returncode, "says": says})


def clean_environment() -> dict[str, str]:
    """Return the environment without the interpreter, and with the checkout importable."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), environment.get("PYTHONPATH")]))
    return environment


def plan(machine: Machine, arguments: argparse.Namespace) -> Iterator[Callable[[], Iterator[Row]]]:
    """Yield the measurements in order, ceilings first."""
    if arguments.tiny:
        ceilings = Ceilings(machine, 64, 1 << 16)
        shape = Shape(60, 9, 40, 3, 6)
        yield ceilings.rows
        yield lambda: moments_rows(machine, shape, ceilings)
        yield lambda: selection_rows(machine, shape, ceilings)
        yield lambda: pursuit_rows(machine, shape, ceilings)
        yield lambda: campaign_rows(machine, shape, originals=True)
        yield lambda: cpu_rows(machine, shape)
        yield lambda: agreement_rows(machine, 16, 4, 40, (0.5,))
        return
    ceilings = Ceilings(machine, 8192, 4 << 30)
    yield ceilings.rows
    pools = [1000, 10_000] if arguments.quick else [1000, 10_000, 100_000, 1_000_000]
    for M in pools:
        yield lambda M=M: moments_rows(machine, Shape(60_000, 784, M, 10), ceilings)
    if not arguments.quick:
        yield lambda: moments_rows(machine, Shape(60_000, 4096, 100_000, 1000), ceilings)
    for k in (1000, 4096):
        yield lambda k=k: selection_rows(machine, Shape(1, 784, pools[-2], 10, k), ceilings)
    yield lambda: pursuit_rows(machine, Shape(10_000, 784, pools[1] if arguments.quick else 100_000, 10, 1000), ceilings)
    for M in pools:
        yield lambda M=M: campaign_rows(machine, Shape(60_000, 784, M, 10, min(1000, M // 2)), originals=M <= 20_000)
    yield lambda: cpu_rows(machine, Shape(60_000, 784, 10_000, 10, 1000))
    yield lambda: agreement_rows(machine, 2000 if arguments.quick else 20_000, 1000, None)
    yield sanitizer_rows


def collect(measurements: Iterator[Callable[[], Iterator[Row]]]) -> list[Row]:
    """Run the measurements; a failure becomes a row."""
    rows: list[Row] = []
    for measurement in measurements:
        try:
            for row in measurement():
                print(line(row), flush=True)
                rows.append(row)
        except Exception as error:  # out of memory on a small device, say: the other rows still count
            rows.append(Row("failed", type(error).__name__, "", notes={"error": str(error)[:500]}))
            print(line(rows[-1]), flush=True)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return rows


def line(row: Row) -> str:
    """Return a row as one line of the table."""
    seconds = f"{row.seconds * 1e3:10.2f} ms" if row.seconds else " " * 13
    ratio = f"{row.seconds / row.floor:6.2f} x floor" if row.seconds and row.floor else " " * 14
    peak = f"{row.peak / 2**30:6.2f} GiB" if row.peak else " " * 10
    notes = ", ".join(f"{key}: {value:.4g}" if isinstance(value, float) else f"{key}: {value}" for key, value in row.notes.items())
    return f"{row.stage:10} {row.name:28} {row.shape:34} {seconds} {ratio} {peak}  {notes}"


def main(given: list[str] | None = None) -> list[Row]:
    """Run the report; return its rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "gpu_report.json")
    for flag in ("--skip-tests", "--quick", "--tiny"):
        parser.add_argument(flag, action="store_true")
    arguments = parser.parse_args(given)
    if not (torch.cuda.is_available() or arguments.tiny):
        parser.error("torch sees no GPU; --tiny runs everything at toy sizes, interpreted")
    device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    machine = Machine(device, 1 if arguments.quick or arguments.tiny else 7)
    rows = [] if arguments.skip_tests or arguments.tiny else collect(iter([test_rows]))
    rows += collect(plan(machine, arguments))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps({"machine": machine.facts(), "rows": [asdict(row) for row in rows]}, indent=1))
    print("\n" + "\n".join(f"{key}: {value}" for key, value in machine.facts().items() if value))
    print("\n".join(line(row) for row in rows))
    return rows


if __name__ == "__main__":
    main()
