"""Labels from several places put together, every value kept."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

KINDS = {"b": "booleans", "i": "integers", "u": "integers", "U": "strings", "S": "bytes"}
LABEL_KINDS = "".join(KINDS)


def kind_of(labels: np.ndarray) -> str:
    """Return the kind of checked labels, in words."""
    return KINDS[labels.dtype.kind]


def join_labels(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Return label arrays as one. NumPy alone would join 1 with "1" as strings, and int64 with uint64 as float64.

    Raises
    ------
    ValueError
        When the parts are of different kinds, or hold integers that no one dtype can hold.
    """
    parts = [part for part in parts if len(part)] or list(parts[:1])
    kinds = sorted({kind_of(part) for part in parts if len(part)})
    if len(kinds) > 1:
        raise ValueError(f"y: expected labels of one kind, got {' and '.join(kinds)}")
    dtype = np.result_type(*(part.dtype for part in parts))
    if kinds == ["integers"] and dtype.kind == "f":
        least, most = min(int(part.min()) for part in parts), max(int(part.max()) for part in parts)
        dtype = np.dtype(np.int64 if most <= np.iinfo(np.int64).max else np.uint64)
        if least < 0 and dtype == np.uint64:
            raise ValueError(f"y: expected labels that int64 or uint64 can hold, got {least} and {most}")
    return np.concatenate([part.astype(dtype, copy=False) for part in parts])
