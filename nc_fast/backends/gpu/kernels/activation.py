# mypy: ignore-errors
"""The ten activations on float32 or float64 registers.

Where a formula loses relative accuracy near 0 a series takes over. The border is where both are right: to about 5e-7 in
float32 and 1e-13 in float64.
"""

import triton
import triton.language as tl

LEAKY_SLOPE = tl.constexpr(0.01)
LOWEST = tl.constexpr(-3.4028234663852886e38)


@triton.jit
def _rounded(
    z,  # floating, a product or quotient
):
    """Return z, rounded: a maximum, which no compiler fuses, so that ``_rounded(a * b) - c`` is not fma(a, b, -c).

    Without it a candidate with the same activation on every sample gets rounding noise instead of a deviation of exactly 0.
    """
    return tl.maximum(z, LOWEST, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _expm1_negative(
    z,  # floating, <= 0
):
    SERIES_BELOW: tl.constexpr = 0.125 if z.dtype == tl.float32 else 0.0009765625  # the next term is z ** 5 / 720
    series = z * (1.0 + z * (0.5 + z * (1.0 / 6 + z * (1.0 / 24 + z * (1.0 / 120)))))
    return tl.where(z > -SERIES_BELOW, series, tl.exp(z) - 1.0)


@triton.jit
def _tanh(
    z,  # floating
):
    SERIES_BELOW: tl.constexpr = 0.25 if z.dtype == tl.float32 else 0.015625  # the next term is 0.009 z ** 10
    a = tl.abs(z)
    e = tl.exp(-2.0 * a)
    q = z * z
    series = z * (1.0 + q * (-1.0 / 3 + q * (2.0 / 15 + q * (-17.0 / 315 + q * (62.0 / 2835)))))
    far = (1.0 - e) / (1.0 + e)
    return tl.where(a < SERIES_BELOW, series, tl.where(z < 0, -far, far))


@triton.jit
def _log1p(
    e,  # floating, in [0, 1]
):
    SERIES_BELOW: tl.constexpr = 0.125 if e.dtype == tl.float32 else 0.00390625  # the next term is e ** 7 / 8
    series = e * (1.0 - e * (0.5 - e * (1.0 / 3 - e * (0.25 - e * (0.2 - e * (1.0 / 6 - e * (1.0 / 7)))))))
    return tl.where(e < SERIES_BELOW, series, tl.log(1.0 + e))


@triton.jit
def _gelu(
    z,  # floating
):
    """Return z Phi(z); in float32 (z + |z| erf(|z| / sqrt(2))) / 2 with a rational fit on [0, 5.2], half as many instructions as erf.

    The fit errs by 1.2e-8. Beyond it the quotient exceeds 1, so that gelu is exactly 0 or z there. Written so that there is only
    one way to fuse products and sums: the pivot of a constant candidate is computed in another kernel.
    """
    if z.dtype == tl.float32:
        a = tl.abs(z)
        b = tl.minimum(a, 5.8)
        u = b * b
        p = 0.00921716418 + u * (0.000313702248 + u * (1.28156334e-05 + u * 4.94638774e-08))
        p = 0.797884522 + u * (0.0650870624 + u * p)
        q = 0.027926103 + u * (0.00181714358 + u * (7.04927389e-05 + u * 1.25888682e-06))
        q = 1.0 + u * (0.248240878 + u * q)
        y = 0.5 * (z + a * tl.minimum(b * p / q, 1.0))
    else:
        y = 0.5 * z * (1.0 + tl.erf(z * 0.7071067811865476))
    return y


@triton.jit
def activate(
    z,  # floating, pre-activations of any shape
    ACT: tl.constexpr,  # name in the table of nc_fast.activations
):
    """Return the activation of every element."""
    # One return at the end: after an early one the compiler still reads the rest. An overflow (nan) must not become a 0, as it does
    # in a device's plain maximum: callers see by it that there was one.
    if ACT == "identity":
        y = z
    elif ACT == "relu":
        y = tl.maximum(z, 0.0, propagate_nan=tl.PropagateNan.ALL)
    elif ACT == "leaky_relu":
        y = tl.maximum(z, z * LEAKY_SLOPE)  # in this order: the interpreter of Triton 3.7 cannot multiply a constant by a tensor
    elif ACT == "elu":
        y = tl.where(z > 0, z, _rounded(_expm1_negative(tl.minimum(z, 0.0, propagate_nan=tl.PropagateNan.ALL))))
    elif ACT == "gelu":
        y = _rounded(_gelu(z))
    elif ACT == "gelu_tanh":
        # z (1 + tanh u) / 2 = z / (1 + exp(-2u)), which cancels nowhere
        y = _rounded(z / (1.0 + tl.exp(z * (-1.5957691216057308 - 0.07135481627260025 * z * z))))
    elif ACT == "silu":
        y = _rounded(z / (1.0 + tl.exp(-z)))
    elif ACT == "tanh":
        y = _rounded(_tanh(z))
    elif ACT == "sigmoid":
        y = _rounded(1.0 / (1.0 + tl.exp(-z)))
    else:
        tl.static_assert(ACT == "softplus", "unknown activation")
        y = tl.maximum(z, 0.0) + _rounded(_log1p(tl.exp(-tl.abs(z))))
    return y
