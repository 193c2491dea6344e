"""Checks of labels: of one kind, none missing, one a sample; and which of them stand for no class."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from nc_fast.inputs.arrays import as_numpy, is_tensor
from nc_fast.inputs.convert import as_array, missing
from nc_fast.inputs.labels import LABEL_KINDS, LABELS

CLOSE_TO_ONE = 1e-2  # sums of soft labels, some in float16
KINDS_OF_VALUES = (
    ((bool, np.bool_), LABELS["b"]),  # before integers, of which Python's bool is one
    ((np.timedelta64,), "timedelta64"),  # to NumPy an integer
    ((int, np.integer), LABELS["i"]),
    ((str,), LABELS["U"]),
    ((bytes,), LABELS["S"]),
    ((float, np.floating), "floats"),
)


def ignore_index(value: object) -> tuple[int | str | bytes, ...]:
    """Check which labels stand for no class: None, one label or a sequence of them; return them."""
    if value is None:
        return ()
    labels = value.tolist() if hasattr(value, "tolist") else value  # arrays, tensors and their scalars
    several = labels if isinstance(labels, Collection) and not isinstance(labels, (str, bytes)) else (labels,)
    return tuple(_ignored_label(one, value) for one in several)


def label_values(name: str, value: object, n_samples: int, *, or_targets: bool = False) -> np.ndarray:
    """Check labels, (N,) or (N, 1); return them as an (N,) NumPy array. ``or_targets``: whether floats were taken, as targets."""
    y = label_kind(name, value)
    if y.shape == (n_samples, 1):
        y = y[:, 0]
    if y.shape != (n_samples,):
        got = _what_they_are(name, y, value, or_targets) if y.ndim == 2 and len(y) == n_samples else y.shape
        raise ValueError(f"{name}: expected shape (N,) = ({n_samples},), got {got}")
    return _of_label_kind(name, y, value)


def label_array(name: str, value: object, *, part: str = "", binning: str = "numpy.digitize(y, edges)") -> np.ndarray:
    """Check the kind of labels of any shape; return them as a NumPy array. ``part`` says which part of ``name`` they are."""
    return _of_label_kind(name, label_kind(f"{name}: {part}" if part else name, value), value, part, binning)


def label_kind(name: str, value: object) -> np.ndarray:
    """Check that labels, or float targets, are all there and of one kind; return them as a NumPy array of any shape and dtype.

    Lists are looked at before NumPy makes one kind of them: strings of 1 and "1", numbers of True and 2, "nan" of a NaN.
    """
    y = as_numpy(as_array(name, value))
    if y.dtype.kind == "T":  # NumPy's strings of any length
        y = y.astype(object)
    if y.dtype == object or isinstance(value, (list, tuple)):
        values = y if y.dtype == object else np.asarray(value, object)
        y = _of_values(name, values, y, value)
    elif y.dtype.kind in "mM" and (gone := np.isnat(y)).any():
        raise absent(name, np.flatnonzero(gone).tolist(), y.shape)
    return y


def _of_values(name: str, values: np.ndarray, y: np.ndarray, value: object) -> np.ndarray:
    """Return labels, each an object in ``values``, as an array of their kind; ``y`` is what NumPy made of them."""
    kinds = _check_values(name, values)
    if any(issubclass(kind, str) and kind not in (str, np.str_) for kind in kinds):  # of an Enum NumPy would take, and cut, the names
        values = np.array([str.__str__(label) for label in values.ravel().tolist()], object).reshape(values.shape)
        y = values
    if y.dtype == object:
        y = as_numpy(as_array(name, values.tolist()))
    words = {_kind_of_value(kind) for kind in kinds}
    if words == {LABELS["i"]} and y.dtype.kind not in "iu":
        numbers = values.ravel().tolist()
        raise ValueError(f"{name}: expected labels that int64 or uint64 can hold, got {min(numbers)} and {max(numbers)}")
    if y.dtype == object:
        got = " and ".join(sorted(words))
        raise TypeError(
            f"{name}: expected integer, boolean or string labels, got {got}; cast them: {_cast(name.rpartition(': ')[2], value, 'str')}"
        )
    return y


def _check_values(name: str, values: np.ndarray) -> set[type]:
    """Check that none of the labels is missing and all are of one kind; return their types."""
    flat = values.ravel().tolist()
    kinds = {kind: _kind_of_value(kind) for kind in set(map(type, flat))}
    if set(kinds.values()) <= {LABELS["i"]} or set(kinds.values()) <= {LABELS["U"]}:
        return set(kinds)  # most are, and need not be looked at one by one
    if places := missing(flat):
        raise absent(name, places, values.shape)
    found = sorted(set(kinds.values()))
    if len(found) > 1 and found != ["floats", "integers"]:
        where = f" in shape {values.shape}" if values.ndim > 1 else ""
        raise ValueError(f"{name}: expected labels of one kind, got {' and '.join(found)}{where}")
    return set(kinds)


def _kind_of_value(kind: type) -> str:
    return next((words for kinds, words in KINDS_OF_VALUES if issubclass(kind, kinds)), kind.__name__)


def absent(name: str, places: list[int], shape: tuple[int, ...], what: str = "label") -> ValueError:
    """Return the error that labels, or targets, at some places of the array read row by row are missing."""
    place = tuple(int(part) for part in np.unravel_index(places[0], shape)) if len(shape) > 1 else places[0]
    return ValueError(
        f"{name}: expected a {what} for every sample, got {len(places)} missing, the first at {place}; "
        f"drop those samples or give them a {what}"
    )


def _of_label_kind(name: str, y: np.ndarray, value: object, part: str = "", binning: str = "numpy.digitize(y, edges)") -> np.ndarray:
    if y.dtype.kind in LABEL_KINDS:
        return y.astype(y.dtype.newbyteorder("="), copy=False)
    hint = ""
    if y.dtype.kind == "f":
        if (gone := np.isnan(y)).any():
            raise absent(f"{name}: {part}" if part else name, np.flatnonzero(gone).tolist(), y.shape)
        whole = bool((np.isfinite(y) & (y == np.floor(y))).all())
        hint = f" of whole numbers; cast them: {_cast(part or name, value, 'int')}" if whole else f"; bin it first: {binning}"
    elif y.dtype.kind in "mM":
        hint = f"; cast them: {_cast(part or name, value, 'str')}"
    kinds = f"{part} as integer, boolean or string labels" if part else "integer, boolean or string labels"
    raise TypeError(f"{name}: expected {kinds}, got {y.dtype}{hint}")


def _what_they_are(name: str, y: np.ndarray, value: object, or_targets: bool) -> str:
    """Say what a matrix given as labels is, and what to do with it."""
    if y.dtype.kind not in "biuf":
        return f"{y.shape}"
    floats = name if y.dtype.kind == "f" else _cast(name, value, "float")
    argmax = f"{name}.argmax(1)" if hasattr(value, "argmax") else f"numpy.argmax({name}, 1)"
    as_targets = f"{'' if or_targets else 'nc_fast.pursuit takes '}float targets: {floats}"
    sums = y.sum(axis=1, dtype=np.float64)
    if ((y == 0) | (y == 1)).all():
        if (sums == 1).all():
            return f"one-hot labels of shape {y.shape}; the class numbers are {argmax}" + or_targets * f", {as_targets}"
        return f"several labels a sample, of shape {y.shape}, which are no classes; {as_targets}"
    if (y >= 0).all() and (np.abs(sums - 1) < CLOSE_TO_ONE).all():
        return f"soft labels of shape {y.shape}, which are no classes; the likeliest are {argmax}; {as_targets}"
    return f"{y.shape}; {as_targets}" if or_targets or y.dtype.kind == "f" else f"{y.shape}"


def _cast(name: str, value: object, to: str) -> str:
    """Return what casts labels to int, float or str, as the user's library spells it."""
    if is_tensor(value):
        return f"{name}.{'long' if to == 'int' else 'double'}()"
    return f"{name}.astype({to})" if hasattr(value, "astype") else f"numpy.array({name}, {to})"


def _ignored_label(one: Any, value: object) -> int | str | bytes:
    if isinstance(one, np.integer):
        return int(one)
    if isinstance(one, (int, str, bytes)) and not isinstance(one, bool):
        return one
    raise TypeError(f"ignore_index: expected an integer, a string, a sequence of these or None, got {value!r}")
