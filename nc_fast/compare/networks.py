"""What is trained: networks by name, and a data set as tensors. To add a network, write a function and put it into NETWORKS."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from nc_fast.files.read import Dataset
from nc_fast.inputs import checks


@dataclass(frozen=True, eq=False)
class TrainingData:
    """Training and test samples on a device.

    Attributes
    ----------
    name : str
    X, X_test : (N, D) and (n, D) float32
    y, y_test : (N,) and (n,) int64, class numbers
    n_classes : int
    image_shape : (height, width), or None
    """

    name: str
    X: Tensor
    y: Tensor
    X_test: Tensor
    y_test: Tensor
    n_classes: int
    image_shape: tuple[int, int] | None


def prepare(dataset: Dataset, device: str = "cpu") -> TrainingData:
    """Return a data set's samples scaled to [0, 1]; without test samples of its own, a fifth of each class is held out.

    Raises
    ------
    ValueError
        With fewer than two classes, too few samples to hold some out, or when a test label does not occur among the training labels.
    """
    dataset = dataset.scaled().with_test()
    X, y, X_test, y_test = dataset.X_train, dataset.y_train, dataset.X_test, dataset.y_test
    assert X_test is not None
    assert y_test is not None
    classes, numbers = np.unique(y, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(f"{dataset.name}: expected at least two classes, got {len(classes)}")
    unknown = np.setdiff1d(y_test, classes)
    if len(unknown):
        raise ValueError(f"{dataset.name}: expected test labels that occur in training, got {unknown[0]}")

    def tensor(array: np.ndarray, dtype: type) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array, dtype)).to(device)

    return TrainingData(
        name=dataset.name,
        X=tensor(X, np.float32),
        y=tensor(numbers, np.int64),
        X_test=tensor(X_test, np.float32),
        y_test=tensor(np.searchsorted(classes, y_test), np.int64),
        n_classes=len(classes),
        image_shape=dataset.image_shape,
    )


def build(name: str, data: TrainingData) -> nn.Module:
    """Return the network of that name for this data, on its device; its weights are torch's defaults."""
    return NETWORKS[checks.choice("--networks", name, NETWORKS)](data).to(data.X.device)


def mlp(*hidden: int) -> Callable[[TrainingData], nn.Module]:
    """Return a builder of ReLU networks with these hidden widths."""

    def of(data: TrainingData) -> nn.Module:
        widths = (data.X.shape[1], *hidden)
        layers = [layer for before, after in zip(widths, hidden, strict=False) for layer in (nn.Linear(before, after), nn.ReLU())]
        return nn.Sequential(*layers, nn.Linear(widths[-1], data.n_classes))

    return of


def small_cnn(data: TrainingData) -> nn.Module:
    """Return two strided convolutions and a linear layer."""
    if data.image_shape is None:
        raise ValueError(f"--networks: cnn needs pictures, got {data.X.shape[1]} features in {data.name}")
    height, width = data.image_shape
    return nn.Sequential(
        nn.Unflatten(1, (1, height, width)),
        nn.Conv2d(1, 8, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * -(-height // 4) * -(-width // 4), data.n_classes),
    )


NETWORKS: dict[str, Callable[[TrainingData], nn.Module]] = {
    "mlp2": mlp(100),
    "mlp3": mlp(256, 100),
    "mlp5": mlp(32, 32, 32, 32),
    "cnn": small_cnn,
}
