"""NullSpaceProjector against least squares, on shapes, layouts and scales that tend to break such things."""

from __future__ import annotations

import copy
import doctest
import pickle
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nc_fast import _projector
from nc_fast._projector import NullSpaceProjector, greedy_select, simd_level

SHAPES = [(1, 1, 0), (1, 5, 1), (2, 3, 1), (7, 11, 3), (16, 16, 16), (31, 70, 17), (33, 1, 32), (64, 129, 20)]


def projector_on(vectors: np.ndarray) -> NullSpaceProjector:
    projector = NullSpaceProjector(len(vectors))
    for vector in vectors.T:
        projector.add(vector)
    return projector


def residual_norms(vectors: np.ndarray, W: np.ndarray) -> np.ndarray:
    """The oracle: what least squares on the vectors leaves of W."""
    W = W.astype(np.float64)
    if not vectors.shape[1]:
        return np.linalg.norm(W, axis=0)
    solution = np.linalg.lstsq(vectors.astype(np.float64), W, rcond=None)[0]
    return np.linalg.norm(W - vectors.astype(np.float64) @ solution, axis=0)


def layouts(W: np.ndarray) -> dict[str, np.ndarray]:
    """The same matrix in every memory layout that NumPy can hand over."""
    padded = np.zeros((2 * W.shape[0] + 1, 3 * W.shape[1] + 2), W.dtype)
    padded[1::2, 1:-1:3] = W
    packed = np.zeros(W.shape, np.dtype([("pad", "u1"), ("value", W.dtype)]))  # not aligned
    packed["value"] = W
    read_only = W.copy()
    read_only.flags.writeable = False
    return {
        "C": np.ascontiguousarray(W),
        "Fortran": np.asfortranarray(W),
        "sliced": padded[1::2, 1:-1:3],
        "sliced Fortran": padded.T.copy().T[1::2, 1:-1:3],
        "rows reversed": np.asfortranarray(W[::-1])[::-1],
        "columns reversed": np.asfortranarray(W[:, ::-1])[:, ::-1],
        "packed": packed["value"],
        "read-only": read_only,
    }


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("D", "M", "rank"), SHAPES)
def test_residuals_are_those_of_least_squares(D: int, M: int, rank: int, dtype: type) -> None:
    rng = np.random.default_rng(D * M)
    vectors, W = rng.standard_normal((D, rank)).astype(dtype), rng.standard_normal((D, M)).astype(dtype)
    projector = projector_on(vectors)
    expected = residual_norms(vectors, W)
    norms = np.linalg.norm(W.astype(np.float64), axis=0)
    np.testing.assert_allclose(projector.residual_norms(W), expected, rtol=1e-9, atol=1e-6 * norms.max() * (rank == D))
    np.testing.assert_allclose(projector.ratios(W) * norms, projector.residual_norms(W), rtol=1e-14)
    assert (projector.rank, projector.dim) == (rank, D)


@settings(deadline=None)
@given(st.integers(1, 20), st.integers(0, 9), st.integers(0, 2**32 - 1))
def test_integer_vectors_rank_and_span(D: int, count: int, seed: int) -> None:
    vectors = np.random.default_rng(seed).integers(-1, 2, (D, count)).astype(np.float32)
    projector = projector_on(vectors)
    assert projector.rank == (np.linalg.matrix_rank(vectors) if count else 0)
    assert not projector.ratios(vectors).any()
    basis = projector.basis
    np.testing.assert_allclose(basis @ basis.T, np.eye(projector.rank), atol=1e-14)
    np.testing.assert_allclose(projector.residual_norms(np.eye(D)), residual_norms(vectors, np.eye(D)), atol=1e-7)


