"""Networks that look at pictures: a small CNN, a residual network of ResNet-18's shape, a transformer whose tokens are rows."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

STAGES = (8, 16, 32, 64)  # ResNet-18's channels, eight times fewer
D_MODEL, N_HEADS, WIDTH, DEPTH = 32, 4, 32, 2


def small_cnn(height: int, width: int, n_classes: int) -> nn.Module:
    """Return two strided convolutions and a linear layer."""
    return nn.Sequential(
        nn.Unflatten(1, (1, height, width)),
        nn.Conv2d(1, 8, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * -(-height // 4) * -(-width // 4), n_classes),
    )


def resnet(height: int, width: int, n_classes: int) -> nn.Module:
    """Return a stem, four stages of two residual blocks, the mean over the picture, and a linear layer."""
    return nn.Sequential(
        nn.Unflatten(1, (1, height, width)),
        *_normalized(1, STAGES[0], 3),
        nn.ReLU(),
        *_blocks(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(STAGES[-1], n_classes),
    )


def _blocks() -> Iterator[nn.Module]:
    before = STAGES[0]
    for channels in STAGES:
        yield Block(before, channels, stride=1 if channels == before else 2)
        yield Block(channels, channels, stride=1)
        before = channels


def _normalized(before: int, after: int, size: int, stride: int = 1) -> tuple[nn.Module, nn.Module]:
    return nn.Conv2d(before, after, size, stride, size // 2, bias=False), nn.BatchNorm2d(after)


class Block(nn.Module):
    """ResNet's basic block: two convolutions beside a shortcut, which is a convolution where the shape changes."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(*_normalized(before, after, 3, stride), nn.ReLU(), *_normalized(after, after, 3))
        self.shortcut = nn.Identity() if before == after else nn.Sequential(*_normalized(before, after, 1, stride))
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Return the rectified sum of branch and shortcut."""
        return self.relu(self.branch(x) + self.shortcut(x))  # type: ignore[no-any-return]


class Transformer(nn.Module):
    """A two-layer encoder over the rows of a picture, with learned positions; its mean over the rows is classified."""

    def __init__(self, height: int, width: int, n_classes: int) -> None:
        super().__init__()
        self.rows = nn.Unflatten(1, (height, width))
        self.embedding = nn.Linear(width, D_MODEL)
        self.positions = nn.Parameter(0.02 * torch.randn(height, D_MODEL))
        layer = nn.TransformerEncoderLayer(D_MODEL, N_HEADS, WIDTH, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, DEPTH, enable_nested_tensor=False)
        self.head = nn.Linear(D_MODEL, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores of the classes."""
        return self.head(self.encoder(self.embedding(self.rows(x)) + self.positions).mean(1))  # type: ignore[no-any-return]
