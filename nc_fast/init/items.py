"""One item of a loader, or the whole of data in memory, as a batch: what is the model called with, what are the labels, what counts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any

import numpy as np
import torch

from nc_fast.init.batches import Forward, LabelledBatch, ModelInputs, map_tensors
from nc_fast.init.forward_pass import tensors_in
from nc_fast.init.label_forms import is_array, labels_or_targets_of, looks_like_labels, shapes_of
from nc_fast.init.labels import SampleLabels
from nc_fast.init.masks import given_mask, named_mask, own_mask
from nc_fast.inputs import checks
from nc_fast.inputs.arrays import as_numpy
from nc_fast.inputs.convert import as_numbers
from nc_fast.inputs.labels import DefaultLabel, ignored

LABEL_KEYS = ("labels", "label", "target", "targets", "y")
MOST_PARTS = 16  # of an item; more are samples
BATCH = "what is what: batch=lambda b: (inputs, labels)"
ROW_NUMBERS = 20  # labels of which no two are the same, of more samples than these, are taken for numbers of rows


@dataclass
class Seen:
    """What was met on the way, for the report."""

    labels: int = 0
    left_out: int = 0
    notes: dict[str, None] = field(default_factory=dict)  # in order, each once


@dataclass(frozen=True)
class ItemReader:
    """How items become batches.

    Attributes
    ----------
    forward : what the model can be called with.
    targets : whether float targets will do instead of labels.
    ignore : labels that stand for no class.
    adapter : the user's function of an item, or None.
    mask : an input's name, an array of samples in memory, None for the model's own, or False.
    seen : what was met on the way.
    """

    forward: Forward
    targets: bool
    ignore: tuple[int | str | bytes, ...] = ()
    adapter: Callable[[Any], Any] | None = None
    mask: Any = None
    seen: Seen = field(default_factory=Seen)

    def batch(self, item: Any, number: int, rows: np.ndarray | None = None) -> LabelledBatch:
        """Return a loader's item as a batch, without the samples that do not count; ``rows``: their numbers in the data set."""
        name = f"data: batch {number}"
        found, present = self._checked(name, *self._parts(item, name, number))
        if rows is not None and len(rows) == len(found):
            name, found = "data", replace(found, rows=rows)
        found = found if present.all() else found.take(np.flatnonzero(present))
        check_finite(name, found)
        return found

    def pair(self, inputs: Any, labels: Any, mask: Any) -> tuple[LabelledBatch, np.ndarray]:
        """Return data in memory as a batch, not looked at for NaN, and the rows that count."""
        found, present = self._checked("data", inputs, labels, mask)
        if not present.any():
            raise ValueError(f"data: expected at least one sample, got none{self.all_left_out}")
        return found, np.flatnonzero(present)

    @property
    def all_left_out(self) -> str:
        """Say that labels are there, none of which counts."""
        return f" but {self.seen.left_out} labelled {_words(self.ignore)}, which ignore_index leaves out" if self.seen.left_out else ""

    def notes(self) -> tuple[str, ...]:
        """Return what the report should say."""
        told = [label for label in self.ignore if isinstance(label, DefaultLabel)]
        if not (told and self.seen.left_out):
            return tuple(self.seen.notes)
        text = f"data: left out {self.seen.left_out} of {self.seen.labels} labels, which are {told[0]}"
        return (f"{text}; with ignore_index={told[0]} this is not said", *self.seen.notes)

    def _parts(self, item: Any, name: str, number: int) -> tuple[Any, Any, Any]:
        """Return inputs, labels and mask."""
        if self.adapter:
            return self.adapted(item, f"batch {number}")
        if is_dataclass(item) and not isinstance(item, (type, Mapping)):
            item = {one.name: getattr(item, one.name) for one in fields(item)}
        elif hasattr(item, "_asdict") and set(LABEL_KEYS) & set(item._fields):
            item = item._asdict()
        if isinstance(item, Mapping):
            key = self._label_key(item, name)
            return {argument: value for argument, value in item.items() if argument != key}, item[key], None
        if not isinstance(item, Sequence) or isinstance(item, (str, bytes)) or len(item) < 2:
            raise TypeError(f"{name}: expected (X, y), got {type(item).__name__}; say {BATCH}")
        if len(item) == 2:
            return item[0], item[1], None
        inputs = tuple(item[:-1])
        if len(item) > MOST_PARTS or all(isinstance(part, (tuple, list, Mapping)) for part in item):
            kind = type(item[0]).__name__
            raise TypeError(f"{name}: expected (X, y), got {len(item)} parts, the first a {kind}; put samples together: collate_fn=")
        if not self.forward.takes(*inputs) or (len(inputs) > self.forward.needed and looks_like_labels(item[-2], item[-1])):
            numbers = ", ".join(f"b[{place}]" for place in range(len(inputs)))
            raise TypeError(
                f"{name}: expected (X, y), or as many inputs as the model takes and y, got {len(item)} parts; say which are inputs and "
                f"labels: batch=lambda b: (b[0], b[1]), or batch=lambda b: (({numbers}), b[{len(inputs)}])"
            )
        return inputs, item[-1], None

    def adapted(self, item: Any, name: str) -> tuple[Any, Any, Any]:
        """Return inputs, labels and mask as the user's function says."""
        assert self.adapter
        try:
            found = self.adapter(item)
        except Exception as error:
            raise ValueError(f"batch: expected a function that takes {name}, got {type(error).__name__}: {error}") from error
        if not isinstance(found, (tuple, list)) or len(found) not in (2, 3):
            got = f"{len(found)} parts" if isinstance(found, (tuple, list)) else type(found).__name__
            raise TypeError(f"batch: expected (inputs, labels) or (inputs, labels, mask) for {name}, got {got}")
        return (*found, None) if len(found) == 2 else tuple(found)

    def _label_key(self, item: Mapping[Any, Any], name: str) -> str:
        keys = [key for key in LABEL_KEYS if key in item]
        if len(keys) > 1 and self.forward.signature:  # an input may be called "target"
            keys = [key for key in keys if key == LABEL_KEYS[0] or key not in self.forward.signature.parameters]
        if len(keys) != 1:
            expected = " or ".join(map(repr, LABEL_KEYS))
            raise TypeError(f"{name}: expected one key {expected}, got {sorted(map(str, item))}; say {BATCH}")
        return keys[0]

    def _called_with(self, name: str, inputs: Any) -> ModelInputs:
        """Return a tensor, a tuple of positional or a dict of keyword arguments."""
        if isinstance(inputs, Mapping):
            if all(isinstance(key, str) for key in inputs) and self.forward.takes(**inputs):
                return dict(inputs)
            if len(inputs) == 1:
                (value,) = inputs.values()
                return value if is_array(value) else (value,)
            known = self.forward.signature.parameters if self.forward.signature else {}
            wrong = [key for key in inputs if key not in known]
            if len(wrong) == len(inputs) and self.forward.takes(inputs) and all(map(is_array, inputs.values())):
                return (dict(inputs),)
            got = f"{list(inputs)}, of which {wrong} do not fit" if wrong else f"only {list(inputs)}"
            raise TypeError(f"{name}: expected inputs that the model's forward{self.forward.signature} takes, got {got}; say {BATCH}")
        if isinstance(inputs, (tuple, list)):
            if self.forward.takes(*inputs):
                return tuple(inputs)
            if self.forward.takes(inputs):
                return (inputs,)
            raise TypeError(
                f"{name}: expected inputs that the model's forward{self.forward.signature} takes, got {len(inputs)}; say {BATCH}"
            )
        return inputs

    def _checked(self, name: str, inputs: Any, labels: Any, mask: Any) -> tuple[LabelledBatch, np.ndarray]:
        """Return a batch and which samples count, after checking that its parts are tensors of one length with labels or targets."""
        inputs = map_tensors(lambda x: _tensor(name, x), self._called_with(name, _arrays(name, inputs)))
        leaves = list(tensors_in(inputs))
        if not leaves:
            raise TypeError(f"{name}: expected X as tensors, got {type(inputs).__name__}")
        y = labels_or_targets_of(name, labels, leaves, self.targets)
        if y.ndim < 1:
            raise ValueError(f"{name}: expected several samples and their labels, got one label; torch.utils.data.DataLoader makes batches")
        if any(x.ndim < 1 or len(x) != len(y) for x in leaves):
            raise ValueError(
                f"{name}: expected X and y of one length, got X {shapes_of(leaves)} and y {y.shape}; every tensor that the model is called "
                f"with has a row for each sample; say {BATCH}"
            )
        counted = self._counted(inputs, y, mask)
        gone = ignored(y, self.ignore)
        self.seen.labels += len(y) if y.dtype.kind == "f" else y.size
        if gone is not None:
            self.seen.left_out += int(gone.sum())
            if counted is not None and counted.shape != gone.shape and y.ndim > 1:
                self._note(f"data: a mask for positions {counted.shape[1:]} was not looked at: labels are for {y.shape[1:]}")
                counted = None
        present = np.ones(len(y), bool) if gone is None or y.ndim > 1 else ~gone
        if gone is not None and y.ndim > 1:
            counted = ~gone if counted is None else counted & ~gone
        if counted is not None:
            present &= counted.reshape(len(y), -1).any(axis=1)
        return LabelledBatch(inputs, SampleLabels(y, counted), np.arange(len(y))), present

    def _counted(self, inputs: ModelInputs, y: np.ndarray, mask: Any) -> np.ndarray | None:
        """Return (n, *positions) bool, which positions count by a mask; None for all."""
        n = len(y)
        if mask is not None:
            counted: np.ndarray | None = given_mask(mask, n)
        elif self.mask is False:
            return None
        elif isinstance(self.mask, str):
            counted = named_mask(self.mask, self.forward.named(inputs), n)
        else:
            counted, notes = own_mask(self.forward.named(inputs), n)
            for note in notes:
                self._note(note)
        return None if counted is None or counted.all() else counted

    def _note(self, text: str) -> None:
        self.seen.notes[text] = None


def check_finite(name: str, batch: LabelledBatch) -> None:
    """Check that inputs and float targets are finite, naming the user's rows."""
    for x in tensors_in(batch.inputs):
        if x.is_floating_point():
            checks.finite(f"{name}: X", x, batch.rows)
    if batch.labels.values.dtype.kind == "f":
        checks.finite(f"{name}: y", batch.labels.values, batch.rows)


def _arrays(name: str, inputs: Any) -> Any:
    """Return a DataFrame or Series as the array it stands for, anything else as it is."""
    foreign = hasattr(inputs, "__array__") and not is_array(inputs)
    return as_numpy(as_numbers(f"{name}: X", inputs)) if foreign else inputs


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


def _words(labels: Sequence[int | str | bytes]) -> str:
    return " or ".join(str(int(label)) if isinstance(label, int) else repr(label) for label in labels)


def items(data: Any) -> Iterator[tuple[int, Any]]:
    """Yield a loader's items with their numbers.

    Raises
    ------
    ValueError
        When there are none.
    """
    number = -1
    for number, item in enumerate(data):
        yield number, item
    if number < 0:
        raise ValueError("data: expected at least one batch, got none")