@pytest.mark.parametrize("second", [1e-1, 3e-3, 3e-5, 3e-6])
@pytest.mark.parametrize(("third", "kept"), [(2e-6, True), (1.1e-6, True), (9e-7, False), (1e-7, False), (1e-8, False)])
def test_a_ratio_at_most_the_rank_tolerance_is_0_however_it_got_there(second: float, third: float, kept: bool) -> None:
    w = np.array([[1.0], [second], [third]])
    projector = projector_on(np.eye(3)[:, :1])
    projector.add(np.eye(3)[:, 1])
    ratio = projector.ratios(w)[0]
    assert ratio == pytest.approx(third / np.linalg.norm(w), rel=1e-9) if kept else ratio == 0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_layout_gives_the_same_bits(dtype: type) -> None:
    rng = np.random.default_rng(3)
    W = rng.standard_normal((23, 150)).astype(dtype)
    projector = projector_on(rng.standard_normal((23, 9)))
    expected = projector.ratios(W)
    for name, view in layouts(W).items():
        np.testing.assert_array_equal(view, W)
        np.testing.assert_array_equal(projector.ratios(view), expected, err_msg=name)
    for name, view in layouts(W).items():
        other = NullSpaceProjector(23)
        assert other.add(view[:, 7]) == NullSpaceProjector(23).add(W[:, 7].copy()), name


@pytest.mark.parametrize("scale", [1e-320, 1e-300, 1e-160, 1e-30, 1e-3, 1.0, 1e3, 1e30, 1e160, 1e300])
def test_scale_does_not_matter(scale: float) -> None:
    rng = np.random.default_rng(5)
    vectors, W = rng.standard_normal((17, 4)), rng.standard_normal((17, 6))
    ratios = projector_on(vectors).ratios(W)
    digits = 1e-2 if scale < 1e-310 else 1e-9  # subnormals have few digits left
    np.testing.assert_allclose(projector_on(vectors * scale).ratios(W), ratios, rtol=digits)
    np.testing.assert_allclose(projector_on(vectors).ratios(W * scale), ratios, rtol=digits)
    np.testing.assert_allclose(projector_on(vectors).residual_norms(W * scale), ratios * np.linalg.norm(W, axis=0) * scale, rtol=digits)


@pytest.mark.parametrize("scale", [1e-44, 1e-30, 1e30, 3e37])
def test_scale_does_not_matter_float32(scale: float) -> None:
    W = (np.random.default_rng(6).integers(-3, 4, (9, 12)) + np.eye(9, 12)).astype(np.float32)
    expected = projector_on(W[:, :4]).ratios(W)
    np.testing.assert_allclose(projector_on(W[:, :4] * np.float32(scale)).ratios(W), expected, atol=1e-6)
    projector = projector_on(W[:, :4])
    np.testing.assert_allclose(projector.ratios(np.float32(scale) * W), expected, atol=0.1 if scale < 1e-40 else 1e-6)


def test_small_residuals_keep_their_digits() -> None:
    rotation = np.linalg.qr(np.random.default_rng(8).standard_normal((40, 40)))[0]
    projector = projector_on(rotation[:, :10])
    for exponent in range(0, 6):
        sine = 10.0**-exponent
        w = rotation[:, [3]] + rotation[:, [7]] + sine * rotation[:, [20]]
        np.testing.assert_allclose(projector.residual_norms(w), sine, rtol=1e-15 / sine + 1e-12)


def test_rank_tolerance() -> None:
    projector = projector_on(np.eye(3, 1))
    W = np.array([[1.0, 1.0, 0.0], [2e-6, 0.9e-6, 0.0], [0.0, 0.0, 0.0]])
    np.testing.assert_allclose(projector.ratios(W), [2e-6, 0.0, 0.0], rtol=1e-9)
    assert projector.add(W[:, 1]) == 0.0
    assert projector.add(W[:, 2]) == 0.0
    assert projector.rank == 1
    assert projector.add(W[:, 0]) == pytest.approx(2e-6, rel=1e-9)
    assert projector.rank == 2
    np.testing.assert_allclose(projector.basis @ projector.basis.T, np.eye(2), atol=1e-15)


