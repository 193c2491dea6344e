"""Do the rows that a layer reads belong to the samples they are taken to belong to? Two forward passes tell.

A model may sort samples by length, send them to experts, gather or repeat them: a layer inside then reads rows in another order, or
other rows, and labels would be attached to the wrong ones. The same samples in another order give the same rows in that order,
unless the model has an order of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from nc_fast.init.forward_pass import on_arrival
from nc_fast.init.labels import LabelsDoNotFitError
from nc_fast.init.layers.base import BatchAxis, CallArguments, Layer
from nc_fast.init.sampling import LabelledBatch

MARKS = 4  # random projections of a row: those of two different rows agree in all only by chance of about SAME ** 4
SAME = {torch.float64: 1e-3, torch.float32: 1e-3}  # of the rows' spread: passes in another order round differently
SAME_HALF = 3e-2  # in 16-bit floats
REORDERED = "the model reorders, repeats or drops samples before it, so that their labels are not known there"
LOOKED_UP = 512  # rows out of place that are looked for elsewhere, at most

Marks = dict[str, Tensor | str]  # layer -> (rows, MARKS) float64, or why it has none


def rows_of(x: Tensor, axis: BatchAxis, n: int) -> Tensor:
    """Return a layer's input with the samples' rows first.

    Raises
    ------
    LabelsDoNotFitError
        When it has not as many as n samples should bring.
    """
    if x.ndim <= axis.dim or x.shape[axis.dim] != n * axis.rows:
        got = x.shape[axis.dim] if x.ndim > axis.dim else f"{x.ndim} dimensions"
        raise LabelsDoNotFitError(f"of {n * axis.rows} rows it gets {got}: some of the samples only, or sequences merged with them")
    return x.movedim(axis.dim, 0)


def strays(model: nn.Module, layers: Sequence[tuple[Layer, BatchAxis]], batch: LabelledBatch, device: torch.device) -> dict[str, str]:
    """Return those layers whose rows do not belong to the samples in their order, with what was seen."""
    order = np.roll(np.arange(len(batch))[::-1], len(batch) // 3)
    there, back = (_marks(model, layers, part, device) for part in (batch, batch.take(order)))
    reasons = {}
    for layer, axis in layers:
        one, other = there.get(layer.name, "the data does not always reach it"), back.get(layer.name, "")
        if isinstance(one, str) or isinstance(other, str):
            reasons[layer.name] = one if isinstance(one, str) else str(other)
            continue
        expected = one.reshape(len(batch), axis.rows, MARKS)[torch.from_numpy(order)].reshape(-1, MARKS)
        tolerance = tolerance_of(layer.weight.dtype, one)
        out_of_place = torch.nonzero(((other - expected).abs() > tolerance).any(dim=1))[:LOOKED_UP, 0]
        if len(out_of_place) and _found_elsewhere(other[out_of_place], one, tolerance):
            reasons[layer.name] = REORDERED
    return reasons


def tolerance_of(dtype: torch.dtype, marks: Tensor) -> Tensor:
    """Return by how much marks (rows, MARKS) of the same row may differ, (MARKS,), where they were computed in this dtype."""
    return SAME.get(dtype, SAME_HALF) * marks.std(dim=0, correction=0).clamp(min=torch.finfo(marks.dtype).tiny)


def random_directions(n_features: int, device: torch.device) -> Tensor:
    """Return what rows are projected on, (features, MARKS), the same in every call."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n_features, MARKS, generator=generator, dtype=torch.float32).to(device)


def layers_by_host(layers: Sequence[tuple[Layer, BatchAxis]]) -> dict[nn.Module, list[tuple[Layer, BatchAxis]]]:
    """Return the layers that the call of each module brings inputs for."""
    by_host: dict[nn.Module, list[tuple[Layer, BatchAxis]]] = {}
    for layer, axis in layers:
        by_host.setdefault(layer.host, []).append((layer, axis))
    return by_host


def _found_elsewhere(rows: Tensor, among: Tensor, tolerance: Tensor) -> bool:
    """Whether any of the rows is among others: noise, which is nowhere else, changes no order."""
    return any(bool(((among - row).abs() <= tolerance).all(dim=1).any()) for row in rows)


def _marks(model: nn.Module, layers: Sequence[tuple[Layer, BatchAxis]], batch: LabelledBatch, device: torch.device) -> Marks:
    marks: Marks = {}
    by_host = layers_by_host(layers)

    def arrived(host: nn.Module, arguments: CallArguments) -> None:
        for layer, axis in by_host[host]:
            if layer.name in marks:
                marks[layer.name] = "used several times in one pass, with different inputs"
                continue
            try:
                rows = rows_of(layer.input(*arguments), axis, len(batch)).flatten(1)
            except LabelsDoNotFitError as error:
                marks[layer.name] = str(error)
                continue
            marks[layer.name] = (rows.float() @ random_directions(rows.shape[1], rows.device)).double().cpu()

    with on_arrival(list(by_host), arrived):
        batch.run(model, device)
    return marks
