"""NullSpaceProjector against least squares, on shapes, layouts and scales that tend to break such things."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from projector_cases import layouts, projector_on

from nc_fast._projector import NullSpaceProjector

SHAPES = [(1, 1, 0), (1, 5, 1), (2, 3, 1), (7, 11, 3), (16, 16, 16), (31, 70, 17), (33, 1, 32), (64, 129, 20)]


def residual_norms(vectors: np.ndarray, W: np.ndarray) -> np.ndarray:
    """The oracle: what least squares on the vectors leaves of W."""
    W = W.astype(np.float64)
    if not vectors.shape[1]:
        return np.linalg.norm(W, axis=0)
    solution = np.linalg.lstsq(vectors.astype(np.float64), W, rcond=None)[0]
    return np.linalg.norm(W - vectors.astype(np.float64) @ solution, axis=0)


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


def test_no_columns() -> None:
    assert NullSpaceProjector(3).ratios(np.ones((3, 0))).shape == (0,)