def test_rank_tolerance_holds_where_subtraction_alone_brings_a_ratio_below_it() -> None:
    ratios = projector_on(np.eye(3, 2)).ratios(np.array([[1.0, 1.0], [5e-6, 5e-6], [5e-7, 2e-6]]))
    np.testing.assert_allclose(ratios, [0.0, 2e-6], rtol=1e-9)


def test_nearly_collinear_vectors_give_an_orthonormal_basis() -> None:
    rng = np.random.default_rng(9)
    vectors = rng.standard_normal((50, 1)) + 1e-4 * rng.standard_normal((50, 30))
    basis = projector_on(vectors).basis
    assert len(basis) == 30
    np.testing.assert_allclose(basis @ basis.T, np.eye(30), atol=1e-14)


def test_full_rank_leaves_nothing() -> None:
    projector = projector_on(np.random.default_rng(1).standard_normal((12, 30)))
    assert projector.rank == 12
    assert not projector.residual_norms(np.random.default_rng(2).standard_normal((12, 20))).any()


def test_reset_empties_the_span() -> None:
    projector = projector_on(np.eye(4, 2))
    projector.reset()
    assert (projector.rank, projector.basis.shape) == (0, (0, 4))
    np.testing.assert_array_equal(projector.ratios(np.eye(4)), np.ones(4))


@pytest.mark.parametrize(
    "duplicate",
    [NullSpaceProjector.copy, copy.copy, copy.deepcopy, lambda projector: pickle.loads(pickle.dumps(projector))],
    ids=["copy()", "copy", "deepcopy", "pickle"],
)
def test_copies_are_equal_and_independent(duplicate) -> None:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(4)
    W = rng.standard_normal((6, 9))
    projector = projector_on(W[:, :2])
    other = duplicate(projector)
    np.testing.assert_array_equal(other.basis, projector.basis)
    np.testing.assert_array_equal(other.ratios(W), projector.ratios(W))
    other.add(W[:, 5])
    assert (projector.rank, other.rank) == (2, 3)
    assert repr(projector) == "NullSpaceProjector(dim=6, rank=2)"


def test_basis_is_a_copy() -> None:
    projector = projector_on(np.eye(3, 2))
    projector.basis[:] = 7
    np.testing.assert_array_equal(projector.basis, np.eye(2, 3))


@pytest.mark.parametrize(
    "state",
    [
        (3,),
        (3, np.eye(2)),
        (2, np.ones((3, 2))),
        (0, np.zeros((0, 0))),
        ("a", 1),
        (10**30, np.eye(2)),
        (2, "a"),
        (2, np.full((1, 2), np.nan)),
    ],
)
def test_a_damaged_pickle_is_refused(state: tuple[object, ...]) -> None:
    with pytest.raises(ValueError, match=r"basis: expected|state: expected|dim: expected"):
        NullSpaceProjector.__new__(NullSpaceProjector).__setstate__(state)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda _: NullSpaceProjector(0), ValueError, r"dim: expected an integer from 1 to 2\^63 - 1, got 0"),
        (lambda _: NullSpaceProjector(10**30), ValueError, r"dim: expected an integer from 1 to 2\^63 - 1, got 10+"),
        (lambda _: NullSpaceProjector(2.5), TypeError, "dim: expected an integer, got 2.5"),
        (lambda p: p.add([1.0, 2.0]), TypeError, "vector: expected a NumPy array of float32 or float64, got list"),
        (lambda p: p.add(np.ones(4, int)), TypeError, "vector: .* float32 or float64, got dtype <i8"),
        (lambda p: p.add(np.ones(4, ">f8")), TypeError, "vector: .* float32 or float64, got dtype >f8"),
        (lambda p: p.add(np.ones(3)), ValueError, r"vector: expected shape \(D,\) = \(4,\), got \(3,\)"),
        (lambda p: p.add(np.ones((4, 1))), ValueError, r"vector: expected shape \(D,\) = \(4,\), got \(4, 1\)"),
        (lambda p: p.add(np.array([1, np.nan, 0, 0])), ValueError, "vector: expected finite values, got NaN"),
        (lambda p: p.add(np.array([1, np.inf, 0, 0], np.float32)), ValueError, "vector: expected finite values"),
        (lambda p: p.add(np.ma.masked_array(np.ones(4), mask=[1, 0, 0, 0])), TypeError, "vector: expected an array without a mask"),
        (lambda p: p.ratios(None), TypeError, "W: expected a NumPy array of float32 or float64, got NoneType"),
        (lambda p: p.ratios(np.ones((3, 2))), ValueError, r"W: expected shape \(D, M\) = \(4, \*\), got \(3, 2\)"),
        (lambda p: p.ratios(np.ones(4)), ValueError, r"W: expected shape \(D, M\) = \(4, \*\), got \(4,\)"),
        (lambda p: p.ratios(np.ones((4, 2), np.float16)), TypeError, "W: .* float32 or float64, got dtype <f2"),
        (lambda p: p.residual_norms(np.full((4, 2), np.inf)), ValueError, "W: expected finite values, .* column 0"),
    ],
)
def test_errors_name_the_argument(call, error: type[Exception], message: str) -> None:  # type: ignore[no-untyped-def]
    projector = NullSpaceProjector(4)
    with pytest.raises(error, match=message):
        call(projector)
    assert projector.rank == 0


