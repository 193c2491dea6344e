"""Labels as indices into their distinct values, and labels from several places put together, every value kept."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

LABELS = {"b": "booleans", "i": "integers", "u": "integers", "U": "strings", "S": "bytes"}
KINDS = {**LABELS, "f": "float targets"}
LABEL_KINDS = "".join(LABELS)


class DefaultLabel(int):
    """A label that is ignored unless the caller says otherwise; told apart from the same number named by the caller."""


IGNORE_INDEX = DefaultLabel(-100)  # torch's, and what tokenizers pad labels with


def kind_of(labels: np.ndarray) -> str:
    """Return the kind of checked labels, in words."""
    return KINDS[labels.dtype.kind]


def ignored(y: np.ndarray, ignore: tuple[int | str | bytes, ...]) -> np.ndarray | None:
    """Return which of checked labels stand for no class, in the shape of y; None where none does. Float targets never do."""
    wanted: list[int | str | bytes] = []
    if y.dtype.kind in "iu" and y.size and ignore:
        least, most = int(y.min()), np.iinfo(y.dtype).max  # below the least, as -100 mostly is, nothing is compared one by one
        wanted = [label for label in ignore if isinstance(label, int) and least <= label <= most]
    elif y.dtype.kind in "US":
        wanted = [label for label in ignore if isinstance(label, str if y.dtype.kind == "U" else bytes)]
    if not wanted:
        return None
    found = np.isin(y, np.array(wanted, y.dtype if y.dtype.kind in "iu" else None), kind="sort")  # of few labels: compares, sorts nothing
    return found if found.any() else None


def classified(y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return checked labels as indices into their sorted distinct ones, and those; or float targets as they are, of no classes."""
    if y.dtype.kind == "f":
        return y, np.zeros(0, np.int64)
    if y.dtype.kind in "iu" and len(y) and int(y.max()) - int(least := y.min()) < len(y):  # looked up, without sorting
        places = (y - least).view(f"u{y.dtype.itemsize}")  # of a signed type the difference may be too large
        present = np.bincount(places.astype(np.int64)) > 0
        return (np.cumsum(present) - 1)[places], np.flatnonzero(present).astype(y.dtype) + least
    classes, codes = np.unique(y, return_inverse=True)
    return codes.astype(np.int64, copy=False), classes


def join_labels(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Return arrays of labels, or of targets, as one. NumPy alone would join 1 with "1" as strings, and int64 with uint64 as float64.

    Raises
    ------
    ValueError
        When the parts are of different kinds or widths, or hold integers that no one dtype can hold.
    """
    parts = [part for part in parts if len(part)] or list(parts[:1])
    kinds = sorted({kind_of(part) for part in parts if len(part)})
    if len(kinds) > 1:
        raise ValueError(f"y: expected labels of one kind, got {' and '.join(kinds)}")
    if len(widths := sorted({part.shape[1:] for part in parts})) > 1:
        raise ValueError(f"y: expected as many targets a sample everywhere, got {widths[0][0]} and {widths[-1][0]}")
    dtype = np.result_type(*(part.dtype for part in parts))
    if kinds == ["integers"] and dtype.kind == "f":
        least, most = min(int(part.min()) for part in parts), max(int(part.max()) for part in parts)
        dtype = np.dtype(np.int64 if most <= np.iinfo(np.int64).max else np.uint64)
        if least < 0 and dtype == np.uint64:
            raise ValueError(f"y: expected labels that int64 or uint64 can hold, got {least} and {most}")
    return np.concatenate([part.astype(dtype, copy=False) for part in parts])
