"""Samples from whatever the user has: a tensor pair, a DataLoader, any iterable of batches; class-stratified, bounded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    default_collate,
)

from nc_fast.init.batches import LabelledBatch as LabelledBatch
from nc_fast.init.batches import none_alone
from nc_fast.init.datasets import known_labels, tensors_of
from nc_fast.init.items import ROW_NUMBERS, ItemReader, check_finite, items
from nc_fast.init.label_forms import all_differ, is_array
from nc_fast.init.labels import SampleLabels, stratified
from nc_fast.init.pieces import fronts_first, in_pieces
from nc_fast.inputs.labels import ignored, join_labels
from nc_fast.inputs.targets import labels_or_targets
from nc_fast.runtime.caller import warn_caller

EXAMPLE, EXAMPLE_OF = 64, 16  # samples of one shape that a model is looked at with, from the largest of so many batches
SEARCH_FACTOR = 4  # a stream is read for at most this many times max_samples while classes are short of their share


@dataclass(frozen=True)
class SampledData:
    """The user's data as layers get them.

    Attributes
    ----------
    read : batches of about the given size, none of one sample where shapes allow, from the start, as often as called.
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

    @cached_property
    def _example(self) -> LabelledBatch:
        largest: LabelledBatch | None = None
        for batch in islice(self.read(EXAMPLE), EXAMPLE_OF):
            if largest is None or len(batch) > len(largest):
                largest = batch
            if len(largest) >= EXAMPLE:
                break
        assert largest is not None
        return largest

    def first(self, n: int) -> LabelledBatch:
        """Return n samples of one shape, the same in every call, again from their start where there are fewer."""
        return self._example.take(np.arange(n) % len(self._example))

    def differing(self, n: int) -> LabelledBatch:
        """Return up to n samples of one shape, none of them twice."""
        return self._example.take(slice(n))

    def leading(self, n: int) -> list[LabelledBatch]:
        """Return the first n samples in the order of ``read``; one less where one alone would be cut off a batch."""
        batches: list[LabelledBatch] = []
        for batch in self.read(2 * n):  # blocks are then of n at least, where there are as many, and one is enough
            left = n - sum(map(len, batches))
            if left < len(batch) and (left > 1 or not batches):
                batch = batch.take(slice(left))
            if left >= len(batch):
                batches.append(batch)
            if left <= len(batch):
                break
        return batches


def collect(data: Any, max_samples: int | None, reader: ItemReader) -> SampledData:
    """Return a class-stratified sample of ``data``, or, with None, all of it: a pair as it is, anything else streamed.

    Of float targets and of labels of positions the sample is random.
    """
    pair = _pair(data, reader)
    if pair is not None:
        whole, rows = pair
        labels = whole.labels.values[rows]
        if max_samples is not None:
            rows = rows[_chosen(labels, min(max_samples, len(rows)))]
        used = whole if max_samples is None and len(rows) == len(whole) else whole.take(rows)
        check_finite("data", used)  # of all data, only what is used is looked at
        return _held([used], reader, lambda: all_differ(labels))
    if is_array(reader.mask):
        raise TypeError("mask: expected an array only with data=(X, y), got one with batches; batch=lambda b: (inputs, labels, mask)")
    if isinstance(data, (Mapping, Dataset)) and not isinstance(data, IterableDataset):
        what = "put a single batch in a list: [data]" if isinstance(data, Mapping) else "torch.utils.data.DataLoader makes batches"
        raise TypeError(f"data: expected (X, y), a DataLoader or an iterable of batches, got {type(data).__name__}; {what}")
    if not hasattr(data, "__iter__"):
        raise TypeError(f"data: expected (X, y), a DataLoader or an iterable of batches (X, y), got {type(data).__name__}")
    if max_samples is None:
        return _streamed(data, reader)
    return _indexed(data, max_samples, reader) or _searched(_batches(data, reader), max_samples, reader)


def _chosen(labels: np.ndarray, n: int) -> np.ndarray:
    """Return n random row numbers in random order, as many of every class as the classes' sizes allow."""
    order = torch.randperm(len(labels)).numpy()
    if n == len(labels) or labels.ndim > 1 or labels.dtype.kind == "f":  # a label per token, or float targets: samples have no class
        return order[:n]
    return np.asarray(stratified(labels, n, order)[torch.randperm(n).numpy()])


def _held(pieces: list[LabelledBatch], reader: ItemReader, rows_differ: Callable[[], bool]) -> SampledData:
    """Return samples in memory, in pieces of one shape each; ``rows_differ``: whether no two of all labels that were read are the same."""
    size = sum(map(len, pieces))
    values = [piece.labels.values for piece in pieces]
    notes, targets = reader.notes(), None
    if values[0].dtype.kind == "f":
        y = join_labels(values)
        targets, classes = labels_or_targets("data: y", y, size, targets=True).reshape(y.shape), np.zeros(0, np.int64)
        starts = np.cumsum([0, *map(len, pieces)])
        pieces = [
            LabelledBatch(piece.inputs, SampleLabels(np.arange(start, start + len(piece)), piece.labels.counted))
            for piece, start in zip(pieces, starts, strict=False)
        ]
    else:
        classes = np.unique(join_labels([piece.labels.distinct() for piece in pieces]))
        if len(classes) == size and _numbers(classes, size) and values[0].ndim == 1 and rows_differ():
            notes = (*notes, _warned(size))
    if len(pieces) > 1:
        pieces = fronts_first(pieces)

    def read(most: int) -> Iterator[LabelledBatch]:
        for piece in pieces:
            yield from piece.blocks(most)

    return SampledData(read, size, len(pieces) == 1, classes, targets, notes)


