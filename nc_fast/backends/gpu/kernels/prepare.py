# mypy: ignore-errors
"""Weights and samples brought into the form the product kernels read: exactly scaled, centred, features contiguous, zero-padded."""

import triton
import triton.language as tl

from nc_fast.backends.gpu.kernels.activation import activate

TF32_HALF = tl.constexpr(0x1000)  # half of the last place that tf32 keeps of a float32
TF32_KEPT = tl.constexpr(-0x2000)
FEATURE_EXPONENT = tl.constexpr(900)  # of a feature's scale, a float64
INVERSE_EXPONENT = tl.constexpr(124)  # at most, either way, of what undoes a candidate's scale and both lifts: a normal float32


@triton.jit
def _exponent(
    value,  # float64, >= 0
):
    """Return e, int64, with value < 2 ** e, as small as possible; -1022 for 0."""
    return (value.to(tl.int64, bitcast=True) >> 52) - 1022


@triton.jit
def _power_of_two(
    exponent,  # int64, -1022 to 1023
):
    return ((exponent + 1023) << 52).to(tl.float64, bitcast=True)


@triton.jit
def _log2(
    value,  # float64
):
    """Return log2 |value|, in float32 and within its range: it decides only between number forms of 32 bits."""
    return tl.log2(tl.minimum(tl.maximum(tl.abs(value), 1e-37), 1e38).to(tl.float32))


