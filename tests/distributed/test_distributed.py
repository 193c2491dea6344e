"""Campaigns on 2 and 4 gloo ranks: the picks of one process, the bytes of the model, errors that all ranks agree on."""

import json
import os
import signal
import time
from itertools import pairwise

import numpy as np
import pytest

pytest.importorskip("torch")

from distributed_model import Machine, Problem, expected_bytes, expected_seconds
from rank_workers import TIMEOUT, Workers

import nc_fast
from nc_fast.distributed import count_traffic
from nc_fast.testing import CASES, Case

SHARDS = ("samples", "candidates")


@pytest.fixture(scope="module", params=[2, 4])
def workers(request, tmp_path_factory):
    ranks = Workers(request.param, tmp_path_factory.mktemp("ranks") / "store")
    yield ranks
    ranks.close()


@pytest.fixture
def doomed(tmp_path):
    """Ranks that do not survive the test."""
    ranks = Workers(3, tmp_path / "store")
    yield ranks
    ranks.close()


def parts(n, size, uneven=False):
    """Where n things are cut; uneven: the first rank gets nothing, the last most."""
    cuts = np.linspace(0, n, size + 1).astype(int)
    if uneven:
        cuts[1:-1] = np.arange(size - 1) * (n // (4 * size))
    return [slice(a, b) for a, b in pairwise(cuts)]


def share(W, X, y, rank, size, shard, uneven=False):
    """A rank's arguments."""
    if shard == "samples":
        mine = parts(len(X), size, uneven)[rank]
        return W, X[mine], y[mine]
    return W[:, parts(W.shape[1], size, uneven)[rank]], X, y


def campaign(rank, group, W, X, y, k, shard, options, uneven=False):
    given = share(W, X, y, rank, group.size(), shard, uneven)
    bias = options.get("bias", 0.0)
    if shard == "candidates" and np.ndim(bias):
        options = {**options, "bias": bias[parts(W.shape[1], group.size(), uneven)[rank]]}
    with count_traffic() as traffic:
        result = nc_fast.campaign(*given, k, process_group=group, shard=shard, **options)
    return result, traffic


def assert_same(found, expected):
    for name in ("indices", "groups", "weights", "bias"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    # BLAS may sum a product of fewer columns or rows in another order: float32's last bits.
    np.testing.assert_allclose(found.gains, expected.gains, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-5, atol=1e-7)
    assert found.restarts == expected.restarts


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


def faulty(rank, group, shard, fault, odd_one):
    """A campaign in which one rank's arguments are not like the others'."""
    rng = np.random.default_rng(0)
    arguments = {"W_candidates": rng.normal(size=(4, 12)), "X": rng.normal(size=(30, 4)), "y": np.arange(30) % 3, "k": 4}
    arguments = {**arguments, "process_group": group, "shard": shard}
    if rank == odd_one:
        arguments = FAULTS[fault](arguments)
    call = nc_fast.class_moments if "W" in arguments else nc_fast.campaign
    return call(**arguments)


def with_nan(name):
    def change(arguments):
        array = arguments[name].copy()
        array[2, 3] = np.nan
        return {**arguments, name: array}

    return change


def late(arguments):
    """A NaN that is met when the slice is read."""
    from stream_cases import OnlySlices

    return {**arguments, "X": OnlySlices(with_nan("X")(arguments)["X"])}


def breaks(arguments):
    def activation(z):
        raise ZeroDivisionError("mine")

    return {**arguments, "activation": activation}


def other_call(arguments):
    return {"W": arguments["W_candidates"], **{name: arguments[name] for name in ("X", "y", "process_group")}}


FAULTS = {
    "nan in X": with_nan("X"),
    "nan in W": with_nan("W_candidates"),
    "late nan": late,
    "k": lambda a: {**a, "k": 5},
    "folder": lambda a: {**a, "checkpoint": "no/such/folder/moments.npz"},
    "k kind": lambda a: {**a, "k": 1.5},
    "alpha": lambda a: {**a, "alpha": 0.25},
    "dtype": lambda a: {**a, "W_candidates": a["W_candidates"].astype(np.float32)},
    "features": lambda a: {**a, "W_candidates": a["W_candidates"][:3], "X": a["X"][:, :3]},
    "pool": lambda a: {**a, "W_candidates": a["W_candidates"] + 1},
    "samples": lambda a: {**a, "X": a["X"][:20], "y": a["y"][:20]},
    "labels": lambda a: {**a, "y": (a["y"] + 1) % 3},
    "kind of labels": lambda a: {**a, "y": np.array(list("abc"))[a["y"]]},
    "shard": lambda a: {**a, "shard": "candidates" if a["shard"] == "samples" else "samples"},
    "call": other_call,
    "callable": breaks,
    "criterion": lambda a: {**a, "criterion": 3},
    "screened": lambda a: {**a, "method": "screened"},
}


@pytest.mark.parametrize(
    ("shard", "fault", "kind", "message"),
    [
        ("samples", "nan in X", ValueError, r"rank {r}: X: expected finite numbers, got nan at \(2, 3\)"),
        ("candidates", "nan in W", ValueError, r"rank {r}: W_candidates: expected finite numbers, got nan at \(2, 3\)"),
        ("candidates", "nan in X", ValueError, r"rank {r}: X: expected finite"),
        ("samples", "late nan", ValueError, r"rank {r}: X: expected finite numbers, got nan at \(2, 3\)"),
        ("samples", "k", ValueError, r"k: expected the same on every rank, \d as on rank 0, got \d on rank \d"),
        ("candidates", "k", ValueError, r"k: expected the same on every rank"),
        ("samples", "k kind", TypeError, r"rank {r}: k: expected an integer, got 1.5"),
        ("samples", "folder", ValueError, r"rank {r}: checkpoint: expected a file in a folder that exists"),
        ("samples", "alpha", ValueError, r"alpha: expected the same on every rank"),
        ("candidates", "dtype", ValueError, r"W_candidates: expected the same on every rank, .*float"),
        ("samples", "dtype", ValueError, r"W_candidates: expected the same on every rank, .*float"),
        ("samples", "features", ValueError, r"W_candidates: expected the same on every rank, . features"),
        ("samples", "pool", ValueError, r"pool: expected the same on every rank"),
        ("candidates", "samples", ValueError, r"X: expected the same on every rank, \("),
        ("candidates", "labels", ValueError, r"y: expected the same on every rank"),
        ("samples", "kind of labels", ValueError, r"y: expected labels of one kind on every rank"),
        ("samples", "shard", ValueError, r"call: expected the same on every rank, campaign with shard="),
        ("candidates", "shard", ValueError, r"call: expected the same on every rank, campaign with shard="),
        ("samples", "call", ValueError, r"call: expected the same on every rank"),
        ("samples", "callable", ValueError, r"activation: expected the same on every rank"),
        ("samples", "criterion", TypeError, r"rank {r}: criterion: expected a callable"),
        ("candidates", "screened", ValueError, r"rank {r}: method: expected one of 'exact'"),
    ],
)
def test_every_rank_raises_the_same_error(workers, shard, fault, kind, message):
    for odd_one in {0, workers.size - 1}:
        errors = workers.errors(faulty, shard, fault, odd_one)
        assert len({str(error) for error in errors}) == 1
        for error in errors:
            with pytest.raises(kind, match=message.replace("{r}", str(odd_one))):
                raise error


def everyone_breaks(rank, group, shard):
    def activation(z):
        if rank == 1:
            raise ZeroDivisionError("mine")
        return z

    X = np.random.default_rng(0).normal(size=(30, 4))
    return nc_fast.campaign(X[:4], X, np.arange(30) % 3, 2, activation=activation, process_group=group, shard=shard)


@pytest.mark.parametrize("shard", SHARDS)
def test_what_fails_in_the_middle_on_one_rank_fails_on_all(workers, shard):
    for error in workers.errors(everyone_breaks, shard):
        with pytest.raises(RuntimeError, match="rank 1: ZeroDivisionError: mine"):
            raise error


def misuse(rank, group, change):
    X = np.random.default_rng(0).normal(size=(30, 4))
    arguments = {"W_candidates": X[:4], "X": X, "y": np.arange(30) % 3, "k": 2, "process_group": group, **change}
    return nc_fast.campaign(**arguments)


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"process_group": "gloo"}, TypeError, "process_group: expected a torch.distributed.ProcessGroup .* got str"),
        ({"shard": "sample"}, ValueError, "shard: expected one of .* did you mean 'samples'"),
        ({"X": np.zeros((0, 4)), "y": []}, ValueError, "X: expected samples on at least one rank, got none"),
        ({"X": np.zeros((0, 3)), "y": []}, ValueError, r"rank 0: X, y: expected shapes \(0, 4\) and \(0,\) of an empty shard"),
        ({"y": np.zeros(30, int)}, ValueError, "y: expected at least two classes"),
        ({"k": 99, "shard": "candidates"}, ValueError, "k: expected 1 <= k <= M"),
    ],
)
def test_misuse(workers, change, kind, message):
    for error in workers.errors(misuse, change):
        with pytest.raises(kind, match=message):
            raise error


