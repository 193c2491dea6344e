"""Checkpoints: interrupted and killed streams go on to the same bits; checkpoints of something else are refused."""

import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from stream_cases import ROWS, N, OnlySlices, StoppedError, batches, drawn_problem, same_bits, stop_after

import nc_fast
from nc_fast.files.moments import load_moments, save_moments
from nc_fast.stages import checkpoint

problem = pytest.fixture(scope="module")(drawn_problem)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize("interrupted_after", [1, 33, 50])
def test_an_interrupted_stream_goes_on_to_the_same_bits(problem, tmp_path, monkeypatch, suffix, interrupted_after):
    monkeypatch.setattr(checkpoint, "EVERY_SECONDS", 0.0)
    monkeypatch.setattr(checkpoint, "LARGEST_SHARE", float("inf"))
    W, X, y = problem
    path = tmp_path / f"moments{suffix}"
    with pytest.raises(StoppedError):
        nc_fast.class_moments(W, stop_after(batches(X, y, 700), interrupted_after), checkpoint=path)
    assert path.exists() == (interrupted_after > 1)
    resumed = nc_fast.class_moments(W, batches(X, y, 999), checkpoint=path)  # other batches, same samples
    whole = nc_fast.class_moments(W, X, y)
    same_bits(resumed, whole)
    same_bits(nc_fast.ClassMoments.load(path), whole)
    same_bits(nc_fast.class_moments(W, batches(X, y, 700), checkpoint=path), whole)  # nothing left to do


def test_an_interrupted_campaign_reads_only_what_is_left(problem, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "EVERY_SECONDS", 0.0)
    monkeypatch.setattr(checkpoint, "LARGEST_SHARE", float("inf"))
    W, X, y = problem
    path = tmp_path / "moments.npz"

    def interrupt(done, total):
        assert total == N
        raise StoppedError

    with pytest.raises(StoppedError):
        nc_fast.campaign(W, OnlySlices(X), y, 8, checkpoint=path, progress=interrupt)
    rest = OnlySlices(X)
    resumed = nc_fast.campaign(W, rest, y, 8, checkpoint=path)
    assert rest.rows == N - ROWS + 255 + ROWS // 4096  # and those by which the samples are recognised
    expected = nc_fast.campaign(W, X, y, 8)
    for name in ("indices", "scores", "gains", "weights"):
        np.testing.assert_array_equal(getattr(resumed, name), getattr(expected, name))


def times(factor):
    return lambda z: factor * z


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda a: {**a, "W": a["W"] + 1}, "W"),
        (lambda a: {**a, "bias": 0.5}, "bias"),
        (lambda a: {**a, "activation": "tanh"}, "activation"),
        (lambda a: {**a, "X": a["X"][1:], "y": a["y"][1:]}, "samples"),
        (lambda a: {**a, "backend": "reference"}, "backend"),
        (lambda a: {**a, "activation": times(3)}, "values of the activation"),
    ],
)
def test_a_checkpoint_of_something_else_is_refused(problem, tmp_path, change, what):
    W, X, y = problem
    arguments = {"W": W, "X": X[:100], "y": y[:100]}
    if what.startswith("values"):
        arguments["activation"] = times(2)
    path = tmp_path / "moments.npz"
    nc_fast.class_moments(**arguments, checkpoint=path)
    with pytest.raises(ValueError, match=rf"checkpoint: expected .* made with the same {what}, .*delete it to start again"):
        nc_fast.class_moments(**change(arguments), checkpoint=path)


def other_labels(X, y):
    return X, np.array(list("wxyz"))[y]


def one_label(X, y):
    return X, np.where(np.arange(len(y)) == 20_000, (y + 1) % 4, y)


def two_labels_swapped(X, y):
    y = y.copy()
    first, second = np.flatnonzero(y == 0)[0], np.flatnonzero(y == 1)[0]
    y[[first, second]] = y[[second, first]]
    return X, y


def other_numbers(X, y):
    return X[::-1], y


def another_row(X, y):
    return np.where(np.arange(len(X))[:, None] == 4096, 2 * X, X), y


def all_but_a_first_row(X, y):
    return np.concatenate([X[:1], X[1:200] + 1, X[200:]]), y