@triton.jit(do_not_specialize=["n", "rows"])
def feature_sums(
    X,  # (n, D) any number type, strided
    Sums,  # (n_chunks, 6, D) float64 out, at the tile's first chunk: lowest, highest, mean, squared deviations, sum of log2, nonzeros
    n,
    D,
    rows,  # of a chunk
    stride_n,
    stride_d,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """One read of the samples. Deviations are summed from the chunk's first row, in float64."""
    chunk = tl.program_id(0)
    first = chunk * rows
    end = tl.minimum(first + rows, n)
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    here = d < D
    column = X + d.to(tl.int64) * stride_d
    start = tl.load(column + first.to(tl.int64) * stride_n, mask=here, other=0).to(tl.float64)
    low = tl.full([BLOCK_N, BLOCK_D], float("inf"), tl.float64)
    high = tl.full([BLOCK_N, BLOCK_D], float("-inf"), tl.float64)
    sums = tl.zeros([BLOCK_N, BLOCK_D], tl.float64)
    squares = tl.zeros([BLOCK_N, BLOCK_D], tl.float64)
    logs = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    nonzero = tl.zeros([BLOCK_N, BLOCK_D], tl.int32)
    for row in range(first, end, BLOCK_N):
        i = row + tl.arange(0, BLOCK_N)
        inside = (i < end)[:, None] & here[None, :]
        x = tl.load(column[None, :] + i.to(tl.int64)[:, None] * stride_n, mask=inside, other=0).to(tl.float64)
        low = tl.minimum(low, tl.where(inside, x, float("inf")))
        high = tl.maximum(high, tl.where(inside, x, float("-inf")))
        deviation = tl.where(inside, x - start[None, :], 0.0)
        sums += deviation
        squares += deviation * deviation
        logs += tl.where(x != 0, _log2(x), 0.0)
        nonzero += (x != 0).to(tl.int32)
    count = (end - first).to(tl.float64)
    shift = tl.sum(sums, 0) / count
    to = Sums + chunk.to(tl.int64) * 6 * D + d
    tl.store(to, tl.min(low, 0), mask=here)
    tl.store(to + D, tl.max(high, 0), mask=here)
    tl.store(to + 2 * D, start + shift, mask=here)
    tl.store(to + 3 * D, tl.maximum(tl.sum(squares, 0) - count * shift * shift, 0.0), mask=here)
    tl.store(to + 4 * D, tl.sum(logs, 0).to(tl.float64), mask=here)
    tl.store(to + 5 * D, tl.sum(nonzero, 0).to(tl.float64), mask=here)


@triton.jit(do_not_specialize=["N", "rows", "n_chunks"])
def finish_features(
    Sums,  # (n_chunks, 6, D) float64, as ``feature_sums`` writes them
    Constants,  # (4, D) float64 out: shift, mean, scale, 1 / scale
    Flags,  # (2, programs) int32 out: whether a feature is centred; whether one's magnitudes spread over too many bits
    N,
    D,
    rows,  # of a chunk
    n_chunks,
    CENTRED_ABOVE: tl.constexpr,
    SPREAD_BITS: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Merge the chunks, in a fixed order; the scale brings the largest magnitude just below 1."""
    d = tl.program_id(0) * BLOCK_D + tl.arange(0, BLOCK_D)
    here = d < D
    low = tl.full([BLOCK_D], float("inf"), tl.float64)
    high = tl.full([BLOCK_D], float("-inf"), tl.float64)
    total = tl.zeros([BLOCK_D], tl.float64)
    logs = tl.zeros([BLOCK_D], tl.float64)
    nonzero = tl.zeros([BLOCK_D], tl.float64)
    for first in range(0, n_chunks, BLOCK_S):
        s = first + tl.arange(0, BLOCK_S)
        both = (s < n_chunks)[:, None] & here[None, :]
        at = Sums + s.to(tl.int64)[:, None] * 6 * D + d[None, :]
        count = tl.minimum(N - s * rows, rows).to(tl.float64)
        low = tl.minimum(low, tl.min(tl.load(at, mask=both, other=float("inf")), 0))
        high = tl.maximum(high, tl.max(tl.load(at + D, mask=both, other=float("-inf")), 0))
        total += tl.sum(tl.load(at + 2 * D, mask=both, other=0.0) * count[:, None], 0)
        logs += tl.sum(tl.load(at + 4 * D, mask=both, other=0.0), 0)
        nonzero += tl.sum(tl.load(at + 5 * D, mask=both, other=0.0), 0)
    constant = low == high
    mean = tl.where(constant, low, total / N)  # the rounded mean of equal numbers need not be that number
    m2 = tl.zeros([BLOCK_D], tl.float64)
    for first in range(0, n_chunks, BLOCK_S):
        s = first + tl.arange(0, BLOCK_S)
        both = (s < n_chunks)[:, None] & here[None, :]
        at = Sums + s.to(tl.int64)[:, None] * 6 * D + d[None, :]
        count = tl.minimum(N - s * rows, rows).to(tl.float64)
        apart = tl.where(both, tl.load(at + 2 * D, mask=both, other=0.0) - mean[None, :], 0.0)
        m2 += tl.sum(tl.load(at + 3 * D, mask=both, other=0.0) + apart * apart * count[:, None], 0)

    centred = here & (constant | (tl.abs(mean) > CENTRED_ABOVE * tl.sqrt(m2 / N)))
    shift = tl.where(centred, mean, 0.0)
    largest = tl.maximum(tl.abs(high - shift), tl.abs(low - shift))
    exponent = tl.minimum(tl.maximum(_exponent(largest), -FEATURE_EXPONENT), FEATURE_EXPONENT)
    above_mean = _log2(tl.maximum(tl.abs(high), tl.abs(low))).to(tl.float64) - logs / tl.maximum(nonzero, 1.0)
    tl.store(Constants + d, shift, mask=here)
    tl.store(Constants + D + d, mean, mask=here)
    tl.store(Constants + 2 * D + d, _power_of_two(-exponent), mask=here)
    tl.store(Constants + 3 * D + d, _power_of_two(exponent), mask=here)
    tl.store(Flags + tl.program_id(0), tl.max((shift != 0).to(tl.int32), 0))
    spread = here & (nonzero > 0) & (above_mean > SPREAD_BITS)
    tl.store(Flags + tl.num_programs(0) + tl.program_id(0), tl.max(spread.to(tl.int32), 0))


@triton.jit(do_not_specialize=["m"])
def candidate_constants(
    W,  # (D, m) floating, strided: a block of the pool
    Bias,  # (m,) float64
    Shift,  # (D,) float64, what is subtracted from each feature
    Mean,  # (D,) float64, mean of each feature over the samples
    Unscale,  # (D,) float64, power of two that undoes each feature's scale
    OwnScale,  # (m_padded,) float64 out, power of two that brings the candidate's largest weight just below 1
    Inverse,  # (m_padded,) float32 or float64 out, what undoes it and the lifts of both operands
    Offset,  # (m_padded,) float32 or float64 out, bias + shift . w, the pre-activation of a centred zero sample
    Pivot,  # (m_padded,) float32 or float64 out, activation at the mean pre-activation
    m,
    m_padded,
    D,
    stride_d,
    stride_m,
    BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr,
    ACT: tl.constexpr,
    LIFT: tl.constexpr,  # exponent of what every packed number is multiplied by
):
    """One pass over the weights. Rows beyond m are written as zero candidates.

    A monotone activation that is the same on every sample is the same at the mean pre-activation, which lies between theirs:
    the pivot of such a candidate is its activation, exactly.
    """
    j = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    inside = j < m
    largest = tl.zeros([BLOCK_M], tl.float64)
    by_shift = tl.zeros([BLOCK_M], tl.float64)
    by_mean = tl.zeros([BLOCK_M], tl.float64)
    for first in range(0, D, BLOCK_D):
        d = first + tl.arange(0, BLOCK_D)
        here = d < D
        at = d.to(tl.int64)[:, None] * stride_d + j.to(tl.int64)[None, :] * stride_m
        w = tl.load(W + at, mask=here[:, None] & inside[None, :], other=0.0).to(tl.float64)
        shift = tl.load(Shift + d, mask=here, other=0.0)
        mean = tl.load(Mean + d, mask=here, other=0.0)
        unscale = tl.load(Unscale + d, mask=here, other=0.0)
        largest = tl.maximum(largest, tl.max(tl.abs(w) * unscale[:, None], 0))
        by_shift += tl.sum(w * shift[:, None], 0)
        by_mean += tl.sum(w * mean[:, None], 0)
    bias = tl.load(Bias + j, mask=inside, other=0.0)
    exponent = tl.minimum(tl.maximum(-_exponent(largest), -INVERSE_EXPONENT - 2 * LIFT), INVERSE_EXPONENT - 2 * LIFT)
    padded = j < m_padded
    tl.store(OwnScale + j, _power_of_two(exponent), mask=padded)
    tl.store(Inverse + j, _power_of_two(-exponent - 2 * LIFT).to(Inverse.dtype.element_ty), mask=padded)
    tl.store(Offset + j, (bias + by_shift).to(Offset.dtype.element_ty), mask=padded)
    tl.store(Pivot + j, activate((bias + by_mean).to(Pivot.dtype.element_ty), ACT), mask=padded)


@triton.jit(do_not_specialize=["n", "n_padded"])
def pack(
    Source,  # (., D) any number type, strided
    Rows,  # (n,) int64, row of Source at each packed row; None: as they lie
    Shift,  # (D,) float64, subtracted from each feature; None: nothing
    Scale,  # (D,) float64, power of two multiplying each feature
    RowScale,  # (n,) float64, power of two multiplying each row; None: 1
    Packed,  # (n_padded, pitch) float16, float32 or float64 out, the row's parts side by side, then zeros
    n,
    n_padded,
    D,
    pitch,
    stride_n,
    stride_d,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    PARTS: tl.constexpr,  # parts of a row
    LOW: tl.constexpr,  # bit p: whether part p holds what the rounded number leaves over, instead of that number
    FACTOR: tl.constexpr,  # power of two multiplying everything
    ROUND_TF32: tl.constexpr,  # round to nearest here, because the hardware drops the last 13 bits
):
    """Write (source - shift) * scale * row scale * factor, rounded once; rows from n on are zero."""
    i = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    inside = i < n
    here = d < D
    both = inside[:, None] & here[None, :]
    row = i.to(tl.int64)
    if Rows is not None:
        row = tl.load(Rows + i, mask=inside, other=0)
    at = row[:, None] * stride_n + d.to(tl.int64)[None, :] * stride_d
    value = tl.load(Source + at, mask=both, other=0).to(tl.float64)
    if Shift is not None:
        value = value - tl.load(Shift + d, mask=here, other=0.0)[None, :]
    value = value * tl.load(Scale + d, mask=here, other=0.0)[None, :] * FACTOR
    if RowScale is not None:
        value = value * tl.load(RowScale + i, mask=inside, other=0.0)[:, None]
    value = tl.where(both, value, 0.0)
    high = value.to(Packed.dtype.element_ty)
    if ROUND_TF32:
        bits = (high.to(tl.int32, bitcast=True) + TF32_HALF) & TF32_KEPT
        high = bits.to(tl.float32, bitcast=True)
    low = (value - high.to(tl.float64)).to(Packed.dtype.element_ty)
    to = Packed + i.to(tl.int64)[:, None] * pitch + d[None, :]
    for p in tl.static_range(PARTS):
        part_end = pitch - p * D if p == PARTS - 1 else D  # with the last part the zeros behind it
        written = (i < n_padded)[:, None] & (d < part_end)[None, :]
        tl.store(to + p * D, low if (LOW >> p) & 1 else high, mask=written)
