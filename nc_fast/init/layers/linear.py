"""nn.Linear: every leading position (token) of the input is a sample."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch import Tensor
from torch.nn import functional

from nc_fast.init.layers.base import BatchAxis, Layer, spread_labels


class LinearLayer(Layer):
    """nn.Linear."""

    kind = "Linear"

    def rows(self, x: Tensor, axis: BatchAxis, labels: np.ndarray, _group: int) -> Iterator[tuple[Tensor, np.ndarray]]:
        """Yield all positions in one block: they are rows of the input already."""
        x = x.movedim(axis.dim, 0)
        yield x.reshape(-1, x.shape[-1]), spread_labels(labels, axis.rows, tuple(x.shape[1:-1])).reshape(-1)

    def preactivation(self, x: Tensor, axis: BatchAxis, n: int) -> Tensor:
        """Return the output for the first n samples, positions as rows."""
        x = x.movedim(axis.dim, 0)[: n * axis.rows]
        return functional.linear(x, *self._weight_and_bias_like(x)).reshape(-1, len(self.weight))
