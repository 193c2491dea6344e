"""Pools of candidates: what they are drawn from, their biases, every form of X and y, the same bits for any number of threads."""

from itertools import product

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from nc_fast.candidates import data_pairs, gaussian

ALPHA = 1e-6  # a correct sampler fails a test of this level once in a million seeds; the seeds are fixed


class Frame:
    """What NumPy asks of a DataFrame, whose columns are contiguous."""

    def __init__(self, X):
        self._X, self.shape = np.asfortranarray(X), X.shape

    def __array__(self, dtype=None, copy=None):
        return self._X


def pairs_of(W, X):
    """Return the numbers (first, second) of the samples that each candidate points from and to, by looking at all pairs."""
    X = np.asarray(X, np.float64)
    difference = X[None, :, :] - X[:, None, :]
    with np.errstate(invalid="ignore"):
        all_w = (difference / (difference**2).sum(2, keepdims=True)).reshape(len(X) ** 2, -1)
    distance = np.abs(all_w[:, None, :] - np.asarray(W, np.float64).T[None]).max(2)
    nearest = np.nanargmin(distance, axis=0)
    assert distance[nearest, np.arange(W.shape[1])].max() < 1e-5 * np.abs(W).max()
    return np.stack(np.divmod(nearest, len(X)))


def assert_distribution(counts, probabilities):
    """Compare counts of independent draws with their probabilities (chi-squared)."""
    stats = pytest.importorskip("scipy.stats")
    assert not counts[probabilities == 0].any()
    possible = probabilities > 0
    assert stats.chisquare(counts[possible], probabilities[possible] * counts.sum()).pvalue > ALPHA


def pair_counts(pairs, n):
    return np.bincount(pairs[0] * n + pairs[1], minlength=n * n).reshape(n, n)


@pytest.mark.parametrize(("D", "M"), [(1, 1), (7, 13), (300, 501), (70_000, 3)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, "float32"])
def test_gaussian_shapes_and_dtypes(D, M, dtype):
    W = gaussian(D, M, dtype=dtype)
    assert W.shape == (D, M)
    assert W.dtype == dtype
    assert W.T.flags.c_contiguous


def test_gaussian_weights_have_the_distribution():
    stats = pytest.importorskip("scipy.stats")
    W = gaussian(50, 4000, 3)
    assert stats.kstest(W.ravel() * np.sqrt(50 / 2), "norm").pvalue > ALPHA
    for lag in (1, 2, 20, 50):
        assert abs(np.corrcoef(W[:, lag:].ravel(), W[:, :-lag].ravel())[0, 1]) < 5 / np.sqrt(W.size)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("D", "M"), [(1, 1), (1, 3000), (3, 7), (784, 501), (70_000, 3), (70_000, 4)])