def test_no_columns() -> None:
    assert NullSpaceProjector(3).ratios(np.ones((3, 0))).shape == (0,)


def test_threads_may_share_a_projector() -> None:
    rng = np.random.default_rng(10)
    W = rng.standard_normal((60, 400))
    projector = NullSpaceProjector(60)
    seen: list[np.ndarray] = []

    def read() -> None:
        for _ in range(20):
            seen.append(projector.ratios(W))

    def write(first: int) -> None:
        for j in range(first, 40, 2):
            projector.add(W[:, j])

    threads = [threading.Thread(target=read) for _ in range(2)]
    threads += [threading.Thread(target=write, args=(first,)) for first in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert projector.rank == 40
    np.testing.assert_allclose(projector.ratios(W), projector_on(W[:, :40]).ratios(W), atol=1e-9)
    for ratios in seen:  # each between two additions: what either writer has added so far lies in the span, the rest does not
        for first in range(2):
            inside = ratios[first:40:2] == 0
            assert not inside[inside.sum() :].any()
        assert (ratios[40:] > 0.01).all()


INTERRUPTED = """
import sys, numpy as np
from nc_fast._projector import NullSpaceProjector, greedy_select
W = np.random.default_rng(0).standard_normal((900, 6000))
projector = NullSpaceProjector(900)
for j in range(900):
    projector.add(W[:, j])
W = np.tile(W, 4)
M = W.shape[1]
print("ready", flush=True)
try:
    {call}
    print("finished")
except KeyboardInterrupt:
    print("interrupted", flush=True)  # before the interpreter tidies up
"""


@pytest.mark.parametrize(
    "call",
    [
        "projector.ratios(W)",
        "greedy_select(W, np.ones(M), np.zeros(M, np.int64), np.array([M]), threads=1, lazy=False)",
        "greedy_select(W, np.ones(M), np.arange(M) % 3, np.full(3, M // 3), threads=2, lazy=False)",
    ],
)
def test_ctrl_c_stops_within_a_second(call: str) -> None:
    program = [sys.executable, "-c", INTERRUPTED.format(call=call)]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        start = time.perf_counter()
        assert process.stdout.readline() == "interrupted\n"
        assert time.perf_counter() - start < 1


@pytest.mark.parametrize("documented", [NullSpaceProjector, greedy_select])
def test_the_examples_in_the_docstrings_run(documented: object) -> None:
    test = doctest.DocTestParser().get_doctest(documented.__doc__ or "", {}, "example", None, None)
    assert test.examples
    assert doctest.DocTestRunner().run(test).failed == 0


def test_simd_level_is_one_of_the_documented() -> None:
    assert simd_level() in {"avx2+fma", "baseline"}
    assert _projector.__doc__
