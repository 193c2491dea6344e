"""Memory maps and arrays that only slice: the bits of the array in memory, and their errors."""

import subprocess
import sys

import numpy as np
import pytest
from stream_cases import N, OnlySlices, drawn_problem, same_bits

import nc_fast

problem = pytest.fixture(scope="module")(drawn_problem)


def memory_map(path, X):
    mapped = np.memmap(path, X.dtype, "w+", shape=X.shape)
    mapped[...] = X
    return mapped


@pytest.mark.parametrize("form", ["memmap", "view", "copy-on-write", "only slices"])
def test_sliced_arrays_give_the_bits_of_the_array(problem, form, tmp_path):
    W, X, y = problem
    source = OnlySlices(X) if form == "only slices" else memory_map(tmp_path / "X", X)
    if form == "view":
        source = np.asarray(source)[:, ::-1][:, ::-1]
    elif form == "copy-on-write":
        source = np.memmap(tmp_path / "X", X.dtype, "c", shape=X.shape)
        source[:] = 2 * X
        X = 2 * X
    expected = nc_fast.campaign(W, X, y, 8)
    found = nc_fast.campaign(W, source, y, 8)
    np.testing.assert_array_equal(found.indices, expected.indices)
    np.testing.assert_array_equal(found.candidates.score, expected.candidates.score)
    np.testing.assert_array_equal(source[:] if form == "only slices" else source, X)
    if form == "only slices":
        assert source.rows == 2 * N  # one reading by the campaign, one by the line above


def test_pages_of_a_memory_map_are_given_back(tmp_path):
    shape = (300_000, 128)
    np.memmap(tmp_path / "X", np.float32, "w+", shape=shape)[::1000] = 1.0
    script = f"""
import numpy as np, nc_fast
from nc_fast.inputs.slices import read_rows
X = np.memmap({str(tmp_path / "X")!r}, np.float32, "r", shape={shape})
resident = lambda: int(open("/proc/self/statm").read().split()[1]) * 4096
before = resident()
for first in range(0, len(X), 10_000):
    read_rows(X, first, first + 10_000)
print((resident() - before) / X.nbytes)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 0.2


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda X: X[:, :-1], ValueError, r"X: expected shape \(N, D\) = \(N, 6\) to match W, got \(40000, 5\)"),
        (lambda X: X[0], ValueError, r"X: expected shape \(N, D\), got \(6,\)"),
        (lambda X: X[:0], ValueError, "X: expected at least one row"),
        (lambda X: X * 1j, TypeError, "X: expected float32 or float64 or integer, got complex64"),
        (
            lambda X: np.where(np.arange(N)[:, None] == 39_001, np.nan, X),
            ValueError,
            r"X: expected finite numbers, got nan at \(39001, 0\)",
        ),
    ],
)
def test_errors_of_sliced_arrays(problem, change, error, message):
    W, X, y = problem
    with pytest.raises(error, match=message):
        nc_fast.campaign(W, OnlySlices(change(X)), y, 3)


class MaskedSlices(OnlySlices):
    """What netCDF4 offers."""

    def __init__(self, X, mask):
        super().__init__(np.ma.masked_array(X, mask=mask))


def test_slices_with_a_mask_are_taken_while_nothing_is_masked(problem):
    W, X, y = problem
    mask = np.zeros(X.shape, bool)
    same_bits(nc_fast.class_moments(W, MaskedSlices(X, mask), y), nc_fast.class_moments(W, X, y))
    mask[39_001, 2] = True
    with pytest.raises(TypeError, match="X: expected an array without a mask, got masked values in rows 32768 to 39999; fill them first"):
        nc_fast.class_moments(W, MaskedSlices(X, mask), y)


def test_sliced_arrays_are_not_judged_by_what_memory_held_before(problem, monkeypatch):
    W, X, y = problem
    empty = np.empty

    def poisoned(*args, **kwargs):
        found = empty(*args, **kwargs)
        if found.dtype.kind == "f":
            found.fill(np.nan)
        return found

    monkeypatch.setattr(np, "empty", poisoned)
    nc_fast.class_moments(W, OnlySlices(X[:9]), y[:9], backend="reference")
