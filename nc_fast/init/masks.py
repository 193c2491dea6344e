"""Which positions of samples count: what a model's own masks exclude are no samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from nc_fast.inputs.arrays import as_numpy, is_tensor

EXCLUDES = {"attention_mask": False, "key_padding_mask": True, "src_key_padding_mask": True}  # name -> the value that excludes


def own_mask(inputs: Mapping[str, Any], n: int) -> tuple[np.ndarray | None, list[str]]:
    """Return (n, positions) bool, which count by the masks among a model's inputs, None for all; and why masks were not taken."""
    counted, notes = None, []
    for name, excluding in EXCLUDES.items():
        given = inputs.get(name)
        if given is None:
            continue
        found = zeros_and_ones(given)
        # A float mask of padding is added to attention's scores: its zeros exclude nothing.
        added = excluding and found is not None and as_numpy(given).dtype.kind == "f" and bool(found.any())
        if found is None or added or found.ndim != 2 or len(found) != n:
            what = f"of shape {tuple(given.shape)}" if hasattr(given, "shape") else f"a {type(given).__name__}"
            notes.append(f"data: {name} {what} was not looked at: only 0 and 1 (or booleans) for each of (samples, positions) are")
            continue
        here = found != excluding
        counted = here if counted is None or counted.shape != here.shape else counted & here
    return counted, notes


def named_mask(name: str, inputs: Mapping[str, Any], n: int) -> np.ndarray:
    """Return (n, *positions) bool: where the input of that name is 1."""
    if inputs.get(name) is None:
        raise ValueError(f"mask: expected the name of one of the inputs {list(inputs)}, got {name!r}")
    return given_mask(inputs[name], n)


def given_mask(value: Any, n: int) -> np.ndarray:
    """Return (n, *positions) bool, where a mask that the user gave is 1."""
    found = zeros_and_ones(value)
    if found is None or found.ndim < 2 or len(found) != n:
        got = f"shape {tuple(value.shape)} {value.dtype}" if hasattr(value, "shape") else type(value).__name__
        raise ValueError(f"mask: expected 0 and 1, or booleans, of shape (n, *positions) with n = {n}, got {got}")
    return found


def zeros_and_ones(value: Any) -> np.ndarray | None:
    """Return an array of 0 and 1 as booleans; None where it is none."""
    array = as_numpy(value) if is_tensor(value) or isinstance(value, np.ndarray) else np.zeros(0, object)
    if array.dtype.kind == "b":
        return array
    return array != 0 if array.dtype.kind in "iuf" and bool(((array == 0) | (array == 1)).all()) else None
