"""``bias="center"``: the picks and moments of the explicit bias that it stands for, from every kind of source."""

import numpy as np
import pytest
from stream_cases import OnlySlices, same_bits
from threadpoolctl import threadpool_limits

import nc_fast
from nc_fast.inputs import means, sources
from nc_fast.inputs.left_out import LeftOut


@pytest.fixture
def problem(rng):
    y = rng.integers(0, 3, 90)
    X = (rng.normal(size=(90, 7)) + 5 + np.eye(3, 7)[y]).astype(np.float32)
    return rng.normal(size=(7, 20)).astype(np.float32), X, y


def explicit(W, X):
    return -X.mean(axis=0, dtype=np.float64) @ W.astype(np.float64)


def forms(X, folder):
    mapped = np.memmap(folder / "X", X.dtype, "w+", shape=X.shape)
    mapped[...] = X
    yield from (X, np.asfortranarray(X), mapped, OnlySlices(X), X.tolist())
    sparse = pytest.importorskip("scipy.sparse")
    yield from (sparse.csc_array(X), sparse.coo_matrix(X))


def test_it_is_the_explicit_bias_on_every_backend(problem, backend, tmp_path):
    W, X, y = problem
    bias = explicit(W, X)
    expected = nc_fast.campaign(W, X, y, 6, bias=bias, backend=backend)
    other = nc_fast.campaign(W, X, y, 6, backend=backend)
    assert not np.array_equal(other.indices, expected.indices)
    for form in forms(X, tmp_path):
        found = nc_fast.campaign(W, form, y, 6, bias="center", backend=backend)
        np.testing.assert_array_equal(found.indices, expected.indices)
        np.testing.assert_allclose(found.bias, bias[found.indices], rtol=1e-6)
        assert found.bias.dtype == W.dtype
        np.testing.assert_allclose(found.candidates.score, expected.candidates.score, rtol=1e-5)
        moments = nc_fast.class_moments(W, form, y, bias="center", activation="identity", backend=backend)
        total = (moments.count[:, None] * moments.mean).sum(0)
        np.testing.assert_allclose(total, 0, atol=90 * 5e-5)
    screened = nc_fast.campaign(W, X, y, 6, bias="center", backend=backend, method="screened")
    np.testing.assert_array_equal(screened.indices, expected.indices)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float64])
def test_dtypes_of_the_samples(problem, dtype):
    W, X, y = problem
    X = (10 * X).clip(0).astype(dtype)
    found = nc_fast.campaign(W.astype(np.float64), X, y, 6, bias="center")
    np.testing.assert_allclose(found.bias, explicit(W, X)[found.indices], rtol=1e-12)


def test_tensors(problem):
    torch = pytest.importorskip("torch")
    W, X, y = problem
    found = nc_fast.campaign(torch.from_numpy(W), torch.from_numpy(X), y, 6, bias="center")
    assert isinstance(found.bias, torch.Tensor)
    np.testing.assert_array_equal(found.bias.numpy(), nc_fast.campaign(W, X, y, 6, bias="center").bias)


def test_blocks_layouts_and_threads_change_no_bit(rng, monkeypatch):
    monkeypatch.setattr(sources, "BLOCK_ROWS", (256, 256))
    W, X, y = rng.normal(size=(500, 700)), rng.normal(size=(3000, 500)).astype(np.float32), np.arange(3000) % 5
    sums = means.feature_sums(sources.labelled(X, y, W, LeftOut(), half=False), 500)
    bias = means.centring(W, sums)
    np.testing.assert_allclose(bias, explicit(W, X), rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(means.centring(np.asfortranarray(W), sums), bias)
    np.testing.assert_array_equal([means.centring(W[:, j : j + 1], sums)[0] for j in range(700)], bias)
    for threads in (1, 2):
        with threadpool_limits(threads):
            np.testing.assert_array_equal(means.feature_sums(sources.labelled(X, y, W, LeftOut(), half=False), 500), sums)


def test_a_checkpoint_goes_on(problem, tmp_path):
    W, X, y = problem
    path = tmp_path / "m.npz"
    for _ in range(2):
        moments = nc_fast.class_moments(W, X, y, bias="center", checkpoint=path)
    same_bits(moments, nc_fast.class_moments(W, X, y, bias=means.centring(W, np.append(X.sum(0, dtype=np.float64), 90)), checkpoint=path))
    with pytest.raises(ValueError, match=r"checkpoint: expected .* made with the same bias"):
        nc_fast.class_moments(W, X, y, checkpoint=path)


def test_refusals(problem):
    W, X, y = problem
    with pytest.raises(ValueError, match=r"^bias: expected numbers with batches, which are read once, got 'center'"):
        nc_fast.class_moments(W, [(X, y)], bias="center")
    with pytest.raises(TypeError, match=r"^bias: expected a number, \(M,\) numbers or 'center', got 'centre'"):
        nc_fast.campaign(W, X, y, 6, bias="centre")
    with pytest.raises(ValueError, match="expected activations with finite moments, got an overflow"):
        nc_fast.campaign(1e200 * W.astype(np.float64), 1e200 * X.astype(np.float64), y, 6, bias="center")
    X[3, 2] = np.nan
    with pytest.raises(ValueError, match=r"^X: expected finite numbers, got nan at \(3, 2\)"):
        nc_fast.campaign(W, OnlySlices(X), y, 6, bias="center")
