"""Where labels of positions (pixels, tokens) are at the grids that strides, pooling and convolutions without padding make of them."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from torch import Tensor

from nc_fast.init.forward_pass import TorchCall, tensors_in
from nc_fast.init.labels import Grids, Shape

# In the names of functions that change the grid of (n, channels, *positions); everything else leaves it as it is, or loses it.
SPATIAL = ("conv", "_pool", "interpolate", "upsample", "pad", "pixel_shuffle", "pixel_unshuffle", "unfold", "grid_sample", "__getitem__")


def label_grids(calls: Sequence[TorchCall], positions: Shape) -> Grids:
    """Return, for every grid that a forward pass makes of positions with labels, which label each of its positions lies under.

    A grid is centred in the one it is made of, at the stride of the convolution or pooling, elsewhere at the whole one nearest to their
    sizes' ratio: exact where padding is the same on both sides; where a position has no single one in its middle, the first of two.
    """
    if not positions:
        return {}
    found: dict[Shape, list[np.ndarray]] = {positions: [np.arange(side, dtype=float) for side in positions]}
    for call in calls:
        if not any(name in call.name for name in SPATIAL):
            continue
        before = [t for t in tensors_in([call.args, call.kwargs]) if t.ndim == 2 + len(positions)]
        for out in call.outputs:
            made_of = next((grid for t in before if (grid := _grid(t)) in found), None)
            if out.ndim == 2 + len(positions) and made_of and _grid(out) not in found:
                sides = zip(found[made_of], _grid(out), _steps(call, len(positions)), strict=True)
                found[_grid(out)] = [centred(at, side, step) for at, side, step in sides]
    return {grid: _flat(at, positions) for grid, at in found.items() if grid != positions}


def centred(at: np.ndarray, side: int, step: float | None) -> np.ndarray:
    """Return the coordinates of a grid of ``side`` positions, ``step`` apart, in the middle of one with coordinates ``at``."""
    before = len(at)
    if step is None:
        step = float(round(before / side)) if side <= before else 1 / round(side / before)
    places = (before - 1) / 2 + (np.arange(side) - (side - 1) / 2) * step
    spacing = at[1] - at[0] if before > 1 else 1.0
    return np.asarray(at[0] + places * spacing)


def _steps(call: TorchCall, n: int) -> Sequence[float | None]:
    """Return how far apart positions are that a convolution or pooling keeps, in each dimension; None where it does not say."""
    stride: Any = None
    if call.name.startswith("conv"):
        stride = call.argument(3, "stride", 1)
    elif "_pool" in call.name and "adaptive" not in call.name:
        stride = call.argument(2, "stride") or call.argument(1, "kernel_size")
    elif call.name == "pad":
        stride = 1
    if stride is None:
        return [None] * n
    steps = [stride] * n if isinstance(stride, int) else [int(one) for one in stride] * (n if len(stride) == 1 else 1)
    return [1 / step if "transpose" in call.name else float(step) for step in steps]


def _grid(x: Tensor) -> Shape:
    return tuple(x.shape[2:])


def _flat(at: Sequence[np.ndarray], positions: Shape) -> np.ndarray:
    """Return the place of the label nearest to every position, the lower of two; -1 outside of all."""
    flat, outside = np.zeros((), np.int64), np.zeros((), bool)
    for coordinates, side in zip(at, positions, strict=True):
        nearest = np.ceil(coordinates - 0.5).astype(np.int64)
        flat = flat[..., None] * side + nearest.clip(0, side - 1)
        outside = outside[..., None] | (nearest < 0) | (nearest >= side)
    return np.where(outside, -1, flat).reshape(prod(map(len, at)))
