"""The measurements of the GPU report, each a generator of rows; gpu_report.py says at which sizes and in which order."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from gpu_machine import Ceilings, Machine, Shape, Timing, copy_seconds, draw, product_seconds
from gpu_parts import ACTIVATION, Parts, launched
from gpu_results import Row
from inputs import shared_folder
from original import PROJECTIONS, campaign_torch

import nc_fast
from nc_fast.backends.gpu.kernels.moments import pure_runs
from nc_fast.backends.gpu.moments import class_moments
from nc_fast.backends.gpu.pursue import pursue
from nc_fast.backends.gpu.select import select
from nc_fast.files.read import Dataset, load_idx_folder
from nc_fast.types import ClassMoments

PRECISIONS = ("auto", "fp16", "tf32", "ieee")
ORIGINAL_COPIES = 6  # (N, M) float32 arrays that the original restated holds at a time


def moments_rows(machine: Machine, shape: Shape, precisions: tuple[str, ...] = PRECISIONS) -> Iterator[Row]:
    """Yield the product kernels apart from preparation, and whole calls, at every precision.

    The floor of kernels and of whole calls is the plain product by cuBLAS at the same precision, as often as it is needed, on the
    same data; that of preparation is a device copy of what it reads.
    """
    W, X, y = draw(shape, machine)
    bias = torch.zeros(shape.M, dtype=torch.float64, device=machine.device)
    copy_X, copy_W = copy_seconds(machine, X), copy_seconds(machine, W)
    for precision in precisions:
        parts = Parts(machine, W, X, y, precision)
        if precision == precisions[0]:
            found = machine.measure(parts.measure, events=True)
            yield Row("prepare", "features", str(shape), found.seconds, copy_X, found.peak, found.spread)
        for name, call, copy in (("samples", parts.pack_samples, copy_X), ("pool", parts.pack_pool, copy_W)):
            found = machine.measure(call, events=True)
            yield Row("prepare", f"pack {name}, {precision}", str(shape), found.seconds, copy, found.peak, found.spread)

        packed = parts.packed()
        product = parts.passes * product_seconds(machine, X, W, parts.kind)
        kernel = machine.measure(lambda parts=parts, packed=packed: parts.products(*packed), events=True)
        work = 2 * shape.N * shape.D * shape.M * parts.passes
        notes = {"products": parts.passes, "of cuBLAS's rate": product / kernel.seconds, "TFLOP/s": work / kernel.seconds / 1e12}
        with launched(pure_runs) as compiled:
            parts.products(*packed)
        if compiled and machine.gpu:
            notes["registers, spills"] = f"{compiled[0].n_regs}, {compiled[0].n_spills}"
        yield Row("kernels", precision, str(shape), kernel.seconds, product, kernel.peak, notes | kernel.spread)
        del packed

        def call(precision: str = precision) -> ClassMoments:
            return class_moments(W, X, y, np.arange(shape.C), bias=bias, activation=ACTIVATION, precision=precision)

        whole = machine.measure(call)
        again = call()
        same = torch.equal(again.mean, whole.result.mean) and torch.equal(again.m2, whole.result.m2)
        notes = {"over its kernels": whole.seconds / kernel.seconds, "same bits": same, "GiB beyond inputs": beyond(whole.peak, W, X)}
        yield Row("moments", precision, str(shape), whole.seconds, product, whole.peak, notes | whole.spread)


def selection_rows(machine: Machine, shape: Shape, ceilings: Ceilings, groups: dict[str, int]) -> Iterator[Row]:
    """Yield selections of k candidates with random scores; the floor is one pass over the weights at the rate of a device copy."""
    W, _, _ = draw(shape, machine)
    score = torch.rand(shape.M, dtype=torch.float64, generator=torch.Generator(machine.device).manual_seed(1), device=machine.device) + 0.5
    for name, n_groups in groups.items():
        group = torch.arange(shape.M, device=machine.device) % n_groups
        quota = torch.from_numpy(nc_fast.share_quota(torch.bincount(group).cpu().numpy(), shape.k)).to(machine.device)
        rounds: list[tuple[int, int]] = []

        def call(report: Any = None, group: torch.Tensor = group, quota: torch.Tensor = quota) -> Any:
            return select(W, score, group, quota, report=report)

        found = machine.measure(call)
        call(report=lambda *now, rounds=rounds: rounds.append(now))
        notes = {"rounds": len(rounds), "host waits": host_waits(machine, call), "GiB beyond W": beyond(found.peak, W)}
        yield Row("select", name, str(shape), found.seconds, W.nbytes / ceilings.copy, found.peak, notes | found.spread)


def pursuit_rows(machine: Machine, shape: Shape, ceilings: Ceilings) -> Iterator[Row]:
    """Yield a pursuit of the classes; the floor is the time in which a device copy reads the columns as often as there are picks."""
    W, X, y = draw(shape, machine)
    T = torch.nn.functional.one_hot(y, shape.C).double()
    T -= T.mean(0)
    options = {"bias": torch.zeros(shape.M, dtype=torch.float64, device=machine.device), "damping": 1e-3, "block": 1}

    def call(k: int = shape.k) -> Any:
        return pursue(W, X, T, k, activation=ACTIVATION, **options)

    whole, start = machine.measure(call), machine.measure(lambda: call(1))
    columns = 4 * shape.N * shape.M
    notes = {
        "ms a pick": 1e3 * (whole.seconds - start.seconds) / (shape.k - 1),
        "ms a device copy reads the columns": 1e3 * columns / ceilings.copy,
        "seconds to the first pick": start.seconds,
        "kept": whole.result.kept,
        "filled": whole.result.filled,
        "GiB beyond inputs": beyond(whole.peak, W, X),
    }
    yield Row("pursue", "a pass per pick", str(shape), whole.seconds, shape.k * columns / ceilings.copy, whole.peak, notes | whole.spread)


def campaign_rows(machine: Machine, shape: Shape) -> Iterator[Row]:
    """Yield a whole campaign, and the selection within it alone."""
    W, X, y = draw(shape, machine)
    whole = machine.measure(lambda: nc_fast.campaign(W, X, y, shape.k, backend="gpu"))
    scores = nc_fast.ib_scores(nc_fast.class_moments(W, X, y, backend="gpu"))
    chosen = machine.measure(lambda: nc_fast.select(W, scores, shape.k, backend="gpu"))
    notes = per_candidate(whole.seconds, shape) | {"GiB beyond inputs": beyond(whole.peak, W, X)}
    notes |= {"selection's share": chosen.seconds / whole.seconds}
    yield Row("campaign", "nc_fast", str(shape), whole.seconds, peak=whole.peak, notes=notes | whole.spread)


def original_rows(machine: Machine, shape: Shape) -> Iterator[Row]:
    """Yield the original restated on the same device, at the largest M up to the shape's at which its (N, M) activations fit."""
    M = shape.M
    if machine.gpu:
        M = min(M, int(0.9 * torch.cuda.mem_get_info(machine.device)[0] / (4 * ORIGINAL_COPIES * shape.N)))
    while True:
        smaller = Shape(shape.N, shape.D, M, shape.C, min(shape.k, M))
        try:
            for projection in PROJECTIONS:
                yield _original_row(machine, smaller, projection)
            return
        except torch.OutOfMemoryError:
            machine.free()
            M //= 2


