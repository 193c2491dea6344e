"""Moments through class covariances, against exact arithmetic and against the ordinary way."""

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

import nc_fast
from nc_fast.backends.cpu import covariances

TOLERANCE = {np.float64: 1e-12, np.float32: 2e-6}  # docs/numerics.md
N, D, M, C = 240, 12, 20, 3


def correlated(rng):
    return rng.normal(size=(N, D)) @ np.triu(rng.normal(size=(D, D))) + rng.normal(size=D)


def kahan(rng):  # singular values down to 1e-10 or so
    s, c = np.sin(0.3), np.cos(0.3)
    return rng.normal(size=(N, D)) @ (s ** np.arange(D)[:, None] * (np.eye(D) - c * np.triu(np.ones((D, D)), 1)))


def duplicated(rng):
    return rng.normal(size=(N, D))[:, np.arange(D) // 3]


def sparse_pixels(rng):
    return rng.integers(1, 256, (N, D)) * (rng.random((N, D)) < 0.3) * (np.arange(D) % 4 > 0)


FAMILIES = {
    "Gaussian": lambda rng: rng.normal(size=(N, D)),
    "correlated": correlated,
    "Kahan": kahan,
    "duplicated features": duplicated,
    "nearly duplicated features": lambda rng: duplicated(rng) + 1e-6 * rng.normal(size=(N, D)),
    "rank 2": lambda rng: rng.normal(size=(N, 2)) @ rng.normal(size=(2, D)),
    "scales 1e-12 to 1e12": lambda rng: rng.normal(size=(N, D)) * np.logspace(-12, 12, D),
    "offset 1e6": lambda rng: 1e6 + rng.normal(size=(N, D)),
    "offset 1e8": lambda rng: 1e8 + rng.normal(size=(N, D)),
    "an outlier": lambda rng: rng.normal(size=(N, D)) + 1e6 * (np.arange(N) == 0)[:, None],
    "constant in a class": lambda rng: rng.normal(size=(N, D)) * (np.arange(N) % C > 0)[:, None] + 3,
    "pixels": sparse_pixels,
}


@pytest.fixture
def codes(rng):
    return np.append(np.arange(N - 1) % C, C)  # the last class has one sample


@pytest.fixture
def always(monkeypatch):
    """Every identity activation through covariances, in several parts of everything."""
    calls = []
    monkeypatch.setattr(covariances, "pays", lambda *sizes: calls.append(sizes) or True)
    for name, size in {"SCATTER_ROWS": 37, "FACTOR_ROWS": 5, "COLUMNS": 7, "FACTOR_BYTES": 2 * 8 * D**2}.items():
        monkeypatch.setattr(covariances, name, size)
    return calls


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("family", FAMILIES)
def test_inside_the_budget_of_exact_arithmetic(family, dtype, codes, always, rng):
    oracle = pytest.importorskip("oracle", exc_type=ImportError)
    X = FAMILIES[family](rng).astype(dtype)
    W = rng.normal(size=(D, M)).astype(dtype)
    W[:, 0] = np.eye(D)[1]
    W[:, 1] = np.eye(D)[3] - np.eye(D)[4]
    W[:, 2] *= np.arange(D) < 2
    if np.linalg.matrix_rank(X - X.mean(axis=0)) == D:
        W[:, 3] = np.linalg.svd(X - X.mean(axis=0))[2][-1]  # the direction of least variance
    found = nc_fast.class_moments(W, X, codes, activation="identity", backend="cpu")
    assert always, "the ordinary way was taken"
    z, mean, m2 = oracle.exact_moments(W, X, codes)
    budget = abs(X @ W - z).max(axis=0) + TOLERANCE[dtype] * abs(z).max(axis=0)
    count = np.bincount(codes)[:, None]
    assert (abs(found.mean - mean) <= budget).all()
    assert (abs(found.m2 - m2) <= 4 * budget * (np.sqrt(m2 * count) + budget * count)).all()
    assert (found.m2[-1] == 0).all()


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_constant_candidates_are_constant_to_the_last_bit(dtype, codes, always, rng):
    X, W = rng.normal(size=(N, D)).astype(dtype), rng.normal(size=(D, M)).astype(dtype)
    X[:, :4] = rng.normal(size=4)
    W[4:, :8] = 0  # of constant features alone
    W[:, 7] = 0
    X[:, 5] = X[:, 4]
    W[:, 8] = np.eye(D)[4] - np.eye(D)[5]  # of features that cancel
    bias = rng.normal(size=M)
    found = nc_fast.class_moments(W, X, codes, bias=bias, activation="identity", backend="cpu")
    assert (found.spread() == 0).tolist() == [True] * 9 + [False] * (M - 9)
    assert (found.m2[:, :9] == 0).all()
    streamed = nc_fast.class_moments(W, iter([(X, codes), (X[:50], codes[:50])]), bias=bias, activation="identity", backend="cpu")
    assert (streamed.spread() == 0).tolist() == [True] * 9 + [False] * (M - 9)


def test_a_constant_candidate_has_the_bits_of_the_ordinary_way(codes, always, monkeypatch, rng):
    """So that a stream may take either way from block to block."""
    X, W = rng.normal(size=(N, D)).astype(np.float32), rng.normal(size=(D, M)).astype(np.float32)
    X[:, :8] = rng.normal(size=8)
    W[8:, 5] = 0
    found = nc_fast.class_moments(W, X, codes, activation="identity", backend="cpu")
    monkeypatch.setattr(covariances, "pays", lambda *_: False)
    ordinary = nc_fast.class_moments(W, X, codes, activation="identity", backend="cpu")
    np.testing.assert_array_equal(found.mean[:, 5], ordinary.mean[:, 5])
    assert (found.mean != ordinary.mean).any()


def swapped(X):
    return X.astype(X.dtype.newbyteorder())


def read_only(X):
    X = X.copy()
    X.flags.writeable = False
    return X


LAYOUTS = {"Fortran": np.asfortranarray, "strided": lambda X: np.repeat(X, 2, axis=1)[:, ::2], "swapped": swapped, "read-only": read_only}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [np.float32, np.uint8, np.int64])
def test_every_layout_and_dtype(layout, dtype, codes, always, rng):
    X, W = rng.integers(0, 200, (N, D)).astype(dtype), rng.normal(size=(D, M)).astype(np.float32)
    expected = nc_fast.class_moments(W.astype(float), X.astype(float), codes, activation=np.positive, backend="cpu")
    found = nc_fast.class_moments(LAYOUTS[layout](W), LAYOUTS[layout](X), codes, activation="identity", backend="cpu")
    np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-6, atol=1e-4)
    np.testing.assert_allclose(found.m2, expected.m2, rtol=1e-5)


