"""The CPU backend's moments: the kernel against long doubles, tiles, pairs of candidates, and the layouts between them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import nc_fast
from nc_fast.activations import ACTIVATIONS
from nc_fast.backends.cpu import kernels, moments
from nc_fast.backends.cpu.tiles import CHUNK_ROWS, FEW_CLASSES, MOST_MOMENTS, TILE_ROWS, n_tiles, tiles
from nc_fast.inputs.labels import classified
from nc_fast.testing import assert_moments_match

SHAPES = {
    "plain": lambda z: z,
    "far away": lambda z: z + 1e6,
    "an outlier that comes first": lambda z: np.where(np.arange(len(z))[:, None] == 0, 1e6, z),
    "an outlier in the middle": lambda z: np.where(np.arange(len(z))[:, None] == len(z) // 2, -1e6, z),
    "tiny": lambda z: z * 1e-25,
    "huge": lambda z: z * 1e25,
    "alternating": lambda z: z + np.where(np.arange(len(z))[:, None] % 2, 1e5, -1e5),
}


def run(z, starts, *, activation="identity", sign=1, bias=None, order=None, pitch=0):
    """Call the kernel on z (n, m) held in rows ``pitch`` longer, the rest NaN."""
    held = np.full((len(z), z.shape[1] + pitch), np.nan, z.dtype)
    held[:, : z.shape[1]] = z
    mean, m2 = np.full((2, len(starts) - 1, z.shape[1] + 3), np.nan)
    bias = np.zeros(z.shape[1]) if bias is None else bias
    order = np.arange(len(z)) if order is None else order
    kernels.tile_moments(activation)(held, z.dtype.type(sign), bias.astype(z.dtype), order, np.array(starts), 2, mean, m2)
    assert np.isnan(mean[:, [0, 1, -1]]).all(), "wrote outside its columns"
    return mean[:, 2:-1], m2[:, 2:-1]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("n", [1, 2, 7, 8, 9, 15, 16, 17, 100])
def test_the_moments_of_given_numbers_are_exact_to_float64(n, shape, dtype, rng):
    z = SHAPES[shape](rng.normal(size=(n + 5, 9))).astype(dtype)
    mean, m2 = run(z, [0, n, n + 5], pitch=3)
    for s, part in enumerate((z[:n], z[n:])):
        part = part.astype(np.longdouble)
        exact = part.mean(axis=0)
        squares = ((part - exact) ** 2).sum(axis=0)
        spread = np.ptp(part, axis=0)
        assert (abs(mean[s] - exact) <= 4e-16 * (abs(exact) + 4 * spread)).all()
        assert (abs(m2[s] - squares) <= 1e-14 * squares + 1e-15 * (spread + abs(exact)) * np.sqrt(n * squares)).all()


def test_rows_are_taken_in_their_order(rng):
    z, order = rng.normal(size=(40, 5)), rng.permutation(40)
    for found, expected in zip(run(z, [0, 13, 40], order=order), run(z[order], [0, 13, 40]), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_kernel_applies_activation_sign_and_bias(activation, dtype, rng):
    z, bias = rng.normal(size=(30, 7)).astype(dtype), rng.normal(size=7)
    expected = ACTIVATIONS[activation]((bias.astype(dtype) - z).astype(dtype)).astype(np.float64)
    mean, m2 = run(z, [0, 30], activation=activation, sign=-1, bias=bias, pitch=1)
    tolerance = 8 * np.finfo(dtype).eps * np.abs(expected).max()
    np.testing.assert_allclose(mean[0], expected.mean(axis=0), rtol=0, atol=tolerance)
    np.testing.assert_allclose(m2[0], ((expected - expected.mean(axis=0)) ** 2).sum(axis=0), rtol=1e-5 if dtype == np.float32 else 1e-12)
    flat = z.copy()
    kernels.in_place(activation)(flat.reshape(-1))
    np.testing.assert_allclose(flat, ACTIVATIONS[activation](z.copy()), rtol=8 * np.finfo(dtype).eps, atol=4 * np.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_constants_are_exact(activation, dtype, rng):
    z = np.tile(rng.normal(size=200) * 10.0 ** rng.integers(-8, 3, 200), (37, 1)).astype(dtype)
    mean, m2 = run(z, [0, 1, 12, 37], activation=activation, bias=rng.normal(size=200))
    assert (m2 == 0).all()
    assert (mean == mean[0]).all()


def test_numbers_whose_squares_only_float64_holds(rng):
    for scale in (1e-40, 1e30):
        z = (scale * rng.normal(size=(20, 4))).astype(np.float32)
        _, m2 = run(z, [0, 20])
        np.testing.assert_allclose(m2[0], 20 * z.astype(np.float64).var(axis=0), rtol=1e-12)


@pytest.mark.parametrize("n_classes", [1, FEW_CLASSES, FEW_CLASSES + 1, 300])
@pytest.mark.parametrize("n", [1, TILE_ROWS // 2 - 1, TILE_ROWS // 2, TILE_ROWS, TILE_ROWS + 1, CHUNK_ROWS + 1, 2 * CHUNK_ROWS + 77])
@pytest.mark.parametrize("n_candidates", [1, MOST_MOMENTS])
def test_tiles_hold_every_sample_once_sorted_by_class(n, n_classes, n_candidates, rng):
    few = n_classes <= FEW_CLASSES and n_classes * n_candidates <= MOST_MOMENTS
    codes = rng.integers(0, n_classes, n)
    seen, sizes, chunks = [], [], 0
    for tile in tiles(codes, n_classes, n_candidates):
        rows = np.arange(n)[tile.rows]
        assert len(rows) == len(tile.order) == tile.size == tile.starts[-1]
        runs = np.split(codes[rows][tile.order], tile.starts[1:-1])
        assert [run[0] for run in runs] == tile.runs.tolist()
        assert all((run == run[0]).all() for run in runs)
        assert isinstance(tile.rows, slice) == few, "consecutive rows are read in place"
        seen.append(rows)
        sizes.append(tile.size)
        chunks += tile.last
    assert np.sort(np.concatenate(seen)).tolist() == list(range(n))
    assert max(sizes) <= TILE_ROWS
    assert tile.last
    assert chunks == len(range(0, n, max(CHUNK_ROWS, 0 if n_classes <= FEW_CLASSES else 256 * n_classes)))


def test_threads_get_equal_shares():
    assert [n_tiles(n) for n in (1, TILE_ROWS // 2 - 1, TILE_ROWS // 2, TILE_ROWS, 2 * TILE_ROWS)] == [1, 1, 2, 4, 4]
    assert all(n_tiles(n) % 2 == 0 and n <= n_tiles(n) * TILE_ROWS for n in range(TILE_ROWS, CHUNK_ROWS + 1))


@pytest.mark.parametrize("n_classes", [3, FEW_CLASSES + 5])
@pytest.mark.parametrize("M", [1, 2, 3, moments.MOST_COLUMNS + 1])
def test_any_number_of_classes_and_candidates(n_classes, M, rng):
    X, y = rng.normal(size=(TILE_ROWS + 3, 4)), np.arange(TILE_ROWS + 3) % n_classes
    W = rng.normal(size=(4, M))
    assert_moments_match(nc_fast.class_moments(W, X, y), W, X, y)


def in_pairs(D, M, dtype, rng):
    W = rng.normal(size=(D, M)).astype(dtype)
    W[:, 1::2] = -W[:, ::2]
    return W


@pytest.mark.parametrize("layout", [np.ascontiguousarray, np.asfortranarray, lambda W: np.repeat(np.repeat(W, 2, 0), 3, 1)[::2, ::3]])
@pytest.mark.parametrize("kind", [np.float32, np.float64, np.uint8])
@pytest.mark.parametrize("activation", ["relu", "gelu", "identity", "softplus"])
@pytest.mark.parametrize("zeros", [0.0, 0.8])
def test_a_product_serves_both_of_a_pair(activation, kind, layout, zeros, rng, monkeypatch):
    monkeypatch.setattr(moments, "MOST_COLUMNS", 150)
    W, bias = in_pairs(24, 416, np.float64 if kind == np.float64 else np.float32, rng), rng.normal(size=416)
    X = (20 * np.abs(rng.normal(size=(300, 24))) * (rng.random((300, 24)) >= zeros)).astype(kind)
    y = rng.integers(0, 3, 300)
    products = []
    multiply = moments.Samples.multiply
    monkeypatch.setattr(moments.Samples, "multiply", lambda *a: products.append(a[2].stop - a[2].start) or multiply(*a))
    found = nc_fast.class_moments(layout(W), X, y, bias=bias, activation=activation)
    assert sum(products) == 208
    monkeypatch.setattr(moments, "antithetic", lambda _: False)
    expected = nc_fast.class_moments(W, X, y, bias=bias, activation=activation)
    assert sum(products) == 208 + 416
    rounding = 1e-12 if kind == np.float64 else 1e-5  # BLAS cuts other blocks of candidates in other ways
    np.testing.assert_allclose(found.mean, expected.mean, rtol=rounding, atol=rounding * np.abs(expected.mean).max())
    np.testing.assert_allclose(found.m2, expected.m2, rtol=rounding)


def test_pairs_are_recognised_to_the_last_column(rng):
    W = in_pairs(5, 1000, np.float32, rng)
    assert moments.antithetic(W)
    assert moments.antithetic(np.asfortranarray(W))
    assert moments.antithetic(nc_fast.candidates.gaussian(7, 64, antithetic=True))
    assert not moments.antithetic(W[:, 1:])
    assert not moments.antithetic(W[:, 1:-1])
    for column in (0, 1, 998, 999):
        other = W.copy()
        other[3, column] = np.nextafter(other[3, column], np.float32(9))
        assert not moments.antithetic(other)


def test_a_callable_gets_blocks_that_it_may_write_on(rng):
    W, X, y = in_pairs(6, 40, np.float32, rng), rng.normal(size=(50, 6)).astype(np.float32), np.arange(50) % 2
    bias = rng.normal(size=40)
    expected = nc_fast.class_moments(W, X, y, bias=bias)
    for function in (lambda z: np.maximum(z, 0, out=z), lambda z: np.maximum(z, 0), lambda z: np.asfortranarray(np.maximum(z, 0))):
        found = nc_fast.class_moments(W, X, y, bias=bias, activation=function)
        np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", ["i1", "u1", "i4", "u4", "i8", "u8"])
@pytest.mark.parametrize("spread", [2, 90, 10_000])
def test_integer_labels_are_numbered_as_by_sorting(kind, spread, rng):
    low, high = np.iinfo(kind).min, np.iinfo(kind).max
    y = rng.integers(0, min(spread, high), 300)
    ends = (
        [high - int(value) for value in y],
        [low + int(value) for value in y],
        [low, high],
        [high],
        range(max(low, -500), min(high, 500) + 1),
    )
    for labels in (np.array(values, kind) for values in (y, *ends)):
        expected = np.unique(labels, return_inverse=True)
        found_codes, found = classified(labels)
        np.testing.assert_array_equal(found, expected[0])
        np.testing.assert_array_equal(found_codes, expected[1])
        assert found.dtype == np.dtype(kind)
        assert found_codes.dtype == np.int64


def test_the_cache_of_compiled_kernels_knows_the_functions(tmp_path):
    """A change of elementwise.py is seen, though only kernels.py holds what is cached; without one nothing is compiled again."""
    package = tmp_path / "nc_fast"
    shutil.copytree(Path(nc_fast.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    code = """
