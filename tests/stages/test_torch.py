"""Torch tensors in, torch tensors out, on the CPU."""

import numpy as np
import pytest

import nc_fast
from nc_fast.backends.registry import BACKENDS
from nc_fast.testing import CASES

torch = pytest.importorskip("torch")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tensors_in_tensors_out_with_the_picks_of_numpy(dtype, rng):
    W, X, y = CASES[1].draw(rng)
    tW, tX, ty = torch.tensor(W, dtype=dtype, requires_grad=True), torch.tensor(X, dtype=dtype), torch.tensor(y)
    found = nc_fast.campaign(tW, tX, ty, 31, bias=torch.zeros(101))
    expected = nc_fast.campaign(tW.detach().numpy(), tX.numpy(), y, 31)
    for name in ("weights", "bias", "indices", "scores", "gains", "groups"):
        value = getattr(found, name)
        assert isinstance(value, torch.Tensor), name
        assert not value.requires_grad
        np.testing.assert_allclose(value.numpy(), getattr(expected, name), rtol=1e-12 if name in ("scores", "gains") else 0)
    assert found.weights.dtype == found.bias.dtype == dtype
    assert found.indices.dtype == torch.int64
    assert isinstance(found.candidates.score, torch.Tensor)
    moments = nc_fast.class_moments(tW, tX, ty)
    assert isinstance((moments + moments).mean, torch.Tensor)
    parts = nc_fast.class_moments(tW, [(tX[:100], ty[:100]), (tX[100:], ty[100:])])
    np.testing.assert_allclose(parts.m2.numpy(), moments.m2.numpy(), rtol=1e-4 if dtype == torch.float32 else 1e-11)


def test_a_torch_callable_sees_tensors(rng):
    W, X, y = (torch.tensor(a) for a in CASES[1].draw(rng))
    called = nc_fast.class_moments(W, X, y, activation=torch.nn.functional.softplus)
    named = nc_fast.class_moments(W, X, y, activation="softplus")
    np.testing.assert_allclose(called.mean.numpy(), named.mean.numpy(), rtol=1e-9)  # torch cuts the tail off above 20


def test_string_labels_beside_tensors(rng):
    W, X, y = CASES[1].draw(rng)
    result = nc_fast.campaign(torch.tensor(W), torch.tensor(X), np.array(list("abcdefg"))[y], 7)
    assert result.groups.tolist() == list("abcdefg")


def test_classes_that_appear_late(rng):
    W, X, y = (torch.tensor(a) for a in CASES[0].draw(rng))
    order = torch.argsort(y, stable=True)
    X, y = X[order], y[order]
    whole = nc_fast.class_moments(W, X, y)
    merged = nc_fast.class_moments(W, ((X[i : i + 50], y[i : i + 50]) for i in range(0, len(X), 50)))
    assert merged.count.tolist() == whole.count.tolist()
    np.testing.assert_allclose(merged.m2.numpy(), whole.m2.numpy(), rtol=1e-11)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"W": torch.zeros(3, 5, dtype=torch.float16)}, TypeError, "W: expected float32 or float64, got float16; 16-bit"),
        ({"W": torch.zeros(3, 5, dtype=torch.bfloat16)}, TypeError, "W: expected float32 or float64, got bfloat16; 16-bit"),
        ({"X": torch.zeros(4, 3, dtype=torch.cfloat)}, TypeError, "X: expected float32 or float64 or integer, got complex64"),
        ({"X": torch.eye(4, 3).to_sparse()}, TypeError, "X: expected a dense tensor, got layout torch.sparse_coo"),
        ({"y": torch.zeros(4)}, TypeError, "y: expected integer, boolean or string labels, got float32"),
        ({"X": torch.tensor([[0.0, 1, 2], [3, float("nan"), 5], [0, 0, 0], [1, 1, 1]])}, ValueError, r"X: .* got nan at \(1, 1\)"),
        ({"X": torch.zeros(4, 3, device="meta")}, ValueError, "X: expected on the device of W, cpu, or in host memory, got meta"),
    ],
)
def test_errors(change, error, message):
    arguments = {"W": torch.ones(3, 5), "X": torch.ones(4, 3), "y": torch.tensor([0, 1, 0, 1]), **change}
    with pytest.raises(error, match=message):
        nc_fast.class_moments(**arguments)


@pytest.mark.parametrize("W_is", ["float64", "bfloat16"])
def test_bfloat16_beside_the_weights(W_is, rng):
    W, X, y = (torch.tensor(a) for a in CASES[2].draw(rng))
    if W_is == "bfloat16" and BACKENDS["gpu"].missing():
        pytest.skip(BACKENDS["gpu"].missing())
    backend, W = ("gpu", W.bfloat16()) if W_is == "bfloat16" else ("cpu", W)
    bias, scores = W[0].bfloat16(), W[1].bfloat16()
    found = nc_fast.campaign(W, X, y, 4, bias=bias, backend=backend)
    assert found.indices.tolist() == nc_fast.campaign(W, X, y, 4, bias=bias.double(), backend=backend).indices.tolist()
    chosen = nc_fast.select(W, scores, 4, by_class=False, backend=backend)
    np.testing.assert_array_equal(chosen.scores.numpy(), scores.double()[chosen.indices].numpy())
    with pytest.raises(TypeError, match="y: expected integer, boolean or string labels, got float32"):
        nc_fast.campaign(W, X, y.bfloat16(), 4, backend=backend)


@pytest.mark.parametrize("name", ["W", "X"])
def test_a_lazy_minus_is_carried_out(backend, name, rng):
    W, X, y = (torch.tensor(a) for a in CASES[2].draw(rng))
    arguments = {"W": W, "X": X}
    lazy = torch.complex(W if name == "W" else X, -arguments[name]).conj().imag
    assert lazy.is_neg()
    expected = nc_fast.class_moments(W, X, y, backend=backend)
    found = nc_fast.class_moments(**{**arguments, name: lazy}, y=y, backend=backend)
    np.testing.assert_array_equal(found.mean.numpy(), expected.mean.numpy())


def test_labels_of_the_other_byte_order_beside_tensors(rng):
    W, X, y = CASES[2].draw(rng)
    groups = nc_fast.campaign(torch.tensor(W), torch.tensor(X), y.astype(y.dtype.newbyteorder()), 4).groups
    np.testing.assert_array_equal(groups.numpy(), nc_fast.campaign(W, X, y, 4).groups)
