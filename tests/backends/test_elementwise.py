"""The CPU's scalar activations against exact values, NumPy's special values, and the instructions that their loops become."""

import os
import platform
import re
import subprocess
import sys

import mpmath
import numpy as np
import pytest
from llvmlite.binding import get_host_cpu_features
from numba import njit
from scipy.special import ndtr

from nc_fast.activations import ACTIVATIONS, GELU_TANH_CUBIC, LEAKY_SLOPE
from nc_fast.backends.cpu.elementwise import FUNCTIONS

DTYPES = [np.float32, np.float64]
CURVED = [name for name in FUNCTIONS if name not in ("identity", "relu", "leaky_relu")]
FLOAT16 = np.arange(2**16, dtype=np.uint16).view(np.float16)
FLOAT16 = FLOAT16[np.isfinite(FLOAT16)]


def loop(function):
    @njit(nogil=True, error_model="numpy", fastmath={"contract"})
    def run(z, out):
        for j in range(len(z)):
            out[j] = function(z[j])

    return run


LOOPS = {name: loop(function) for name, function in FUNCTIONS.items()}


def computed(name, z):
    out = np.empty_like(z)
    LOOPS[name](z, out)
    return out


def logistic(x):
    e = np.exp(-np.abs(x))
    return np.where(x < 0, e, 1) / (1 + e)


def formula(name, z):
    """The definition in z's precision, without cancellation."""
    kind = z.dtype.type
    if name in ("identity", "relu"):
        return z if name == "identity" else np.maximum(z, 0)
    if name == "gelu":
        return z * ndtr(z)
    if name == "gelu_tanh":
        return z * logistic(np.sqrt(8 / np.arctan(kind(1)) / 4) * (z + kind(GELU_TANH_CUBIC) * z**3))
    return {
        "leaky_relu": lambda: np.where(z > 0, z, LEAKY_SLOPE * z),
        "elu": lambda: np.where(z > 0, z, np.expm1(np.minimum(z, 0))),
        "silu": lambda: z * logistic(z),
        "tanh": lambda: np.tanh(z),
        "sigmoid": lambda: logistic(z),
        "softplus": lambda: np.maximum(z, 0) + np.log1p(np.exp(-np.abs(z))),
    }[name]()


def exact(name, v):
    """The definition in mpmath's precision."""

    def sigmoid(x):
        return 1 / (1 + mpmath.exp(-x))

    v = mpmath.mpf(float(v))
    return {
        "elu": lambda: v if v > 0 else mpmath.expm1(v),
        "gelu": lambda: v * mpmath.erfc(-v / mpmath.sqrt(2)) / 2,
        "gelu_tanh": lambda: v * sigmoid(mpmath.sqrt(8 / mpmath.pi) * (v + mpmath.mpf("0.044715") * v**3)),
        "silu": lambda: v * sigmoid(v),
        "tanh": lambda: mpmath.tanh(v),
        "sigmoid": lambda: sigmoid(v),
        "softplus": lambda: mpmath.log1p(mpmath.exp(v)),
    }[name]()


def extended(name, z):
    """The definition of float64 or float32 arguments in extended precision; SciPy has no erfc in it."""
    if name != "gelu":
        with np.errstate(under="ignore"):
            return formula(name, z.astype(np.longdouble))
    with mpmath.workdps(40):
        return np.array([np.longdouble(mpmath.nstr(exact(name, v), 22)) for v in z])


def allowed(name, z):
    """The largest error in units in the last place."""
    if name == "gelu":
        return np.where(z > -2, 5, 8)
    if name == "gelu_tanh":
        return 3 + 3 * np.minimum(z, 0) ** 2
    return np.full(len(z), {"identity": 0, "relu": 0, "leaky_relu": 1, "elu": 1.1}.get(name, 3))


def assert_close(name, z, found, right):
    assert found.dtype == z.dtype
    with np.errstate(over="ignore", under="ignore"):
        unit = np.spacing(np.minimum(np.abs(right.astype(z.dtype)), np.finfo(z.dtype).max))
        excess = np.abs(found - right) / unit - allowed(name, z.astype(np.float64))
    worst = np.argmax(excess)
    assert excess[worst] <= 0, (name, z[worst], found[worst], right[worst])


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_float16_value_and_ten_million_float32_values(name):
    """Half of them any bit patterns, half near enough to 0 that no result is a limit."""
    rng = np.random.default_rng(18)
    z = FLOAT16.astype(np.float32)
    assert_close(name, z, computed(name, z), formula(name, z.astype(np.float64)))
    for _ in range(10):
        bits = rng.integers(0, 2**32, 500_000, dtype=np.uint32).view(np.float32)
        z = np.concatenate([bits[np.isfinite(bits)], rng.uniform(-110, 20, 500_000 + (~np.isfinite(bits)).sum()).astype(np.float32)])
        with np.errstate(over="ignore", under="ignore"):
            right = formula(name, z.astype(np.float64))
        assert_close(name, z, computed(name, z), right)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_float16_value_in_float64(name):
    z = FLOAT16.astype(np.float64)
    if name == "gelu":  # the others are 0, v / 2 or v and take mpmath long
        z = z[(np.abs(z) < 40) & (np.abs(z) > 0.01)]
    assert_close(name, z, computed(name, z), extended(name, z))


