"""What nc-fast compare trains and on which samples: networks by name, data as tensors."""

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from nc_fast.compare.initializations import layers
from nc_fast.compare.networks import NETWORKS, build, prepare
from nc_fast.files.read import Dataset, load_digits


@pytest.fixture(scope="module")
def digits():
    return prepare(load_digits())


@pytest.mark.parametrize("network", NETWORKS)
def test_networks(network, digits):
    model = build(network, digits)
    stages = [8, *(width for width in (8, 16, 32, 64) for _ in range(4 if width == 8 else 5))]  # the fifth is the shortcut
    widths = {
        **{"mlp2": [100, 10], "mlp3": [256, 100, 10], "mlp5": [32, 32, 32, 32, 10], "mlp10": [*[64] * 9, 10]},
        **{"cnn": [8, 16, 10], "resnet": [*stages, 10], "transformer": [*[32] * 7, 10]},
    }
    assert [len(layer.weight) for layer in layers(model)] == widths[network]
    assert model(digits.X[:3]).shape == (3, 10)


@pytest.mark.parametrize("network", ["resnet", "transformer"])
def test_a_seed_draws_what_no_initialization_sets(network, digits):
    """Attention's input projections, positions: torch's own."""
    one, same, other = (list(build(network, digits, seed).parameters()) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert not torch.equal(one[0], other[0])


@pytest.mark.parametrize("network", ["cnn", "resnet", "transformer"])
def test_odd_pictures_and_none(network, rng):
    X, y = rng.random((30, 7 * 5), dtype=np.float32), np.arange(30) % 3
    assert build(network, prepare(Dataset("odd", X, y, image_shape=(7, 5))))(torch.from_numpy(X)).shape == (30, 3)
    with pytest.raises(ValueError, match=f"{network} needs pictures"):
        build(network, prepare(Dataset("flat", X, y)))


def test_samples_are_held_out_by_class_and_classes_numbered():
    y = np.repeat(["a", "b", "c"], [10, 1, 4])
    samples = prepare(Dataset("some", np.arange(15, dtype=np.float32)[:, None], y))
    assert sorted([*samples.X.flatten().tolist(), *samples.X_test.flatten().tolist()]) == list(range(15))
    assert samples.X_test.flatten().tolist() == [4, 9, 14]
    assert samples.y_test.tolist() == [0, 0, 2]
    assert samples.n_classes == 3


@pytest.mark.parametrize(
    ("y", "y_test", "message"),
    [
        ([1] * 9, None, "two classes"),
        ([0, 1, 2], None, "expected at least 5 samples"),
        ([0, 1] * 3, [0, 2], "labels that occur in training, got 2"),
    ],
)
def test_samples_that_cannot_be_compared(y, y_test, message):
    X_test = None if y_test is None else np.zeros((2, 2))
    with pytest.raises(ValueError, match=message):
        prepare(Dataset("bad", np.zeros((len(y), 2)), np.array(y), X_test, None if y_test is None else np.array(y_test)))


def test_validation_samples_are_a_tenth_of_each_class_and_the_rest_is_trained_on(digits):
    parted = digits.with_validation()
    assert len(parted.X_validation) == len(digits.X) // 10
    assert len(parted.X) + len(parted.X_validation) == len(digits.X)
    shares = torch.bincount(parted.y_validation) / torch.bincount(digits.y)
    assert float((shares - 0.1).abs().max()) < 0.01
    rows = {tuple(row) for row in parted.X_validation.tolist()}
    assert len({tuple(row) for row in digits.X.tolist()} - rows) == len({tuple(row) for row in parted.X.tolist()})
    with pytest.raises(ValueError, match="expected at least 10 training samples to hold some out, got 4"):
        digits.drawn(4, 0).with_validation()


@pytest.mark.parametrize("n", [10, 101, 1437])
def test_drawn_samples_are_stratified_and_follow_the_seed(n, digits):
    drawn, same, other = (digits.drawn(n, seed) for seed in (1, 1, 2))
    assert torch.equal(drawn.X, same.X)
    assert torch.equal(drawn.X, other.X) == (n == 1437)
    assert len({tuple(row) for row in drawn.X.tolist()}) == n
    expected = torch.bincount(digits.y) * n / len(digits.y)
    assert float((torch.bincount(drawn.y, minlength=10) - expected).abs().max()) < 1
