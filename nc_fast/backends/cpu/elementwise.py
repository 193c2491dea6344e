"""The ten activations as scalar functions for compiled loops, written so that LLVM vectorises the loop.

``FUNCTIONS[name]`` takes a float32 or float64 and returns the same type, inside any ``njit`` function. None branches or calls
the C library: what depends on the argument is a select, so that ``out[j] = gelu(z[j])`` becomes vector instructions. Every
comparison is such that nan comes out as nan.

The smooth ones come from one core, exp(x) - 1 on |x| <= log(2) / 2. Polynomials and quotients were fitted for the least largest
relative error (Remez, 60 digits); comments name interval and error, arithmetic's apart. Products and sums can be fused in one
way only, so that an element has the same bits wherever in a row it stands, and on every x86 with fused multiply-adds.

Errors in units in the last place: elu 1.1; sigmoid, silu, softplus, tanh 3; gelu 5, but 8 below -2, where it is small; gelu_tanh 3,
and 3 v ** 2 more for negative v, where rounding the exponential's argument counts.

Examples
--------
>>> import numba
>>> from nc_fast.backends.cpu.elementwise import FUNCTIONS
>>> elu = FUNCTIONS["elu"]
>>> numba.njit(lambda v: elu(v))(-1e-20)
-1e-20
"""
# mypy: ignore-errors

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, register_jitable

from nc_fast.activations import GELU_TANH_CUBIC, LEAKY_SLOPE

# Pairs are for float32 and float64; polynomials begin with the lowest power.
LOG2_E = 1.4426950408889634
LN2_HIGH = 0.693145751953125, 0.6931471805598903  # 16 and 41 bits: k times it is exact for every k here
LN2_LOW = 1.4286068203094172e-06, 5.497923018708371e-14
# (exp(x) - 1 - x) / x ** 2 on |x| <= 0.35: within 2.9e-9 and 3.0e-18
EXP = (
    (0.50000000142207156, 0.16666666522358125, 0.041666457220662915, 0.0083333619569243800, 0.0013934508697320305, 0.00019858147255358786),
    (
        0.50000000000000000014, 0.16666666666666671419, 0.041666666666666613982, 0.008333333333325565131, 0.0013888888888920065996,
        0.0001984126987680441185, 2.480158724285000653e-05, 2.7557252898739618552e-06, 2.7557350424101402316e-07,
        2.510625107865284008e-08, 2.0889753717613252409e-09,
    ),
)  # fmt: skip
# (log((2 + h) / (2 - h)) / h - 1) / h ** 2 as a polynomial in h ** 2, on 0 <= h <= 2 / 3: the logarithm is within 4.0e-10 and 5.0e-18
LOG1P = (
    (0.083333334168305839, 0.012499906862588161, 0.0022337943465157350, 0.00042389409016862207, 0.00011347418293554926),
    (
        0.083333333333333322894, 0.012500000000004674074, 0.0022321428567980549964, 0.00043402778762552843892, 8.8778266620199805359e-05,
        1.8781227674605013848e-05, 4.0630982052616973769e-06, 9.1573829504696856388e-07, 1.6770090475655796644e-07,
        7.7158561302264131287e-08,
    ),
)  # fmt: skip
# 2 (Q(a) R(a) - 1/2) / a and 2 Q(a), where R(a) = Phi(-a) exp(a ** 2 / 2), Phi the normal distribution function, on 0 <= a <= 14.5
# and 38.75: (a + a ** 2 above) / below is within 1.7e-8 and 5.1e-17 of a R(a)
TAIL_ABOVE = (
    (0.8752008080482483, 0.3653867840766907, 0.08088534325361252, 0.00817123707383871),
    (
        1.5494480682652527, 1.1876588022910062, 0.5783558710169686, 0.19526001330670162, 0.04720253608658088,
        0.008169651810576464, 0.0009795386368510108, 7.439078587562792e-05, 2.766178555192223e-06,
    ),
)  # fmt: skip
TAIL_BELOW = (
    (2.0, 3.3461713790893555, 2.4006242752075195, 0.9360664486885071, 0.202762633562088, 0.020482009276747704),
    (
        2.0, 4.694665258136216, 5.121118532187136, 3.4273635643666576, 1.5632015420400043, 0.5095495867272529,
        0.12076068413015384, 0.020664750246842282, 0.002462273025008575, 0.00018647004724351611, 6.93378137914385e-06,
    ),
)  # fmt: skip
# Powers of two are computed LIFT too large and multiplied by 2 ** -LIFT last: a result below the normal numbers is rounded once.
LIFT = 64, 512
UNLIFT = 2.0**-64, 2.0**-512
# A number added to these is rounded to an integer, which their last bits then hold, with LIFT and the exponent's bias.
ROUND = 1.5 * 2.0**23 + 127 + LIFT[0], 1.5 * 2.0**52 + 1023 + LIFT[1]
# A number below 64 added to these is rounded to a multiple of 2 ** -8 or 2 ** -20, few enough bits for an exact square.
SPLIT = 1.5 * 2.0**15, 1.5 * 2.0**32
# Beyond these the results round to the limits: 0 for exp(-a), a sigmoid(-a), a Phi(-a) and its approximation; 1 for tanh and -elu.
EXP_CUT = 104.0, 746.0
SILU_CUT = 109.0, 752.0
GELU_CUT = 14.375, 38.625
GELU_TANH_CUT = 10.9, 21.7
TANH_CUT = 10.0, 20.0
ELU_CUT = 20.0, 40.0
GELU_TANH_SLOPE = 1.5957691216057308  # 2 sqrt(2 / pi)

