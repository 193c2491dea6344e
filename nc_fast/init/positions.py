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
JOINS = ("cat", "concat", "concatenate")
NOWHERE = -1e9  # the coordinate of a position under no label


def label_grids(calls: Sequence[TorchCall], positions: Shape) -> Grids:
    """Return, for every grid that a forward pass makes of positions with labels, which label each of its positions lies under.

    A grid is centred in the one it is made of, at the stride of the convolution or pooling, elsewhere at the whole one nearest to their
    sizes' ratio: exact where padding is the same on both sides; where a position has no single one in its middle, the first of two.
    """
    if not positions:
        return {}
    n = len(positions)
    found: dict[Shape, list[np.ndarray]] = {positions: [np.arange(side, dtype=float) for side in positions]}
    spatial = [call for call in calls if any(name in call.name for name in SPATIAL)]
    forwards, backwards = [(call, False) for call in spatial], [(call, True) for call in reversed(spatial)]
    for call, backward in (*forwards, *backwards, *forwards):  # labels may be at a grid in the middle, or at the last
        spectral = n == 1 and ("conv" in call.name or "_pool" in call.name)  # (n, channels, frames, frequencies), a label a frame
        before, outputs = (
            [t for t in tensors if t.ndim == 2 + n or (spectral and t.ndim == 4)]
            for tensors in (tensors_in([call.args, call.kwargs]), call.outputs)
        )
        known, others = (outputs, before[:1]) if backward else (before, outputs)
        steps = [step and 1 / step for step in _steps(call, n)] if backward else _steps(call, n)
        origin = next((grid for t in known if (grid := _grid(t, n)) in found), None)
        for grid in (_grid(t, n) for t in others):
            if origin and grid not in found and prod(grid) > 1:  # one position alone, as of global pooling, lies under no label
                found[grid] = [centred(at, side, step) for at, side, step in zip(found[origin], grid, steps, strict=True)]
    if n == 1:
        _add_joined(found, calls)
    return {grid: _flat(at, positions) for grid, at in found.items() if grid != positions}


def _add_joined(found: dict[Shape, list[np.ndarray]], calls: Sequence[TorchCall]) -> None:
    """Add sequences (n, tokens, ...) that others, such as a class token, were joined to: those have no label."""
    for call in calls:
        if call.name not in JOINS or call.argument(1, "dim", call.kwargs.get("axis", 0)) not in (1, -2):
            continue
        parts = [t for t in tensors_in([call.args[:1], call.kwargs.get("tensors")]) if t.ndim == 3]
        known = [(t.shape[1],) in found for t in parts]
        joined = (call.outputs[0].shape[1],)
        if call.outputs[0].ndim == 3 and known.count(True) == 1 and joined not in found:
            pieces = [found[t.shape[1],][0] if has else np.full(t.shape[1], NOWHERE) for t, has in zip(parts, known, strict=True)]
            found[joined] = [np.concatenate(pieces)]


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
    return [1 / step if "transpose" in call.name else float(step) for step in steps[:n]]


def _grid(x: Tensor, n: int) -> Shape:
    return tuple(x.shape[2 : 2 + n])


def _flat(at: Sequence[np.ndarray], positions: Shape) -> np.ndarray:
    """Return the place of the label nearest to every position, the lower of two; -1 outside of all."""
    flat, outside = np.zeros((), np.int64), np.zeros((), bool)
    for coordinates, side in zip(at, positions, strict=True):
        nearest = np.ceil(coordinates - 0.5).astype(np.int64)
        flat = flat[..., None] * side + nearest.clip(0, side - 1)
        outside = outside[..., None] | (nearest < 0) | (nearest >= side)
    return np.where(outside, -1, flat).reshape(prod(map(len, at)))