def test_the_same_bits_for_any_number_of_threads(codes, always, rng):
    X, W = rng.normal(size=(N, D)).astype(np.float32), rng.normal(size=(D, M)).astype(np.float32)
    found = []
    for threads in (1, 2, 5):
        with threadpool_limits(threads, user_api="blas"):
            found.append(nc_fast.class_moments(W, X, codes, activation="identity", backend="cpu"))
    for other in found[1:]:
        np.testing.assert_array_equal(other.mean, found[0].mean)
        np.testing.assert_array_equal(other.m2, found[0].m2)


@pytest.mark.parametrize("most", [15, 14, 3])  # the 15th column would be a block of its own
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_equal_candidates_have_equal_bits(dtype, most, codes, always, rng):
    X, W = rng.normal(size=(N, D)).astype(dtype), np.repeat(rng.normal(size=(D, 1)), most, axis=1).astype(dtype)
    W[:, 1] = rng.normal(size=D)
    found = nc_fast.class_moments(W, X, codes, activation="identity", backend="cpu")
    for j in range(2, most):
        np.testing.assert_array_equal(found.mean[:, j], found.mean[:, 0])
        np.testing.assert_array_equal(found.m2[:, j], found.m2[:, 0])


def test_an_error_in_a_report_comes_through_and_leaves_blas_as_it_was(codes, always, rng):
    def threads():
        return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]

    for last in (1, N // 2, N - 1):

        def report(done, total, *_, last=last):
            if done >= last:
                raise RuntimeError("mine")

        before = threads()
        with pytest.raises(RuntimeError, match="mine"):
            nc_fast.class_moments(rng.normal(size=(D, M)), rng.normal(size=(N, D)), codes, activation="identity", progress=report)
        assert threads() == before


def test_progress_ends_at_all_samples(codes, always, rng):
    calls = []
    nc_fast.class_moments(
        rng.normal(size=(D, M)), rng.normal(size=(N, D)), codes, activation="identity", progress=lambda *call: calls.append(call)
    )
    done = [call[0] for call in calls]
    assert done == sorted(done)
    assert len(set(done)) > 10
    assert calls[-1][:2] == (N, N)


@pytest.mark.parametrize(("dtype", "scale"), [(np.float32, 1e30), (np.float64, 1e160), (np.float64, 1e-200)])
def test_squares_that_leave_the_range_are_left_to_the_ordinary_way(dtype, scale, codes, always, rng):
    X, W = (scale * rng.normal(size=(N, D))).astype(dtype), rng.normal(size=(D, M)).astype(dtype)
    found = nc_fast.class_moments(W / dtype(scale), X, codes, activation="identity", backend="cpu")
    expected = nc_fast.class_moments(W / dtype(scale), X, codes, activation=np.positive, backend="cpu")
    np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.m2, expected.m2, rtol=1e-4)


def test_it_is_taken_where_it_pays(monkeypatch, rng):
    assert covariances.pays(60_000, 784, 10_000, 10)
    assert not covariances.pays(60_000, 784, 500, 10), "too few candidates"
    assert not covariances.pays(60_000, 784, 10_000, 1000), "too many classes"
    assert not covariances.pays(1000, 300, 100_000, 2), "too few samples"
    assert not covariances.pays(10**7, 4000, 10**6, 2), "too large a matrix"
    assert not any(covariances.pays(*sizes) for sizes in [(0, 3, 5, 0), (100, 1, 0, 2), (50, 2, 5, 2)])
    taken = []
    own = covariances.class_moments
    monkeypatch.setattr(covariances, "class_moments", lambda *arguments: taken.append(1) or own(*arguments))
    X, W = rng.normal(size=(20_000, 8)).astype(np.float32), rng.normal(size=(8, 3000)).astype(np.float32)
    for activation, most in (("relu", 3000), ("identity", 100), ("identity", 3000)):
        assert not taken
        nc_fast.class_moments(W[:, :most], X, np.arange(20_000) % 3, activation=activation, backend="cpu")
    assert taken == [1]
