"""The number forms of the GPU kernels, interpreted: precisions, types of data, low parts, features and candidates of all sizes."""

import numpy as np
import pytest
from gpu_cases import RAGGED, assert_close_to, check, problem, run, torch

from nc_fast.backends.gpu.features import measure_features
from nc_fast.backends.gpu.packing import pack
from nc_fast.backends.gpu.plan import Plan
from nc_fast.backends.gpu.precision import Arithmetic, choose_arithmetic
from nc_fast.backends.gpu.tiles import choose_tiles
from nc_fast.backends.reference.moments import class_moments as reference_moments


@pytest.mark.parametrize(("precision", "tolerance"), [("auto", 1e-6), ("ieee", 1e-6), ("fp16", 3e-3), ("tf32", 3e-3)])
def test_every_precision(rng, precision, tolerance):
    W, X, codes, bias = problem(rng)
    exact = reference_moments(W, X, codes, np.arange(len(RAGGED)), bias=bias, activation="gelu")
    found = run(W, X, codes, bias, "gelu", precision)
    assert_close_to(found, exact, tolerance)
    if tolerance > 1e-4:
        with pytest.raises(AssertionError):
            assert_close_to(found, exact, 1e-6)


@pytest.mark.parametrize("samples", ["float64", "float16", "bfloat16", "uint8", "int8", "bool", "uint16", "int64"])
def test_every_type_of_samples(rng, samples):
    W, X, codes, bias = problem(rng)
    X = torch.from_numpy(np.rint(100 * X) if "float" not in samples else X)
    X = (X > 0 if samples == "bool" else X.abs() if samples[0] == "u" else X).to(getattr(torch, samples))
    found = run(W, X, codes, bias)
    exact = reference_moments(W, X.double().numpy(), codes, np.arange(len(RAGGED)), bias=bias, activation="relu")
    assert_close_to(found, exact, 1e-6)


def test_integers_beyond_int64(rng):
    W, X, codes, bias = problem(rng)
    W = W * np.float32(1e-4)  # squares of activations are float32 here
    X = rng.integers(0, 2**64, size=X.shape, dtype=np.uint64)
    exact = reference_moments(W, X, codes, np.arange(len(RAGGED)), bias=bias, activation="relu")
    assert_close_to(run(W, X, codes, bias), exact, 1e-5)


@pytest.mark.parametrize("samples", [torch.float32, torch.uint8], ids=str)
@pytest.mark.parametrize("weights", [torch.float16, torch.bfloat16], ids=str)
def test_half_weights(rng, weights, samples):
    W, X, codes, bias = problem(rng)
    W, X = torch.from_numpy(W).to(weights), torch.from_numpy(np.abs(10 * X)).to(samples)
    exact = reference_moments(W.double().numpy(), X.double().numpy(), codes, np.arange(len(RAGGED)), bias=bias, activation="relu")
    assert_close_to(run(W, X, codes, bias), exact, 1e-6)


def test_low_parts_are_left_out_only_where_they_are_zero(rng):
    features = measure_features(torch.ones(3, 2, dtype=torch.uint8), torch.device("cpu"))
    assert features.centred
    cases = {
        (torch.float32, torch.float32): (True, True),
        (torch.bfloat16, torch.float32): (False, True),
        (torch.float32, torch.uint8): (True, False),
        (torch.float16, torch.bool): (False, False),
        (torch.float32, torch.int16): (True, True),
    }
    for (weights, samples), low in cases.items():
        assert choose_arithmetic("auto", weights, samples, centred=False, spread=False) == Arithmetic("float16", *low)
    assert choose_arithmetic("auto", torch.float16, torch.uint8, centred=features.centred, spread=False).samples_low
    assert choose_arithmetic("auto", torch.float32, torch.float32, centred=False, spread=True) == Arithmetic("float32")


def test_features_far_from_zero_and_of_all_sizes(rng):
    W, X, codes, bias = problem(rng, offset=50.0)
    check(W, X, codes, bias)
    size = np.ldexp(1.0, rng.integers(-30, 30, X.shape[1]))
    check((W / size[:, None]).astype(np.float32), (X * size).astype(np.float32), codes, bias)


def test_features_with_outliers_fall_back_to_float32(rng):
    W, X, codes, bias = problem(rng)
    X[3, 4] = 1e7
    assert measure_features(torch.from_numpy(X), torch.device("cpu")).spread
    check(W, X, codes, bias)


def test_candidates_of_all_sizes(rng):
    W, X, codes, bias = problem(rng)
    size = np.ldexp(1.0, rng.integers(-60, 60, W.shape[1])).astype(np.float32)
    check(W * size, X, codes, bias * size)


def test_packing_keeps_22_bits_and_rounds_tf32_to_nearest(rng):
    source = torch.from_numpy(rng.normal(size=(5, 7)))
    shift, scale = torch.from_numpy(rng.normal(size=7)), torch.ldexp(torch.ones(7, dtype=torch.float64), torch.arange(7))
    row_scale = torch.full((5,), 16.0, dtype=torch.float64)
    exact = (source - shift) * scale * row_scale[:, None]
    for arithmetic, low, error in ((Arithmetic("float16"), True, 2**-22), (Arithmetic("float32", dot="tf32"), False, 2**-11)):
        packed = torch.full((6, 32), torch.nan, dtype=getattr(torch, arithmetic.number))
        plan = Plan(arithmetic, "relu", choose_tiles("interpreter", arithmetic, "relu"), K=16)
        pack(source, shift, scale, row_scale, packed, plan, low=low)
        got = packed[:5, :7].double() + (packed[:5, 16:23].double() if low else 0)
        assert ((got - exact).abs() <= error * exact.abs()).all()
        assert (packed[5:, :16] == 0).all()
        assert (packed[:, 7:16] == 0).all()
