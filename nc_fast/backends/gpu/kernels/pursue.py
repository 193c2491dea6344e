# mypy: ignore-errors
"""Pursuit: activations of a block of candidates, and the pass over all columns after a pick."""

import triton
import triton.language as tl

from nc_fast.backends.gpu.kernels.activation import activate
from nc_fast.tolerances import EXHAUSTED, NOTHING_EXPLAINED

SURELY_EXHAUSTED = tl.constexpr(EXHAUSTED / 2)  # half: what lies between is decided from a column computed afresh
NOTHING = tl.constexpr(NOTHING_EXPLAINED)


@triton.jit(do_not_specialize=["m"])
def activate_rows(
    Z,  # (m, n) floating, products of candidates and samples; replaced by activations
    Bias,  # (m,) float64
    m,
    n,
    ACT: tl.constexpr,  # name in the table of nc_fast.activations
    BM: tl.constexpr,
    BN: tl.constexpr,
):
    row = tl.program_id(0) * BM + tl.arange(0, BM)
    column = tl.program_id(1) * BN + tl.arange(0, BN)
    inside = (row < m)[:, None] & (column < n)[None, :]
    at = Z + row.to(tl.int64)[:, None] * n + column[None, :]
    z = tl.load(at, mask=inside, other=0.0)
    bias = tl.load(Bias + row, mask=row < m, other=0.0)
    tl.store(at, activate((z + bias[:, None]).to(z.dtype), ACT), mask=inside)


@triton.jit(do_not_specialize=["M"])
def update_gains(
    Z,  # (M, pitch) float32, columns of the design as rows: unit vectors, zeros from n on
    Q,  # (pitch,) float64, the pick's unit residual, zeros from n on
    Share,  # (C,) float64, its products with the targets
    Picked,  # (1,) bool; where False nothing changes
    Product,  # (M, C) float64, targets' products with each residual; updated
    Norm,  # (M,) float64, squared length of each residual; updated
    Open,  # (M,) bool, neither picked nor known to be dead or exhausted
    Gain,  # (M,) float64 out, an upper bound of the gain; 0 where it is nothing, -inf where not eligible
    Fresh,  # (M,) bool out, False: these gains are bounds
    M,
    C,
    pitch,
    damping,  # float
    noise,  # float, error of a residual's squared length, and of its products with unit targets
    BM: tl.constexpr,
    BN: tl.constexpr,
    BC: tl.constexpr,
):
    """Take the pick out of every residual's length and products: one read of Z, sums in float64."""
    if tl.load(Picked) != 0:
        row = tl.program_id(0) * BM + tl.arange(0, BM)
        lane = tl.arange(0, BN)
        there = row < M
        rows = Z + row.to(tl.int64)[:, None] * pitch
        terms = tl.zeros((BM, BN), tl.float64)
        for first in range(0, pitch, BN):
            column = first + lane
            z = tl.load(rows + column[None, :], mask=there[:, None] & (column < pitch)[None, :], other=0.0)
            q = tl.load(Q + column, mask=column < pitch, other=0.0)
            terms += z.to(tl.float64) * q[None, :]
        along = tl.sum(terms, 1)

        norm = tl.maximum(tl.load(Norm + row, mask=there, other=0.0) - along * along, 0.0)
        squared = tl.zeros((BM,), tl.float64)
        products = Product + row.to(tl.int64)[:, None] * C
        for first in range(0, C, BC):
            target = first + tl.arange(0, BC)
            inside = there[:, None] & (target < C)[None, :]
            share = tl.load(Share + target, mask=target < C, other=0.0)
            left = tl.load(products + target[None, :], mask=inside, other=0.0) - along[:, None] * share[None, :]
            tl.store(products + target[None, :], left, mask=inside)
            squared += tl.sum(left * left, 1)

        eligible = (tl.load(Open + row, mask=there, other=0) != 0) & (norm > SURELY_EXHAUSTED)
        something = squared > (norm + damping) * NOTHING  # in this order: see activation.py
        highest = tl.sqrt(squared) + noise
        bound = highest * highest / (tl.maximum(norm - noise, SURELY_EXHAUSTED) + damping)
        gain = tl.where(something, tl.minimum(bound, 1.0), 0.0)
        tl.store(Norm + row, norm, mask=there)
        tl.store(Gain + row, tl.where(eligible, gain, float("-inf")), mask=there)
        tl.store(Fresh + row, tl.zeros((BM,), tl.int1), mask=there)
