"""nn.Conv1d, 2d, 3d: every patch the kernel sees is a sample with its image's label."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from nc_fast.init.labels import SampleLabels, stratified
from nc_fast.init.layers.base import BatchAxis, Layer, PatchDraw, kind_of, rows_that_count, same_numbers

GROUP_SHARE = 8  # each of several groups looks at so small a part of the patches: its neurons read fewer features
OVERDRAWN = 16  # times as many places are looked at for classes as patches are drawn


class ConvLayer(Layer):
    """nn.Conv1d, nn.Conv2d or nn.Conv3d."""

    module: Any  # nn.Conv1d | nn.Conv2d | nn.Conv3d, whose common base torch keeps private

    def __init__(self, name: str, module: Any) -> None:
        super().__init__(name, module, module)
        self.kind = kind_of(module)
        self.groups = module.groups
        self._drawn_for: SampleLabels | None = None
        self._places = np.zeros(0, np.int64)

    def grid(self, x: Tensor) -> tuple[int, ...]:
        """Return the spatial shape of the output."""
        m = self.module
        sides = zip(_padding_by_side(m), x.shape[2:], m.kernel_size, m.dilation, m.stride, strict=True)
        return tuple((sum(pad) + side - dilation * (kernel - 1) - 1) // stride + 1 for pad, side, kernel, dilation, stride in sides)

    def rows(self, x: Tensor, axis: BatchAxis, labels: SampleLabels, group: int, draw: PatchDraw) -> Iterator[tuple[Tensor, np.ndarray]]:
        """Yield patches: all, or those drawn, as many of every class as there are."""
        grid = self.grid(x)
        x = x.chunk(self.groups, 1)[group]
        y, counted = labels.spread(axis.rows, grid, axis.grids)
        n = draw.of(len(labels), x.shape[1] * prod(self.module.kernel_size) * x.element_size())
        n = n if self.groups == 1 else -(-n // GROUP_SHARE)
        if y.size <= n:
            yield rows_that_count(patches(self.module, x), (y, counted))
            return
        if self._drawn_for is not labels:  # the same for all groups
            self._drawn_for, self._places = labels, _drawn(y, counted, n, np.random.default_rng(draw.seed))
        places = self._places
        yield patches_at(self.module, x, grid, torch.from_numpy(places).to(x.device)), y[np.unravel_index(places, y.shape)]

    def computes(self, x: Tensor, output: Tensor) -> bool:
        """Compare with what the module's class would have made of it without a forward of its own."""
        weight, bias = self._weight_and_bias_like(x)
        try:
            return same_numbers(self.module._conv_forward(x, weight, bias), output) and bool(weight.any())
        except RuntimeError:  # an input that only the forward of its own can take
            return False

    def preactivation(self, x: Tensor, axis: BatchAxis, labels: SampleLabels) -> Tensor:
        """Return the output for the first images, positions as rows."""
        x = x[: len(labels) * axis.rows]
        out = self.module._conv_forward(x, *self._weight_and_bias_like(x)).movedim(1, -1)
        spread = labels.spread(axis.rows, tuple(out.shape[1:-1]), axis.grids)
        return rows_that_count(out.reshape(-1, len(self.weight)), spread)[0]


def patches(conv: Any, x: Tensor) -> Tensor:
    """Return every patch the convolution's kernel sees as a row: (images · positions, channels · kernel)."""
    x = _pad(conv, x, [side for pad in reversed(_padding_by_side(conv)) for side in pad])
    n = len(conv.kernel_size)
    for axis, (kernel, stride, dilation) in enumerate(zip(conv.kernel_size, conv.stride, conv.dilation, strict=True)):
        x = x.unfold(2 + axis, dilation * (kernel - 1) + 1, stride)[..., ::dilation]
    # (B, C, *positions, *kernel) -> (B, *positions, C, *kernel)
    x = x.permute(0, *range(2, 2 + n), 1, *range(2 + n, 2 + 2 * n))
    return x.reshape(prod(x.shape[: 1 + n]), -1)


def patches_at(conv: Any, x: Tensor, grid: tuple[int, ...], places: Tensor) -> Tensor:
    """Return some of the rows of ``patches``; x is not padded for them, only looked up."""
    n = len(grid)
    where, outside = [places.reshape(-1, *(1,) * n) // prod(grid)], torch.zeros((), dtype=torch.bool, device=x.device)
    geometry = zip(_padding_by_side(conv), conv.kernel_size, conv.stride, conv.dilation, strict=True)
    for axis, (pad, kernel, stride, dilation) in enumerate(geometry):
        numbers = torch.arange(1.0, x.shape[2 + axis] + 1, dtype=torch.float64, device=x.device).reshape(1, 1, -1)
        source = _pad(conv, numbers, pad).long().flatten() - 1  # -1 where zeros are padded
        position = places // prod(grid[axis + 1 :]) % grid[axis]
        inside = (torch.arange(kernel, device=x.device) * dilation).reshape(-1, *(1,) * (n - 1 - axis))
        at = source[position.reshape(-1, *(1,) * n) * stride + inside]
        where.append(at.clamp(min=0))
        outside = outside | (at < 0)
    found = x.movedim(1, -1)[tuple(where)].masked_fill(outside[..., None], 0)
    return found.movedim(-1, 1).reshape(len(places), -1)


def _pad(conv: Any, x: Tensor, padding: Sequence[int]) -> Tensor:
    return functional.pad(x, padding, mode="constant" if conv.padding_mode == "zeros" else conv.padding_mode)


def _drawn(y: np.ndarray, counted: np.ndarray | None, n: int, rng: np.random.Generator) -> np.ndarray:
    """Return n row numbers of patches that count, in order: as many of every class as there are among OVERDRAWN times as many drawn."""
    places = np.sort(rng.integers(0, y.size, OVERDRAWN * n))
    places = places[np.diff(places, prepend=-1) > 0]
    if counted is not None:
        places = places[counted[np.unravel_index(places, y.shape)]]
    if len(places) > n:
        places = places[stratified(y[np.unravel_index(places, y.shape)], n, rng.permutation(len(places)))]
    return np.sort(places)


def _padding_by_side(conv: Any) -> list[tuple[int, int]]:
    """Return the padding before and after each spatial dimension."""
    if conv.padding == "same":
        totals = [dilation * (kernel - 1) for kernel, dilation in zip(conv.kernel_size, conv.dilation, strict=True)]
        return [(total // 2, total - total // 2) for total in totals]
    if conv.padding == "valid":
        return [(0, 0)] * len(conv.kernel_size)
    return [(side, side) for side in conv.padding]
