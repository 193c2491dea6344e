"""Patches: what a convolution's kernel sees at each position of its output."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import repeat
from math import prod

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Axis:
    """How a kernel moves along one spatial dimension.

    Attributes
    ----------
    kernel, stride, dilation : of the convolution.
    padding : positions added before and after; negative ones are cut off.
    mode : what is padded, as :func:`torch.nn.functional.pad` names it.
    spacing : from one sample of the input to the next, with zeros in between: the stride of a transposed convolution.
    """

    kernel: int
    stride: int
    dilation: int
    padding: tuple[int, int]
    mode: str = "constant"
    spacing: int = 1

    def positions(self, side: int) -> int:
        """Return how many positions the output has for so long an input."""
        return (sum(self.padding) + (side - 1) * self.spacing - self.dilation * (self.kernel - 1)) // self.stride + 1

    def sources(self, side: int, device: torch.device) -> Tensor:
        """Return which position of the input each position of the padded one is, -1 where that is a zero."""
        numbers = torch.zeros((1, 1, (side - 1) * self.spacing + 1), dtype=torch.float64, device=device)
        numbers[..., :: self.spacing] = torch.arange(1, side + 1, dtype=torch.float64, device=device)
        return functional.pad(numbers, self.padding, mode=self.mode).long().flatten() - 1


Axes = tuple[Axis, ...]


def patches(axes: Axes, x: Tensor) -> Tensor:
    """Return every patch the kernel sees as a row: (images · positions, channels · kernel)."""
    n = len(axes)
    for dim, (_, source) in enumerate(_with_sources(axes, x), start=2):
        x = x.index_select(dim, source.clamp(min=0)).masked_fill((source < 0).reshape(-1, *repeat(1, n + 1 - dim)), 0)
    for dim, axis in enumerate(axes, start=2):
        x = x.unfold(dim, axis.dilation * (axis.kernel - 1) + 1, axis.stride)[..., :: axis.dilation]
    # (B, C, *positions, *kernel) -> (B, *positions, C, *kernel)
    x = x.permute(0, *range(2, 2 + n), 1, *range(2 + n, 2 + 2 * n))
    return x.reshape(prod(x.shape[: 1 + n]), -1)


def patches_at(axes: Axes, x: Tensor, grid: tuple[int, ...], places: Tensor) -> Tensor:
    """Return some of the rows of ``patches``; x is neither padded nor spread for them, only looked up."""
    n = len(grid)
    where, outside = [places.reshape(-1, *(1,) * n) // prod(grid)], torch.zeros((), dtype=torch.bool, device=x.device)
    for number, (axis, source) in enumerate(_with_sources(axes, x)):
        position = places // prod(grid[number + 1 :]) % grid[number]
        inside = (torch.arange(axis.kernel, device=x.device) * axis.dilation).reshape(-1, *(1,) * (n - 1 - number))
        at = source[position.reshape(-1, *(1,) * n) * axis.stride + inside]
        where.append(at.clamp(min=0))
        outside = outside | (at < 0)
    found = x.movedim(1, -1)[tuple(where)].masked_fill(outside[..., None], 0)
    return found.movedim(-1, 1).reshape(len(places), -1)


def _with_sources(axes: Axes, x: Tensor) -> Iterator[tuple[Axis, Tensor]]:
    for axis, side in zip(axes, x.shape[2:], strict=True):
        yield axis, axis.sources(side, x.device)
