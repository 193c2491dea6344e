"""The product that leaves zeros out: against float64, bit for bit however it is cut, and when it is taken."""

import numpy as np
import pytest
from scipy import sparse

from nc_fast.backends.cpu.spmm import SAMPLED, merged_rows, most_blocks, multiply, paired_rows, used_features
from nc_fast.inputs.sparse import SparseRows

EPSILON = {np.float32: 2e-6, np.float64: 1e-12}
LAYOUTS = {"C": np.ascontiguousarray, "Fortran": np.asfortranarray, "strided": lambda W: np.repeat(np.repeat(W, 2, 0), 3, 1)[::2, ::3]}


def tile(n, D, density, dtype=np.float32, seed=0):
    rng = np.random.default_rng(seed)
    return np.where(rng.random((n, D)) < density, rng.standard_normal((n, D)), 0).astype(dtype)


def product(x, W):
    z = np.full((len(x), W.shape[1]), np.nan, x.dtype)
    multiply(paired_rows(x, np.arange(len(x)), 1.0), W, slice(0, W.shape[1]), z)
    return z


@pytest.mark.parametrize("dtype", EPSILON)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("n", "D", "m", "density"),
    [
        (1, 1, 1, 1),
        (2, 1, 64, 0.5),
        (7, 13, 63, 0.3),
        (8, 97, 65, 0.1),
        (33, 300, 257, 0.03),
        (64, 50, 129, 1),
        (5, 9, 3, 0),
        (3, 2000, 1, 0.9),
    ],
)
def test_it_is_the_product(n, D, m, density, layout, dtype):
    x = tile(n, D, density, dtype)
    W = np.random.default_rng(1).standard_normal((D, m)).astype(dtype)
    exact = x.astype(np.longdouble) @ W.astype(np.longdouble)
    lost = np.abs(x @ W - exact).max(initial=0)
    found = product(x, LAYOUTS[layout](W))
    np.testing.assert_allclose(found, exact, rtol=0, atol=lost + EPSILON[dtype] * max(1, np.abs(exact).max()))
    np.testing.assert_array_equal(found, product(x, W))  # the layout changes no bit


@pytest.mark.parametrize("dtype", EPSILON)
def test_the_bits_are_the_same_however_it_is_cut(dtype):
    x, W = tile(41, 120, 0.2, dtype), np.random.default_rng(1).standard_normal((120, 150)).astype(dtype)
    whole = product(x, W)
    for n in (1, 2, 3, 16):
        np.testing.assert_array_equal(np.vstack([product(x[i : i + n], W) for i in range(0, len(x), n)]), whole)
    for m in (1, 10, 64, 100):
        np.testing.assert_array_equal(np.hstack([product(x, W[:, j : j + m]) for j in range(0, 150, m)]), whole)
    order = np.random.default_rng(2).permutation(len(x))
    np.testing.assert_array_equal(product(x[order], W), whole[order])  # other pairs
    wider = np.zeros((len(x), 240), dtype)
    wider[:, ::2] = x
    np.testing.assert_array_equal(product(wider, np.repeat(W, 2, 0)), whole)  # features that nobody uses


def test_pairs_hold_the_features_that_either_row_uses():
    found = paired_rows(np.array([[0, 1, 0, 2], [0, 3, 4, 0], [0, 0, -0.0, 0], [0, 0, 0, 0], [5, 0, 0, 0]], np.float32), np.arange(5), 1.0)
    assert found.starts.tolist() == [0, 3, 3, 4]
    assert found.columns[:4].tolist() == [1, 2, 3, 0]
    assert found.values.tolist() == [[1, 3], [0, 4], [2, 0], [5, 0]]


def test_what_is_not_zero_is_kept():
    smallest = np.finfo(np.float32).smallest_subnormal
    x = np.array([[np.nan, 0, 0], [0, np.inf, 0], [0, 0, smallest]], np.float32)
    np.testing.assert_array_equal(product(x, np.ones((3, 1), np.float32)), [[np.nan], [np.inf], [smallest]])


