"""Streams against the call in memory, and a 20 GB campaign from a sparse file: throughput, peak memory, interruption.

python benchmarks/bench_streaming.py throughput FOLDER    # MNIST, M = 5000; batches of 100, 256 and 1000 rows
python benchmarks/bench_streaming.py memory SCRATCH         # 20 GB: a run, a killed run, its resumption
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

import nc_fast
from nc_fast.files.read import load_idx_folder

app = typer.Typer(add_completion=False)
GIGABYTE, MEBIBYTE = 10**9, 1 << 20
FEATURES = 784
ISLANDS = 40  # stretches of the sparse file that hold data; the rest are holes, read as zeros
ISLAND_ROWS = 5000


@app.command()
def throughput(data_dir: Path, pool: int = 5000, samples: int = 60_000, rounds: int = 3) -> None:
    """Time the moments of MNIST as one array, as small batches, as a torch loader's, and from a file."""
    import torch
    from torch.utils.data import BatchSampler, DataLoader, SequentialSampler, TensorDataset

    data = load_idx_folder(data_dir).scaled()
    X, y = data.X_train[:samples], data.y_train[:samples]
    W = candidates(pool)
    dataset = TensorDataset(torch.from_numpy(X), torch.from_numpy(y.astype(np.int64)))

    def batches(rows: int):
        return ((X[first : first + rows], y[first : first + rows]) for first in range(0, len(X), rows))

    def loader():
        sampler = BatchSampler(SequentialSampler(dataset), 1000, drop_last=False)
        return DataLoader(dataset, sampler=sampler, batch_size=None)

    file = Path("stream.tmp")
    np.memmap(file, X.dtype, "w+", shape=X.shape)[...] = X
    try:
        mapped = np.memmap(file, X.dtype, "r", shape=X.shape)
        calls = {
            "one array": lambda: nc_fast.class_moments(W, X, y),
            **{f"batches of {rows}": lambda rows=rows: nc_fast.class_moments(W, batches(rows)) for rows in (100, 256, 1000)},
            "torch DataLoader, 1000": lambda: nc_fast.class_moments(W, loader()),
            "np.memmap": lambda: nc_fast.class_moments(W, mapped, y),
        }
        nc_fast.class_moments(W[:, :10], X[:100], y[:100])
        expected = calls["one array"]()
        times: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(rounds):
            for name, call in calls.items():  # turn by turn, so that a busy minute meets all of them
                start = time.perf_counter()
                found = call()
                times[name].append(time.perf_counter() - start)
                np.testing.assert_array_equal(found.mean, expected.mean)
    finally:
        file.unlink()
    table = Table("samples as", "seconds, median", "throughput / one array's, median of rounds")
    for name, taken in times.items():
        ratio = median(whole / own for whole, own in zip(times["one array"], taken, strict=True))
        table.add_row(name, f"{median(taken):.2f}", f"{ratio:.2f}")
    Console().print(table)


@app.command()
def memory(folder: Path, gigabytes: float = 20.0, pool: int = 256, k: int = 50) -> None:
    """Campaign on a sparse file: peak memory, then the same killed in the middle and taken up again."""
    rows = int(gigabytes * GIGABYTE / (4 * FEATURES))
    path, checkpoint = folder / "sparse.f4", folder / "moments.npz"
    checkpoint.unlink(missing_ok=True)
    write_sparse(path, rows)
    try:
        whole = child(path, rows, pool, k, None)
        killed_after = kill_in_the_middle(path, rows, pool, k, checkpoint)
        resumed = child(path, rows, pool, k, checkpoint)
    finally:
        path.unlink()
        checkpoint.unlink(missing_ok=True)
    for run in (whole, resumed):
        assert run["peak_MiB"] <= 1024, run
    assert resumed["picks"] == whole["picks"]
    assert resumed["scores"] == whole["scores"]
    table = Table("run", "seconds", "peak MiB")
    table.add_row("uninterrupted", f"{whole['seconds']:.0f}", f"{whole['peak_MiB']:.0f}")
    table.add_row(f"resumed after {killed_after} of {rows} samples", f"{resumed['seconds']:.0f}", f"{resumed['peak_MiB']:.0f}")
    Console().print(table)
    print(f"{rows} x {FEATURES} float32, {gigabytes} GB: picks and scores of both runs have the same bits")


def write_sparse(path: Path, rows: int) -> None:
    with path.open("wb") as file:
        file.truncate(rows * FEATURES * 4)
    mapped = np.memmap(path, np.float32, "r+", shape=(rows, FEATURES))
    rng = np.random.default_rng(0)
    for first in np.linspace(0, rows - ISLAND_ROWS, ISLANDS).astype(int):
        mapped[first : first + ISLAND_ROWS] = (
            rng.normal(size=(ISLAND_ROWS, FEATURES)) + centres()[labels(rows)[first : first + ISLAND_ROWS]]
        )


def centres() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(10, FEATURES)).astype(np.float32)


def labels(rows: int) -> np.ndarray:
    return (np.arange(rows, dtype=np.int64) % 10).astype(np.uint8)


def candidates(pool: int) -> np.ndarray:
    return np.random.default_rng(2).normal(size=(FEATURES, pool), scale=FEATURES**-0.5).astype(np.float32)


def command(path: Path, rows: int, pool: int, k: int, checkpoint: Path | None) -> list[str]:
    return [sys.executable, __file__, "one", str(path), str(rows), str(pool), str(k), str(checkpoint or "")]


def child(path: Path, rows: int, pool: int, k: int, checkpoint: Path | None) -> dict:
    done = subprocess.run(command(path, rows, pool, k, checkpoint), capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def kill_in_the_middle(path: Path, rows: int, pool: int, k: int, checkpoint: Path) -> int:
    with subprocess.Popen(command(path, rows, pool, k, checkpoint), stdout=subprocess.DEVNULL) as process:
        while not checkpoint.exists() or nc_fast.ClassMoments.load(checkpoint).n_samples < rows // 3:
            time.sleep(0.5)
            assert process.poll() is None, "it ended before it was killed"
        process.send_signal(signal.SIGKILL)
    samples = nc_fast.ClassMoments.load(checkpoint).n_samples
    assert 0 < samples < rows
    return samples


@app.command(hidden=True)
def one(path: Path, rows: int, pool: int, k: int, checkpoint: str) -> None:
    from nc_fast.stages import checkpoint

    checkpoint.EVERY_SECONDS = 2.0
    X = np.memmap(path, np.float32, "r", shape=(rows, FEATURES))
    start = time.perf_counter()
    result = nc_fast.campaign(candidates(pool), X, labels(rows), k, bias=-0.1, checkpoint=checkpoint or None)
    seconds = time.perf_counter() - start
    # Not ru_maxrss: a child inherits its parent's.
    peak = int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024 / MEBIBYTE
    scores = result.scores.tobytes().hex()
    print(json.dumps({"seconds": seconds, "peak_MiB": peak, "picks": result.indices.tolist(), "scores": scores}))


if __name__ == "__main__":
    app()
