"""Samples from whatever the user has: a tensor pair, a DataLoader, any iterable of batches; class-stratified, bounded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, SequentialSampler, Subset, TensorDataset, default_collate

from nc_fast.init.forward_pass import tensors_in
from nc_fast.init.labels import SampleLabels, stratified
from nc_fast.inputs import checks
from nc_fast.inputs.arrays import as_numpy
from nc_fast.inputs.labels import LABEL_KINDS, join_labels
from nc_fast.inputs.targets import labels_or_targets

SEARCH_FACTOR = 4  # a stream is read for at most this many times max_samples while classes are short of their share
ModelInputs = Any  # what the model is called with: a tensor, a tuple of positional or a dict of keyword arguments


@dataclass(frozen=True)
class LabelledBatch:
    """Inputs of some samples and their labels, or float targets."""

    inputs: ModelInputs
    labels: SampleLabels

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.labels)

    def take(self, rows: Any) -> LabelledBatch:
        """Return the samples at the given rows (a slice or (m,) integers)."""
        index = torch.from_numpy(rows) if isinstance(rows, np.ndarray) else rows
        inputs = _map(lambda x: x[index.to(x.device) if isinstance(index, torch.Tensor) else index], self.inputs)
        return LabelledBatch(inputs, self.labels[rows])

    def blocks(self, size: int) -> Iterator[LabelledBatch]:
        """Yield the samples in order, at most ``size`` at a time."""
        for first in range(0, len(self), size):
            yield self.take(slice(first, first + size))

    def run(self, model: torch.nn.Module, device: torch.device) -> Any:
        """Call the model."""
        inputs = _map(lambda x: x.to(device), self.inputs)
        if isinstance(inputs, dict):
            return model(**inputs)
        return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


@dataclass(frozen=True)
class SampledData:
    """The user's data as layers get them.

    Attributes
    ----------
    read : batches of at most the given size, from the start, as often as called.
    size : how many samples.
    held : whether they are in memory, in one piece.
    classes : (C,) distinct labels; empty with float targets.
    targets : (size,) or (size, T) float64; the batches' labels are row numbers in it. None with labels.
    notes : what the report should say about them.
    """

    read: Callable[[int], Iterator[LabelledBatch]]
    size: int
    held: bool
    classes: np.ndarray
    targets: np.ndarray | None = None
    notes: tuple[str, ...] = ()

    def first(self, n: int) -> LabelledBatch:
        """Return the first n samples, again from the start where there are fewer."""
        batch = next(self.read(n))
        return batch if len(batch) == n else batch.take(np.arange(n) % len(batch))


def collect(data: Any, max_samples: int | None, *, targets: bool) -> SampledData:
    """Return a class-stratified sample of ``data``, or, with None, all of it: a pair as it is, anything else streamed.

    With ``targets``, labels may also be float targets, of which the sample is random.
    """
    pair = _pair(data, targets)
    if pair is not None:
        if max_samples is not None and max_samples < len(pair):
            return _held(pair.take(_chosen(pair.labels.values, max_samples)))
        return _held(pair.take(torch.randperm(len(pair)).numpy()) if max_samples is not None else pair)
    if not hasattr(data, "__iter__"):
        raise TypeError(f"data: expected (X, y), a DataLoader or an iterable of batches (X, y), got {type(data).__name__}")
    if max_samples is None:
        return _streamed(data, targets)
    return _indexed(data, max_samples, targets) or _searched(_batches(data, targets), max_samples)


def _chosen(labels: np.ndarray, n: int) -> np.ndarray:
    """Return n random row numbers in random order, as many of every class as the classes' sizes allow."""
    order = torch.randperm(len(labels)).numpy()
    if labels.ndim > 1 or labels.dtype.kind == "f":  # a label per token, or float targets: samples have no class of their own
        return order[:n]
    return np.asarray(stratified(labels, n, order)[torch.randperm(n).numpy()])


