"""nn.Linear: every leading position (token) of the input is a sample."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch import Tensor
from torch.nn import functional

from nc_fast.init.labels import SampleLabels
from nc_fast.init.layers.base import BatchAxis, Layer, PatchDraw, rows_that_count, same_numbers


class LinearLayer(Layer):
    """nn.Linear, or a module that turns out to compute the same, such as GPT-2's Conv1D.

    Attributes
    ----------
    transposed : whether the weight is stored as (in, out).
    """

    kind = "Linear"
    transposed = False

    @property
    def weight(self) -> Tensor:
        """The weight, (out, in)."""
        return super().weight.T if self.transposed else super().weight

    def _write(self, name: str, value: Tensor) -> None:
        super()._write(name, value.T if self.transposed and name == self.weight_name else value)

    def computes(self, x: Tensor, output: Tensor) -> bool:
        """Find out whether, and by the weight stored which way."""
        first = self.transposed
        for self.transposed in (first, not first):
            weight, bias = self._weight_and_bias_like(x)
            fits = x.shape[-1:] == weight.shape[1:] and (bias is None or bias.shape == weight.shape[:1])
            if fits and same_numbers(functional.linear(x, weight, bias), output) and weight.any():
                return True
        return False

    def rows(self, x: Tensor, axis: BatchAxis, labels: SampleLabels, _group: int, _draw: PatchDraw) -> Iterator[tuple[Tensor, np.ndarray]]:
        """Yield all positions in one block: they are rows of the input already."""
        x = x.movedim(axis.dim, 0)
        yield rows_that_count(x.reshape(-1, x.shape[-1]), labels.spread(axis.rows, tuple(x.shape[1:-1]), axis.grids))

    def preactivation(self, x: Tensor, axis: BatchAxis, labels: SampleLabels) -> Tensor:
        """Return the output for the first samples, positions as rows."""
        x = x.movedim(axis.dim, 0)[: len(labels) * axis.rows]
        z = functional.linear(x, *self._weight_and_bias_like(x)).reshape(-1, len(self.weight))
        return rows_that_count(z, labels.spread(axis.rows, tuple(x.shape[1:-1]), axis.grids))[0]
