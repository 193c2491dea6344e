"""``bias="center"`` and sparse samples on gloo ranks: the mean is over the samples of all ranks."""

import numpy as np
import pytest

pytest.importorskip("torch")

from distributed_cases import SHARDS, assert_same, campaign, share, started
from scipy import sparse

import nc_fast

workers = pytest.fixture(scope="module", params=[2])(started)


def problem():
    rng = np.random.default_rng(4)
    y = np.sort(rng.integers(0, 3, 90))
    X = rng.normal(size=(90, 7)) + np.eye(3, 7)[y] + np.linspace(0, 9, 90)[:, None]  # every part has another mean
    return rng.normal(size=(7, 40)), X, y


@pytest.mark.parametrize("uneven", [False, True], ids=["even", "uneven"])
@pytest.mark.parametrize("form", [np.asarray, sparse.csr_array])
@pytest.mark.parametrize("shard", SHARDS)
def test_campaign(workers, shard, form, uneven):
    W, X, y = problem()
    expected = nc_fast.campaign(W, X, y, 6, bias="center")
    assert not np.array_equal(expected.indices, nc_fast.campaign(W, X, y, 6, bias=-X[:45].mean(0) @ W).indices)
    for found, _ in workers.run(campaign, W, form(X), y, 6, shard, {"bias": "center"}, uneven):
        if shard == "candidates":
            assert_same(found, expected)
        np.testing.assert_array_equal(found.indices, expected.indices)
        np.testing.assert_allclose(found.bias, expected.bias, rtol=1e-12)  # parts may be added in another order


def moments(rank, group, W, X, y, bias):
    W, X, y = share(W, X, y, rank, group.size(), "samples", True)
    return nc_fast.class_moments(W, X, y, bias=bias[rank] if isinstance(bias, tuple) else bias, process_group=group)


def test_class_moments(workers):
    W, X, y = problem()
    expected = nc_fast.class_moments(W, X, y, bias="center")
    for found in workers.run(moments, W, X, y, "center"):
        np.testing.assert_array_equal(found.count, expected.count)
        np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-6, atol=1e-6)


def test_errors_are_the_same_on_every_rank(workers):
    W, X, y = problem()
    for error in workers.errors(moments, W, X, y, ("center", 0.0)):
        assert "pool: expected the same on every rank" in str(error)
