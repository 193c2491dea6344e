"""What is trained: networks by name, and a data set as tensors. To add a network, write a function and put it into NETWORKS."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from nc_fast.compare.image_networks import Transformer, resnet, small_cnn
from nc_fast.files.read import Dataset
from nc_fast.inputs import checks

VALIDATION_SHARE = 10  # a tenth


@dataclass(frozen=True, eq=False)
class TrainingData:
    """Training and test samples on a device, and validation samples where some were held out.

    Attributes
    ----------
    name : str
    X, X_test : (N, D) and (n, D) float32
    y, y_test : (N,) and (n,) int64, class numbers
    n_classes : int
    image_shape : (height, width), or None
    X_validation, y_validation : as the test samples, or None
    """

    name: str
    X: Tensor
    y: Tensor
    X_test: Tensor
    y_test: Tensor
    n_classes: int
    image_shape: tuple[int, int] | None
    X_validation: Tensor | None = None
    y_validation: Tensor | None = None

    def with_validation(self) -> TrainingData:
        """Return the same data with a tenth of the training samples held out, by class and always the same.

        Raises
        ------
        ValueError
            When there are too few samples.
        """
        held_out = np.zeros(len(self.y), bool)
        held_out[_in_class_order(self.y.cpu().numpy())[VALIDATION_SHARE - 1 :: VALIDATION_SHARE]] = True
        if not held_out.any():
            raise ValueError(f"{self.name}: expected at least {VALIDATION_SHARE} training samples to hold some out, got {len(self.y)}")
        rows, others = (torch.from_numpy(np.flatnonzero(mask)).to(self.y.device) for mask in (held_out, ~held_out))
        return replace(self, X=self.X[others], y=self.y[others], X_validation=self.X[rows], y_validation=self.y[rows])

    def drawn(self, n: int, seed: int) -> TrainingData:
        """Return the same data with n of its training samples, drawn at random, as many of a class as its share and chance give it."""
        rng = np.random.default_rng(seed)
        shuffled = rng.permutation(len(self.y))
        in_class_order = shuffled[_in_class_order(self.y.cpu().numpy()[shuffled])]
        steps = (np.arange(n) + rng.random()) * (len(in_class_order) / n)  # one in every n-th of a list that is in order of the classes
        rows = torch.from_numpy(np.sort(in_class_order[steps.astype(np.int64)])).to(self.y.device)
        return replace(self, X=self.X[rows], y=self.y[rows])


def _in_class_order(y: np.ndarray) -> np.ndarray:
    return np.argsort(y, kind="stable")


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


def build(name: str, data: TrainingData, seed: int = 0) -> nn.Module:
    """Return the network of that name for this data, on its device; its weights are torch's defaults, drawn with ``seed``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return NETWORKS[checks.choice("--networks", name, NETWORKS)](data).to(data.X.device)


def mlp(*hidden: int) -> Callable[[TrainingData], nn.Module]:
    """Return a builder of ReLU networks with these hidden widths."""

    def of(data: TrainingData) -> nn.Module:
        widths = (data.X.shape[1], *hidden)
        layers = [layer for before, after in zip(widths, hidden, strict=False) for layer in (nn.Linear(before, after), nn.ReLU())]
        return nn.Sequential(*layers, nn.Linear(widths[-1], data.n_classes))

    return of


def of_pictures(name: str, network: Callable[[int, int, int], nn.Module]) -> Callable[[TrainingData], nn.Module]:
    """Return a builder that refuses data without pictures."""

    def of(data: TrainingData) -> nn.Module:
        if data.image_shape is None:
            raise ValueError(f"--networks: {name} needs pictures, got {data.X.shape[1]} features in {data.name}")
        return network(*data.image_shape, data.n_classes)

    return of


NETWORKS: dict[str, Callable[[TrainingData], nn.Module]] = {
    "mlp2": mlp(100),
    "mlp3": mlp(256, 100),
    "mlp5": mlp(32, 32, 32, 32),
    "mlp10": mlp(*[64] * 9),
    "cnn": of_pictures("cnn", small_cnn),
    "resnet": of_pictures("resnet", resnet),
    "transformer": of_pictures("transformer", Transformer),
}
LINEAR_STACKS = ("mlp2", "mlp3", "mlp5", "mlp10")
