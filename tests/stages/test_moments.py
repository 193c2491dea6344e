import numpy as np
import pytest
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st

import nc_fast
from nc_fast.activations import ACTIVATIONS
from nc_fast.testing import CASES, assert_moments_match

SMALL = [case for case in CASES if case.N * case.M < 100_000]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
def test_every_backend_matches_the_reference(backend, case, dtype, rng):
    W, X, y = case.draw(rng, dtype)
    bias = rng.normal(size=case.M)
    found = nc_fast.class_moments(W, X, y, bias=bias, backend=backend)
    assert_moments_match(found, W, X, y, bias=bias)
    assert found.mean.dtype == found.m2.dtype == np.float64


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_many_tiles_and_blocks(dtype, rng):
    W, X, y = CASES[-1].draw(rng, dtype)
    assert_moments_match(nc_fast.class_moments(W, X, y), W, X, y)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_on_the_cpu(activation, dtype, rng):
    W, X, y = CASES[1].draw(rng, dtype)
    found = nc_fast.class_moments(W, X, y, activation=activation, bias=-0.3)
    assert_moments_match(found, W, X, y, activation=activation, bias=-0.3)


DEFINITIONS = {
    "identity": lambda z: z,
    "relu": lambda z: np.where(z > 0, z, 0),
    "leaky_relu": lambda z: np.where(z > 0, z, 0.01 * z),
    "elu": lambda z: np.where(z > 0, z, np.expm1(np.minimum(z, 0))),
    "gelu": lambda z: z * scipy.special.ndtr(z),
    "gelu_tanh": lambda z: 0.5 * z * (1 + np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3))),
    "silu": lambda z: z * scipy.special.expit(z),
    "tanh": np.tanh,
    "sigmoid": scipy.special.expit,
    "softplus": lambda z: np.logaddexp(0, z),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_are_their_definitions(activation, dtype):
    z = np.concatenate([np.linspace(-30, 30, 1001), [-1000.0, -100.0, 100.0, 1000.0]]).astype(dtype)
    expected = DEFINITIONS[activation](z.astype(np.float64))
    found = ACTIVATIONS[activation](z.copy())
    assert found.dtype == dtype
    np.testing.assert_allclose(found, expected, rtol=8 * np.finfo(dtype).eps, atol=4 * np.finfo(dtype).eps)


def test_a_callable_gives_what_the_name_gives(rng):
    W, X, y = CASES[1].draw(rng)
    named, called = (nc_fast.class_moments(W, X, y, activation=act) for act in ("relu", lambda z: np.maximum(z, 0)))
    np.testing.assert_array_equal(named.mean, called.mean)
    np.testing.assert_array_equal(named.m2, called.m2)


def test_a_callable_gives_nearly_what_a_curved_name_gives(rng):
    W, X, y = CASES[1].draw(rng)
    named, called = (nc_fast.class_moments(W, X, y, activation=act) for act in ("tanh", np.tanh))
    np.testing.assert_allclose(named.mean, called.mean, rtol=1e-13, atol=1e-14)
    np.testing.assert_allclose(named.m2, called.m2, rtol=1e-12)


def test_what_a_callable_returns_may_be_read_only_and_stays_as_it_is(rng):
    W, X, y = CASES[1].draw(rng)
    returned = []

    def frozen(z):
        result = np.maximum(z, 0)
        result.flags.writeable = False
        returned.append((result, result.copy()))
        return result

    called = nc_fast.class_moments(W, X, y, activation=frozen)
    np.testing.assert_array_equal(called.mean, nc_fast.class_moments(W, X, y, activation="relu").mean)
    for result, was in returned:
        np.testing.assert_array_equal(result, was)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64])
def test_integer_samples_are_converted_not_scaled(backend, dtype, rng):
    X = rng.integers(0, 100, size=(120, 9)).astype(dtype)
    W = rng.normal(size=(9, 14)).astype(np.float32)
    y = rng.integers(0, 3, size=120)
    found = nc_fast.class_moments(W, X, y, backend=backend)
    assert_moments_match(found, W, X.astype(np.float32), y)


def layouts(array):
    """The same numbers in every memory layout a user may hold them in."""
    wide = np.zeros((2 * array.shape[0], 3 * array.shape[1]), array.dtype)
    wide[::2, ::3] = array
    read_only = array.copy()
    read_only.flags.writeable = False
    swapped = array.astype(array.dtype.newbyteorder())
    return {
        "fortran": np.asfortranarray(array),
        "strided": wide[::2, ::3],
        "reversed": array[::-1, ::-1].copy()[::-1, ::-1],
        "read-only": read_only,
        "byte-swapped": swapped,
    }


