"""Campaigns on 2 and 4 gloo ranks: the picks of one process, the bytes of the model."""

import json

import numpy as np
import pytest

pytest.importorskip("torch")

from distributed_cases import SHARDS, assert_same, campaign, parts, share, started
from distributed_model import Machine, Problem, expected_bytes, expected_seconds

import nc_fast
from nc_fast.testing import CASES, Case

workers = pytest.fixture(scope="module", params=[2, 4])(started)
OPTIONS = [{}, {"alpha": 0.0}, {"alpha": 1.0, "by_class": False}, {"activation": "tanh", "bias": -0.2}]


@pytest.mark.parametrize("uneven", [False, True], ids=["even", "uneven"])
@pytest.mark.parametrize("shard", SHARDS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_picks_of_one_process(workers, case, shard, uneven):
    W, X, y = case.draw(np.random.default_rng(1), np.float32)
    y = np.sort(y)  # so that most ranks lack most classes
    for options in OPTIONS:
        expected = nc_fast.campaign(W, X, y, case.k, **options)
        for found, _ in workers.run(campaign, W, X, y, case.k, shard, options, uneven):
            assert_same(found, expected)
            if shard == "samples":
                np.testing.assert_allclose(found.candidates.score, expected.candidates.score, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("shard", SHARDS)
def test_every_golden(workers, shard, shared):
    paths = sorted((shared / "golden").glob("*.npz"))
    assert len(paths) == 51
    for path in paths:
        golden = np.load(path)
        meta = json.loads(str(golden["meta"]))
        W, X, y = golden["W"].astype(np.float32), golden["X"].astype(np.float32) / meta.get("x_divisor", 1), golden["y"]
        options = {name: meta[name] for name in ("alpha", "bias", "activation")}
        expected = nc_fast.campaign(W, X, y, meta["k"], **options)
        for found, _ in workers.run(campaign, W, X, y, meta["k"], shard, options):
            np.testing.assert_array_equal(found.indices, expected.indices)
            if meta["well_defined"]:
                np.testing.assert_array_equal(found.indices, golden["indices"])


def mnist_campaign(rank, group, folder, n, M, k, shard):
    from nc_fast.files.read import load_idx_folder

    data = load_idx_folder(folder).scaled()
    W = np.random.default_rng(0).normal(size=(784, M), scale=0.05).astype(np.float32)
    return campaign(rank, group, W, data.X_train[:n], data.y_train[:n], k, shard, {})


@pytest.mark.parametrize("shard", SHARDS)
def test_mnist_picks_and_bytes(workers, shard, shared, mnist):
    """At N = 60000 this is ``benchmarks/bench_distributed.py``."""
    N, M, k = 2000, 5000, 500
    data = mnist.scaled()
    W = np.random.default_rng(0).normal(size=(784, M), scale=0.05).astype(np.float32)
    expected = nc_fast.campaign(W, data.X_train[:N], data.y_train[:N], k)
    model = expected_bytes(Problem(N, 784, M, 10, k, label_bytes=1), workers.size, shard)
    for found, traffic in workers.run(mnist_campaign, shared / "data" / "mnist", N, M, k, shard):
        assert_same(found, expected)
        assert dict(traffic.received) == model


def test_bytes_of_many_shortlists_are_those_of_the_model(workers):
    """Equal scores: shortlists decide little, and the model takes the headers and records that were counted."""
    case = Case("", 50, 12, 90, 3, 40)
    W, X, y = case.draw(np.random.default_rng(0), np.float32)
    problem = Problem(case.N, case.D, case.M, case.C, case.k)
    for _, traffic in workers.run(campaign, W, X, y, case.k, "candidates", {"criterion": equal}):
        counted = expected_bytes(problem, workers.size, "candidates", headers=traffic.headers, records=traffic.records)
        assert traffic.records > 0
        assert traffic.received["selection"] == counted["selection"]


def equal(moments):
    return np.ones(moments.n_candidates), moments.mean.argmax(0)


def hard_pool(rng, M):
    """Duplicates, parallel and opposite vectors, dead candidates, more picks than features."""
    W = rng.normal(size=(5, M)).astype(np.float32)
    W[:, 7::11] = W[:, :1]
    W[:, 9::13] = -2 * W[:, 1:2]
    W[:, 4::17] = 0
    return W


def halves(moments):
    score = np.where(np.arange(moments.n_candidates) % 3 == 0, -1.0, np.arange(moments.n_candidates) % 2)
    return score, np.arange(moments.n_candidates) % len(moments.classes)


@pytest.mark.parametrize("criterion", [None, equal, halves], ids=["ib", "equal", "zeros and negatives"])
@pytest.mark.parametrize("by_class", [True, False])
@pytest.mark.parametrize("k", [1, 40, 97])
def test_ties_dead_candidates_and_restarts(workers, criterion, by_class, k, recwarn):
    rng = np.random.default_rng(3)
    W, X, y = hard_pool(rng, 97), rng.normal(size=(80, 5)).astype(np.float32), rng.integers(0, 3, size=80)
    options = {"criterion": criterion, "by_class": by_class, "alpha": 0.2}
    expected = nc_fast.campaign(W, X, y, k, **options)
    assert expected.restarts > 0 or k == 1
    for shard in SHARDS:
        for found, _ in workers.run(campaign, W, X, y, k, shard, options, True):
            assert_same(found, expected)


def test_float64_strings_and_torch(workers):
    rng = np.random.default_rng(5)
    W, X, y = CASES[1].draw(rng)
    y = np.array([f"class {label}" for label in y])
    bias = rng.normal(size=W.shape[1])
    expected = nc_fast.campaign(W, X, y, 9, bias=bias)
    for shard in SHARDS:
        for found, _ in workers.run(campaign, W, X, y, 9, shard, {"bias": bias}):
            assert_same(found, expected)
        for weights, kind in workers.run(torch_campaign, W, X, shard):
            np.testing.assert_array_equal(weights, nc_fast.campaign(W, X, np.arange(len(X)) % 2, 9).weights)
            assert kind == "Tensor"


def torch_campaign(rank, group, W, X, shard):
    import torch

    y = np.arange(len(X)) % 2
    given = (torch.from_numpy(a) for a in share(W, X, y, rank, group.size(), shard))
    result = nc_fast.campaign(*given, 9, process_group=group, shard=shard)
    return result.weights.numpy(), type(result.weights).__name__


def moments(rank, group, W, X, y, batched):
    W, X, y = share(W, X, y, rank, group.size(), "samples", uneven=True)
    if batched:  # the first rank has none
        return nc_fast.class_moments(W, [(X[i : i + 9], y[i : i + 9]) for i in range(0, len(X), 9)], process_group=group)
    return nc_fast.class_moments(W, X, y, process_group=group)


@pytest.mark.parametrize("batched", [False, True])
def test_moments_are_the_sum_of_the_ranks(workers, batched):
    W, X, y = CASES[1].draw(np.random.default_rng(2))
    y = np.sort(y)
    cuts = [cut for cut in parts(len(X), workers.size, uneven=True) if cut.stop > cut.start]
    expected = nc_fast.class_moments(W, X[cuts[0]], y[cuts[0]])
    for cut in cuts[1:]:
        expected = expected + nc_fast.class_moments(W, X[cut], y[cut])
    for found in workers.run(moments, W, X, y, batched):
        for name in ("classes", "count", "mean", "m2"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


def sabotaged(rank, group, what, *arguments):
    from unittest import mock

    from nc_fast.distributed import greedy, merge

    if what == "bounds":
        wrong = mock.patch.object(greedy, "SHORTLIST_FACTOR", 0.0), mock.patch.object(greedy, "LEAST_SHORTLIST", 1)
        blind = mock.patch.object(greedy, "_pick_what_is_decided", lambda pool: _all_from_shortlist(greedy, pool))
        with wrong[0], wrong[1], blind:
            return campaign(rank, group, *arguments)
    with mock.patch.object(merge, "chan_merge", lambda a, b: (a[0] + b[0], (a[1] + b[1]) / 2, a[2] + b[2])):
        return campaign(rank, group, *arguments)


def _all_from_shortlist(greedy, pool):
    pool.bound = -np.inf
    while pool.wanted and pool.known.n_left:
        greedy._pick(pool, int(pool.known.best(1)[0]))


@pytest.mark.parametrize(("what", "shard"), [("bounds", "candidates"), ("merge", "samples")])
def test_sabotage(workers, what, shard):
    W, X, y = CASES[1].draw(np.random.default_rng(1), np.float32)
    y = np.sort(y)
    expected = nc_fast.campaign(W, X, y, 31)
    with pytest.raises(AssertionError):
        assert_same(workers.run(sabotaged, what, W, X, y, 31, shard, {})[0][0], expected)


def test_the_model_of_time():
    mnist = Problem(60_000, 784, 5000, 10, 500)
    machine = Machine(flops=1e11, read_seconds=0.0, select_seconds=0.05, bytes_per_second=1e9, latency=1e-4, slots=2)
    for shard in SHARDS:
        seconds = [expected_seconds(mnist, machine, ranks, shard) for ranks in (1, 2, 4)]
        assert 0.98 < seconds[0] / seconds[1] / 2 <= 1
        assert 0.95 < seconds[2] / seconds[1] < 1.05  # two slots: four ranks share them
