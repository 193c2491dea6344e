# mypy: ignore-errors
"""Weights and samples brought into the form the product kernels read: exactly scaled, centred, features contiguous, zero-padded."""

import triton
import triton.language as tl

from nc_fast.backends.gpu.kernels.activation import activate

TF32_HALF = tl.constexpr(0x1000)  # half of the last place that tf32 keeps of a float32
TF32_KEPT = tl.constexpr(-0x2000)


@triton.jit
def candidate_constants(
    W,  # (D, m) floating, strided: a block of the pool
    Bias,  # (m,) float64
    Shift,  # (D,) float64, what is subtracted from each feature
    Mean,  # (D,) float64, mean of each feature over the samples
    Scale,  # (D,) float64, power of two each feature is multiplied by
    Largest,  # (m_padded,) float64 out, max over features of |w| / scale
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
        scale = tl.load(Scale + d, mask=here, other=1.0)
        largest = tl.maximum(largest, tl.max(tl.abs(w) / scale[:, None], 0))
        by_shift += tl.sum(w * shift[:, None], 0)
        by_mean += tl.sum(w * mean[:, None], 0)
    bias = tl.load(Bias + j, mask=inside, other=0.0)
    padded = j < m_padded
    tl.store(Largest + j, largest, mask=padded)
    tl.store(Offset + j, (bias + by_shift).to(Offset.dtype.element_ty), mask=padded)
    tl.store(Pivot + j, activate((bias + by_mean).to(Pivot.dtype.element_ty), ACT), mask=padded)


@triton.jit
def pack(
    Source,  # (n, D) any number type, strided
    Shift,  # (D,) float64, subtracted from each feature
    Scale,  # (D,) float64, power of two multiplying each feature
    RowScale,  # (n,) float64, power of two multiplying each row
    Packed,  # (n_padded, pitch) float16, float32 or float64 out, high parts in columns [0, K), low parts, if any, in [K, 2 K)
    n,
    n_padded,
    D,
    K,  # D rounded up to the tile's depth; columns from D on are zero
    pitch,
    stride_n,
    stride_d,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    LOW: tl.constexpr,  # whether low parts are kept
    ROUND_TF32: tl.constexpr,  # round to nearest here, because the hardware drops the last 13 bits
):
    """Write (source - shift) * scale * row scale, rounded once; rows from n on are zero."""
    i = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    inside = i < n
    here = d < D
    at = i.to(tl.int64)[:, None] * stride_n + d.to(tl.int64)[None, :] * stride_d
    both = inside[:, None] & here[None, :]
    source = tl.load(Source + at, mask=both, other=0).to(tl.float64)
    shift = tl.load(Shift + d, mask=here, other=0.0)
    scale = tl.load(Scale + d, mask=here, other=0.0)
    row_scale = tl.load(RowScale + i, mask=inside, other=0.0)
    value = (source - shift[None, :]) * scale[None, :] * row_scale[:, None]
    value = tl.where(both, value, 0.0)
    to = Packed + i.to(tl.int64)[:, None] * pitch + d[None, :]
    high = value.to(Packed.dtype.element_ty)
    if ROUND_TF32:
        bits = (high.to(tl.int32, bitcast=True) + TF32_HALF) & TF32_KEPT
        high = bits.to(tl.float32, bitcast=True)
    written = (i < n_padded)[:, None] & (d < K)[None, :]
    tl.store(to, high, mask=written)
    if LOW:
        tl.store(to + K, (value - high.to(tl.float64)).to(Packed.dtype.element_ty), mask=written)
