# mypy: ignore-errors
"""The fused moments: matrix product, bias, activation, mean and squared deviations, a tile at a time, nothing of it stored.

Candidates lie on the product's row axis and samples on its column axis, so threads sum a candidate over samples almost on
their own: two shuffles are left. All moments are of ``activation - pivot``; see ``prepare.candidate_constants``.
"""

import triton
import triton.language as tl

from nc_fast.backends.gpu.kernels.activation import activate


@triton.jit
def _product(
    W,  # (m_padded, pitch) packed weights: pointer, or host TMA descriptor
    X,  # (n_packed, pitch) packed samples, as W
    w_row,  # first candidate of the tile
    x_row,  # first sample of the tile
    pitch,
    BC: tl.constexpr,
    BS: tl.constexpr,
    BK: tl.constexpr,
    TMA: tl.constexpr,
    DOT: tl.constexpr,
    ACC: tl.constexpr,
):
    """Return the (BC, BS) product of one candidate tile and one sample tile, along whole packed rows.

    Where low parts are kept, a row's parts side by side make the sum one over low.high, high.low, high.high in this order: the
    small terms first, before the accumulator is large. One product per iteration, which is what the compilers pipeline.
    """
    acc = tl.zeros([BC, BS], ACC)
    if not TMA:
        k_lane = tl.arange(0, BK)
        w_at = (w_row + tl.arange(0, BC)).to(tl.int64)[:, None] * pitch + k_lane[None, :]
        x_at = (x_row + tl.arange(0, BS)).to(tl.int64)[:, None] * pitch + k_lane[None, :]
    for k in tl.range(0, pitch, BK):
        if TMA:
            w = W.load([w_row, k])
            x = X.load([x_row, k])
        else:
            w = tl.load(W + w_at + k)
            x = tl.load(X + x_at + k)
        acc = tl.dot(w, x.T, acc, input_precision=DOT, out_dtype=ACC)
    return acc


@triton.jit
def _tile_of_program(
    n_runs,
    n_blocks,
    GROUP: tl.constexpr,
):
    """Return (run, candidate block): GROUP blocks side by side walk through the samples, so both are shared in L2."""
    pid = tl.program_id(0)
    group = pid // (GROUP * n_runs)
    within = pid % (GROUP * n_runs)
    width = tl.minimum(n_blocks - group * GROUP, GROUP)
    return within // width, group * GROUP + within % width


@triton.jit(do_not_specialize=["n_runs", "n_blocks"])
def pure_runs(
    W,  # (m_padded, pitch) float16, float32 or float64 packed weights: pointer, or host TMA descriptor
    X,  # (n_packed, pitch) float16, float32 or float64 packed samples, as W
    Inverse,  # (m_padded,) float32 or float64, what undoes a candidate's scale
    Offset,  # (m_padded,) float32 or float64, bias of the centred samples; its type is the sums' type
    Pivot,  # (m_padded,) float32 or float64
    RunRow,  # (n_runs + 1,) int32, packed row at which each run of whole tiles starts; a run is of one class
    Mean,  # (n_slots, m_padded) as Offset, out, mean of activation - pivot over each run; slot = run
    M2,  # (n_slots, m_padded) as Offset, out, squared deviations from that mean
    m_padded,
    n_runs,
    n_blocks,
    pitch,
    BC: tl.constexpr,
    BS: tl.constexpr,
    BK: tl.constexpr,
    ACT: tl.constexpr,
    TMA: tl.constexpr,
    DOT: tl.constexpr,
    GROUP: tl.constexpr,
    FLATTEN: tl.constexpr,
):
    """Moments of runs of whole one-class tiles: no mask, no branch, no partial tile."""
    ACC: tl.constexpr = Offset.dtype.element_ty
    run, block = _tile_of_program(n_runs, n_blocks, GROUP)
    first = tl.load(RunRow + run)
    end = tl.load(RunRow + run + 1)
    w_row = block * BC
    j = w_row + tl.arange(0, BC)
    inverse = tl.load(Inverse + j)
    offset = tl.load(Offset + j)
    pivot = tl.load(Pivot + j)
    tiles = tl.full([], 0.0, ACC)
    mean = tl.zeros([BC], ACC)
    m2 = tl.zeros([BC], ACC)
    for row in tl.range(first, end, BS, flatten=FLATTEN):
        acc = _product(W, X, w_row, row, pitch, BC, BS, BK, TMA, DOT, ACC)
        z = activate(acc * inverse[:, None] + offset[:, None], ACT) - pivot[:, None]
        tile_mean = tl.sum(z, 1) * (1.0 / BS)
        z = z - tile_mean[:, None]
        tile_m2 = tl.sum(z * z, 1)
        # Chan's merge of `tiles` tiles with one more, all of BS samples
        tiles += 1.0
        share = 1.0 / tiles
        delta = tile_mean - mean
        mean += delta * share
        m2 += tile_m2 + delta * delta * (BS * (tiles - 1.0) * share)
    to = run.to(tl.int64) * m_padded + j
    tl.store(Mean + to, mean)
    tl.store(M2 + to, m2)


