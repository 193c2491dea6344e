"""scipy.sparse X of every format: the bits of the dense array, never dense as a whole, errors as for arrays."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from stream_cases import same_bits

import nc_fast
from nc_fast.inputs import sources
from nc_fast.inputs.sparse import SparseRows, is_sparse

sparse = pytest.importorskip("scipy.sparse")
FORMATS = [
    sparse.csr_matrix,
    sparse.csc_matrix,
    sparse.coo_matrix,
    sparse.lil_matrix,
    sparse.dok_matrix,
    sparse.bsr_matrix,
    sparse.csr_array,
]


@pytest.fixture
def problem(rng):
    X = rng.normal(size=(90, 7)).astype(np.float32)
    X[rng.random(X.shape) < 0.7] = 0
    return rng.normal(size=(7, 20)).astype(np.float32), X, rng.integers(0, 3, 90)


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(sources, "BLOCK_ROWS", (16, 16))


@pytest.mark.parametrize("format_", FORMATS, ids=lambda format_: format_.__name__)
def test_every_format_gives_the_picks_of_the_dense_array(problem, format_, backend):
    W, X, y = problem
    matrix = format_(X)
    kept = matrix.copy()
    expected = nc_fast.campaign(W, X, y, 6, backend=backend)
    found = nc_fast.campaign(W, matrix, y, 6, backend=backend)
    np.testing.assert_array_equal(found.indices, expected.indices)
    np.testing.assert_array_equal(found.candidates.score, expected.candidates.score)
    assert type(matrix) is format_
    np.testing.assert_array_equal(matrix.toarray(), kept.toarray())
    screened = nc_fast.campaign(W, matrix, y, 6, backend=backend, method="screened")
    np.testing.assert_array_equal(screened.indices, expected.indices)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8, np.int64])
def test_moments_and_checkpoints_have_the_bits_of_slices(problem, dtype, tmp_path, small_blocks):
    W, X, y = problem
    X = (10 * np.abs(X)).astype(dtype)
    mapped = np.memmap(tmp_path / "X", dtype, "w+", shape=X.shape)
    mapped[...] = X
    expected = nc_fast.class_moments(W, mapped, y)
    same_bits(nc_fast.class_moments(W, sparse.coo_array(X), y), expected)
    for _ in range(2):  # the second call finds all samples in the file
        same_bits(nc_fast.class_moments(W, sparse.csc_array(X), y, checkpoint=tmp_path / "m.npz"), expected)


def test_batches_may_be_sparse(problem, backend, small_blocks, tmp_path):
    W, X, y = problem
    dense = [(X[first : first + 25], y[first : first + 25]) for first in range(0, 90, 25)]
    some = [(sparse.coo_array(X) if number % 2 else X, y) for number, (X, y) in enumerate(dense)]
    expected = nc_fast.class_moments(W, dense, backend=backend)
    same_bits(nc_fast.class_moments(W, some, backend=backend), expected)
    resumed = []
    for name, stream in {"sparse": some, "dense": dense}.items():
        path = tmp_path / f"{name}.npz"
        nc_fast.class_moments(W, stream[:2], backend=backend, checkpoint=path)
        resumed.append(nc_fast.class_moments(W, iter(stream), backend=backend, checkpoint=path))
    same_bits(*resumed)


def test_it_is_never_dense_as_a_whole(problem, small_blocks, monkeypatch):
    W, X, y = problem
    largest = []
    read = SparseRows.__getitem__
    monkeypatch.setattr(SparseRows, "__getitem__", lambda self, rows: largest.append(len(found := read(self, rows))) or found)
    for name in ("csr_array", "csc_array", "coo_array"):
        monkeypatch.setattr(getattr(sparse, name), "todense", None)
    nc_fast.campaign(W, sparse.csr_array(X), y, 6, bias="center")
    assert max(largest) == 16
    assert sum(largest) == 90  # for the biases; the moments take the rows as they are


@pytest.mark.parametrize("density", [0.02, 0.2, 0.45, 1])
@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int16])
def test_many_candidates_have_the_same_bits_too(density, kind, small_blocks):
    rng = np.random.default_rng(3)
    W = rng.standard_normal((40, 300)).astype(np.float32)
    X = (np.where(rng.random((90, 40)) < density, rng.standard_normal((90, 40)), 0) * 9).astype(kind)
    y = rng.integers(0, 3, 90)
    for backend in ("cpu", "reference"):
        found = [nc_fast.class_moments(W, X_, y, backend=backend) for X_ in (sparse.csr_array(X), sparse.csc_array(X), X[:])]
        same_bits(found[0], found[1])
        batches = [(X[i : i + 16], y[i : i + 16]) for i in range(0, 90, 16)]
        same_bits(found[0], nc_fast.class_moments(W, batches, backend=backend))
    np.testing.assert_allclose(found[0].mean, found[2].mean, rtol=0, atol=1e-4 * np.abs(X).max())


def test_doubled_entries_are_added_up(problem):
    W, X, y = problem
    row, column = np.nonzero(X)
    twice = sparse.coo_array((np.tile(X[row, column] / 2, 2), (np.tile(row, 2), np.tile(column, 2))), X.shape)
    same_bits(nc_fast.class_moments(W, twice, y), nc_fast.class_moments(W, X, y))


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (lambda X: X[:, :5], ValueError, r"^X: expected shape \(N, D\) = \(N, 7\) to match W, got \(90, 5\)"),
        (lambda X: X * 1j, TypeError, "^X: expected float32 or float64 or integer, got complex"),
        (lambda X: X + 0j, TypeError, "^X: expected float32 or float64 or integer, got complex"),
        (lambda X: np.where(X[X != 0][9] == X, np.nan, X), ValueError, r"^X: expected finite numbers, got nan at \(%d, %d\)"),
        (lambda X: np.where(X[X != 0][9] == X, -np.inf, X), ValueError, r"^X: expected finite numbers, got -inf at \(%d, %d\)"),
        (lambda X: X[:0], ValueError, "^X: expected at least one row"),
        (lambda X: X[:50], ValueError, r"^y: expected shape \(N,\) = \(50,\), got \(90,\)"),
    ],
)
@pytest.mark.parametrize("format_", ["csr_array", "coo_array", "csc_matrix"])
def test_errors(problem, change, kind, message, format_):
    W, X, y = problem
    row, column = np.argwhere(X[X != 0][9] == X)[0]
    matrix = getattr(sparse, format_)(change(X))
    with pytest.raises(kind, match=message % (row, column) if "%d" in message else message):
        nc_fast.campaign(W, matrix, y, 6)
    if not message.startswith(("^y", "^X: expected at least")):
        with pytest.raises(kind, match="batch 1: " + (message.removeprefix("^") % (row, column) if "%d" in message else message[1:])):
            nc_fast.class_moments(W, [(X, y), (matrix, y)])


def test_a_sparse_matrix_is_known_without_importing_scipy():
    assert is_sparse(sparse.csr_array(np.eye(2)))
    assert not is_sparse(np.eye(2))
    script = "import sys, numpy as np, nc_fast; nc_fast.campaign(np.eye(3), np.eye(3), [0, 1, 2], 1, backend='reference')"
    script += "; assert 'scipy.sparse' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(nc_fast.__file__).parent.parent)


def test_the_identity_has_the_bits_of_slices_too(rng, monkeypatch, tmp_path):
    from nc_fast.backends.cpu import covariances

    X = np.where(rng.random((400, 9)) < 0.3, rng.normal(size=(400, 9)), 0).astype(np.float32)
    W, y = rng.normal(size=(9, 40)).astype(np.float32), rng.integers(0, 3, 400)
    mapped = np.memmap(tmp_path / "X", np.float32, "w+", shape=X.shape)
    mapped[...] = X
    for pays in (True, False):
        monkeypatch.setattr(covariances, "pays", lambda *_, pays=pays: pays)
        expected = nc_fast.class_moments(W, mapped, y, activation="identity")
        same_bits(nc_fast.class_moments(W, sparse.csr_array(X), y, activation="identity"), expected)