def test_a_dense_tile_is_refused_after_a_few_rows_and_after_all():
    x = np.zeros((8 * SAMPLED, 10), np.float32)
    x[:, :5] = 1
    assert paired_rows(x, np.arange(len(x)), 0.5) is not None
    assert paired_rows(x, np.arange(len(x)), 0.49) is None
    x[2:] = np.nan  # unread where the sample is full
    x[:: 2 * SAMPLED] = 1
    assert paired_rows(x, np.arange(len(x)), 0.99) is None
    x[:] = 1
    x[:: 2 * SAMPLED] = x[1 :: 2 * SAMPLED] = 0  # the sample alone is empty
    assert paired_rows(x, np.arange(len(x)), 0.5) is None
    assert paired_rows(x, np.arange(len(x)), 1.0) is not None


def test_more_candidates_make_finding_zeros_worthwhile():
    assert most_blocks(1) < 0 < most_blocks(100) < most_blocks(10_000) < 1
    assert paired_rows(np.zeros((4, 4), np.float32), np.arange(4), most_blocks(1)) is None


@pytest.mark.parametrize("n", [1, 16, 100])
def test_used_features(n):
    x = tile(n, 70, 0.02)
    np.testing.assert_array_equal(used_features(x), np.flatnonzero(x.any(axis=0)))
    assert used_features(np.zeros((n, 3), np.float32)).size == 0
    x = np.zeros((n, 3))
    x[n - 1] = 1
    assert used_features(x).tolist() == [0, 1, 2]


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int8])
@pytest.mark.parametrize("n", [1, 6, 37])
def test_rows_of_a_sparse_matrix_give_the_same_pairs(n, dtype):
    x = (8 * tile(50, 23, 0.3)).astype(dtype)
    x[3] = x[11] = 0
    rows, X = np.random.default_rng(1).permutation(50)[:n], SparseRows(sparse.csr_array(x)).compressed(0, 50)
    for most in (0.1, 0.6, 1.0):
        found, expected = merged_rows(X, rows, most, np.dtype(np.float32)), paired_rows(x.astype(np.float32), rows, most)
        assert (found is None) == (expected is None)
        if expected:
            np.testing.assert_array_equal(found.starts, expected.starts)
            np.testing.assert_array_equal(found.columns[:-1], expected.columns[:-1])
            np.testing.assert_array_equal(found.values, expected.values)
    np.testing.assert_array_equal(X.dense(rows), x[rows])


@pytest.mark.parametrize(
    "untidy",
    [
        sparse.csr_array((np.array([1.0, 2, 3]), np.array([2, 0, 1]), np.array([0, 2, 3])), (2, 3)),  # columns out of order
        sparse.csr_array(
            (np.array([1.0, 1, 3, -3]), np.array([2, 2, 1, 1]), np.array([0, 2, 4])), (2, 3)
        ),  # entries that add up, one pair to 0
        sparse.csr_array((np.array([1.0, 0]), np.array([2, 1]), np.array([0, 1, 2])), (2, 3)),  # a zero among them
        sparse.csr_array((2, 3)),
    ],
)
def test_compressed_rows_are_tidy(untidy):
    kept = untidy.copy()
    for first, stop in [(0, 2), (1, 2), (0, 1)]:
        found, dense = SparseRows(untidy).compressed(first, stop), untidy.toarray()[first:stop]
        assert found.shape == dense.shape
        np.testing.assert_array_equal(found.dense(np.arange(len(found))), dense)
        assert len(found.values) == found.starts[-1] == np.count_nonzero(dense)
        assert all(np.all(np.diff(found.columns[a:b]) > 0) for a, b in zip(found.starts[:-1], found.starts[1:], strict=True))
    for ours, theirs in ((untidy.data, kept.data), (untidy.indices, kept.indices)):  # the user's own matrix stays as it was
        np.testing.assert_array_equal(ours, theirs)
