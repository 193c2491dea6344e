"""Samples and candidates as the product kernels read them: scaled by exact powers of two, in the plan's number form."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import triton

from nc_fast.backends.gpu.features import Features
from nc_fast.backends.gpu.kernels import prepare
from nc_fast.backends.gpu.layout import SampleLayout
from nc_fast.backends.gpu.plan import CONSTANTS_CANDIDATES, PACK_DEPTH, PACK_ROWS, Plan, round_up
from nc_fast.backends.gpu.samples import SortedSamples, readable_tiles

ALIGNED_BYTES = 16
TABLES = ("run_row", "part_row", "tile_part", "present", "before", "class_slot", "slot", "slot_count")  # of a layout, for the kernels


@dataclass(frozen=True, eq=False)
class PackedSamples:
    """A chunk of the samples on the device."""

    chunk: SampleLayout
    packed: torch.Tensor  # (packed_rows, pitch)
    tables: dict[str, torch.Tensor]  # the layout's arrays by name


@dataclass(frozen=True, eq=False)
class PackedCandidates:
    """A block of the pool, padded with zero candidates to whole tiles."""

    packed: torch.Tensor  # (m_padded, pitch)
    inverse: torch.Tensor  # (m_padded,) of the sums' type, what undoes a candidate's scale and both lifts
    offset: torch.Tensor  # (m_padded,) of the sums' type, its bias for centred samples
    pivot: torch.Tensor  # (m_padded,) of the sums' type, what its moments are taken about


def pack_samples(samples: SortedSamples, chunk: SampleLayout, features: Features, plan: Plan) -> PackedSamples:
    """Read a chunk's samples in the order of its layout and pack them: where X lies on the device, else a tile at a time."""
    device = features.scale.device
    rows = samples.order[torch.from_numpy(chunk.source).to(samples.order.device)]
    packed = _empty(chunk.packed_rows, plan, device)
    first = 0
    for tile, own_rows in readable_tiles(samples.X, rows, device):
        end = first + (len(tile) if own_rows is None else len(own_rows))
        to = packed[first : end if end < len(rows) else None]  # with the last, the padding
        pack(tile, to, end - first, plan, plan.arithmetic.parts[1], features.scale, rows=own_rows, shift=features.shift)
        first = end
    return PackedSamples(chunk, packed, _tables(chunk, device))


def pack_candidates(W: torch.Tensor, bias: torch.Tensor, features: Features, plan: Plan) -> PackedCandidates:
    """Pack a block of the pool, (D, m), for samples that were packed with the same features."""
    D, m = W.shape
    m_padded = round_up(m, plan.tiles.pure.candidates)
    own_scale = torch.empty(m_padded, dtype=torch.float64, device=W.device)
    inverse, offset, pivot = torch.empty((3, m_padded), dtype=getattr(torch, plan.arithmetic.sums), device=W.device)
    prepare.candidate_constants[(triton.cdiv(m_padded, CONSTANTS_CANDIDATES),)](
        W,
        bias,
        features.shift,
        features.mean,
        features.unscale,
        own_scale,
        inverse,
        offset,
        pivot,
        m,
        m_padded,
        D,
        *W.stride(),
        **plan.candidate_constants(),
    )
    packed = _empty(m_padded, plan, W.device)
    pack(W.T, packed, m, plan, plan.arithmetic.parts[0], features.unscale, row_scale=own_scale)
    return PackedCandidates(packed, inverse, offset, pivot)


def pack(
    source: torch.Tensor,
    packed: torch.Tensor,
    n: int,
    plan: Plan,
    parts: str,
    scale: torch.Tensor,
    *,
    rows: torch.Tensor | None = None,
    shift: torch.Tensor | None = None,
    row_scale: torch.Tensor | None = None,
) -> None:
    """Write n rows of the source, scaled, into ``packed``, whose further rows become 0."""
    D = source.shape[1]
    columns = plan.pitch - (len(parts) - 1) * D  # that the last part takes, with the zeros behind it
    prepare.pack[(triton.cdiv(len(packed), PACK_ROWS), triton.cdiv(columns, PACK_DEPTH))](
        source,
        rows,
        shift,
        scale,
        row_scale,
        packed,
        n,
        len(packed),
        D,
        plan.pitch,
        *source.stride(),
        **plan.pack_constants(parts),
    )


def _tables(chunk: SampleLayout, device: torch.device) -> dict[str, torch.Tensor]:
    """Return the layout's arrays on the device, by name, moved by one copy; each starts where kernels may expect it, 16 bytes apart."""
    arrays = {name: getattr(chunk, name) for name in TABLES}
    starts = np.cumsum([0, *(round_up(array.nbytes, ALIGNED_BYTES) for array in arrays.values())])
    buffer = np.zeros(starts[-1], np.uint8)
    for array, start in zip(arrays.values(), starts, strict=False):
        buffer[start : start + array.nbytes] = array.ravel().view(np.uint8)
    moved = torch.from_numpy(buffer).to(device)
    return {
        name: moved[start : start + array.nbytes].view(getattr(torch, array.dtype.name)).view(array.shape)
        for (name, array), start in zip(arrays.items(), starts, strict=False)
    }


def _empty(rows: int, plan: Plan, device: torch.device) -> torch.Tensor:
    return torch.empty((rows, plan.pitch), dtype=getattr(torch, plan.arithmetic.number), device=device)