def _held(batch: LabelledBatch, notes: tuple[str, ...] = ()) -> SampledData:
    for x in tensors_in(batch.inputs):  # of all data, only what is used is looked at
        if x.is_floating_point():
            checks.finite("data: X", x)
    y = batch.labels.values
    if y.dtype.kind == "f":
        targets = labels_or_targets("data: y", y, len(batch), targets=True).reshape(y.shape)
        numbered = LabelledBatch(batch.inputs, SampleLabels(np.arange(len(batch))))
        return SampledData(numbered.blocks, len(batch), True, np.zeros(0, np.int64), targets, notes)
    return SampledData(batch.blocks, len(batch), True, batch.labels.distinct(), None, notes)


def _streamed(data: Any, targets: bool) -> SampledData:
    if iter(data) is data:
        raise TypeError("data: expected something that can be read more than once when max_samples=None, got a one-shot iterator")

    def read(size: int) -> Iterator[LabelledBatch]:
        for batch in _batches(data, targets=False):
            yield from batch.blocks(size)

    size, classes = 0, np.array([], np.int64)
    for batch in _batches(data, targets):
        if batch.labels.values.dtype.kind == "f":
            raise ValueError("max_samples: expected a number with float targets in batches, which are not streamed, got None")
        size, classes = size + len(batch), np.unique(join_labels([classes, batch.labels.distinct()]))
    return SampledData(read, size, False, classes)


def _indexed(data: Any, n: int, targets: bool) -> SampledData | None:
    """Sample a loader by reading only the samples chosen, where the labels are known without loading the images."""
    if not (
        isinstance(data, DataLoader)
        and type(data.batch_sampler) is BatchSampler
        and type(data.sampler) in (RandomSampler, SequentialSampler)
    ):
        return None
    labels = _known_labels(data.dataset)
    if labels is None or not len(labels):
        return None
    rows = _chosen(labels, min(n, len(labels)))
    tensors = _tensors(data.dataset, rows) if data.collate_fn is default_collate else None
    if tensors is not None:
        return _held(_batch(tensors, 0, targets))
    own = torch.Generator()  # a loader draws a seed when it is read, which is not to come from the global state
    loader = DataLoader(data.dataset, data.batch_size or 1, sampler=rows.tolist(), collate_fn=data.collate_fn, generator=own)
    return _held(_join(list(_batches(loader, targets))))


def _known_labels(dataset: Dataset[Any]) -> np.ndarray | None:
    if isinstance(dataset, Subset):
        labels = _known_labels(dataset.dataset)
        return None if labels is None else labels[np.asarray(dataset.indices)]
    if isinstance(dataset, TensorDataset):
        return as_numpy(dataset.tensors[-1]) if len(dataset.tensors) > 1 else None
    targets = getattr(dataset, "targets", None)
    if targets is None or not hasattr(dataset, "__len__") or len(targets) != len(dataset):
        return None
    labels = as_numpy(targets)
    return labels if labels.ndim == 1 and labels.dtype.kind in LABEL_KINDS else None


def _tensors(dataset: Dataset[Any], rows: np.ndarray) -> tuple[torch.Tensor, ...] | None:
    if isinstance(dataset, Subset):
        return _tensors(dataset.dataset, np.asarray(dataset.indices)[rows])
    if isinstance(dataset, TensorDataset):
        return tuple(tensor[torch.from_numpy(rows).to(tensor.device)] for tensor in dataset.tensors)
    return None