@pytest.mark.parametrize("name", CURVED)
def test_float64_values_against_mpmath(name, rng):
    z = np.concatenate([rng.normal(size=1000) * 3, rng.uniform(-40, 40, 500), rng.uniform(-760, -38, 500), 10 ** rng.uniform(-300, 0, 200)])
    found = computed(name, z)
    with mpmath.workdps(350):  # 1 + exp(-700) is not 1
        right = [exact(name, v) for v in z]
        spacing = [np.spacing(abs(float(r))) for r in right]
        errors = np.array([float(abs(mpmath.mpf(f) - r) / mpmath.mpf(s)) for f, r, s in zip(found, right, spacing, strict=True)])
    excess = errors - allowed(name, z)
    assert excess.max() <= 0, (z[excess.argmax()], errors[excess.argmax()])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_special_values_are_numpys(name, dtype):
    largest = np.finfo(dtype).max
    z = np.array([np.nan, np.inf, -np.inf, 0, largest, -largest, 1e30, -1e30, 800, -800], dtype)
    with np.errstate(all="ignore"):
        right = ACTIVATIONS[name](z.copy())
    np.testing.assert_array_equal(computed(name, z), right)


@pytest.mark.parametrize("dtype", DTYPES)
def test_tiny_values_and_signs_of_zero(dtype):
    tiny = np.finfo(dtype).smallest_subnormal
    z = np.array([-0.0, 7 * tiny, -7 * tiny, -np.finfo(dtype).tiny], dtype)
    for name in ("identity", "elu", "tanh"):
        found = computed(name, z)
        np.testing.assert_array_equal(found, z)
        assert np.signbit(found[0])
    for name in ("gelu", "gelu_tanh", "silu"):  # rounded half of it
        assert np.abs(computed(name, z) / tiny - z / tiny / 2).max() <= 0.5
        assert np.signbit(computed(name, z)[0])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_loop_becomes_vector_instructions_without_calls(name, dtype):
    computed(name, np.zeros(3, dtype))
    (signature,) = (s for s in LOOPS[name].signatures if s[0].dtype.name == np.dtype(dtype).name)
    code = re.search(r"^define[^\n]*@_ZN\w*run.*?^}", LOOPS[name].inspect_llvm(signature), re.M | re.S)[0]  # the loop; not its wrappers
    element, other = ("float", "double") if dtype is np.float32 else ("double", "float")
    lanes = r"<\d+ x " + element + ">"
    assert re.search(rf"load {lanes}", code)
    assert re.search(rf"store {lanes}", code)
    assert not {call for call in re.findall(r"call .*?@([\w.]+)\(", code) if not re.match(r"llvm\.(fabs|copysign)\.", call)}
    assert not re.search(rf"\b{other}\b", code), "the precision changes on the way"
    if name != "identity":
        assert re.search(rf"(fadd|fmul|select|fcmp)[^\n]*{lanes}", code)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_an_element_has_the_same_bits_wherever_it_stands(name, dtype, rng):
    z = rng.normal(0, 4, 600).astype(dtype)
    alone = np.concatenate([computed(name, z[i : i + 1]) for i in range(len(z))])  # not by the vector instructions
    np.testing.assert_array_equal(computed(name, z), alone)


def draw(dtype):
    return np.random.default_rng(7).normal(0, 4, 5_000).astype(dtype)


def bits_on(processor):
    """All activations of a draw, computed by a process that compiles for another processor."""
    script = (
        "import sys, numpy as np\nfrom test_elementwise import DTYPES, FUNCTIONS, computed, draw\n"
        "sys.stdout.buffer.write(b''.join(computed(name, draw(dtype)).tobytes() for dtype in DTYPES for name in FUNCTIONS))"
    )
    environment = {**os.environ, "NUMBA_CPU_NAME": processor, "NUMBA_CPU_FEATURES": "", "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, check=True).stdout


def test_every_processor_with_fused_multiply_adds_gives_the_same_bits():
    if not get_host_cpu_features().get("fma"):
        pytest.skip("the processor has no FMA of x86")
    assert bits_on("haswell") == b"".join(computed(name, draw(dtype)).tobytes() for dtype in DTYPES for name in FUNCTIONS)


def test_a_processor_without_them_is_as_accurate():
    if platform.machine() != "x86_64":
        pytest.skip("every other processor that is supported has fused multiply-adds")
    found, differing = bits_on("generic"), 0
    for dtype in DTYPES:
        z = draw(dtype)
        for name in FUNCTIONS:
            other, found = np.frombuffer(found[: z.nbytes], dtype), found[z.nbytes :]
            assert_close(name, z, other, extended(name, z))
            differing += name in CURVED and not np.array_equal(other, computed(name, z))
    assert not found
    assert differing == (2 * len(CURVED) if get_host_cpu_features().get("fma") else 0)  # the last bits do differ
