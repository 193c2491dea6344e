"""The number forms of the GPU kernels, interpreted: precisions, types of data, low parts, features and candidates of all sizes."""

import numpy as np
import pytest
import triton
from gpu_cases import RAGGED, assert_close_to, check, problem, run, torch
from triton.runtime.interpreter import InterpreterBuilder

from nc_fast.activations import ACTIVATIONS
from nc_fast.backends.gpu import samples
from nc_fast.backends.gpu.features import measure_features
from nc_fast.backends.gpu.kernels.pursue import activate_rows
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


@pytest.mark.parametrize("number", ["float64", "float16", "bfloat16", "uint8", "int8", "bool", "uint16", "int64"])
def test_every_type_of_samples(rng, number):
    W, X, codes, bias = problem(rng)
    X = torch.from_numpy(np.rint(100 * X) if "float" not in number else X)
    X = (X > 0 if number == "bool" else X.abs() if number[0] == "u" else X).to(getattr(torch, number))
    found = run(W, X, codes, bias)
    exact = reference_moments(W, X.double().numpy(), codes, np.arange(len(RAGGED)), bias=bias, activation="relu")
    assert_close_to(found, exact, 1e-6)


def test_integers_beyond_int64(rng):
    W, X, codes, bias = problem(rng)
    W = W * np.float32(1e-4)  # squares of activations are float32 here
    X = rng.integers(0, 2**64, size=X.shape, dtype=np.uint64)
    exact = reference_moments(W, X, codes, np.arange(len(RAGGED)), bias=bias, activation="relu")
    assert_close_to(run(W, X, codes, bias), exact, 1e-5)


@pytest.mark.parametrize("number", [torch.float32, torch.uint8], ids=str)
@pytest.mark.parametrize("weights", [torch.float16, torch.bfloat16], ids=str)
def test_half_weights(rng, weights, number):
    W, X, codes, bias = problem(rng)
    W, X = torch.from_numpy(W).to(weights), torch.from_numpy(np.abs(10 * X)).to(number)
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
    for (weights, of_samples), low in cases.items():
        assert choose_arithmetic("auto", weights, of_samples, centred=False, spread=False) == Arithmetic("float16", *low)
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


@pytest.mark.parametrize(("arithmetic", "error"), [
    (Arithmetic("float16", True, True), 2**-22),
    (Arithmetic("float16", True, False), 2**-22),
    (Arithmetic("float16", False, False), 2**-11),
    (Arithmetic("float32", dot="tf32"), 2**-11),
    (Arithmetic("float32"), 2**-24),
    (Arithmetic("float64"), 0),
])  # fmt: skip
def test_packing_keeps_the_bits_of_its_parts_side_by_side(rng, arithmetic, error):
    source, D = torch.from_numpy(rng.normal(size=(9, 7))), 7
    rows = torch.tensor([8, 0, 3, 3, 5])
    shift, scale = torch.from_numpy(rng.normal(size=D)), torch.ldexp(torch.ones(D, dtype=torch.float64), torch.arange(-6, 1))
    row_scale = torch.full((5,), 0.25, dtype=torch.float64)
    plan = Plan(arithmetic, "relu", choose_tiles("interpreter", arithmetic, "relu"), D)
    lifted = scale * 2.0**arithmetic.largest_exponent
    exact = {"samples": (source[rows] - shift) * lifted, "weights": source[rows] * lifted * 0.25}
    given = {"samples": {"shift": shift}, "weights": {"row_scale": row_scale}}
    for parts, operand in zip(arithmetic.parts, ("weights", "samples"), strict=True):
        packed = torch.full((6, plan.pitch), torch.nan, dtype=getattr(torch, arithmetic.number))
        pack(source, packed, 5, plan, parts, scale, rows=rows, **given[operand])
        found = {part: packed[:5, parts.index(part) * D :][:, :D].double() for part in set(parts)}
        assert (
            (sum(found.values()) - exact[operand]).abs() <= (error if "l" in found else max(error, 2**-11)) * exact[operand].abs()
        ).all()
        assert (packed[5:] == 0).all()
        assert (packed[:, len(parts) * D :] == 0).all()
        for place, part in enumerate(parts):
            assert torch.equal(packed[:5, place * D :][:, :D].double(), found[part])


