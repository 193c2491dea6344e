"""Errors that all gloo ranks agree on, ranks that are killed or never come, campaigns that go on from checkpoints."""

import os
import signal
import time

import numpy as np
import pytest

pytest.importorskip("torch")

from distributed_cases import SHARDS, share, started
from rank_workers import TIMEOUT, Workers
from stream_cases import OnlySlices, StoppedError

import nc_fast

workers = pytest.fixture(scope="module", params=[2, 4])(started)


@pytest.fixture
def doomed(tmp_path):
    """Ranks that do not survive the test."""
    ranks = Workers(3, tmp_path / "store")
    yield ranks
    ranks.close()


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