@triton.jit(do_not_specialize=["n_tiles", "n_blocks", "first_row", "first_slot"])
def mixed_tiles(
    W,  # (m_padded, pitch) float16, float32 or float64 packed weights: pointer, or host TMA descriptor
    X,  # (n_packed, pitch) float16, float32 or float64 packed samples, as W
    Inverse,  # (m_padded,) float32 or float64, what undoes a candidate's scale
    Offset,  # (m_padded,) float32 or float64, bias of the centred samples; its type is the sums' type
    Pivot,  # (m_padded,) float32 or float64
    PartRow,  # (n_parts + 1,) int32, packed row at which each class's remainder starts; the last entry ends the samples
    TilePart,  # (2, n_tiles) int32, first and last part with a sample in each tile
    Mean,  # (n_slots, m_padded) as Offset, out, mean of activation - pivot; slot = first_slot + tile + part
    M2,  # (n_slots, m_padded) as Offset, out, squared deviations from that mean
    m_padded,
    n_tiles,
    n_blocks,
    pitch,
    first_row,  # packed row of the first tile
    first_slot,
    BC: tl.constexpr,
    BS: tl.constexpr,
    BK: tl.constexpr,
    ACT: tl.constexpr,
    TMA: tl.constexpr,
    DOT: tl.constexpr,
    GROUP: tl.constexpr,
):
    """Moments of tiles that hold the remainders of several classes, a class at a time under masks.

    From each (tile, part) pair to the next one of the two numbers grows, so every pair has a tile + part of its own.
    """
    ACC: tl.constexpr = Offset.dtype.element_ty
    tile, block = _tile_of_program(n_tiles, n_blocks, GROUP)
    w_row = block * BC
    j = w_row + tl.arange(0, BC)
    inverse = tl.load(Inverse + j)
    offset = tl.load(Offset + j)
    pivot = tl.load(Pivot + j)
    x_row = first_row + tile * BS
    row = x_row + tl.arange(0, BS)
    acc = _product(W, X, w_row, x_row, pitch, BC, BS, BK, TMA, DOT, ACC)
    z = activate(acc * inverse[:, None] + offset[:, None], ACT) - pivot[:, None]
    first_part = tl.load(TilePart + tile)
    last_part = tl.load(TilePart + n_tiles + tile)
    for part in tl.range(first_part, last_part + 1, num_stages=1):
        low = tl.maximum(tl.load(PartRow + part), x_row)
        high = tl.minimum(tl.load(PartRow + part + 1), x_row + BS)
        own = ((row >= low) & (row < high))[None, :]
        mean = tl.sum(tl.where(own, z, 0.0), 1) / (high - low).to(ACC)
        deviation = tl.where(own, z - mean[:, None], 0.0)
        m2 = tl.sum(deviation * deviation, 1)
        to = (first_slot + tile + part).to(tl.int64) * m_padded + j
        tl.store(Mean + to, mean)
        tl.store(M2 + to, m2)


@triton.jit(do_not_specialize=["m"])
def merge_slots(
    SlotMean,  # (n_slots, m_padded) float32 or float64
    SlotM2,  # (n_slots, m_padded) float32 or float64
    ClassSlot,  # (n_present + 1,) int32, where each present class's slots start in Slot and SlotCount
    Slot,  # (n_used,) int32, slots of each class in their fixed order
    SlotCount,  # (n_used,) float64, samples in each
    Class,  # (n_present,) int32, row of the result
    Before,  # (n_present,) float64, samples merged into the result so far
    Mean,  # (C, M) float64 in and out, at the block's first candidate
    M2,  # (C, M) float64 in and out, at the block's first candidate
    m,
    M,
    m_padded,
    BC: tl.constexpr,
):
    """Merge the slots of one class into the result by Chan's formula, in float64 and in a fixed order."""
    present = tl.program_id(0)
    j = tl.program_id(1) * BC + tl.arange(0, BC)
    inside = j < m
    to = tl.load(Class + present).to(tl.int64) * M + j
    count = tl.load(Before + present)
    mean = tl.load(Mean + to, mask=inside, other=0.0)
    m2 = tl.load(M2 + to, mask=inside, other=0.0)
    for position in range(tl.load(ClassSlot + present), tl.load(ClassSlot + present + 1)):
        at = tl.load(Slot + position).to(tl.int64) * m_padded + j
        more = tl.load(SlotCount + position)
        share = more / (count + more)
        delta = tl.load(SlotMean + at, mask=inside, other=0.0).to(tl.float64) - mean
        mean += delta * share
        m2 += tl.load(SlotM2 + at, mask=inside, other=0.0).to(tl.float64) + delta * delta * (count * share)
        count += more
    tl.store(Mean + to, mean, mask=inside)
    tl.store(M2 + to, m2, mask=inside)
