"""nn.Conv1d, 2d, 3d: every patch the kernel sees is a sample with its image's label."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np
from torch import Tensor
from torch.nn import functional
from torch.nn.utils import parametrize

from nc_fast.init.layers.base import BatchAxis, Layer, spread_labels

PATCH_BYTES = 64 << 20  # of unfolded patches at a time


class ConvLayer(Layer):
    """nn.Conv1d, nn.Conv2d or nn.Conv3d."""

    module: Any  # nn.Conv1d | nn.Conv2d | nn.Conv3d, whose common base torch keeps private

    def __init__(self, name: str, module: Any) -> None:
        super().__init__(name, module, module)
        self.kind = parametrize.type_before_parametrizations(module).__name__
        self.groups = module.groups

    def grid(self, x: Tensor) -> tuple[int, ...]:
        """Return the spatial shape of the output."""
        m = self.module
        sides = zip(_padding_by_side(m), x.shape[2:], m.kernel_size, m.dilation, m.stride, strict=True)
        return tuple((sum(pad) + side - dilation * (kernel - 1) - 1) // stride + 1 for pad, side, kernel, dilation, stride in sides)

    def rows(self, x: Tensor, axis: BatchAxis, labels: np.ndarray, group: int) -> Iterator[tuple[Tensor, np.ndarray]]:
        """Yield the patches of a block of images at a time."""
        grid = self.grid(x)
        x = x.chunk(self.groups, 1)[group]
        label_of_patch = spread_labels(labels, axis.rows, grid).reshape(len(x), -1)
        bytes_per_image = prod(grid) * x.shape[1] * prod(self.module.kernel_size) * x.element_size()
        images = max(1, PATCH_BYTES // max(1, bytes_per_image))
        for first in range(0, len(x), images):
            block = slice(first, first + images)
            yield patches(self.module, x[block]), label_of_patch[block].reshape(-1)

    def preactivation(self, x: Tensor, axis: BatchAxis, n: int) -> Tensor:
        """Return the output for the first n images, positions as rows."""
        x = x[: n * axis.rows]
        out = self.module._conv_forward(x, *self._weight_and_bias_like(x))
        return out.movedim(1, -1).reshape(-1, len(self.weight))  # type: ignore[no-any-return]


def patches(conv: Any, x: Tensor) -> Tensor:
    """Return every patch the convolution's kernel sees as a row: (images · positions, channels · kernel)."""
    padding = [side for pad in reversed(_padding_by_side(conv)) for side in pad]
    x = functional.pad(x, padding, mode="constant" if conv.padding_mode == "zeros" else conv.padding_mode)
    n = len(conv.kernel_size)
    for axis, (kernel, stride, dilation) in enumerate(zip(conv.kernel_size, conv.stride, conv.dilation, strict=True)):
        x = x.unfold(2 + axis, dilation * (kernel - 1) + 1, stride)[..., ::dilation]
    # (B, C, *positions, *kernel) -> (B, *positions, C, *kernel)
    x = x.permute(0, *range(2, 2 + n), 1, *range(2 + n, 2 + 2 * n))
    return x.reshape(prod(x.shape[: 1 + n]), -1)


def _padding_by_side(conv: Any) -> list[tuple[int, int]]:
    """Return the padding before and after each spatial dimension."""
    if conv.padding == "same":
        totals = [dilation * (kernel - 1) for kernel, dilation in zip(conv.kernel_size, conv.dilation, strict=True)]
        return [(total // 2, total - total // 2) for total in totals]
    if conv.padding == "valid":
        return [(0, 0)] * len(conv.kernel_size)
    return [(side, side) for side in conv.padding]