def columns_swapped(X, y):
    return X[:, ::-1], y


@pytest.mark.parametrize(
    "change", [other_labels, one_label, two_labels_swapped, other_numbers, another_row, all_but_a_first_row, columns_swapped]
)
@pytest.mark.parametrize("form", ["array", "slices", "csr", "batches"])
@pytest.mark.parametrize("finished", [True, False])
def test_a_checkpoint_of_other_samples_is_refused(problem, tmp_path, monkeypatch, change, form, finished):
    monkeypatch.setattr(checkpoint, "EVERY_SECONDS", 0.0)
    monkeypatch.setattr(checkpoint, "LARGEST_SHARE", float("inf"))
    W, X, y = problem
    path = tmp_path / "moments.npz"

    def moments(X, y, stop=False):
        stopping = {"progress": interrupt} if stop else {}
        if form == "batches":
            return nc_fast.class_moments(W, batches(X, y, 700), checkpoint=path, **stopping)
        X = OnlySlices(X) if form == "slices" else pytest.importorskip("scipy.sparse").csr_array(X) if form == "csr" else X
        return nc_fast.class_moments(W, X, y, checkpoint=path, **stopping)

    def interrupt(done, _):
        if done > ROWS:
            raise StoppedError

    if finished:
        moments(X, y)
    else:
        with pytest.raises(StoppedError):
            moments(X, y, stop=True)
    before = path.read_bytes()
    with pytest.raises(
        ValueError, match=r"^checkpoint: expected .* made with the same samples, got other labels.*; delete it to start again"
    ):
        moments(*change(X, y))
    assert path.read_bytes() == before
    whole = nc_fast.class_moments(W, X, y)
    found = moments(X, y)
    np.testing.assert_allclose(found.mean, whole.mean, rtol=1e-5) if form == "csr" else same_bits(found, whole)


def test_samples_are_recognised_whatever_they_come_in(problem, tmp_path):
    W, X, y = problem
    path = tmp_path / "moments.npz"
    first = nc_fast.class_moments(W, X, y, checkpoint=path)
    for X2, y2 in [(OnlySlices(X), y.astype(np.int8)), (X.astype(np.float64), y.astype(np.uint16)), (X, y[:, None]), (X, y.tolist())]:
        same_bits(nc_fast.class_moments(W, X2, y2, checkpoint=path), first)


def test_the_digest_depends_on_the_samples_alone():
    rng = np.random.default_rng(0)
    X, y, classes = rng.normal(size=(9000, 3)), rng.integers(0, 3, 9000), np.array([3, 5, 9])

    def digest(X, classes, *cuts):
        found = checkpoint.SampleDigest()
        for first, stop in zip((0, *cuts), (*cuts, len(X)), strict=True):
            found.update(X[first:stop], y[first:stop], classes)
        return str(found)

    whole = digest(X, classes)
    for cuts in [(1,), (255, 257), (256,), (4096,), (4095, 4097), (100, 100, 8999)]:
        assert digest(X, classes, *cuts) == whole
    assert digest(X, classes.astype(np.uint8)) == digest(np.where(X == 0, -0.0, X), classes) == whole
    for others in (np.array([3, 5, 8]), np.array(["3", "5", "9"]), np.array([b"3", b"5", b"9"])):
        assert digest(X, others) != whole
    for row in (0, 5, 255, 4096, 8192):
        other = X.copy()
        other[row, 1] += 1e-9
        assert digest(other, classes) != whole


@pytest.mark.parametrize("done", [ROWS, 2 * ROWS])
def test_an_array_goes_on_from_a_stream_of_the_same_samples(problem, tmp_path, done):
    W, X, y = problem
    path = tmp_path / "moments.npz"
    nc_fast.class_moments(W, batches(X[:done], y[:done], 700), checkpoint=path)
    with pytest.raises(ValueError, match=rf"made with the same samples, {done - 1}, got {done}; delete"):
        nc_fast.class_moments(W, X[: done - 1], y[: done - 1], checkpoint=path)
    same_bits(nc_fast.class_moments(W, X, y, checkpoint=path), nc_fast.class_moments(W, X, y))


