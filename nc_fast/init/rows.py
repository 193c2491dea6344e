"""A draw of bounded size from what a layer's neurons read."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from nc_fast.inputs import checks
from nc_fast.inputs.draw import draw
from nc_fast.inputs.labels import classified
from nc_fast.inputs.sources import Block


def draw_rows(samples: Iterable[tuple[Tensor, np.ndarray]], n: int) -> tuple[Tensor, np.ndarray]:
    """Return n rows at most, drawn at random, with their labels."""
    seed = int(torch.randint(2**31, ()))
    drawn = draw((Block(X, *classified(y)) for X, y in samples), n, seed)
    assert drawn is not None  # every layer met samples
    checks.finite("its inputs", drawn.X)
    return drawn.X, drawn.y
