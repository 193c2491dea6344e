"""Class moments on a GPU: samples sorted, centred and scaled once; the pool in blocks; one fused pass over both.

Accuracy: operands are scaled by exact powers of two per feature and per candidate, then held as one or two float16
numbers (22 bits), one float32 or one float64. Deviations from a pivot per candidate are summed in float32 (float64 for
float64) within a run of tiles and merged in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import triton
from triton.tools.tensor_descriptor import TensorDescriptor

from nc_fast.backends.gpu import layout, packing, runtime
from nc_fast.backends.gpu.callables import moments_by_callable
from nc_fast.backends.gpu.features import measure_features
from nc_fast.backends.gpu.kernels import moments as kernels
from nc_fast.backends.gpu.packing import PackedCandidates, PackedSamples
from nc_fast.backends.gpu.plan import MERGE_CANDIDATES, Plan
from nc_fast.backends.gpu.precision import choose_arithmetic
from nc_fast.backends.gpu.samples import SortedSamples
from nc_fast.backends.gpu.tiles import Tile, choose_tiles
from nc_fast.runtime.progress import Report
from nc_fast.types import ClassMoments


def class_moments(
    W: torch.Tensor,
    X: torch.Tensor,
    codes: torch.Tensor,
    classes: np.ndarray,
    *,
    bias: torch.Tensor,
    activation: str | Callable[[Any], Any],
    precision: str = "auto",
    report: Report | None = None,
) -> ClassMoments:
    """Return the class moments of ``activation(X @ W + bias)`` without ever holding it.

    Parameters
    ----------
    W : (D, M) floating
        On the device that computes, in any memory layout.
    X : (N, D) floating or integer
        On the same device, or in host memory: then it is streamed in tiles.
    codes : (N,) int64
        Index into ``classes`` of each sample.
    classes : (C,) numpy array
        Labels, passed through.
    bias : (M,) float64
    activation : str or callable
        A name in the table, or an elementwise function of an (n, m) tensor: slower, because its blocks are stored.
    precision : "auto", "fp16", "tf32" or "ieee"
        "auto" holds operands in 22 bits (two float16), or float32 where features spread too far, or float64 where they are given so.
    report : callable, optional
        Called with (work done, work in all) after every block of the pool; waits for the device each time.

    Returns
    -------
    ClassMoments
        float64 tensors on W's device. A candidate whose activation is the same on every sample has m2 = 0 and equal
        means, exactly.

    Raises
    ------
    ValueError
        When W lies neither on a GPU nor, under the interpreter, on the CPU.

    Notes
    -----
    Source: Mao et al., CIKM 2021, section 3; tiles merged by Chan, Golub and LeVeque (1979).
    """
    with runtime.on_device(W), torch.no_grad():
        order = torch.argsort(codes, stable=True).to(X.device)
        count = torch.bincount(codes, minlength=len(classes))
        samples = SortedSamples(X, order, count.cpu().numpy())
        tell = runtime.reporter(report, W.device)
        if callable(activation):
            mean, m2 = moments_by_callable(W, samples, bias, activation, tell)
        else:
            mean, m2 = _moments_by_kernels(W, samples, bias, activation, precision, tell)
        if not samples.counts.all():
            mean[torch.from_numpy(samples.counts == 0).to(W.device)] = 0
        return ClassMoments(classes, count, mean, m2)


def _moments_by_kernels(
    W: torch.Tensor, samples: SortedSamples, bias: torch.Tensor, activation: str, precision: str, tell: Report
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (C, M) float64 means and squared deviations: chunks of samples and blocks of the pool, each with each."""
    (D, M), N, device = W.shape, len(samples.order), W.device
    features = measure_features(samples.X, device)
    arithmetic = choose_arithmetic(precision, W.dtype, samples.X.dtype, centred=features.centred, spread=features.spread)
    tiles = choose_tiles(runtime.target(device), arithmetic, activation)
    plan = Plan(arithmetic, activation, tiles, D)

    per_run = layout.run_tiles(N, M, tiles.pure)
    spans = layout.sample_chunks(N, plan.row_bytes, layout.SAMPLES_BYTES)
    chunks = [layout.sample_layout(samples.counts, span, tiles, per_run) for span in spans]
    candidate_bytes = plan.candidate_bytes(max(chunk.n_slots for chunk in chunks))
    blocks = layout.pool_blocks(M, candidate_bytes, runtime.free_bytes(device), tiles.pure.candidates)

    mean, m2 = torch.zeros((2, len(samples.counts), M), dtype=torch.float64, device=device)
    pivot = torch.empty(M, dtype=getattr(torch, arithmetic.sums), device=device)
    for c, chunk in enumerate(chunks):
        packed = packing.pack_samples(samples, chunk, features, plan)
        for b, block in enumerate(blocks):
            candidates = packing.pack_candidates(W[:, block], bias[block], features, plan)
            pivot[block] = candidates.pivot[: block.stop - block.start]
            _merge_into(mean[:, block], m2[:, block], candidates, packed, plan)
            tell(c * len(blocks) + b + 1, len(chunks) * len(blocks))
    return mean.add_(pivot), m2