def _streamed(data: Any, reader: ItemReader) -> SampledData:
    if iter(data) is data:
        raise TypeError("data: expected something that can be read more than once when max_samples=None, got a one-shot iterator")

    def read(most: int) -> Iterator[LabelledBatch]:
        for batch in none_alone(_batches(data, reader)):
            yield from batch.blocks(most)

    size, classes, single = 0, np.array([], np.int64), True
    for batch in _batches(data, reader):
        if batch.labels.values.dtype.kind == "f":
            raise ValueError("max_samples: expected a number with float targets in batches, which are not streamed, got None")
        size, classes = size + len(batch), np.unique(join_labels([classes, batch.labels.distinct()]))
        single = single and batch.labels.values.ndim == 1
    notes = reader.notes()
    if single and len(classes) == size and _numbers(classes, size):
        notes = (*notes, _warned(size))
    return SampledData(read, size, False, classes, None, notes)


def _indexed(data: Any, n: int, reader: ItemReader) -> SampledData | None:
    """Sample a loader by reading only the samples chosen, where the labels are known without loading the images."""
    if not (
        isinstance(data, DataLoader)
        and type(data.batch_sampler) is BatchSampler
        and type(data.sampler) in (RandomSampler, SequentialSampler)
    ):
        return None
    labels = known_labels(data.dataset, reader.adapter is None)
    if labels is None or not len(labels):
        return None
    gone = ignored(labels, reader.ignore)
    kept = np.arange(len(labels)) if gone is None else np.flatnonzero(~gone.reshape(len(gone), -1).all(axis=1))
    rows = kept[_chosen(labels[kept], min(n, len(kept)))]
    if gone is not None:  # those that are not read count, too
        reader.seen.labels, reader.seen.left_out = labels.size - labels[rows].size, int(gone.sum() - gone[rows].sum())
    if not len(rows):
        raise ValueError(f"data: expected at least one sample, got none{reader.all_left_out}")
    tensors = tensors_of(data.dataset, rows) if data.collate_fn is default_collate else None
    if tensors is not None:
        batches = [reader.batch(tensors, 0, rows)]
    else:
        own = torch.Generator()  # a loader draws a seed when it is read, which is not to come from the global state
        size = data.batch_size or 1
        loader = DataLoader(data.dataset, size, sampler=rows.tolist(), collate_fn=data.collate_fn, generator=own)
        batches = [reader.batch(item, number, rows[number * size :][:size]) for number, item in items(loader)]
    found = [batch for batch in batches if len(batch)]
    if not found:
        raise ValueError(f"data: expected at least one sample, got none{reader.all_left_out}")
    return _held(in_pieces(found), reader, lambda: all_differ(labels))


def _searched(batches: Iterator[LabelledBatch], n: int, reader: ItemReader) -> SampledData:
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
        if keep or not classed:
            held.append(batch.take(np.array(keep, np.int64)) if classed else batch)
        read += len(batch)
        share = -(-n // max(1, len(counts)))
        filled = sum(min(count, share) for count in counts.values()) if counts else read
        if read >= SEARCH_FACTOR * n or (filled >= n and len(counts) != 1):
            break
    if read >= SEARCH_FACTOR * n:
        reader.seen.notes[f"data: only the first {read} samples were looked at for classes; shuffle sorted data"] = None
    return _held(_drawn(held, n), reader, lambda: len(counts) == read)


def _drawn(batches: list[LabelledBatch], n: int) -> list[LabelledBatch]:
    """Return n samples of the batches at most, stratified, in random order, in one piece for each shape."""
    labels = [batch.labels.values for batch in batches]
    size = sum(map(len, labels))
    of_one_form = len({part.shape[1:] for part in labels}) == 1
    return in_pieces(batches, _chosen(join_labels(labels) if of_one_form else np.zeros((size, 2)), min(n, size)))


def _batches(data: Any, reader: ItemReader) -> Iterator[LabelledBatch]:
    """Yield what counts of a loader's batches; those of which nothing does are passed over."""
    some = False
    for number, item in items(data):
        batch = reader.batch(item, number)
        if len(batch):
            some = True
            yield batch
    if not some:
        raise ValueError(f"data: expected at least one sample, got none{reader.all_left_out}")


def _pair(data: Any, reader: ItemReader) -> tuple[LabelledBatch, np.ndarray] | None:
    """Return data in memory, (X, y), and which rows count; None where they are something else, such as two batches."""
    if not (isinstance(data, (tuple, list)) and len(data) == 2 and _is_inputs(data[0]) and _are_labels(data[1])):
        return None
    if reader.adapter:
        return reader.pair(*reader.adapted(data, "(X, y)"))
    return reader.pair(data[0], data[1], reader.mask if is_array(reader.mask) else None)


def _is_inputs(value: Any) -> bool:
    several = isinstance(value, (tuple, list)) and len(value) > 0 and all(hasattr(part, "__array__") for part in value)
    return several or hasattr(value, "__array__") or isinstance(value, Mapping)


def _are_labels(value: Any) -> bool:
    """Whether a value is an array, a Series or a list of labels, and no batch, whose parts are arrays."""
    if not isinstance(value, (tuple, list)):
        return hasattr(value, "__array__")
    if any((hasattr(part, "__array__") and not isinstance(part, np.generic)) or isinstance(part, Mapping) for part in value):
        return False
    return all(_are_labels(part) for part in value if isinstance(part, (tuple, list)))


def _numbers(classes: np.ndarray, size: int) -> bool:
    return classes.dtype.kind in "iu" and size > ROW_NUMBERS


def _warned(size: int) -> str:
    """Warn that labels are hardly labels; return what was said."""
    text = f"data: no two of {size} labels are the same: are they numbers of rows? batch=lambda b: (inputs, labels) says what is what"
    warn_caller(text)
    return text