def test_three_products_of_mnist_take_37_steps():
    three, one = Arithmetic("float16", True, True), Arithmetic("float16")
    assert Plan(three, "relu", choose_tiles("hopper", three, "relu"), 784).pitch == 37 * 64
    assert Plan(one, "relu", choose_tiles("hopper", one, "relu"), 784).pitch == 13 * 64


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16])
def test_features_are_those_of_numpy(rng, dtype, monkeypatch):
    monkeypatch.setattr(samples, "CHUNK_ROWS", 16)
    X = (rng.normal(size=(71, 131)) * 40).round(3).astype(dtype)
    X[:, 0], X[:, 1], X[:, 2] = 0, 7, X[:, 2] / 64 + 900
    X[5:, 3] = 0
    exact = X.astype(np.float64)
    for laid in (torch.from_numpy(X), torch.from_numpy(np.asfortranarray(X))):
        found = measure_features(laid, torch.device("cpu"))
        np.testing.assert_allclose(found.mean, exact.mean(axis=0), rtol=1e-13, atol=1e-13)
        assert found.mean[1] == 7
        np.testing.assert_array_equal(found.shift, np.where(np.arange(131) == 2, found.mean, np.where(np.arange(131) == 1, 7, 0)))
        largest = np.abs(exact - found.shift.numpy()).max(axis=0)
        np.testing.assert_array_equal(found.scale * found.unscale, 1)
        seen = largest > 0
        assert ((largest * found.scale.numpy())[seen] < 1).all()
        assert ((largest * found.scale.numpy())[seen] >= 0.5).all()
        assert found.centred
        assert not found.spread


def test_features_are_the_same_whether_samples_lie_on_the_device_or_come_in_tiles(rng, monkeypatch):
    monkeypatch.setattr(samples, "CHUNK_ROWS", 16)
    monkeypatch.setattr(samples, "TILE_BYTES", 40 * 5 * 8)
    X = torch.from_numpy(rng.normal(size=(100, 5)) + 20)
    whole = measure_features(X, torch.device("cpu"))
    monkeypatch.setattr(samples, "in_place", lambda *_: None)
    tiles = measure_features(X, torch.device("cpu"))
    assert [len(tile) for tile, _ in samples.readable_tiles(X, None, torch.device("cpu"))] == [32, 32, 32, 4]
    assert all(torch.equal(getattr(whole, name), getattr(tiles, name)) for name in ("shift", "mean", "scale", "unscale"))


def test_gelu_errs_little_in_float32_and_is_exact_far_out():
    z = np.concatenate([np.linspace(-9, 9, 20_001), np.linspace(-1e-3, 1e-3, 99)]).astype(np.float32)
    found = torch.from_numpy(z[None].copy())
    activate_rows[(1, triton.cdiv(len(z), 512))](found, torch.zeros(1, dtype=torch.float64), 1, len(z), ACT="gelu", BM=4, BN=512)
    exact, found = ACTIVATIONS["gelu"](z.astype(np.float64)), found[0].numpy()
    assert (np.abs(found - exact) <= 3e-7 * np.maximum(np.abs(z), 1)).all()
    assert (np.abs(found - exact) <= 1e-7 * np.abs(exact))[np.abs(z) < 0.01].all()
    assert (found[z < -5.8] == 0).all()
    assert (found[z > 5.8] == z[z > 5.8]).all()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_an_overflow_is_seen_where_a_device_drops_nan(rng, activation, monkeypatch):
    """A device's plain maximum of nan and 0 is 0, the interpreter's is nan."""
    for name, dropping in (("create_maxnumf", np.fmax), ("create_minnumf", np.fmin)):
        monkeypatch.setattr(InterpreterBuilder, name, lambda self, a, b, dropping=dropping: self.binary_op(a, b, dropping))
    W, X, codes, bias = problem(rng)
    with np.errstate(all="ignore"):
        found = run(W * np.float32(1e30), X * np.float32(1e20), codes, bias, activation)
    assert not torch.isfinite(found.mean).any()


@pytest.mark.parametrize(("precision", "tolerance"), [("auto", 1e-6), ("ieee", 1e-6), ("fp16", 3e-3), ("tf32", 3e-3)])
def test_pre_activations_near_the_end_of_float32(rng, precision, tolerance):
    W, X, codes, bias = problem(rng, D=2)
    W, X = np.sign(W) * np.float32(2.0**63), X * np.float32(2.0**61)
    exact = reference_moments(W, X, codes, np.arange(len(RAGGED)), bias=bias, activation="tanh")
    with np.errstate(over="ignore", invalid="ignore"):  # in the series, which is not what is taken here
        assert_close_to(run(W, X, codes, bias, "tanh", precision), exact, tolerance)