def test_checkpoints_of_an_older_version_are_refused(problem, tmp_path):
    W, X, y = problem
    path = tmp_path / "moments.npz"
    nc_fast.class_moments(W, X[:99], y[:99], checkpoint=path)
    arrays, notes = load_moments(path)
    del notes["digest"]
    save_moments(path, arrays, notes)
    with pytest.raises(
        ValueError, match=r"^checkpoint: expected .*, got one of an older version, which does not; delete it to start again"
    ):
        nc_fast.class_moments(W, X[:99], y[:99], checkpoint=path)


@pytest.mark.parametrize("form", ["slices", "batches"])
def test_checkpoints_count_what_is_not_left_out(problem, tmp_path, monkeypatch, form):
    monkeypatch.setattr(checkpoint, "EVERY_SECONDS", 0.0)
    monkeypatch.setattr(checkpoint, "LARGEST_SHARE", float("inf"))
    W, X, y = problem
    gone = np.arange(N) % 3 == 0
    given, path = np.where(gone, -100, y), tmp_path / "moments.npz"

    def moments(X, y, **more):
        X, y = (OnlySlices(X), y) if form == "slices" else (batches(X, y, 700), None)
        return nc_fast.class_moments(W, X, y, checkpoint=path, **more)

    def interrupt(*_):
        raise StoppedError

    with pytest.raises(StoppedError):
        moments(X, given, ignore_index=-100, progress=interrupt)
    assert nc_fast.ClassMoments.load(path).n_samples == ROWS
    with pytest.raises(ValueError, match="made with the same samples" if form == "batches" else "made with the same s"):
        moments(X, given, ignore_index=None)
    found = moments(X, given, ignore_index=-100)
    same_bits(found, nc_fast.class_moments(W, X[~gone], y[~gone]))
    same_bits(moments(X[~gone], y[~gone]), found)


def test_other_misuses_of_a_checkpoint(problem, tmp_path):
    W, X, y = problem
    path = tmp_path / "moments.npz"
    with pytest.raises(ValueError, match="checkpoint: expected a file in a folder that exists"):
        nc_fast.class_moments(W, X[:9], y[:9], checkpoint=tmp_path / "absent" / "moments.npz")
    nc_fast.class_moments(W, X[:9], y[:9]).save(path)
    with pytest.raises(ValueError, match="moments without their place in a stream"):
        nc_fast.class_moments(W, X[:9], y[:9], checkpoint=path)
    path.unlink()
    nc_fast.class_moments(W, batches(X[:900], y[:900], 100), checkpoint=path)
    with pytest.raises(ValueError, match="checkpoint: expected a stream with at least the samples it has, got 200 too few"):
        nc_fast.class_moments(W, batches(X[:700], y[:700], 100), checkpoint=path)


KILLED = """
import sys, numpy as np, nc_fast
from nc_fast.files.moments import load_moments, save_moments
from nc_fast.stages import checkpoint
checkpoint.EVERY_SECONDS = 0.0
rng = np.random.default_rng(0)
W = rng.normal(size=(200, 2000)).astype("f4")
def stream():
    for number in range(12):
        yield rng.normal(size=(16_384, 200)).astype("f4"), np.arange(16_384) % 3
moments = nc_fast.class_moments(W, stream(), checkpoint=sys.argv[1])
nc_fast.ib_scores(moments)
print("done")
"""


def test_a_killed_process_leaves_a_whole_checkpoint(tmp_path):
    whole, killed = tmp_path / "whole.npz", tmp_path / "killed.npz"
    subprocess.run([sys.executable, "-c", KILLED, whole], check=True, capture_output=True)
    with subprocess.Popen([sys.executable, "-c", KILLED, killed]) as process:
        while not killed.exists():
            time.sleep(0.01)
            assert process.poll() is None
        process.send_signal(signal.SIGKILL)
    assert nc_fast.ClassMoments.load(killed).n_samples < 12 * 16_384
    subprocess.run([sys.executable, "-c", KILLED, killed], check=True, capture_output=True)
    same_bits(nc_fast.ClassMoments.load(killed), nc_fast.ClassMoments.load(whole))