import numpy as np
from nc_fast.backends.cpu import kernels
z = np.full(3, -1.0)
kernel = kernels.in_place("leaky_relu")
kernel(z)
print(z[0], sum(kernel.stats.cache_hits.values()))
"""

    def run() -> str:
        environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
        environment.pop("NUMBA_CACHE_DIR", None)
        return subprocess.run(
            [sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
        ).stdout

    assert [run(), run()] == ["-0.01 0\n", "-0.01 1\n"]
    functions = package / "backends" / "cpu" / "elementwise.py"
    changed = functions.read_text().replace("_like(v, LEAKY_SLOPE)", "_like(v, 0.5)")
    functions.write_text(changed)
    assert run() == "-0.5 0\n"


@pytest.mark.parametrize("M", [1, 15, 500, 1001])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_candidates_on_constant_features_alone_are_constant_whatever_stands_beside_them(dtype, M, rng):
    X = rng.normal(size=(2 * TILE_ROWS + 3, 64)).astype(dtype)
    X[:, :30] = rng.normal(size=30)
    W = rng.normal(size=(64, M)).astype(dtype)
    constant = np.unique([0, M // 2, M - 1])
    W[30:, constant] = 0
    for activation in ("leaky_relu", "gelu", "identity"):
        found = nc_fast.class_moments(W, X, np.arange(len(X)) % 3, activation=activation)
        assert (found.spread()[constant] == 0).all()


def test_where_no_folder_takes_the_cache_each_process_compiles_for_itself(monkeypatch):
    from numba.core import caching

    from nc_fast.runtime.compiled import compiled

    def no_locator(*_):
        raise RuntimeError("cannot cache function 'f': no locator available for file 'f.py'")

    monkeypatch.setattr(caching.CacheImpl, "__init__", no_locator)
    assert compiled()(lambda v: v + 1)(1) == 2