def _original_row(machine: Machine, shape: Shape, projection: str) -> Row:
    W, X, y = draw(shape, machine)
    found = machine.measure(lambda: campaign_torch(W, X, y, shape.k, projection=projection))
    notes = per_candidate(found.seconds, shape) | found.spread
    return Row("campaign", f"original, {projection}", str(shape), found.seconds, peak=found.peak, notes=notes)


def cpu_rows(machine: Machine, shape: Shape) -> Iterator[Row]:
    """Yield the same campaign on the CPU backend of this machine."""
    W, X, y = (tensor.cpu().numpy() for tensor in draw(shape, machine))
    nc_fast.campaign(W[:, :64], X[:500], y[:500], 2, backend="cpu")  # compiles
    seconds = []
    for _ in range(min(machine.repeats, 3)):
        start = time.perf_counter()
        nc_fast.campaign(W, X, y, shape.k, backend="cpu")
        seconds.append(time.perf_counter() - start)
    found = Timing(seconds, 0, None)
    yield Row("campaign", "CPU backend", str(shape), found.seconds, notes=per_candidate(found.seconds, shape) | found.spread)


def agreement_rows(machine: Machine, data: Dataset | None, N: int | None, M: int, k: int) -> Iterator[Row]:
    """Yield how many picks equal those of the CPU backend in float64, position by position and as a set."""
    if data is None:
        yield Row("agree", "skipped", notes={"no MNIST": "set NC_FAST_SHARED to the folder that holds data/mnist"})
        return
    X, y = (data.X_train[:N] / data.full_scale).astype(np.float32), data.y_train[:N]
    W = (np.random.default_rng(0).standard_normal((X.shape[1], M)) * (2 / X.shape[1]) ** 0.5).astype(np.float32)
    exact = nc_fast.class_moments(W.astype(np.float64), X.astype(np.float64), y, backend="cpu")
    on_device = torch.from_numpy(W).to(machine.device), torch.from_numpy(X).to(machine.device)
    alphas = (0.0, 0.5, 1.0)
    expected = {alpha: nc_fast.select(W, nc_fast.ib_scores(exact, alpha=alpha), k, backend="cpu").indices for alpha in alphas}
    for precision in PRECISIONS:
        for alpha in alphas:
            found = nc_fast.campaign(*on_device, y, k, alpha=alpha, precision=precision, backend="gpu").indices.cpu().numpy()
            same = {"same position": int((found == expected[alpha]).sum()), "same set": len(np.intersect1d(found, expected[alpha]))}
            yield Row("agree", f"{precision}, alpha {alpha}", f"{data.name} N={len(X)} M={M} k={k}", notes=same | {"of": k})


def mnist() -> Dataset | None:
    """Return MNIST where it is on this machine."""
    folder = shared_folder() / "data" / "mnist"
    return load_idx_folder(folder) if folder.is_dir() else None


def per_candidate(seconds: float, shape: Shape) -> dict[str, float]:
    return {"us a candidate": seconds / shape.M * 1e6}


def beyond(peak: int, *inputs: torch.Tensor) -> float:
    """Return the GiB allocated at most beyond the inputs; 0 without a device."""
    return max(peak - sum(tensor.nbytes for tensor in inputs), 0) / 2**30


def host_waits(machine: Machine, call: Callable[[], Any]) -> int | None:
    """Return how often the host waited for the device during a call, as torch counts it; None without a device."""
    if not machine.gpu:
        call()
        return None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            call()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("called a synchronizing" in str(warning.message) for warning in caught)
