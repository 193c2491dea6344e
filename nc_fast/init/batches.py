"""Samples that a model can be called with, and their labels: cut, put together, held in pieces of equal shape."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import nn

from nc_fast.init.forward_pass import tensors_in
from nc_fast.init.labels import SampleLabels
from nc_fast.inputs.labels import join_labels

ModelInputs = Any  # what the model is called with: a tensor, a tuple of positional or a dict of keyword arguments
BATCHNORM_ALONE = "Expected more than 1 value per channel"  # how torch refuses to normalize one sample by itself


class Forward:
    """What a model's forward can be called with; anything, where nobody can say."""

    def __init__(self, model: nn.Module) -> None:
        while isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        try:
            self.signature: inspect.Signature | None = inspect.signature(model.forward)
        except (TypeError, ValueError):  # compiled code
            self.signature = None

    def takes(self, *args: Any, **kwargs: Any) -> bool:
        """Whether it can be called like that."""
        return self.signature is None or self.bound(*args, **kwargs) is not None

    def bound(self, *args: Any, **kwargs: Any) -> dict[str, Any] | None:
        """Return name -> argument; None where it cannot be called like that."""
        try:
            return dict(self.signature.bind(*args, **kwargs).arguments) if self.signature else dict(kwargs)
        except TypeError:
            return None

    @property
    def needed(self) -> int:
        """How many arguments it cannot be called without."""
        found = self.signature.parameters.values() if self.signature else ()
        return sum(one.default is one.empty and one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD) for one in found)

    def named(self, inputs: ModelInputs) -> dict[str, Any]:
        """Return name -> input."""
        if isinstance(inputs, dict):
            return inputs
        args = inputs if isinstance(inputs, tuple) else (inputs,)
        if len(args) == 1 and isinstance(args[0], dict):  # a model that takes one dict
            return args[0]
        return self.bound(*args) or {}


@dataclass(frozen=True)
class LabelledBatch:
    """Inputs of some samples and their labels, or float targets.

    Attributes
    ----------
    inputs : what the model is called with: a tensor, a tuple of positional or a dict of keyword arguments.
    labels : of the samples, or of their positions.
    rows : (n,) the samples' places in what the user gave; None where nobody asks.
    """

    inputs: ModelInputs
    labels: SampleLabels
    rows: np.ndarray | None = None

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.labels)

    @property
    def shape(self) -> tuple[object, ...]:
        """What batches have in common that can be put together."""
        return (*((tuple(x.shape[1:]), x.dtype) for x in tensors_in(self.inputs)), self.labels.values.shape[1:])

    def take(self, rows: Any) -> LabelledBatch:
        """Return the samples at the given rows (a slice or (m,) integers)."""
        index = torch.from_numpy(rows) if isinstance(rows, np.ndarray) else rows
        inputs = map_tensors(lambda x: x[index.to(x.device) if isinstance(index, torch.Tensor) else index], self.inputs)
        return LabelledBatch(inputs, self.labels[rows], None if self.rows is None else self.rows[rows])

    def blocks(self, size: int) -> Iterator[LabelledBatch]:
        """Yield the samples in order, at most ``size`` at a time, or 3 where one would be left alone.

        Blocks are as equal as can be: a BatchNorm that has seen no batch cannot normalize one sample.
        """
        n = max(1, min(-(-len(self) // size), len(self) // 2))
        size, longer = divmod(len(self), n)
        firsts = [block * size + min(block, longer) for block in range(n + 1)]
        for first, end in pairwise(firsts):
            yield self.take(slice(first, end)) if n > 1 else self

    def run(self, model: nn.Module, device: torch.device) -> Any:
        """Call the model."""
        inputs = map_tensors(lambda x: x.to(device), self.inputs)
        try:
            if isinstance(inputs, dict):
                return model(**inputs)
            return model(*inputs) if isinstance(inputs, tuple) else model(inputs)
        except ValueError as error:
            if len(self) > 1 or not str(error).startswith(BATCHNORM_ALONE):
                raise
            shapes = ", ".join(str(tuple(x.shape)) for x in tensors_in(self.inputs))
            raise ValueError(
                "data: expected at least two samples of one shape at a time for a BatchNorm that has seen no batch, "
                f"got one alone of shape {shapes}"
            ) from error


def joined(batches: Sequence[LabelledBatch]) -> LabelledBatch:
    """Return batches of one shape as one."""
    if len(batches) == 1:
        return batches[0]
    tensors = iter([torch.cat(parts) for parts in zip(*(tensors_in(batch.inputs) for batch in batches), strict=True)])
    inputs = map_tensors(lambda _: next(tensors), batches[0].inputs)
    masks = [batch.labels.counted for batch in batches]
    positions = next((mask.shape[1:] for mask in masks if mask is not None), None)
    if positions is None:
        counted = None
    else:
        counted = np.concatenate([np.ones((len(b), *positions), bool) if m is None else m for b, m in zip(batches, masks, strict=True)])
    labels = SampleLabels(join_labels([batch.labels.values for batch in batches]), counted)
    rows = [batch.rows for batch in batches if batch.rows is not None]
    return LabelledBatch(inputs, labels, np.concatenate(rows) if len(rows) == len(batches) else None)


def none_alone(batches: Iterable[LabelledBatch]) -> Iterator[LabelledBatch]:
    """Yield the batches, those of one sample joined to a neighbour of their shape."""
    waiting: list[LabelledBatch] = []  # the last batch, and a sample alone after it
    for batch in batches:
        if waiting and len(waiting[-1]) == 1 and waiting[-1].shape == batch.shape:
            waiting[-1] = joined([waiting[-1], batch])
        else:
            waiting = [*_last_joined(waiting), batch]
        keep = 2 if len(waiting[-1]) == 1 else 1
        yield from waiting[:-keep]
        waiting = waiting[-keep:]
    yield from _last_joined(waiting)


def _last_joined(waiting: list[LabelledBatch]) -> list[LabelledBatch]:
    alone = len(waiting) > 1 and len(waiting[-1]) == 1 and waiting[-2].shape == waiting[-1].shape
    return [*waiting[:-2], joined(waiting[-2:])] if alone else waiting


def map_tensors(function: Callable[[Any], Any], inputs: ModelInputs) -> ModelInputs:
    """Return the inputs with the function applied to every tensor and array, however nested."""
    if isinstance(inputs, Mapping):
        return {name: map_tensors(function, value) for name, value in inputs.items()}
    if isinstance(inputs, (tuple, list)):
        mapped = [map_tensors(function, value) for value in inputs]
        return type(inputs)(*mapped) if hasattr(inputs, "_fields") else type(inputs)(mapped)
    return function(inputs) if isinstance(inputs, (torch.Tensor, np.ndarray)) else inputs