# A function's own flags hold for its instructions whatever its caller's are: nothing here may be reordered.
_inlined = register_jitable(forceinline=True, fastmath={"contract"})
FRACTION_BITS = {types.float32: 23, types.float64: 52}


def _fitting(builder, v, kind, value):
    """Return type and value of the member of a pair that fits type v; of the number itself if it is no pair."""
    which = int(v == types.float64)
    return (kind[which], builder.extract_value(value, which)) if isinstance(kind, types.BaseTuple) else (kind, value)


@intrinsic
def _like(_context, v, value):
    """Return a constant, or the fitting one of a pair, in v's type."""

    def generate(context, builder, _signature, arguments):
        kind, number = _fitting(builder, v, value, arguments[1])
        return context.cast(builder, number, kind, v)

    return (v(v, value), generate) if v in FRACTION_BITS else None


@intrinsic
def _polynomial(_context, v, coefficients):
    """Return c[0] + v (c[1] + v (c[2] + ...)) for the fitting tuple of a pair."""

    def generate(context, builder, _signature, arguments):
        kinds, c = _fitting(builder, v, coefficients, arguments[1])
        terms = [context.cast(builder, builder.extract_value(c, i), kind, v) for i, kind in enumerate(kinds)]
        total = terms.pop()
        while terms:
            total = builder.fadd(builder.fmul(total, arguments[0]), terms.pop())
        return total

    return (v(v, coefficients), generate) if v in FRACTION_BITS else None


@intrinsic
def _power_of_two(_context, v):
    """Return 2 ** (k + LIFT) for v = k + ROUND: its last bits are the result's exponent field."""

    def generate(_context, builder, _signature, arguments):
        integer = ir.IntType(v.bitwidth)
        shifted = builder.shl(builder.bitcast(arguments[0], integer), integer(FRACTION_BITS[v]))
        return builder.bitcast(shifted, arguments[0].type)

    return (v(v), generate) if v in FRACTION_BITS else None


@intrinsic
def _copysign(_context, v, sign):
    """Return |v| with the other's sign."""

    def generate(_context, builder, _signature, arguments):
        kind = arguments[0].type
        return builder.call(builder.module.declare_intrinsic("llvm.copysign", [kind], ir.FunctionType(kind, [kind, kind])), arguments)

    return (v(v, sign), generate) if v in FRACTION_BITS and v == sign else None


@_inlined
def _magnitude(v, cut):
    """Return |v|, at most cut."""
    a = abs(v)
    largest = _like(v, cut)
    return largest if a > largest else a


@_inlined
def _reduced(x):
    """Return r and 2 ** (k + LIFT) of x = k log(2) + r, |r| <= log(2) / 2."""
    t = x * _like(x, LOG2_E) + _like(x, ROUND)
    k = t - _like(x, ROUND)
    return x - k * _like(x, LN2_HIGH) - k * _like(x, LN2_LOW), _power_of_two(t)