def _merge_into(mean: torch.Tensor, m2: torch.Tensor, candidates: PackedCandidates, samples: PackedSamples, plan: Plan) -> None:
    """Merge the moments of a chunk of samples and a block of candidates, about the pivot, into the block's results so far."""
    slot_mean, slot_m2 = slot_moments(candidates, samples, plan)
    m, table = mean.shape[1], samples.tables
    kernels.merge_slots[(len(samples.chunk.present), triton.cdiv(m, MERGE_CANDIDATES))](
        slot_mean,
        slot_m2,
        table["class_slot"],
        table["slot"],
        table["slot_count"],
        table["present"],
        table["before"],
        mean,
        m2,
        m,
        mean.stride(0),
        slot_mean.shape[1],
        BC=MERGE_CANDIDATES,
    )


def slot_moments(candidates: PackedCandidates, samples: PackedSamples, plan: Plan) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (n_slots, m_padded) mean and squared deviations of every run of whole tiles and of every class in a mixed tile."""
    chunk, table, m_padded = samples.chunk, samples.tables, len(candidates.pivot)
    slots = candidates.pivot.new_empty((chunk.n_slots, m_padded))
    results = (slots, torch.empty_like(slots), m_padded)
    n_blocks = m_padded // plan.tiles.pure.candidates
    per_candidate = (candidates.inverse, candidates.offset, candidates.pivot)
    if chunk.n_runs:
        operands = _operands(candidates, samples, plan.tiles.pure, tma=plan.tiles.tma)
        kernels.pure_runs[(chunk.n_runs * n_blocks,)](
            *operands, *per_candidate, table["run_row"], *results, chunk.n_runs, n_blocks, plan.pitch, **plan.pure_constants()
        )
    if chunk.n_tiles:
        operands = _operands(candidates, samples, plan.tiles.mixed, tma=plan.tiles.tma)
        first = (int(chunk.run_row[-1]), chunk.n_runs)
        tables = (table["part_row"], table["tile_part"])
        kernels.mixed_tiles[(chunk.n_tiles * n_blocks,)](
            *operands, *per_candidate, *tables, *results, chunk.n_tiles, n_blocks, plan.pitch, *first, **plan.mixed_constants()
        )
    return results[:2]


def _operands(candidates: PackedCandidates, samples: PackedSamples, tile: Tile, *, tma: bool) -> tuple[Any, Any]:
    if not tma:
        return candidates.packed, samples.packed
    return (
        TensorDescriptor.from_tensor(candidates.packed, [tile.candidates, tile.depth]),
        TensorDescriptor.from_tensor(samples.packed, [tile.samples, tile.depth]),
    )