def test_antithetic_candidates_are_the_others_and_what_is_minus_them(D, M, dtype):
    W = gaussian(D, M, 5, dtype=dtype, antithetic=True)
    assert (W.shape, W.dtype) == ((D, M), dtype)
    assert W.T.flags.c_contiguous
    np.testing.assert_array_equal(W[:, ::2], gaussian(D, (M + 1) // 2, 5, dtype=dtype))
    np.testing.assert_array_equal(W[:, 1::2], -W[:, : M - M % 2 : 2])
    np.testing.assert_array_equal(gaussian(D, M // 2 + 1, 5, dtype=dtype, antithetic=True), W[:, : M // 2 + 1])


def test_gaussian_seeds_and_generators():
    np.testing.assert_array_equal(gaussian(9, 40, 5), gaussian(9, 40, np.random.default_rng(5)))
    np.testing.assert_array_equal(gaussian(900, 40, 5), gaussian(900, 400, 5)[:, :40])
    generator = np.random.default_rng(5)
    assert not np.array_equal(gaussian(9, 40, generator), gaussian(9, 40, generator))
    assert not np.array_equal(gaussian(9, 40, 5), gaussian(9, 40, 6))


@pytest.mark.parametrize("y", [[0, 1, 1, 2, 2, 2, 0], [0] * 6 + [1], [3, 1, 2, 0, 5, 4, 6], [True, False, True, True, True, True, True]])
def test_pairs_are_uniform_over_pairs_of_different_classes(y, rng):
    X, y = rng.normal(size=(7, 3)), np.array(y)
    W, _ = data_pairs(X, y, 20_000, 1)
    possible = (y[:, None] != y[None, :]).astype(float)
    assert_distribution(pair_counts(pairs_of(W, X), 7), possible / possible.sum())


def test_samples_that_are_alike_never_make_a_candidate_and_the_others_are_uniform(rng):
    places = np.array([0, 0, 0, 1, 1, 2, 0, 3, 0, 0])  # rows of the same place are alike
    y = np.array([0, 1, 2, 0, 1, 1, 0, 2, 3, 3])
    X = rng.normal(size=(4, 3))[places]
    W, _ = data_pairs(X, y, 20_000, 2)
    possible = ((y[:, None] != y[None, :]) & (places[:, None] != places[None, :])).astype(float)
    of_places = np.zeros((4, 4))
    for i, j in product(range(10), repeat=2):
        of_places[places[i], places[j]] += possible[i, j]
    distinct, first = np.unique(places, return_index=True)
    counts = pair_counts(pairs_of(W, X[first]), len(distinct))
    assert_distribution(counts, of_places / possible.sum())


def test_one_sample_apart_from_thousands_alike_is_found():
    X, y = np.zeros((5000, 2)), np.arange(5000) % 2
    X[17] = -0.0, 3.0
    X[18] = -0.0, -0.0  # is zero too
    W, bias = data_pairs(X, y, 100)
    np.testing.assert_array_equal(np.abs(W), np.repeat([[0.0], [1 / 3]], 100, axis=1))
    np.testing.assert_allclose(W[1] * 1.5 + bias, 0, atol=1e-15)


@pytest.mark.parametrize("width", [None, 1, 3])
def test_float_targets_weigh_pairs_by_their_slope(width, rng):
    X = rng.normal(size=(8, 2))
    y = rng.normal(size=8 if width is None else (8, width))
    y[3] = y[2]
    W, _ = data_pairs(X, y, 30_000, 3)
    dy = np.linalg.norm(y.reshape(8, -1)[:, None] - y.reshape(8, -1)[None], axis=2)
    dx = np.linalg.norm(X[:, None] - X[None], axis=2)
    slope = np.divide(dy, dx, out=np.zeros_like(dy), where=dx > 0)
    assert_distribution(pair_counts(pairs_of(W, X), 8), slope / slope.sum())


def test_few_candidates_have_the_distribution_of_float_targets_too(rng):
    X, y = np.array([[0.0], [1.0], [10.0]]), np.array([0.0, 1.0, 1.5])
    W = np.concatenate([data_pairs(X, y, 1, seed)[0][0] for seed in range(600)])
    slopes = {1.0: 1.0, 1 / 9: 0.5 / 9, 1 / 10: 1.5 / 10}
    counts = np.array([np.isclose(np.abs(W), w).sum() for w in slopes])
    assert_distribution(counts, np.array(list(slopes.values())) / sum(slopes.values()))


def test_float_targets_whose_few_distinct_values_are_rare_are_found():
    X, y = np.arange(20_000.0)[:, None], np.zeros(20_000)
    y[7] = 1e-200
    assert np.isfinite(data_pairs(X, y, 5)[0]).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8, np.int64])
def test_the_kink_is_midway(dtype, rng):
    X = (100 * rng.random((40, 20))).astype(dtype)
    W, bias = data_pairs(X, np.arange(40) % 3, 60)
    first, second = pairs_of(W, X)
    exact = X.astype(np.float64)
    eps = np.finfo(W.dtype).eps
    at = lambda x: np.einsum("ij,ji->i", x, W.astype(np.float64)) + bias  # noqa: E731
    np.testing.assert_allclose(at((exact[first] + exact[second]) / 2), 0, atol=60 * eps)
    np.testing.assert_allclose(at(exact[first]), -0.5, atol=60 * eps)
    np.testing.assert_allclose(at(exact[second]), 0.5, atol=60 * eps)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8])
def test_the_centred_bias_leaves_a_mean_of_zero(dtype, rng):
    X = (100 * rng.random((4000, 20))).astype(dtype)
    y = np.arange(4000) % 3
    W, bias = data_pairs(X, y, 50, where="center")
    np.testing.assert_array_equal(W, data_pairs(X, y, 50)[0])
    mean = X.mean(0, dtype=np.float64) @ W.astype(np.float64)
    np.testing.assert_allclose(bias, -mean, rtol=4 * np.finfo(W.dtype).eps)


@pytest.mark.parametrize(("X_dtype", "dtype"), [("<f4", "f4"), ("<f8", "f8"), (">f8", "f8"), ("u1", "f4"), ("i8", "f4")])
def test_dtype_and_layout(X_dtype, dtype, rng):
    X = (9 * rng.normal(size=(30, 4))).astype(X_dtype)
    W, bias = data_pairs(X, np.arange(30) % 2, 11)
    assert (W.shape, W.dtype, bias.shape, bias.dtype) == ((4, 11), dtype, (11,), dtype)
    assert W.T.flags.c_contiguous
    for other in (np.asfortranarray(X), np.repeat(X, 2, axis=0)[::2]):
        np.testing.assert_array_equal(data_pairs(other, np.arange(30) % 2, 11)[0], W)


