"""The networks that are compared, by name. To add one, write a function and put it into NETWORKS."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from nc_fast.compare.samples import Samples
from nc_fast.inputs import checks


def build(name: str, samples: Samples) -> nn.Module:
    """Return the network of that name for these samples, on their device; its weights are torch's defaults."""
    return NETWORKS[checks.choice("--networks", name, NETWORKS)](samples).to(samples.X.device)


def mlp(*hidden: int) -> Callable[[Samples], nn.Module]:
    """Return a builder of ReLU networks with these hidden widths."""

    def of(samples: Samples) -> nn.Module:
        widths = (samples.X.shape[1], *hidden)
        layers = [layer for before, after in zip(widths, hidden, strict=False) for layer in (nn.Linear(before, after), nn.ReLU())]
        return nn.Sequential(*layers, nn.Linear(widths[-1], samples.n_classes))

    return of


def small_cnn(samples: Samples) -> nn.Module:
    """Return two strided convolutions and a linear layer."""
    if samples.image_shape is None:
        raise ValueError(f"--networks: cnn needs pictures, got {samples.X.shape[1]} features in {samples.name}")
    height, width = samples.image_shape
    return nn.Sequential(
        nn.Unflatten(1, (1, height, width)),
        nn.Conv2d(1, 8, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * -(-height // 4) * -(-width // 4), samples.n_classes),
    )


NETWORKS: dict[str, Callable[[Samples], nn.Module]] = {
    "mlp2": mlp(100),
    "mlp3": mlp(256, 100),
    "mlp5": mlp(32, 32, 32, 32),
    "cnn": small_cnn,
}
