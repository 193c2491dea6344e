"""Samples and candidates as the product kernels read them: scaled by exact powers of two, in the plan's number form."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton

from nc_fast.backends.gpu.features import Features
from nc_fast.backends.gpu.kernels import prepare
from nc_fast.backends.gpu.layout import SampleLayout
from nc_fast.backends.gpu.plan import CONSTANTS_CANDIDATES, PACK_DEPTH, PACK_ROWS, Plan
from nc_fast.backends.gpu.precision import Arithmetic
from nc_fast.backends.gpu.samples import SortedSamples, sample_tiles

MAX_EXPONENT = 110  # of a candidate's scale, whose inverse is a float32
FEATURE_EXPONENT = 900  # of a feature's scale, a float64
TABLES = ("run_row", "part_row", "tile_part", "present", "before", "class_slot", "slot", "slot_count")  # of a layout, for the kernels


@dataclass(frozen=True, eq=False)
class PackedSamples:
    """A chunk of the samples on the device."""

    chunk: SampleLayout
    packed: torch.Tensor  # (packed_rows, pitch_x)
    tables: dict[str, torch.Tensor]  # the layout's arrays by name


@dataclass(frozen=True, eq=False)
class PackedCandidates:
    """A block of the pool, padded with zero candidates to whole tiles."""

    packed: torch.Tensor  # (m_padded, pitch_w)
    inverse: torch.Tensor  # (m_padded,) of the sums' type, what undoes a candidate's scale
    offset: torch.Tensor  # (m_padded,) of the sums' type, its bias for centred samples
    pivot: torch.Tensor  # (m_padded,) of the sums' type, what its moments are taken about


def feature_scale(features: Features, arithmetic: Arithmetic) -> torch.Tensor:
    """Return (D,) float64, the power of two that brings each feature just below the number form's largest."""
    return _power_of_two(arithmetic.largest_exponent - _exponent(features.largest), FEATURE_EXPONENT)


def pack_samples(samples: SortedSamples, chunk: SampleLayout, features: Features, scale: torch.Tensor, plan: Plan) -> PackedSamples:
    """Read a chunk's samples in the order of its layout and pack them, a tile at a time."""
    device = scale.device
    rows = samples.order[torch.from_numpy(chunk.source).to(samples.order.device)]
    packed = _empty(chunk.packed_rows, plan.pitch_x, plan, device)
    first = 0
    for tile in sample_tiles(samples.X, rows, device):
        end = first + len(tile)
        ones = torch.ones(len(tile), dtype=torch.float64, device=device)
        to = packed[first : end if end < len(rows) else None]  # with the last, the padding
        pack(tile, features.shift, scale, ones, to, plan, low=plan.arithmetic.samples_low)
        first = end
    return PackedSamples(chunk, packed, {name: torch.from_numpy(getattr(chunk, name)).to(device) for name in TABLES})


def pack_candidates(W: torch.Tensor, bias: torch.Tensor, features: Features, scale: torch.Tensor, plan: Plan) -> PackedCandidates:
    """Pack a block of the pool, (D, m), for samples that were packed with the same features and scale."""
    D, m = W.shape
    m_padded = round_up(m, plan.tiles.pure.candidates)
    largest = torch.empty(m_padded, dtype=torch.float64, device=W.device)
    offset = torch.empty(m_padded, dtype=getattr(torch, plan.arithmetic.sums), device=W.device)
    pivot = torch.empty_like(offset)
    prepare.candidate_constants[(triton.cdiv(m_padded, CONSTANTS_CANDIDATES),)](
        W,
        bias,
        features.shift,
        features.mean,
        scale,
        largest,
        offset,
        pivot,
        m,
        m_padded,
        D,
        *W.stride(),
        **plan.candidate_constants(),
    )
    exponent = (plan.arithmetic.largest_exponent - _exponent(largest)).clamp(-MAX_EXPONENT, MAX_EXPONENT)
    packed = _empty(m_padded, plan.pitch_w, plan, W.device)
    own_scale = _power_of_two(exponent, MAX_EXPONENT)
    pack(W.T, torch.zeros_like(scale), 1 / scale, own_scale, packed, plan, low=plan.arithmetic.weights_low)
    return PackedCandidates(packed, _power_of_two(-exponent, MAX_EXPONENT).to(offset.dtype), offset, pivot)


def pack(
    source: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor, row_scale: torch.Tensor, packed: torch.Tensor, plan: Plan, *, low: bool
) -> None:
    """Write (source - shift) * scale * row scale into ``packed``, whose further rows become 0."""
    n, D = source.shape
    prepare.pack[(triton.cdiv(len(packed), PACK_ROWS), triton.cdiv(plan.K, PACK_DEPTH))](
        source,
        shift,
        scale,
        row_scale,
        packed,
        n,
        len(packed),
        D,
        plan.K,
        packed.stride(0),
        *source.stride(),
        **plan.pack_constants(low=low),
    )


def round_up(value: int, multiple: int) -> int:
    """Return the smallest multiple that is not below the value."""
    return -(-value // multiple) * multiple


def _empty(rows: int, pitch: int, plan: Plan, device: torch.device) -> torch.Tensor:
    return torch.empty((rows, pitch), dtype=getattr(torch, plan.arithmetic.number), device=device)


def _exponent(values: torch.Tensor) -> torch.Tensor:
    """Return e with |value| < 2 ** e, as small as possible; 0 for 0."""
    return torch.frexp(values).exponent


def _power_of_two(exponent: torch.Tensor, limit: int) -> torch.Tensor:
    return torch.ldexp(torch.ones_like(exponent, dtype=torch.float64), exponent.clamp(-limit, limit))
