"""A pursuit on gloo ranks: the picks of one process that has all samples, the same result on every rank, errors on all."""

import numpy as np
import pytest

pytest.importorskip("torch")

from distributed_cases import parts, started

import nc_fast

RNG = np.random.default_rng(0)
Y = np.sort(RNG.integers(0, 4, 900))
X = (RNG.normal(size=(900, 8)) + 2 * np.eye(4, 8)[Y]).astype(np.float32)
W = RNG.normal(size=(8, 120)).astype(np.float32)

ranks = pytest.fixture(scope="module", params=[2, 3])(started)


def pursue(rank, group, X, y, k, options, uneven, batch=0):
    mine = parts(len(X), group.size(), uneven)[rank]
    X, y = X[mine], y[mine]
    if batch:
        X, y = [(X[i : i + batch], y[i : i + batch]) for i in range(0, len(X), batch)], None
    return nc_fast.pursuit(W, X, y, k, process_group=group, **options)


def unlike(rank, group, what):
    y = {"kind": Y.astype(str) if rank else Y, "targets": Y.astype(float) if rank else Y, "seed": Y, "nan": Y}[what]
    x = np.where(np.arange(900)[:, None] == 5, np.nan, X) if what == "nan" and rank else X
    return nc_fast.pursuit(W, x, y, 5, rng=rank if what == "seed" else 0, process_group=group)


@pytest.mark.parametrize("uneven", [False, True])
@pytest.mark.parametrize("y", [Y, np.array(["ab", "c", "def", "g"])[Y], np.column_stack([np.sin(X[:, 0]), X[:, 1] ** 2])])
def test_the_picks_are_those_of_one_process(ranks, y, uneven):
    expected = nc_fast.pursuit(W, X, y, 20, max_samples=400)
    found = ranks.run(pursue, X, y, 20, {"max_samples": 400}, uneven)
    for result in found:
        np.testing.assert_array_equal(result.indices, expected.indices)
        np.testing.assert_array_equal(result.gains, expected.gains)
        assert result.gram.weight == 900
        assert result.ridge == expected.ridge
        np.testing.assert_allclose(result.head, expected.head, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(result.head, found[0].head)
        if y.ndim == 1:
            assert result.classes.tolist() == np.unique(y).tolist()


def test_batches_on_ranks(ranks):
    found = ranks.run(pursue, X, Y, 10, {"max_samples": 2000}, True, 64)
    expected = nc_fast.pursuit(W, X, Y, 10, max_samples=2000)
    for result in found:  # all samples are drawn, in the same order
        np.testing.assert_array_equal(result.indices, expected.indices)
        np.testing.assert_array_equal(result.head, found[0].head)


@pytest.mark.parametrize("batch", [0, 64])
def test_samples_that_are_left_out_are_on_no_rank(ranks, batch):
    gone = np.arange(900) % 3 == 0
    gone[:400] = True  # with two ranks or more, nearly all the first one has
    expected = nc_fast.pursuit(W, X[~gone], Y[~gone], 10, max_samples=2000)
    dirty = np.where(gone[:, None], np.float32(np.nan), X)
    for result in ranks.run(pursue, dirty, np.where(gone, -1, Y), 10, {"max_samples": 2000, "ignore_index": -1}, False, batch):
        np.testing.assert_array_equal(result.indices, expected.indices)
        assert result.gram.weight == (~gone).sum()


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("kind", "y: expected labels of one kind"),
        ("targets", "y: expected"),
        ("seed", "rng: expected the same"),
        ("nan", "rank 1: X: expected finite"),
    ],
)
def test_what_differs_is_an_error_on_every_rank(ranks, what, message):
    for error in ranks.errors(unlike, what):
        assert message in str(error)