@_inlined
def _expm1_reduced(r):
    """exp(r) - 1"""
    return r + r * r * _polynomial(r, EXP)


@_inlined
def _expm1(x):
    """exp(x) - 1"""
    r, lifted = _reduced(x)
    power = lifted * _like(x, UNLIFT)
    return _expm1_reduced(r) * power + (power - _like(x, 1.0))


@_inlined
def _exp(x):
    """exp(x)"""
    r, lifted = _reduced(x)
    return (_like(x, 1.0) + _expm1_reduced(r)) * lifted * _like(x, UNLIFT)


@_inlined
def _positive_part(v):
    """v above 0, else 0; nan at -inf, where an activation v f(v) is -inf times 0"""
    zero = _like(v, 0.0)
    nothing = v * zero
    return v if v > zero else nothing


@_inlined
def _gated(v, a, x):
    """Return v / (1 + exp(-x)) for v > 0 and v / (1 + exp(x)) for v < 0, a = |v|, both cut: the latter, to which a positive v is added."""
    r, lifted = _reduced(-x)
    power, expm1 = lifted * _like(v, UNLIFT), _expm1_reduced(r)
    tail = (a + a * expm1) / (expm1 * power + power + _like(v, 1.0))
    return _positive_part(v) - tail * lifted * _like(v, UNLIFT)


@_inlined
def identity(v):
    """v"""
    return v


@_inlined
def relu(v):
    """max(v, 0)"""
    zero = _like(v, 0.0)
    return zero if v <= zero else v


@_inlined
def leaky_relu(v):
    """v if v > 0 else 0.01 v"""
    scaled = v * _like(v, LEAKY_SLOPE)
    return v if v > _like(v, 0.0) else scaled


@_inlined
def elu(v):
    """v if v >= 0 else exp(v) - 1"""
    negative = _expm1(-_magnitude(v, ELU_CUT))
    return v if v >= _like(v, 0.0) else negative


@_inlined
def gelu(v):
    """v Phi(v), Phi the normal distribution function: that of -|v|, to which a positive v is added"""
    a = _magnitude(v, GELU_CUT)
    # a ** 2 in two parts, the first exact: exp would multiply the square's rounding by a ** 2 / 2.
    high = (a + _like(v, SPLIT)) - _like(v, SPLIT)
    r, lifted = _reduced(high * high * _like(v, -0.5))
    r += (a - high) * (a + high) * _like(v, -0.5)
    above = a + a * a * _polynomial(a, TAIL_ABOVE)
    tail = (above + above * _expm1_reduced(r)) / _polynomial(a, TAIL_BELOW)
    return _positive_part(v) - tail * lifted * _like(v, UNLIFT)


@_inlined
def gelu_tanh(v):
    """The tanh approximation of gelu, v sigmoid(2 sqrt(2 / pi) (v + 0.044715 v ** 3))"""
    a = _magnitude(v, GELU_TANH_CUT)
    return _gated(v, a, a * (a * a * _like(v, GELU_TANH_SLOPE * GELU_TANH_CUBIC) + _like(v, GELU_TANH_SLOPE)))


@_inlined
def silu(v):
    """v sigmoid(v)"""
    a = _magnitude(v, SILU_CUT)
    return _gated(v, a, a)


@_inlined
def tanh(v):
    """tanh(v)"""
    m = _expm1(_magnitude(v, TANH_CUT) * _like(v, -2.0))
    return _copysign(m / (m + _like(v, 2.0)), v)


@_inlined
def sigmoid(v):
    """1 / (1 + exp(-v))"""
    one = _like(v, 1.0)
    e = _exp(-_magnitude(v, EXP_CUT))
    above = e if v < _like(v, 0.0) else one
    return above / (one + e)


@_inlined
def softplus(v):
    """log(1 + exp(v)): max(v, 0) + log(1 + exp(-|v|))"""
    e = _exp(-_magnitude(v, EXP_CUT))
    h = e / (_like(v, 1.0) + e * _like(v, 0.5))
    u = h * h
    zero = _like(v, 0.0)
    positive = zero if v < zero else v
    return positive + (h + h * u * _polynomial(u, LOG1P))


FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    function.__name__: function for function in (identity, relu, leaky_relu, elu, gelu, gelu_tanh, silu, tanh, sigmoid, softplus)
}