@pytest.mark.parametrize("labels", [np.array(list("abcab") * 6), np.array([b"x", b"y"] * 15), [5, 900] * 15, np.arange(30) % 3 == 0])
def test_labels_of_every_kind_are_their_codes(labels, rng):
    X = rng.normal(size=(30, 4))
    codes = np.unique(labels, return_inverse=True)[1]
    np.testing.assert_array_equal(data_pairs(X, labels, 20)[0], data_pairs(X, codes, 20)[0])


@pytest.fixture(params=["labels", "targets"])
def problem(request, rng):
    X = rng.normal(size=(600, 30)).astype(np.float32)
    X[rng.random(X.shape) < 0.6] = 0
    X[300:350] = X[:50]  # some alike
    return X, rng.integers(0, 4, 600) if request.param == "labels" else rng.normal(size=600)


@pytest.mark.parametrize("where", ["midway", "center"])
@pytest.mark.parametrize("form", ["memmap", "csr", "coo", "csc_array", "tensor", "dataframe", "slices"])
def test_every_form_of_the_samples_gives_the_same_bits(problem, where, form, tmp_path):
    X, y = problem
    expected = data_pairs(X, y, 700, 4, where=where)
    other = X
    if form == "memmap":
        other = np.memmap(tmp_path / "X", X.dtype, "w+", shape=X.shape)
        other[...] = X
    elif form in ("csr", "coo", "csc_array"):
        sparse = pytest.importorskip("scipy.sparse")
        other = {"csr": sparse.csr_matrix, "coo": sparse.coo_matrix, "csc_array": sparse.csc_array}[form](X)
    elif form == "tensor":
        other = pytest.importorskip("torch").from_numpy(X)
    elif form == "dataframe":
        other = Frame(X)
    elif form == "slices":
        from stream_cases import OnlySlices

        other = OnlySlices(X)
    found = data_pairs(other, y, 700, 4, where=where)
    for a, b in zip(found, expected, strict=True):
        assert type(a) is type(other) if form == "tensor" else type(a) is np.ndarray
        np.testing.assert_array_equal(np.asarray(a), b)


def test_the_number_of_threads_changes_no_bit(rng):
    X, y = rng.normal(size=(3000, 784)).astype(np.float32), rng.integers(0, 10, 3000)
    calls = [
        lambda: (gaussian(784, 2000), gaussian(784, 2001, antithetic=True)),
        lambda: data_pairs(X, y, 2000),
        lambda: data_pairs(X, y, 2000, where="center"),
        lambda: data_pairs(X, X[:, :2], 2000, where="center"),
    ]
    found = []
    for threads in (1, 2):
        with threadpool_limits(threads):
            found.append([array for call in calls for array in call()])
    for one, two in zip(*found, strict=True):
        np.testing.assert_array_equal(one, two)


def test_a_generator_goes_on(rng):
    X, y = rng.normal(size=(50, 3)), np.arange(50) % 2
    generator = np.random.default_rng(0)
    first, second = data_pairs(X, y, 20, generator)[0], data_pairs(X, y, 20, generator)[0]
    np.testing.assert_array_equal(first, data_pairs(X, y, 20, 0)[0])
    assert not np.array_equal(first, second)


@pytest.mark.parametrize(
    ("X", "y", "message"),
    [
        (np.eye(3), [1, 1, 1], r"y: expected labels of at least two values"),
        (np.eye(3), [1.0, 1.0, 1.0], r"y: expected targets of at least two values"),
        (np.ones((3, 2)), [0, 1, 2], r"X: expected two samples that differ"),
        (np.ones((3, 2)), [0.0, 1.0, 2.0], r"X: expected two samples that differ"),
        (np.array([[0, 1], [0, 1], [2, 2]]), [0, 1, 1], None),
        (np.array([[0, 1], [0, 1], [2, 2], [2, 2]]), [0, 0, 1, 1], None),
        (np.array([[0.0], [1e-30]], np.float32), [0, 1], r"X: expected samples whose squared distances float32 can hold"),
        (np.array([[0.0], [1e30]], np.float32), [0, 1], r"X: expected samples whose squared distances float32 can hold"),
        (np.array([[2**53], [2**53 + 1]]), [0, 1], r"X: expected two samples that differ"),  # not as float32
    ],
)
def test_degenerate_samples(X, y, message):
    if message is None:
        assert np.isfinite(data_pairs(X, y, 50)[0]).all()
        return
    with pytest.raises(ValueError, match=message):
        data_pairs(X, y, 50)