@pytest.mark.parametrize("layout", layouts(np.zeros((2, 2))))
def test_memory_layout_changes_nothing(backend, layout, rng):
    W, X, y = CASES[1].draw(rng, np.float32)
    found = nc_fast.class_moments(layouts(W)[layout], layouts(X)[layout], y, backend=backend)
    assert_moments_match(found, W, X, y)


def test_inputs_are_not_modified(backend, rng):
    W, X, y = CASES[1].draw(rng)
    bias = rng.normal(size=W.shape[1])
    before = [array.copy() for array in (W, X, y, bias)]
    nc_fast.class_moments(W, X, y, bias=bias, activation="tanh", backend=backend)
    for array, was in zip((W, X, y, bias), before, strict=True):
        np.testing.assert_array_equal(array, was)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("activation", ["relu", "sigmoid"])  # all ten on the CPU: backends/test_moments_cpu_engine.py
def test_a_constant_activation_has_spread_exactly_zero(backend, activation, dtype, rng):
    _, X, y = CASES[1].draw(rng, dtype)
    W = np.zeros((X.shape[1], 3), dtype)
    W[:, 1] = rng.normal(size=len(W))
    bias = np.array([0.1, 0.1, -0.7])
    moments = nc_fast.class_moments(W, X, y, bias=bias, activation=activation, backend=backend)
    assert (moments.m2[:, [0, 2]] == 0).all()
    assert (moments.spread()[[0, 2]] == 0).all()
    assert moments.spread()[1] > 0


def test_a_single_sample_class_has_no_spread_inside(backend):
    W, X = np.ones((2, 1)), np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    moments = nc_fast.class_moments(W, X, [0, 1, 1], backend=backend)
    assert moments.m2[0, 0] == 0
    np.testing.assert_allclose(moments.within(), np.sqrt(8.0) / 2)


@pytest.mark.parametrize(
    "labels", [[3, -1, 3, 70], [True, False, True, True], ["b", "a", "b", "c"], np.array(["x", "y", "x", "z"], object)]
)
def test_labels_of_any_kind(labels, rng):
    moments = nc_fast.class_moments(rng.normal(size=(2, 3)), rng.normal(size=(4, 2)), labels)
    assert moments.classes.tolist() == sorted(set(labels))
    assert moments.count.sum() == 4


def test_large_offsets_do_not_cancel(rng):
    X = 1e6 + rng.normal(size=(500, 1))
    moments = nc_fast.class_moments(np.ones((1, 1)), X, np.zeros(500, int), activation="identity")
    np.testing.assert_allclose(moments.m2[0, 0], ((X - X.mean()) ** 2).sum(), rtol=1e-9)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(1, 8), st.integers(1, 5))
def test_batches_merge_to_the_whole(seed, n, n_features, n_parts):
    rng = np.random.default_rng(seed)
    W, X, y = rng.normal(size=(n_features, 6)), rng.normal(size=(n, n_features)), rng.integers(0, 4, size=n)
    cuts = np.sort(rng.integers(0, n + 1, size=n_parts - 1))
    parts = [(a, b) for a, b in zip(np.split(X, cuts), np.split(y, cuts), strict=True) if len(a)]
    whole = nc_fast.class_moments(W, X, y)
    merged = nc_fast.class_moments(W, iter(parts))
    np.testing.assert_array_equal(merged.classes, whole.classes)
    np.testing.assert_array_equal(merged.count, whole.count)
    np.testing.assert_allclose(merged.mean, whole.mean, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(merged.m2, whole.m2, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(merged.spread(), whole.spread(), rtol=1e-11, atol=1e-12)


def test_progress_reaches_the_number_of_samples(backend, rng):
    W, X, y = CASES[0].draw(rng)
    seen = []
    nc_fast.class_moments(W, X, y, backend=backend, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1] > 0
    assert seen == sorted(seen)


def test_a_progress_bar_needs_no_more_than_true(rng, capsys):
    pytest.importorskip("rich")
    W, X, y = CASES[0].draw(rng)
    nc_fast.class_moments(W, X, y, progress=True)
    nc_fast.class_moments(W, [(X, y)], progress=True)
    assert "Traceback" not in capsys.readouterr().err