def _searched(batches: Iterator[LabelledBatch], n: int) -> SampledData:
    """Read batches until every class seen has its share of n, SEARCH_FACTOR · n samples were read, or the data ends."""
    held: list[LabelledBatch] = []
    counts: dict[Any, int] = {}
    read, share = 0, n
    for batch in batches:
        keep = []
        y = batch.labels.values
        classed = y.ndim == 1 and y.dtype.kind != "f"
        for row, label in enumerate(y.tolist()) if classed else ():
            counts[label] = counts.get(label, 0) + 1
            if counts[label] <= share:
                keep.append(row)
        held.append(batch.take(np.array(keep, np.int64)) if classed else batch)
        read += len(batch)
        share = -(-n // max(1, len(counts)))
        filled = sum(min(count, share) for count in counts.values()) if counts else read
        if read >= SEARCH_FACTOR * n or (filled >= n and len(counts) != 1):
            break
    joined = _join(held)
    notes = () if read < SEARCH_FACTOR * n else (f"data: only the first {read} samples were looked at for classes; shuffle sorted data",)
    return _held(joined.take(_chosen(joined.labels.values, min(n, len(joined)))), notes)


def _batches(data: Iterable[Any], targets: bool) -> Iterator[LabelledBatch]:
    number = -1
    for number, item in enumerate(data):
        yield _batch(item, number, targets)
    if number < 0:
        raise ValueError("data: expected at least one batch, got none")


def _batch(item: Any, number: int, targets: bool) -> LabelledBatch:
    name = f"data: batch {number}"
    if isinstance(item, Mapping):
        if "labels" not in item:
            raise TypeError(f"{name}: expected a key 'labels', got {sorted(map(str, item))}")
        return _checked(name, {argument: value for argument, value in item.items() if argument != "labels"}, item["labels"], targets)
    if isinstance(item, Sequence) and not isinstance(item, str) and len(item) >= 2:
        return _checked(name, item[0] if len(item) == 2 else tuple(item[:-1]), item[-1], targets)
    raise TypeError(f"{name}: expected (X, y), got {type(item).__name__}")


def _checked(name: str, inputs: ModelInputs, labels: Any, targets: bool) -> LabelledBatch:
    """Return a batch, after checking that its parts are tensors of one length with labels, or with ``targets`` float targets."""
    inputs = _map(lambda x: _tensor(name, x), inputs)
    leaves = list(tensors_in(inputs))
    if not leaves:
        raise TypeError(f"{name}: expected X as tensors, got {type(inputs).__name__}")
    y = as_numpy(checks.as_array(f"{name}: y", labels))
    if not (targets and y.dtype.kind == "f"):
        y = checks.label_array(name, labels, part="y", binning="torch.bucketize(y, edges)")
    if y.ndim < 1 or any(x.ndim < 1 or len(x) != len(y) for x in leaves):
        shapes = ", ".join(str(tuple(x.shape)) for x in leaves)
        raise ValueError(f"{name}: expected X and y of one length, got X {shapes} and y {y.shape}")
    if len(y) == 0:
        raise ValueError(f"{name}: expected at least one sample, got none")
    return LabelledBatch(inputs, SampleLabels(y))


def _pair(data: Any, targets: bool) -> LabelledBatch | None:
    arrays = (torch.Tensor, np.ndarray)
    if not (isinstance(data, (tuple, list)) and len(data) == 2 and isinstance(data[1], arrays)):
        return None
    X, y = data
    several = isinstance(X, (tuple, list)) and all(isinstance(x, arrays) for x in X)
    return _checked("data", X, y, targets) if several or isinstance(X, (*arrays, Mapping)) else None


def _join(batches: Sequence[LabelledBatch]) -> LabelledBatch:
    parts = zip(*(tensors_in(batch.inputs) for batch in batches), strict=True)
    joined = iter([torch.cat(tensors) for tensors in parts])
    labels = SampleLabels(join_labels([batch.labels.values for batch in batches]))
    return LabelledBatch(_map(lambda _: next(joined), batches[0].inputs), labels)


def _map(function: Callable[[Any], Any], inputs: ModelInputs) -> ModelInputs:
    """Return the inputs with the function applied to every tensor and array, however nested; lists become tuples."""
    if isinstance(inputs, Mapping):
        return {name: _map(function, value) for name, value in inputs.items()}
    if isinstance(inputs, (tuple, list)):
        return tuple(_map(function, value) for value in inputs)
    return function(inputs) if isinstance(inputs, (torch.Tensor, np.ndarray)) else inputs


def _tensor(name: str, value: torch.Tensor | np.ndarray) -> torch.Tensor:
    if isinstance(value, torch.Tensor):
        if value.layout != torch.strided or value.is_meta:
            raise TypeError(f"{name}: expected X as dense tensors with values, got layout {value.layout} on {value.device}")
        return value.detach()
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name}: expected X without a mask, got a masked array; fill it first")
    try:
        return torch.from_numpy(np.ascontiguousarray(value))
    except TypeError:
        raise TypeError(f"{name}: expected X of a dtype that torch has too, got {value.dtype}") from None
