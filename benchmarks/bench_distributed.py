"""1, 2 and 4 gloo ranks on this machine, both modes, MNIST, M = 5000, k = 500: picks, bytes and seconds against the cost model.

    python benchmarks/bench_distributed.py FOLDER

Every rank has one BLAS thread; the model's machine is measured first: the rate of one rank, the exchange of two.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import typer
from distributed_model import Machine, Problem, expected_bytes, expected_seconds
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits

import nc_fast
from nc_fast.distributed import Ranks, count_traffic
from nc_fast.files.read import load_idx_folder

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "distributed"))
from rank_workers import Workers

FEW = 8  # candidates whose product takes no time beside the reading of the samples
SHARDS = ("samples", "candidates")


def inputs(folder: Path, samples: int, pool: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    data = load_idx_folder(folder).scaled()
    W = np.random.default_rng(0).normal(size=(data.X_train.shape[1], pool), scale=0.05).astype(np.float32)
    return W, data.X_train[:samples], data.y_train[:samples]


def campaign(rank, group, folder, samples, pool, k, shard, rounds):
    """A rank's picks, traffic and seconds from the moment all ranks are ready."""
    import torch.distributed as dist

    W, X, y = inputs(folder, samples, pool)
    whole = len(X) if shard == "samples" else pool
    mine = slice(whole * rank // group.size(), whole * (rank + 1) // group.size())
    given = (W, X[mine], y[mine]) if shard == "samples" else (W[:, mine], X, y)
    seconds = []
    with threadpool_limits(1, "blas"):
        nc_fast.campaign(W[:, :50], X[:500], y[:500], 5)
        for _ in range(rounds):
            dist.barrier()
            start = time.perf_counter()
            with count_traffic() as traffic:
                result = nc_fast.campaign(*given, k, process_group=group, shard=shard)
            seconds.append(time.perf_counter() - start)
    return result.indices, dict(traffic.received), seconds


def exchange(_rank, group):
    """Seconds of a small and of a large exchange, and the large one's bytes."""
    import torch

    ranks = Ranks(group)
    found = []
    for n in (8, 1 << 24):
        taken = []
        for _ in range(7):
            start = time.perf_counter()
            ranks.all_gather(torch.zeros(n, dtype=torch.uint8), "test")
            taken.append(time.perf_counter() - start)
        found.append(median(taken))
    return found[0], found[1], 1 << 24


def main(data_dir: Path, samples: int = 60_000, pool: int = 5000, k: int = 500, rounds: int = 2) -> None:
    W, X, y = inputs(data_dir, samples, pool)
    expected = nc_fast.campaign(W, X, y, k).indices
    problem = Problem(len(X), len(W), pool, len(np.unique(y)), k, label_bytes=y.itemsize)
    measured: dict[tuple[int, str], float] = {}
    latency, bandwidth = 0.0, float("inf")
    for size in (1, 2, 4):
        with tempfile.TemporaryDirectory() as folder:
            ranks = Workers(size, Path(folder) / "store", timeout=300)
            for shard in SHARDS:
                answers = ranks.run(campaign, data_dir, samples, pool, k, shard, rounds)
                for picks, received, _ in answers:
                    np.testing.assert_array_equal(picks, expected)
                    assert received == expected_bytes(problem, size, shard), (received, expected_bytes(problem, size, shard))
                measured[size, shard] = min(max(seconds[turn] for *_, seconds in answers) for turn in range(rounds))
            if size == 2:
                small, large, n_bytes = ranks.run(exchange)[0]
                latency, bandwidth = small, n_bytes / max(large - small, 1e-9)
            ranks.close()
    with threadpool_limits(1, "blas"):
        scores = nc_fast.ib_scores(nc_fast.class_moments(W, X[:5000], y[:5000]))
        start = time.perf_counter()
        nc_fast.select(W, scores, k)
        select_seconds = time.perf_counter() - start
        start = time.perf_counter()
        nc_fast.class_moments(W[:, :FEW], X, y)
        read_seconds = time.perf_counter() - start
    one = measured[1, "samples"]
    flops = 2 * problem.N * problem.D * problem.M / (one - select_seconds - read_seconds)
    machine = Machine(flops, read_seconds, select_seconds, bandwidth, latency, slots=len(os.sched_getaffinity(0)))
    table = Table("ranks", "shard", "MB a rank receives", "seconds", "model", "speed-up", "model")
    for (size, shard), seconds in measured.items():
        model = expected_seconds(problem, machine, size, shard)
        received = sum(expected_bytes(problem, size, shard).values()) / 1e6
        speed_up = expected_seconds(problem, machine, 1, shard) / model
        row = (size, shard, f"{received:.2f}", f"{seconds:.2f}", f"{model:.2f}", f"{one / seconds:.2f}", f"{speed_up:.2f}")
        table.add_row(*map(str, row))
    Console().print(table)
    rate = f"{flops / 1e9:.0f} GFLOP/s, reading {read_seconds:.2f} s, selection {select_seconds:.3f} s"
    print(f"one rank: {rate}; exchange of two: {bandwidth / 1e9:.2f} GB/s, {latency * 1e6:.0f} us a call; {machine.slots} cores")


if __name__ == "__main__":
    typer.run(main)