def dies(rank, group, shard):
    def activation(z):
        if rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return z

    X = np.random.default_rng(0).normal(size=(30, 4))
    return nc_fast.campaign(X[:4], X, np.arange(30) % 3, 2, activation=activation, process_group=group, shard=shard)


def leaves(rank, group, shard):
    if rank == 1:
        return None
    return misuse(rank, group, {"shard": shard})


def test_a_rank_that_is_killed_in_mid_run(doomed):
    doomed.run(misuse, {})
    start = time.monotonic()
    answers = doomed.answers(dies, "candidates")
    assert time.monotonic() - start < TIMEOUT + 10
    for rank in (0, 2):
        with pytest.raises(RuntimeError, match=r"process_group: expected all 3 ranks to exchange .*, but one has died, left"):
            raise answers[rank][1]
    assert isinstance(answers[1][1], EOFError)


def test_a_rank_that_never_comes(tmp_path):
    ranks = Workers(2, tmp_path / "store", timeout=3)
    try:
        start = time.monotonic()
        (_, error), (fine, _) = ranks.answers(leaves, "samples")
        assert fine
        assert 2 < time.monotonic() - start < 20
        with pytest.raises(RuntimeError, match="process_group: expected all 2 ranks to exchange agreement"):
            raise error
    finally:
        ranks.close()


