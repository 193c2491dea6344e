"""Checkpoints: interrupted and killed streams go on to the same bits; checkpoints of something else are refused."""

import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from stream_cases import ROWS, N, OnlySlices, StoppedError, batches, drawn_problem, same_bits, stop_after

import nc_fast
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
    assert rest.rows == N - ROWS
    expected = nc_fast.campaign(W, X, y, 8)
    for name in ("indices", "scores", "gains", "weights"):
        np.testing.assert_array_equal(getattr(resumed, name), getattr(expected, name))


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda a: {**a, "W": a["W"] + 1}, "W"),
        (lambda a: {**a, "bias": 0.5}, "bias"),
        (lambda a: {**a, "activation": "tanh"}, "activation"),
        (lambda a: {**a, "X": a["X"][1:], "y": a["y"][1:]}, "samples"),
        (lambda a: {**a, "backend": "reference"}, "backend"),
    ],
)
def test_a_checkpoint_of_something_else_is_refused(problem, tmp_path, change, what):
    W, X, y = problem
    arguments = {"W": W, "X": X[:100], "y": y[:100]}
    path = tmp_path / "moments.npz"
    nc_fast.class_moments(**arguments, checkpoint=path)
    with pytest.raises(ValueError, match=rf"checkpoint: expected .* made with the same {what}, .*delete it to start again"):
        nc_fast.class_moments(**change(arguments), checkpoint=path)


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
