# mypy: ignore-errors
"""The ten activations on float32 registers."""

import triton
import triton.language as tl

LEAKY_SLOPE = tl.constexpr(0.01)
ELU_SERIES_BELOW = tl.constexpr(0.125)  # exp(z) - 1 loses 1 / |z| in relative accuracy; five terms are right to 4e-8 here
TANH_SERIES_BELOW = tl.constexpr(0.25)  # as above, for (1 - e) / (1 + e)
LOWEST = tl.constexpr(-3.4028234663852886e38)


@triton.jit
def _rounded(
    z,  # float32, a product or quotient
):
    """Return z, rounded: a maximum, which no compiler fuses, so that ``_rounded(a * b) - c`` is not fma(a, b, -c).

    Without it a candidate with the same activation on every sample gets rounding noise instead of a deviation of exactly 0.
    """
    return tl.maximum(z, LOWEST, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _expm1_negative(
    z,  # float32, <= 0
):
    series = z * (1.0 + z * (0.5 + z * (1.0 / 6 + z * (1.0 / 24 + z * (1.0 / 120)))))
    return tl.where(z > -ELU_SERIES_BELOW, series, tl.exp(z) - 1.0)


@triton.jit
def _tanh(
    z,  # float32
):
    a = tl.abs(z)
    e = tl.exp(-2.0 * a)
    q = z * z
    series = z * (1.0 + q * (-1.0 / 3 + q * (2.0 / 15 + q * (-17.0 / 315 + q * (62.0 / 2835)))))
    far = (1.0 - e) / (1.0 + e)
    return tl.where(a < TANH_SERIES_BELOW, series, tl.where(z < 0, -far, far))


@triton.jit
def _log1p(
    e,  # float32, in [0, 1]
):
    u = 1.0 + e
    # log(u) e / (u - 1): the rounding of u cancels. Where u rounds to 1, log(1 + e) is e to float32 accuracy.
    return tl.where(u == 1.0, e, tl.log(u) * (e / tl.where(u == 1.0, 1.0, u - 1.0)))


@triton.jit
def activate(
    z,  # float32, pre-activations of any shape
    ACT: tl.constexpr,  # name in the table of nc_fast.activations
):
    """Return the activation of every element."""
    if ACT == "identity":
        return z
    elif ACT == "relu":
        return tl.maximum(z, 0.0)
    elif ACT == "leaky_relu":
        return tl.maximum(z, LEAKY_SLOPE * z)
    elif ACT == "elu":
        return tl.where(z > 0, z, _rounded(_expm1_negative(tl.minimum(z, 0.0))))
    elif ACT == "gelu":
        return _rounded(0.5 * z * (1.0 + tl.erf(z * 0.7071067811865476)))
    elif ACT == "gelu_tanh":
        # z (1 + tanh u) / 2 = z / (1 + exp(-2u)), which cancels nowhere
        return _rounded(z / (1.0 + tl.exp(z * (-1.5957691216057308 - 0.07135481627260025 * z * z))))
    elif ACT == "silu":
        return _rounded(z / (1.0 + tl.exp(-z)))
    elif ACT == "tanh":
        return _rounded(_tanh(z))
    elif ACT == "sigmoid":
        return _rounded(1.0 / (1.0 + tl.exp(-z)))
    else:
        tl.static_assert(ACT == "softplus", "unknown activation")
        return tl.maximum(z, 0.0) + _rounded(_log1p(tl.exp(-tl.abs(z))))
