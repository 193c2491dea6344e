"""The moments of the GPU kernels, interpreted, against the float64 reference: activations, shapes, exact zeros, callables."""

import numpy as np
import pytest
from gpu_cases import RAGGED, assert_close_to, assert_no_spread, check, problem, run, torch

from nc_fast.activations import ACTIVATIONS
from nc_fast.backends.gpu import callables
from nc_fast.backends.reference.moments import class_moments as reference_moments


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation(rng, activation, dtype):
    check(*problem(rng, weights=dtype, samples=dtype), activation)


@pytest.mark.parametrize("activation", ["tanh", "elu", "silu"])
def test_small_preactivations_keep_their_relative_accuracy(rng, activation):
    W, X, codes, bias = problem(rng, counts=(20, 13))
    W, bias = W * np.float32(1e-4), bias * 0
    exact = reference_moments(W, X, codes, np.arange(2), bias=bias, activation=activation)
    assert_close_to(run(W, X, codes, bias, activation), exact, 1e-6)


@pytest.mark.parametrize(
    ("counts", "D", "M"), [((16,), 16, 16), ((1,), 1, 1), ((1, 1, 1), 7, 5), ((3,) * 20, 5, 40), ((7, 0, 50), 33, 17)], ids=str
)
def test_every_shape(rng, counts, D, M):
    W, X, codes, bias = problem(rng, counts, D, M)
    check(W, X, codes, bias, classes=np.arange(len(counts)))


@pytest.mark.parametrize("layout", ["transposed", "sliced", "stepped", "reversed copy"])
def test_every_memory_layout(rng, layout):
    W, X, codes, bias = problem(rng, counts=(20, 3))
    views = {
        "transposed": lambda a: torch.from_numpy(np.ascontiguousarray(a.T)).T,
        "sliced": lambda a: torch.from_numpy(np.pad(a, 3))[3:-3, 3:-3],
        "stepped": lambda a: torch.from_numpy(np.repeat(np.repeat(a, 2, 0), 3, 1))[::2, ::3],
        "reversed copy": lambda a: torch.from_numpy(a[::-1, ::-1].copy()).flip(0, 1),
    }
    plain, other = run(W, X, codes, bias), run(views[layout](W), views[layout](X), codes, bias)
    assert torch.equal(plain.mean, other.mean)
    assert torch.equal(plain.m2, other.m2)


def test_inputs_are_left_as_they_were_and_inference_mode_works(rng):
    given = problem(rng)
    kept = [np.copy(value) for value in given]
    with torch.inference_mode():
        check(*given)
    for value, copy in zip(given, kept, strict=True):
        np.testing.assert_array_equal(value, copy)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_constant_activation_has_exactly_no_spread(rng, activation, dtype):
    W, X, codes, bias = problem(rng, weights=dtype, samples=dtype)
    W[:, ::2] = 0
    assert_no_spread(run(W, X, codes, bias, activation), slice(None, None, 2))
    assert_no_spread(run(W + 1, np.repeat(X[:1], len(X), 0), codes, bias, activation), slice(None))


@pytest.mark.parametrize("offset", [0.0, 3.0, 60.0])
def test_a_dead_relu_has_exactly_no_spread(rng, offset):
    W, X, codes, bias = problem(rng)
    X, W = np.abs(X) + np.float32(offset), -np.abs(W)
    bias = np.where(np.arange(len(bias)) % 2, 0, X.max(axis=1).min() * np.abs(W).max(axis=0) * 0.01)
    exact = reference_moments(W, X, codes, np.arange(len(RAGGED)), bias=bias, activation="relu")
    dead = (exact.mean == 0).all(axis=0)
    assert dead.any()
    assert_no_spread(run(W, X, codes, bias), torch.from_numpy(dead))


def test_zero_rows_keep_a_dead_relu_dead(rng):
    W, X, codes, bias = problem(rng)
    X, W = np.abs(X), -np.abs(W)
    X[::5] = 0
    assert_no_spread(run(W, X, codes, bias * 0), slice(None))


def test_a_one_row_class_has_exactly_no_deviations(rng):
    assert (check(*problem(rng, counts=(1, 30, 1)), "tanh").m2[[0, 2]] == 0).all()


def test_a_callable_is_given_tensors_and_its_type_of_data(rng):
    seen = set()

    def squared(z):
        seen.add(z.dtype)
        return z**2

    for dtype in (np.float32, np.float64):
        W, X, codes, bias = problem(rng, weights=dtype, samples=dtype)
        found = run(W, X, codes, bias, squared)
        exact = reference_moments(W, X, codes, found.classes, bias=bias, activation=lambda z: z**2)
        assert_close_to(found, exact, 1e-6 if dtype is np.float32 else 1e-12)
    assert seen == {torch.float32, torch.float64}


def test_a_callable_over_several_blocks_and_chunks(rng, monkeypatch):
    monkeypatch.setattr(callables, "CALLABLE_BYTES", 8 * 256 * 6)
    W, X, codes, bias = problem(rng, counts=(300, 0, 301), D=3, M=11)
    W[:, 4] = 0
    found = run(W, X, codes, bias, torch.relu, classes=np.arange(3))
    assert_close_to(found, reference_moments(W, X, codes, found.classes, bias=bias, activation="relu"), 1e-6)
    assert (found.m2[:, 4] == 0).all()
    assert found.mean[0, 4] == found.mean[2, 4]


def test_a_callable_must_keep_the_shape(rng):
    with pytest.raises(ValueError, match="activation: expected a tensor of shape"):
        run(*problem(rng), lambda z: z.sum(1))
