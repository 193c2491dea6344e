"""Samples whose labels stand for no class are left out; where nobody asked for it, that is said."""

from __future__ import annotations

import numpy as np

from nc_fast.inputs.labels import IGNORE_INDEX, LABELS, DefaultLabel, ignored, kind_of
from nc_fast.runtime.caller import warn_caller

MISSING_WORDS = ("nan", "NaN", "NaT", "<NA>", "None")  # what arrays of strings, and astype(str), make of missing labels
OF_KIND = {"integers": int, "strings": str, "bytes": bytes}


class LeftOut:
    """The labels that stand for no class; whoever left samples out for the default, unasked, says so once.

    So does who kept strings that missing labels become, unless the user wants nothing left out.

    Parameters
    ----------
    ignore : as :func:`nc_fast.inputs.checks.ignore_index` returns them.
    """

    def __init__(self, ignore: tuple[int | str | bytes, ...] = ()) -> None:
        self.ignore = ignore
        self._words: dict[str, int] = {}
        self._said: set[str] = set()
        self._told = not any(isinstance(label, DefaultLabel) for label in ignore)

    def kept(self, y: np.ndarray) -> np.ndarray | None:
        """Return the places of the labels (N,) that stand for a class; None for all.

        Raises
        ------
        TypeError
            When the user names labels, none of them of the kind of these, so that they could never be met.
        """
        named = [label for label in self.ignore if not isinstance(label, DefaultLabel)]
        if named and y.dtype.kind in LABELS and len(y) and not any(isinstance(label, OF_KIND.get(kind_of(y), ())) for label in named):
            raise TypeError(f"ignore_index: expected labels like those given, {kind_of(y)}, got {' and '.join(map(repr, named))}")
        if y.dtype.kind == "U" and self.ignore:
            longest = y.itemsize // 4  # characters of four bytes
            for word in MISSING_WORDS:
                if len(word) <= longest and word not in (*self.ignore, *self._said) and (n := int(np.count_nonzero(y == word))):
                    self._words[word] = self._words.get(word, 0) + n
        gone = ignored(y, self.ignore)
        return None if gone is None else np.flatnonzero(~gone)

    def tell(self, name: str, n_left_out: int, n_samples: int, *, may_be_all: bool = False) -> None:
        """Say how many samples were left out, and how many were kept whose labels may be missing ones.

        Raises
        ------
        ValueError
            When they are all there are.
        """
        if n_left_out and n_left_out == n_samples and not may_be_all:
            labels = " or ".join(map(repr, self.ignore))
            raise ValueError(f"{name}: expected labels other than ignore_index = {labels}, got no others on all {n_samples} samples")
        for word, n in self._words.items():
            warn_caller(
                f"{name}: {n} labels are the string {word!r}, which NumPy and astype(str) make of missing ones; "
                f"ignore_index={word!r} leaves them out, ignore_index=None makes a class of them without this warning"
            )
        self._said.update(self._words)
        self._words = {}
        if n_left_out and not self._told:
            self._told = True
            warn_caller(
                f"{name}: left out {n_left_out} of {n_samples} samples, labelled {IGNORE_INDEX}; "
                f"ignore_index=[{IGNORE_INDEX}] leaves them out without this warning, ignore_index=None makes a class of them"
            )