def checkpointed(rank, group, W, X, y, path, broken):
    from stream_cases import StoppedError

    from nc_fast.stages import checkpoint

    checkpoint.EVERY_SECONDS, checkpoint.LARGEST_SHARE = 0.0, float("inf")
    W, X, y = share(W, X, y, rank, group.size(), "samples")

    def stop(done, total):
        if broken and done > 17_000:
            raise StoppedError

    return nc_fast.campaign(W, X, y, 9, process_group=group, checkpoint=path, progress=stop).indices


def test_an_interrupted_campaign_goes_on(workers, tmp_path):
    if workers.size > 2:
        pytest.skip("two ranks show it")
    rng = np.random.default_rng(0)
    W, X, y = rng.normal(size=(3, 40)), rng.normal(size=(70_000, 3)), rng.integers(0, 3, size=70_000)
    for error in workers.errors(checkpointed, W, X, y, tmp_path / "moments.npz", True):
        assert "rank 0: StoppedError" in str(error)
    assert sorted(os.listdir(tmp_path)) == ["moments.0-of-2.npz", "moments.1-of-2.npz"]
    for indices in workers.run(checkpointed, W, X, y, tmp_path / "moments.npz", False):
        np.testing.assert_array_equal(indices, nc_fast.campaign(W, X, y, 9).indices)


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
